"""The byte-level BPE tokenizer of the built-in models, made with the `tokenizers` library.

Promises: any text encodes without an unknown token and decodes to itself, because all 256 byte
symbols are in the alphabet; every digit is a token of its own; the special tokens have fixed
ids. The chat template here is the only definition of how turns are laid out.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY_SIZE = 768
END = "<|end|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (END, SYSTEM, USER, ASSISTANT, PAD)  # in the order of their ids, from 0
END_ID = SPECIAL_TOKENS.index(END)
PAD_ID = SPECIAL_TOKENS.index(PAD)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(messages: Iterable[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Lay out messages as `CHAT_TEMPLATE` does, without a template engine."""
    turns = (f"<|{message['role']}|>{message['content']}{END}" for message in messages)
    return "".join(turns) + (ASSISTANT if add_generation_prompt else "")


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn the merges from `texts`; the result does not depend on the order of threads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[
            AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
