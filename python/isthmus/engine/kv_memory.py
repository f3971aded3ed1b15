"""Whose a kept cache is, and what those of all models may take together.

The limit follows the memory budget: what models need, kept caches give back, the least recently
used first. Knows no mlx; what a cache is, `kept_caches` knows. Called on the engine thread, but for
what is said to be the event loop's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol
from weakref import WeakSet

UNLIMITED: Final = 2**62


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose a cache is.

    Attributes:
        scope: Who may share it: equal scopes do.
        owner: The session's name; empty when it is nobody's.
        is_pinned: Whether it makes no room for others.
    """

    scope: str = ""
    owner: str = ""
    is_pinned: bool = False


NOBODY: Final = Ownership()


class Kept(Protocol):
    """A kept cache; `kept_caches.Entry`."""

    whose: Ownership
    nbytes: int
    used: int


class Caches(Protocol):
    """Those of one model; `kept_caches.PromptCache`."""

    entries: list[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        ...

    def owned(self, owner: str) -> Any:
        """Return a session's, or None."""
        ...

    def snapshot(self, owner: str) -> Any:
        """Return the numbers of a session's, or None."""
        ...

    def truncate(self, owner: str, tokens: int) -> int:
        """Cut a session's back; return how many tokens it has then."""
        ...

    def fork(self, owner: str, to: str) -> int:
        """Copy a session's for another one; return its bytes."""
        ...


class KvMemory:
    """What the kept caches of all models may take together.

    Attributes:
        limit_bytes: Of them; written by the event loop.
        in_use: Names of sessions whose caches must stay, because a turn of theirs is about to
            begin; written by the event loop.
        held_bytes: What they take; read by the event loop.

    Args:
        on_evicted: Told the name of a session whose cache made room for others.
    """

    def __init__(
        self,
        limit_bytes: int = UNLIMITED,
        on_evicted: Callable[[str], None] | None = None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.in_use: set[str] = set()
        self.held_bytes = 0
        self._on_evicted = on_evicted
        self._caches: WeakSet[Caches] = WeakSet()
        self._uses = itertools.count(1)

    def add(self, cache: Caches) -> None:
        """Count a model's caches from now on."""
        self._caches.add(cache)

    def use(self, entry: Kept) -> None:
        """Take note that an entry was used."""
        entry.used = next(self._uses)

    def of_owner(self, owner: str) -> Caches | None:
        """Return the model's caches that a session's is among."""
        return next((each for each in list(self._caches) if each.owned(owner) is not None), None)

    def drop(self, owner: str) -> int:
        """Let a session's cache leave; return its bytes."""
        caches = self.of_owner(owner)
        entry = None if caches is None else caches.owned(owner)
        if caches is None or entry is None:
            return 0
        caches.entries.remove(entry)
        self.count()
        return int(entry.nbytes)

    def count(self) -> None:
        """Add up what is held."""
        self.held_bytes = sum(cache.nbytes for cache in self._caches)

    def fit(self, limit_bytes: int | None = None) -> int:
        """Hold to a limit, the own one by default; return what is held in the end."""
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        self.count()
        for cache, entry in self._evictable() if self.held_bytes > limit else ():
            cache.entries.remove(entry)
            self.held_bytes -= entry.nbytes
            if entry.whose.owner and self._on_evicted is not None:
                self._on_evicted(entry.whose.owner)
            if self.held_bytes <= limit:
                break
        return self.held_bytes

    def _evictable(self) -> Iterator[tuple[Caches, Kept]]:
        """Yield the entries that may leave, the least recently used first."""
        found = [
            (entry.used, number, cache, entry)
            for number, cache in enumerate(self._caches)
            for entry in cache.entries
            if not entry.whose.is_pinned and entry.whose.owner not in self.in_use
        ]
        for _, _, cache, entry in sorted(found, key=lambda each: each[:2]):
            yield cache, entry
