"""What sessions write: in a conversation of equal turns, and where two begin alike."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from ..processes import Subject
from .models import Written
from .talks import tokens

TURN_TOKENS: Final = 256
"""As many as a chunk on disk has."""

_GENERATED: Final = 64
_SHARED_TOKENS: Final = 2_048
_OWN_TOKENS: Final = 512


@dataclass(frozen=True, slots=True)
class Writes:
    """Bytes on disk.

    Attributes:
        chunk_bytes: Keys and values of the tokens of a turn, as in memory.
        turns: Written by each turn of a conversation.
        shared: Written by a session that begins as another, per byte of its own tokens.
        shared_reused_tokens: What it did not evaluate.
        read: Read by a turn after a restart, per byte of what was kept.
    """

    chunk_bytes: int
    turns: list[int]
    shared: float
    shared_reused_tokens: int
    read: float

    @property
    def per_turn(self) -> float:
        """Bytes that a turn writes, per byte of its tokens; the median of the turns."""
        return median(self.turns) / self.chunk_bytes

    def to_json(self) -> dict[str, Any]:
        """Return it for the detail."""
        return {name: getattr(self, name) for name in self.__slots__}


def measure(subject: Subject, model: Written, length: int) -> Writes:
    """Have a conversation of so many tokens, another one that begins as it, and a restart."""
    text, turns = _converse(subject, model, length)
    token_bytes = model.shape.token_bytes
    shared = min(_SHARED_TOKENS, length // 2)
    opening = [*text[:shared], *tokens(_OWN_TOKENS, "own")]
    told = _ask(subject, model, "other", opening)
    (answer,) = told["answers"]
    own = len(opening) - shared + len(answer["ids"]) - 1
    subject.ask("restart")
    again = _ask(subject, model, "long", [*text, *tokens(TURN_TOKENS - _GENERATED, "again")])
    return Writes(
        token_bytes * TURN_TOKENS,
        turns,
        told["savedBytes"] / (own * token_bytes),
        answer["reusedTokens"],
        again["restoredBytes"] / (again["answers"][0]["reusedTokens"] * token_bytes),
    )


def _converse(subject: Subject, model: Written, length: int) -> tuple[list[int], list[int]]:
    """Return the text of a conversation and what each turn wrote."""
    text: list[int] = []
    written = []
    while len(text) < length:
        text += tokens(TURN_TOKENS - _GENERATED, len(text))
        told = _ask(subject, model, "long", text)
        text += told["answers"][0]["ids"]
        written.append(told["savedBytes"])
    return text, written


def _ask(subject: Subject, model: Written, name: str, prompt: list[int]) -> dict[str, Any]:
    return subject.ask(
        "ask",
        source=model.source,
        names=[name],
        tenant=None,
        prompts=[prompt],
        maxTokens=_GENERATED,
        isStreamed=True,
    )
