"""Evaluated tokens on disk: found by what they are, read into place, written once.

All of it runs on one thread, the worker's. A text is found by its chain, whoever wrote it; a
session adds a name to where it ends. Integrity always, durability as well as it goes: what is
damaged is put aside and is as if it had never been, a full disk or a vanished folder is told in the
outcome and counted, and nothing of this raises. Only puts together who does it: `catalog.py`,
`opening.py`, `reading.py`, `writing.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any

from .catalog import NO_DIRECTORY, Catalog
from .chain import TokenIds
from .layout import Array
from .opening import Opener
from .pieces import PIECES_OF_A_CHUNK
from .reading import Reader
from .record import SessionRecord
from .tree import Tree
from .values import Evaluated, Family, Held, Restored, Saved, StoreOptions
from .write_access import WriteAccess
from .writing import Writer

__all__ = [
    "NO_DIRECTORY",
    "PIECES_OF_A_CHUNK",
    "Evaluated",
    "Family",
    "Held",
    "Restored",
    "Saved",
    "SessionStore",
    "StoreOptions",
]

_COUNTED = (
    *("saves", "saved_bytes", "save_failures", "restores", "restored_bytes"),
    *("restore_failures", "corrupt_files", "evicted_files", "expired_sessions"),
)


class SessionStore:
    """What is on disk.

    Args:
        options: What a user may set.
        wall_clock: Unix time in seconds.
    """

    def __init__(self, options: StoreOptions, wall_clock: Callable[[], float]) -> None:
        self.options = options
        self._catalog = Catalog(options, wall_clock)
        self._opener = Opener(self._catalog, wall_clock)
        self._reader = Reader(self._catalog)
        self._writer = Writer(self._catalog, WriteAccess(self._catalog, self._opener))

    @property
    def tree(self) -> Tree:
        """The pieces."""
        return self._catalog.tree

    @property
    def sessions(self) -> dict[str, SessionRecord]:
        """The sessions, by their names."""
        return self._catalog.sessions

    @property
    def counts(self) -> Counter[str]:
        """What happened; others count here, too."""
        return self._catalog.counts

    @property
    def mode(self) -> str:
        """`writer`, `reader` of what another process writes, or `memory`: nothing is on disk."""
        return self._catalog.mode

    def open(self) -> None:
        """Look at the folder, become its writer if nobody is, and hold to the quota."""
        self._opener.open()

    def close(self) -> None:
        """Let another process write."""
        self._reader.close()
        self._opener.close()

    def find(self, family: Family, ids: TokenIds, limit: int) -> Held:
        """Return the longest known beginning of a text, of up to `limit` tokens; it is held until
        it is released."""
        self._opener.refresh()
        return self._reader.find(family, ids, limit)

    def release(self, held: Held) -> None:
        """Hold it no longer."""
        self._reader.release(held)

    def read(self, held: Held, arrays: Sequence[Array]) -> Restored:
        """Read what was found into `arrays`, as far as it is sound, and release it.

        Args:
            arrays: Keys and values of each token layer, in turn, [heads, tokens or more, size].
        """
        return self._reader.read(held, arrays)

    def save(
        self, family: Family, evaluated: Evaluated, session: SessionRecord | None
    ) -> Generator[None, None, Saved]:
        """Write what is not there yet, and have a session end there; yields between files."""
        return self._writer.save(family, evaluated, session)

    def get(self, name: str) -> SessionRecord | None:
        """Return a session."""
        self._opener.refresh()
        return self.sessions.get(name)

    def put(self, record: SessionRecord) -> None:
        """Have a session be as `record` says; what only its old content needed is removed."""
        self._catalog.put(record)

    def truncate(self, name: str, tokens: int) -> None:
        """Let a session end earlier."""
        self._catalog.truncate(name, tokens)

    def delete(self, name: str) -> bool:
        """Forget a session, with what nobody shares; return whether there was one."""
        return self._catalog.delete(name)

    def expire(self) -> None:
        """Forget sessions that were not used for too long, with what nobody shares."""
        self._catalog.expire()

    def disk_bytes(self, record: SessionRecord) -> int:
        """Return the size of all that a session needs."""
        node = self.tree.nodes.get(bytes.fromhex(record.tip))
        return 0 if node is None else sum(each.size_bytes for each in self.tree.path(node))

    def kept_tokens(self, record: SessionRecord) -> int:
        """Return how many of a session's tokens are on disk."""
        node = self.tree.nodes.get(bytes.fromhex(record.tip))
        return 0 if node is None or not self.tree.path(node) else record.tokens

    def stats(self) -> dict[str, Any]:
        """Return the counters that are the store's."""
        return {
            "directory": None if self.options.path is None else str(self.options.path),
            "mode": self.mode,
            "chunks": len(self.tree),
            "disk_bytes": self._catalog.used_bytes,
            "quota_bytes": self.options.quota_bytes,
            **{name: self.counts[name] for name in _COUNTED},
        }
