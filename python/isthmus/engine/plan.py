"""What one generation is to do: its prompt, how tokens are chosen, and what it may share.

Values alone; the model work is in `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Any, Protocol

from .arrays import Floats
from .kv_memory import NOBODY, Ownership
from .sampling import SamplingOptions

Token = tuple[int, Floats]
"""A token id and the logits that it was chosen from, shape [vocabulary]."""


class Constraint(Protocol):
    """What the next token may be; `engine.constraint.Constraint`."""

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        ...

    @property
    def must_stop(self) -> bool:
        """Whether nothing may follow."""
        ...

    def prepare(self) -> None:
        """Compute the next mask now."""
        ...

    def mask(self, logits: Floats) -> None:
        """Set what may not follow to minus infinity."""
        ...

    def advance(self, token: int) -> None:
        """Take a token."""
        ...

    def validate(self, tokens: Tokens[int]) -> int:
        """Return how many of these tokens, one after the other, may come next."""
        ...


class Restored(Protocol):
    """A cache that was read from disk."""

    @property
    def tokens(self) -> int:
        """How many tokens it holds; 0 once it was taken."""
        ...

    def take(self) -> list[Any]:
        """Return it, once, on the engine thread."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is generated.

    Attributes:
        prompt: Token ids, at least one, each below the vocabulary size.
        sampling: How tokens are chosen.
        max_tokens: After this many, no further step is dispatched.
        constraint: Of what may be generated, or None.
        may_batch: Whether passes may be shared with other generations.
        may_reuse: Whether a cached beginning of the prompt may be used, and is kept afterwards.
        whose: Whose cache that is.
        restored: A beginning of the prompt that was read from disk for it.
    """

    prompt: Tokens[int]
    sampling: SamplingOptions
    max_tokens: int
    constraint: Constraint | None = None
    may_batch: bool = True
    may_reuse: bool = True
    whose: Ownership = NOBODY
    restored: Restored | None = None
