"""Who writes the folder, and what is in it: opened once, looked at again when another has written.

One process writes, the others read and take over when it ends. A folder that cannot be used is no
error: there is nothing on disk then. Knows not what is read or written afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .catalog import Catalog
from .checked import BadFile
from .chunkfile import Piece
from .record import read_record
from .tree import Node

_CLOCK_GRAIN_S: Final = 2.0
"""A file system may tell two times apart only when they lie so far from each other (FAT's do)."""


class Opener:
    """Fills a catalog from its folder.

    Args:
        catalog: What is known of the folder.
        wall_clock: Unix time in seconds.
    """

    def __init__(self, catalog: Catalog, wall_clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._wall_clock = wall_clock
        self._stamp: tuple[int, ...] = ()

    def open(self) -> None:
        """Look at the folder, become its writer if nobody is, and hold to the quota."""
        catalog = self._catalog
        if catalog.directory is None:
            return
        was_reader = catalog.mode == "reader"
        try:
            catalog.directory.prepare()
            catalog.mode = "writer" if catalog.directory.lock() else "reader"
            if catalog.is_writer or not was_reader:
                self._look()
        except OSError:
            catalog.lose()
            return
        if catalog.is_writer:
            catalog.expire()
            catalog.evict(catalog.used_bytes - catalog.options.quota_bytes)

    def close(self) -> None:
        """Let another process write."""
        if self._catalog.directory is not None:
            self._catalog.directory.unlock()

    def refresh(self) -> None:
        """See what another process has written."""
        if self._catalog.mode != "reader":
            return
        try:
            if self._catalog.files().stamp() != self._stamp:
                self._look()
        except OSError:
            self._catalog.lose()

    def _look(self) -> None:
        """Make the tree and the sessions from what is in the folder."""
        catalog, directory = self._catalog, self._catalog.files()
        stamp = directory.stamp()
        # What changes within the grain of the clock after that would leave the stamp as it is.
        is_old = max(stamp) < (self._wall_clock() - _CLOCK_GRAIN_S) * 1e9
        self._stamp = stamp if is_old else ()
        found = directory.scan()
        held = [node for node in catalog.tree.nodes.values() if node.holders]
        catalog.clear()
        for piece, size_bytes, _ in sorted(found.pieces, key=_by_time):
            state_bytes = found.states.pop(piece.key, 0)
            catalog.take_in(Node(piece, size_bytes + state_bytes, state_bytes=state_bytes))
        for node in held:
            # Whoever holds a node goes on to do so.
            now = catalog.tree.nodes.get(node.piece.key)
            if now is not None and now.piece == node.piece:
                node.size_bytes, node.state_bytes = now.size_bytes, now.state_bytes
                catalog.tree.add(node)
        for key in found.states if catalog.is_writer else ():
            directory.remove_state(key)
        for name in found.sessions:
            self._read_record(name)

    def _read_record(self, name: str) -> None:
        """Remember a session that is on disk; one that is damaged is gone."""
        catalog = self._catalog
        try:
            catalog.note(read_record(catalog.files().read_session(name), name))
        except BadFile:
            if catalog.is_writer:
                catalog.counts["corrupt_files"] += 1
                catalog.files().remove_session(name)
        except OSError:  # gone since it was listed, or for now not to be read
            pass


def _by_time(found: tuple[Piece, int, float]) -> float:
    return found[2]
