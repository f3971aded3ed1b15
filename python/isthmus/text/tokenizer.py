"""A model's tokenizer, for use beside the engine: encode, decode, count, render chat templates.

Goes straight to the Rust tokenizer below transformers where both give the same ids (that is probed
once, at load), because transformers changes shared state on every call and costs several times as
much. Ids are range-checked here: a token id beyond the embedding can kill the process inside MLX.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from ..errors import InvalidRequest

_PROBES: Final = (
    "",
    "Hello, world! 12 x 3.",
    "  two  spaces\n\ttab",
    "naïve 中文 👩‍👩‍👧 é",
)


class TextTokenizer:
    """Wraps an mlx-lm `TokenizerWrapper`.

    Args:
        wrapper: What `mlx_lm` loaded.
        vocab_size: Rows of the model's embedding; every id must be below it.
    """

    def __init__(self, wrapper: Any, vocab_size: int) -> None:
        self.wrapper = wrapper
        self.vocab_size = vocab_size
        self._slow_lock = threading.Lock()
        """Guards transformers' own encode, which changes shared state."""
        self._fast = _fast_backend(wrapper)
        if self._fast is not None and not self._agrees():
            self._fast = None

    @property
    def is_fast(self) -> bool:
        """Whether the Rust tokenizer is called directly, with threads of its own."""
        return self._fast is not None

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be rendered."""
        return bool(self.wrapper.has_chat_template)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation."""
        return frozenset(self.wrapper.eos_token_ids)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of one text. Holds the GIL: for short texts on the loop."""
        if self._fast is None:
            return self._encode_slow(text, add_special_tokens)
        ids: list[int] = self._fast.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_batch(self, texts: list[str], add_special_tokens: bool = True) -> list[list[int]]:
        """Return the ids of each text, using the tokenizer's own threads without the GIL."""
        if self._fast is None:
            return [self._encode_slow(text, add_special_tokens) for text in texts]
        encodings = self._fast.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids.

        Raises:
            InvalidRequest: An id is out of range.
        """
        self.check(ids)
        text: str = self.wrapper.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def check(self, ids: list[int], field: str = "ids") -> None:
        """Refuse ids that the model has no embedding for.

        Raises:
            InvalidRequest: An id is negative or not below the vocabulary size.
        """
        if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
            wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise InvalidRequest(
                f"token id {wrong} is not within 0 to {self.vocab_size - 1}", field=field
            )

    def render(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
        """Render a conversation with the model's chat template.

        Args:
            messages: `{role, content}` and whatever else the template reads.
            options: Variables of the template, such as `add_generation_prompt` and `tools`.

        Raises:
            InvalidRequest: There is no template, or it refuses the messages.
        """
        if not self.has_chat_template:
            raise InvalidRequest(
                "this model has no chat template; send `prompt` or `ids` instead of messages",
                field="messages",
            )
        try:
            text = self.wrapper.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # a template is a program: it may raise anything
            raise InvalidRequest(
                f"the chat template refused these messages: {type(error).__name__}: {error}",
                field="messages",
            ) from error
        return str(text)

    def _encode_slow(self, text: str, add_special_tokens: bool) -> list[int]:
        with self._slow_lock:
            return list(self.wrapper.encode(text, add_special_tokens=add_special_tokens))

    def _agrees(self) -> bool:
        return all(
            self.encode(text, special) == self._encode_slow(text, special)
            and self.encode_batch([text], special) == [self._encode_slow(text, special)]
            for text in _PROBES
            for special in (True, False)
        )


def _fast_backend(wrapper: Any) -> Any | None:
    backend = getattr(wrapper._tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "encode_batch_fast"):
        return None
    backend.no_truncation()
    backend.no_padding()
    return backend
