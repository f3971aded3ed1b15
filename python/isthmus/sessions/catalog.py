"""What the folder holds, as it is known in memory: nodes, sessions, and what changes both.

A session ends in a node, so that who takes a node out moves sessions, and who moves a session may
leave nodes that nobody needs. Every change is made here and, where this process is the writer, in
the folder: memory and disk agree. Knows not who opens the folder and when it is looked at
(`opening.py`), nor what is in a piece.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from .chunkfile import Piece
from .directory import SessionDirectory
from .record import SessionRecord
from .tree import Node, Tree
from .values import StoreOptions

NO_DIRECTORY: Final = "no session directory is in use; see --session-dir"


class Catalog:
    """What is known of the folder, which it shares with those who open, read and write.

    Args:
        options: What a user may set.
        wall_clock: Unix time in seconds.

    Attributes:
        tree: The pieces.
        sessions: The sessions, by their names.
        counts: What happened, for `session_stats`.
        mode: `writer`, `reader` of what another process writes, or `memory`: nothing is on disk.
        directory: The files; None when the user wants none.
    """

    def __init__(self, options: StoreOptions, wall_clock: Callable[[], float]) -> None:
        self.options = options
        self.tree = Tree()
        self.sessions: dict[str, SessionRecord] = {}
        self.counts: Counter[str] = Counter()
        self.mode = "memory"
        self.directory: SessionDirectory | None = None
        if options.path is not None:
            self.directory = SessionDirectory(options.path, options.is_synced)
        self._wall_clock = wall_clock

    @property
    def is_writer(self) -> bool:
        """Whether this process may change the folder."""
        return self.mode == "writer"

    @property
    def used_bytes(self) -> int:
        """What counts against the quota."""
        return self.tree.size_bytes + (self.directory.damaged_bytes if self.directory else 0)

    def files(self) -> SessionDirectory:
        """Return the files.

        Raises:
            FileNotFoundError: The user wants none.
        """
        if self.directory is None:
            raise FileNotFoundError(NO_DIRECTORY)
        return self.directory

    def clear(self) -> None:
        """Know nothing."""
        self.tree, self.sessions = Tree(), {}

    def lose(self) -> None:
        """The folder cannot be used: go on without, until a save finds that it can."""
        self.mode = "memory"
        self.clear()
        if self.directory is not None:
            self.directory.unlock()

    # Sessions.

    def put(self, record: SessionRecord) -> None:
        """Have a session be as `record` says; what only its old content needed is removed."""
        before = self.sessions.get(record.name)
        self.note(replace(record, used_at=self._wall_clock()))
        self._write_record(record.name)
        if before is not None and before.tip != record.tip:
            self._prune(before)

    def truncate(self, name: str, tokens: int) -> None:
        """Let a session end earlier."""
        record = self.sessions.get(name)
        if record is None or record.tokens <= tokens:
            return
        node = self.tree.nodes.get(bytes.fromhex(record.tip))
        while node is not None and node.piece.start >= tokens:
            node = self.tree.nodes.get(node.piece.parent)
        if node is None or tokens == 0:
            self.put(replace(record, tip="", tokens=0))
        else:
            self.put(replace(record, tip=node.piece.key.hex(), tokens=tokens))

    def delete(self, name: str) -> bool:
        """Forget a session, with what nobody shares; return whether there was one."""
        record = self.sessions.get(name)
        if record is None:
            return False
        self._forget(record)
        if self.directory is not None and self.is_writer:
            self.directory.remove_session(name)
            self._prune(record)
        return True

    def expire(self) -> None:
        """Forget sessions that were not used for too long, with what nobody shares."""
        oldest = self._wall_clock() - self.options.ttl_s
        for record in list(self.sessions.values()):
            if record.used_at < oldest and not record.pin:
                self.delete(record.name)
                self.counts["expired_sessions"] += 1

    def note(self, record: SessionRecord) -> None:
        """Remember a session as it is now."""
        before = self.sessions.get(record.name)
        if before is not None:
            self._forget(before)
        self.sessions[record.name] = record
        if record.tip:
            key = bytes.fromhex(record.tip)
            self.tree.tips.setdefault(key, set()).add(record.name)
            self.tree.pinned[key] += record.pin

    def _forget(self, record: SessionRecord) -> None:
        self.sessions.pop(record.name, None)
        if record.tip:
            key = bytes.fromhex(record.tip)
            self.tree.pinned[key] -= record.pin
            names = self.tree.tips.get(key, set())
            names.discard(record.name)
            if not names:
                self.tree.tips.pop(key, None)

    def _prune(self, record: SessionRecord) -> None:
        """Remove what only a session needed as it was."""
        if self.is_writer and record.tip:
            for node in self.tree.exclusive(bytes.fromhex(record.tip)):
                self._remove(node)

    def _write_record(self, name: str) -> None:
        """Write a session, if it can be: it is found by its content without."""
        record = self.sessions.get(name)
        if record is None or self.directory is None or not self.is_writer:
            return
        try:
            self.directory.write_session(name, record.to_bytes())
        except OSError:
            self.counts["save_failures"] += 1

    # Nodes.

    def take_in(self, node: Node) -> None:
        """Add a node; one that ended at the same place but began elsewhere gives way."""
        before = self.tree.remove(node.piece.key)
        self.tree.add(node)
        if before is not None and not node.has_state:
            # The state is that of the key, and stays.
            self.tree.set_state(node, before.state_bytes)
        if before is not None and before.piece != node.piece and self.is_writer:
            self.files().remove_piece(before.piece, keeps_state=True)

    def evict(self, size_bytes: int) -> None:
        """Remove files of so many bytes, as far as there are any: damaged ones, then those that
        were used least recently."""
        moved: set[str] = set()
        if size_bytes > 0:
            size_bytes -= self.files().damaged_bytes
            self.files().forget_damaged()
        for node in self.tree.to_evict(size_bytes):
            moved |= self._remove(node)
            self.counts["evicted_files"] += 1
        for name in moved:
            self._write_record(name)

    def put_aside(self, node: Node) -> None:
        """A file is damaged: it is as if it had never been."""
        self.counts["corrupt_files"] += 1
        self._give_up(node, self.files().put_aside)

    def give_up(self, node: Node) -> None:
        """A file is gone, or not to be read: it is written anew."""
        self._give_up(node, self.files().remove_piece)

    def drop_state(self, node: Node) -> None:
        """Go on without the state after a node."""
        self.tree.set_state(node, 0)
        if self.is_writer:
            self.files().remove_state(node.piece.key)

    def _give_up(self, node: Node, remove: Callable[[Piece], None]) -> None:
        """Go on without a node, which may be another object for the same piece by now."""
        now = self.tree.nodes.get(node.piece.key)
        names = self._take_out(now) if now is not None and now.piece == node.piece else set()
        if self.is_writer:
            remove(node.piece)
            for name in names:
                self._write_record(name)

    def _remove(self, node: Node) -> set[str]:
        """Remove a node's files; return the names of the sessions that ended there."""
        names = self._take_out(node)
        self.files().remove_piece(node.piece)
        return names

    def _take_out(self, node: Node) -> set[str]:
        """Forget a node; sessions that ended there end before it: return their names."""
        names = self.tree.tips.get(node.piece.key, set()).copy()
        parent = self.tree.nodes.get(node.piece.parent)
        for name in names:
            tip = "" if parent is None else parent.piece.key.hex()
            end = 0 if parent is None else parent.piece.end
            self.note(replace(self.sessions[name], tip=tip, tokens=end))
        self.tree.remove(node.piece.key)
        return names
