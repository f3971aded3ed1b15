"""What goes into the store and comes out of it: options, texts, what was found, read and saved.

Values alone. Knows no file, and not how anything is found, read or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .chain import Chain, TokenIds
from .chunkfile import ChunkFormat
from .layout import Array
from .statefile import State
from .tree import Match


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What a user may set.

    Attributes:
        path: The folder; None keeps nothing on disk.
        quota_bytes: Most that the files may take.
        free_bytes: What writing leaves of the disk, at least.
        ttl_s: How long an unused session is kept.
        is_synced: Whether a save returns only when the disk has it.
    """

    path: Path | None
    quota_bytes: int
    free_bytes: int
    ttl_s: float
    is_synced: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """Texts of one model, in one format, of one tenant: those that share a root."""

    root: bytes
    format: ChunkFormat


@dataclass(frozen=True, slots=True)
class Held:
    """A beginning that was found; its end is not removed before it is released."""

    match: Match
    chain: Chain
    family: Family

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.match.tokens


@dataclass(frozen=True, slots=True)
class Restored:
    """What was read: so many tokens from the first, and the states after the last of them."""

    tokens: int
    read_bytes: int
    states: list[State] | None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What is to be saved.

    Attributes:
        ids: The tokens.
        arrays: Keys and values of each token layer, in turn, [heads, tokens or more, size].
        states: Those of the state layers after so many tokens, for some numbers of tokens.
    """

    ids: TokenIds
    arrays: Sequence[Array]
    states: Sequence[tuple[int, Sequence[State]]] = ()


@dataclass(frozen=True, slots=True)
class Saved:
    """How a save ended: tokens on disk, bytes written, and why not all, if so."""

    tokens: int
    written_bytes: int
    reason: str | None = None
