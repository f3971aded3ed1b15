"""Scoring of an exported chat model and of its draft, with mlx-lm's own greedy decoding.

Promises: an answer counts only when it is word for word the true one and ended by the end token.
Needs no torch: what is scored is the folder, as a user would load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .corpus import Conversation, held_out_conversations
from .scores import KindScore, Scores
from .tokenizer import render

HELD_OUT_SEED = 7
QUESTIONS_PER_KIND = 60
DRAFT_QUESTIONS_PER_KIND = 8
DRAFT_TOKENS = 3
MOST_ANSWER_TOKENS = 200
SPARE_TOKENS = 4  # an answer longer than the true one by more is wrong however it goes on


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded answer, and for each token, end token included, whether the draft proposed it."""

    text: str
    has_ended: bool
    from_draft: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A chat model with its tokenizer and, if any, the draft, as mlx-lm loads them."""

    model: Any
    tokenizer: Any
    draft: Any | None = None


def load_folder(folder: Path, with_draft: bool = True) -> Loaded:
    """Load `folder/chat` and, on request, `folder/draft`."""
    from mlx_lm import load

    model, tokenizer = load(str(folder / "chat"))[:2]
    draft = load(str(folder / "draft"))[0] if with_draft else None
    return Loaded(model, tokenizer, draft)


def decode(
    loaded: Loaded, prompt: str, with_draft: bool = False, most_tokens: int = MOST_ANSWER_TOKENS
) -> Answer:
    """Decode greedily, by speculation if `with_draft`."""
    from mlx_lm import stream_generate

    options: dict[str, Any] = {"max_tokens": most_tokens}
    if with_draft:
        options |= {"draft_model": loaded.draft, "num_draft_tokens": DRAFT_TOKENS}
    pieces = list(stream_generate(loaded.model, loaded.tokenizer, prompt, **options))
    text = "".join(piece.text for piece in pieces)
    from_draft = tuple(bool(piece.from_draft) for piece in pieces)
    return Answer(text, pieces[-1].finish_reason == "stop", from_draft)


def is_right(answer: Answer, conversation: Conversation) -> bool:
    """Say whether the answer is the true one and stopped by itself."""
    return answer.has_ended and answer.text == conversation.answer


def answers(
    loaded: Loaded, conversations: Iterable[Conversation], with_draft: bool = False
) -> Iterator[tuple[Conversation, Answer]]:
    """Decode an answer to the last question of each conversation."""
    for conversation in conversations:
        prompt = render(conversation.prompt_messages())
        most_tokens = len(loaded.tokenizer.encode(conversation.answer)) + SPARE_TOKENS
        yield conversation, decode(loaded, prompt, with_draft, most_tokens)


def score_kinds(loaded: Loaded, per_kind: int = QUESTIONS_PER_KIND) -> dict[str, KindScore]:
    """Score each kind on held-out conversations."""
    marks: dict[str, list[bool]] = {}
    for conversation, answer in answers(loaded, held_out_conversations(HELD_OUT_SEED, per_kind)):
        marks.setdefault(conversation.kind, []).append(is_right(answer, conversation))
    return {kind: KindScore(sum(right), len(right)) for kind, right in marks.items()}


def proposed_tokens(from_draft: Sequence[bool]) -> int:
    """Return how many draft tokens were judged for an answer.

    A round proposes DRAFT_TOKENS and yields those accepted, then one token of the chat model. A
    last round that ends with the draft's own token was cut short by the end token: what was
    proposed after it was never judged.
    """
    rounds = sum(not is_draft for is_draft in from_draft)
    cut_short = len(from_draft)
    while cut_short and from_draft[cut_short - 1]:
        cut_short -= 1
    return DRAFT_TOKENS * rounds + len(from_draft) - cut_short


def score_draft(loaded: Loaded, per_kind: int = DRAFT_QUESTIONS_PER_KIND) -> tuple[float, float]:
    """Return (accepted of proposed draft tokens, share of all tokens that came from the draft)."""
    proposed = accepted = tokens = 0
    conversations = held_out_conversations(HELD_OUT_SEED + 1, per_kind)
    for _, answer in answers(loaded, conversations, with_draft=True):
        proposed += proposed_tokens(answer.from_draft)
        accepted += sum(answer.from_draft)
        tokens += len(answer.from_draft)
    return accepted / proposed, accepted / tokens


def _parameters(model: Any) -> int:
    from mlx.utils import tree_flatten

    flat: Any = tree_flatten(model.parameters())
    return sum(int(value.size) for _, value in flat)


def evaluate_builtin(folder: Path, training: dict[str, float] | None = None) -> Scores:
    """Score the chat model and the draft under `folder` on the held-out questions."""
    loaded = load_folder(folder)
    kinds = score_kinds(loaded)
    acceptance_rate, from_draft_share = score_draft(loaded)
    return Scores(
        kinds=kinds,
        acceptance_rate=acceptance_rate,
        from_draft_share=from_draft_share,
        chat_parameters=_parameters(loaded.model),
        draft_parameters=_parameters(loaded.draft),
        training=training or {},
    )
