"""Evaluated tokens on disk: found by what they are, read into place, written once.

All of it runs on one thread, the worker's. A text is found by its chain, whoever wrote it; a
session adds a name to where it ends. Integrity always, durability as well as it goes: what is
damaged is put aside and is as if it had never been, a full disk or a vanished folder is told in the
outcome and counted, and nothing of this raises. Writing yields between two files, so that readers
need not wait for it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from .chain import CHUNK_TOKENS, Chain, TokenIds, boundary_before, shared_tokens
from .checked import BadFile, Bytes
from .chunkfile import ChunkFormat, Piece
from .directory import SessionDirectory
from .layout import Array
from .record import SessionRecord, read_record
from .statefile import State, decode_states, encode_states
from .tree import Match, Node, Tree, shared_with

PIECES_OF_A_CHUNK: Final = 4
"""Pieces of a chunk after which some are written anew as one, so that short turns leave few files.
Turns of 8 tokens write each of them 2.6 times, on average; those of 16, 1.9 times."""

_FREE_FOR_WRITE: Final = 1.2
"""How much of the size of a file must be free for it, at least."""

_READERS: Final = 2
"""Threads that read the files of a session: copying and checking take a processor each, and a third
one would take the engine's."""

_CLOCK_GRAIN_S: Final = 2.0
"""A file system may tell two times apart only when they lie so far from each other (FAT's do)."""

_SCRATCH_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Largest buffer that is kept for the next file: fresh memory costs more than reading."""

NO_DIRECTORY: Final = "no session directory is in use; see --session-dir"
_READ_ONLY: Final = "another runtime writes the session directory; give this one its own"
_VANISHED: Final = "the session directory has vanished; it is made again"


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


class _NotSaved(Exception):
    """Why writing stops."""


class SessionStore:
    """What is on disk.

    Args:
        options: What a user may set.
        wall_clock: Unix time in seconds.
    """

    def __init__(self, options: StoreOptions, wall_clock: Callable[[], float]) -> None:
        self.options = options
        self.tree = Tree()
        self.sessions: dict[str, SessionRecord] = {}
        self.counts: Counter[str] = Counter()
        self.mode = "memory"
        self._wall_clock = wall_clock
        self._directory: SessionDirectory | None = None
        if options.path is not None:
            self._directory = SessionDirectory(options.path, options.is_synced)
        self._stamp: tuple[int, ...] = ()
        self._scratch: Bytes = np.empty(0, np.uint8)
        self._readers = ThreadPoolExecutor(_READERS, "isthmus-sessions-read")

    def open(self) -> None:
        """Look at the folder, become its writer if nobody is, and hold to the quota."""
        if self._directory is None:
            return
        was_reader = self.mode == "reader"
        try:
            self._directory.prepare()
            self.mode = "writer" if self._directory.lock() else "reader"
            if self.mode == "writer" or not was_reader:
                self._look()
        except OSError:
            self._lose()
            return
        if self.mode == "writer":
            self.expire()
            self._evict(self._used_bytes - self.options.quota_bytes)

    def close(self) -> None:
        """Let another process write."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        if self._directory is not None:
            self._directory.unlock()

    # Reading.

    def find(self, family: Family, ids: TokenIds, limit: int) -> Held:
        """Return the longest known beginning of a text, of up to `limit` tokens; it is held until
        it is released."""
        self._refresh()
        chain, layout = Chain(family.root, ids), family.format.layout
        match = self.tree.find(chain, limit, layout.has_states)
        if not layout.has_states:
            match = self._look_further(family, chain, match, limit)
        if match.tip is not None:
            match.tip.holders += 1
        return Held(match, chain, family)

    def release(self, held: Held) -> None:
        """Hold it no longer."""
        if held.match.tip is not None:
            held.match.tip.holders -= 1

    def read(self, held: Held, arrays: Sequence[Array]) -> Restored:
        """Read what was found into `arrays`, as far as it is sound, and release it.

        Args:
            arrays: Keys and values of each token layer, in turn, [heads, tokens or more, size].
        """
        try:
            return self._read(held, arrays)
        finally:
            self.release(held)

    # Writing.

    def save(
        self, family: Family, evaluated: Evaluated, session: SessionRecord | None
    ) -> Generator[None, None, Saved]:
        """Write what is not there yet, and have a session end there; yields between files."""
        written, reason, at = 0, None, _Place()
        chain = Chain(family.root, evaluated.ids)
        try:
            try:
                self._become_writer()
                at.move(self.tree.find(chain, len(chain)).tip)
                for piece in self._missing(chain, at.node, evaluated):
                    written += self._write_piece(family, piece, evaluated)
                    at.move(self.tree.nodes[piece.key])
                    yield
                written += self._write_states(chain, evaluated)
                self.counts["saves"] += 1
            except _NotSaved as error:
                reason = str(error)
                self.counts["save_failures"] += 1
            self.counts["saved_bytes"] += written
            if self.mode != "writer":
                return Saved(0, written, reason)
            if session is not None:
                self.put(replace(session, root=family.root.hex(), tip=at.tip, tokens=at.tokens))
            return Saved(at.tokens, written, reason)
        finally:
            at.move(None)

    # Sessions.

    def get(self, name: str) -> SessionRecord | None:
        """Return a session."""
        self._refresh()
        return self.sessions.get(name)

    def put(self, record: SessionRecord) -> None:
        """Have a session be as `record` says; what only its old content needed is removed."""
        before = self.sessions.get(record.name)
        self._note(replace(record, used_at=self._wall_clock()))
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
        if self._directory is not None and self.mode == "writer":
            self._directory.remove_session(name)
            self._prune(record)
        return True

    def disk_bytes(self, record: SessionRecord) -> int:
        """Return the size of all that a session needs."""
        node = self.tree.nodes.get(bytes.fromhex(record.tip))
        return 0 if node is None else sum(each.size_bytes for each in self.tree.path(node))

    def kept_tokens(self, record: SessionRecord) -> int:
        """Return how many of a session's tokens are on disk."""
        node = self.tree.nodes.get(bytes.fromhex(record.tip))
        return 0 if node is None or not self.tree.path(node) else record.tokens

    def expire(self) -> None:
        """Forget sessions that were not used for too long, with what nobody shares."""
        oldest = self._wall_clock() - self.options.ttl_s
        for record in list(self.sessions.values()):
            if record.used_at < oldest and not record.pin:
                self.delete(record.name)
                self.counts["expired_sessions"] += 1

    def stats(self) -> dict[str, Any]:
        """Return the counters that are the store's."""
        names = ("saves", "saved_bytes", "save_failures", "restores", "restored_bytes")
        more = ("restore_failures", "corrupt_files", "evicted_files", "expired_sessions")
        return {
            "directory": None if self.options.path is None else str(self.options.path),
            "mode": self.mode,
            "chunks": len(self.tree),
            "disk_bytes": self._used_bytes,
            "quota_bytes": self.options.quota_bytes,
            **{name: self.counts[name] for name in (*names, *more)},
        }

    # How it is done.

    def _look(self) -> None:
        """Make the tree and the sessions from what is in the folder."""
        directory = self._files()
        stamp = directory.stamp()
        # What changes within the grain of the clock after that would leave the stamp as it is.
        is_old = max(stamp) < (self._wall_clock() - _CLOCK_GRAIN_S) * 1e9
        self._stamp = stamp if is_old else ()
        found = directory.scan()
        held = [node for node in self.tree.nodes.values() if node.holders]
        self.tree, self.sessions = Tree(), {}
        for piece, size_bytes, _ in sorted(found.pieces, key=_by_time):
            state_bytes = found.states.pop(piece.key, 0)
            self._take_in(Node(piece, size_bytes + state_bytes, state_bytes=state_bytes))
        for node in held:
            # Whoever holds a node goes on to do so.
            now = self.tree.nodes.get(node.piece.key)
            if now is not None and now.piece == node.piece:
                node.size_bytes, node.state_bytes = now.size_bytes, now.state_bytes
                self.tree.add(node)
        for key in found.states if self.mode == "writer" else ():
            directory.remove_state(key)
        for name in found.sessions:
            self._read_record(name)

    def _read_record(self, name: str) -> None:
        """Remember a session that is on disk; one that is damaged is gone."""
        try:
            self._note(read_record(self._files().read_session(name), name))
        except BadFile:
            if self.mode == "writer":
                self.counts["corrupt_files"] += 1
                self._files().remove_session(name)
        except OSError:  # gone since it was listed, or for now not to be read
            pass

    def _take_in(self, node: Node) -> None:
        """Add a node; one that ended at the same place but began elsewhere gives way."""
        before = self.tree.remove(node.piece.key)
        self.tree.add(node)
        if before is not None and not node.has_state:
            # The state is that of the key, and stays.
            self.tree.set_state(node, before.state_bytes)
        if before is not None and before.piece != node.piece and self.mode == "writer":
            self._files().remove_piece(before.piece, keeps_state=True)

    def _refresh(self) -> None:
        """See what another process has written."""
        if self.mode != "reader":
            return
        try:
            if self._files().stamp() != self._stamp:
                self._look()
        except OSError:
            self._lose()

    def _look_further(self, family: Family, chain: Chain, match: Match, limit: int) -> Match:
        """Use a part of what continues a match, if it begins as the text goes on."""
        best = match
        for node in self.tree.nearest(match, chain):
            if node.ids is None:
                try:
                    node.ids = self._head_ids(family.format, node.piece)
                except (BadFile, OSError):
                    continue
            shared = shared_with(node, chain, limit)
            if node.piece.start + shared > best.tokens:
                best = Match(node, node.piece.start + shared)
        return best

    def _head_ids(self, form: ChunkFormat, piece: Piece) -> TokenIds:
        """Return the tokens that a file says it has; they are checked when all of it is read."""
        length = len(form.header(piece))
        raw = self._files().read_head(piece, length + 4 * piece.tokens)
        if len(raw) != length + 4 * piece.tokens:
            raise BadFile("it is too short")
        return np.frombuffer(raw, "<u4", offset=length)

    def _read(self, held: Held, arrays: Sequence[Array]) -> Restored:
        tip, chain = held.match.tip, held.chain
        path = [] if tip is None else self.tree.path(tip)
        good: list[Node] = []
        tokens = read_bytes = 0

        def read(node: Node) -> int | Exception:
            return self._read_piece(held.family.format, node.piece, chain, held.tokens, arrays)

        for node, count in zip(path, self._readers.map(read, path), strict=True):
            if isinstance(count, BadFile):
                self._put_aside(node)
            elif isinstance(count, Exception):  # gone, or not to be read: it is written anew
                self._give_up(node, self._files().remove_piece)
            if isinstance(count, Exception):
                break
            good.append(node)
            tokens, read_bytes = min(node.piece.end, held.tokens), read_bytes + count
        states = None
        if held.family.format.layout.has_states:
            tokens, states = self._read_states(held.family.format, good)
        if good:
            self.tree.use(good[-1])
            if self.mode == "writer":
                self._files().touch(good[-1].piece)
            self.counts["restores"] += 1
            self.counts["restored_bytes"] += read_bytes
        if tokens < held.tokens:
            self.counts["restore_failures"] += 1
        return Restored(tokens, read_bytes, states)

    def _read_piece(
        self, form: ChunkFormat, piece: Piece, chain: Chain, limit: int, arrays: Sequence[Array]
    ) -> int | Exception:
        """Read a file, up to a token; return its size, or why it cannot be used. On any thread."""
        wanted = min(piece.end, limit) - piece.start
        places = form.places(piece, wanted, arrays)
        size_bytes = form.size(piece)
        raw = np.empty(size_bytes if places is None else form.head_size(piece), np.uint8)
        try:
            self._files().read_piece(piece, raw, *(places or ()))
            ids = form.check_parts(piece, raw, places or ())
            if shared_tokens(ids, chain.ids[piece.start : piece.start + wanted]) < wanted:
                return BadFile("it has other tokens")
            if places is None:
                form.decode(piece, raw, wanted, arrays)
        except (BadFile, OSError) as error:
            return error
        return size_bytes

    def _read_states(
        self, form: ChunkFormat, good: Sequence[Node]
    ) -> tuple[int, list[State] | None]:
        """Return the last states that can be read, and how many tokens they follow."""
        for node in filter(lambda node: node.has_state, reversed(good)):
            try:
                raw = self._files().read_state(node.piece.key, node.state_bytes)
                return node.piece.end, decode_states(node.piece.key, form.layout, raw)
            except BadFile:
                self.counts["corrupt_files"] += 1
                self._drop_state(node)
            except FileNotFoundError:
                self._drop_state(node)
            except OSError:
                continue
        return 0, None

    def _missing(self, chain: Chain, at: Node | None, evaluated: Evaluated) -> Iterable[Piece]:
        """Yield the pieces to write after a node, in order, up to the end of the text: they end
        with chunks, and where there is a state."""
        start, total = 0 if at is None else at.piece.end, len(evaluated.ids)
        is_inside = boundary_before(start) < start < total
        pieces = self.tree.pieces_in_chunk(at)
        if is_inside and len(pieces) >= PIECES_OF_A_CHUNK:
            start = _start_anew(pieces, min(boundary_before(start) + CHUNK_TOKENS, total))
        while start < total:
            marks = (end for end, _ in evaluated.states if end > start)
            end = min(boundary_before(start) + CHUNK_TOKENS, total, *marks)
            yield Piece(chain.key(end), chain.key(start), start, end)
            start = end

    def _write_piece(self, family: Family, piece: Piece, evaluated: Evaluated) -> int:
        """Write a piece that is not there; return how many bytes were written.

        Raises:
            _NotSaved: It cannot be written.
        """
        there = self.tree.nodes.get(piece.key)
        if there is not None and there.piece == piece:  # what came before it was lost
            return 0
        size_bytes = family.format.size(piece)
        self._make_room(size_bytes)
        raw = self._buffer(size_bytes)
        ids = evaluated.ids[piece.start : piece.end]
        try:
            family.format.encode(piece, ids, evaluated.arrays, raw)
        except ValueError as error:
            raise _NotSaved(f"it cannot be written as {family.format.form}: {error}") from None
        with self._writing():
            self._files().write_piece(piece, raw)
        self._take_in(Node(piece, size_bytes, ids=ids.copy()))
        return size_bytes

    def _write_states(self, chain: Chain, evaluated: Evaluated) -> int:
        written = 0
        for end, states in evaluated.states:
            node = self.tree.nodes.get(chain.key(end))
            if node is None or node.has_state:
                continue
            raw = encode_states(node.piece.key, states)
            self._make_room(len(raw))
            with self._writing():
                self._files().write_state(node.piece.key, raw)
            self.tree.set_state(node, len(raw))
            written += len(raw)
        return written

    @contextlib.contextmanager
    def _writing(self) -> Generator[None, None, None]:
        try:
            yield
        except FileNotFoundError:
            self._lose()
            raise _NotSaved(_VANISHED) from None
        except OSError as error:
            raise _NotSaved(f"the session directory cannot be written: {error.strerror}") from None

    def _become_writer(self) -> None:
        """Write from now on, if nobody else does.

        Raises:
            _NotSaved: Somebody does, or there is no folder.
        """
        if self._directory is None:
            raise _NotSaved(NO_DIRECTORY)
        if self.mode == "writer" and not self._directory.is_locked():
            self._lose()
            raise _NotSaved(_VANISHED)
        if self.mode != "writer":
            self.open()
        if self.mode == "reader":
            raise _NotSaved(_READ_ONLY)
        if self.mode == "memory":
            raise _NotSaved(f"the session directory {self._directory.path} cannot be written")

    def _make_room(self, size_bytes: int) -> None:
        """Evict until a file fits into the quota and onto the disk.

        Raises:
            _NotSaved: It does not fit.
        """
        self._evict(self._used_bytes + size_bytes - self.options.quota_bytes)
        if self._used_bytes + size_bytes > self.options.quota_bytes:
            raise _NotSaved(
                f"the quota of {self.options.quota_bytes} bytes is taken by what is in use or "
                "pinned; raise --session-disk-bytes, or delete sessions"
            )
        with self._writing():
            wanted = max(self.options.free_bytes + size_bytes, int(_FREE_FOR_WRITE * size_bytes))
            free = self._files().free_bytes()
            if free < wanted <= free + self._used_bytes:
                self._evict(wanted - free)
                free = self._files().free_bytes()
        if free < wanted:
            raise _NotSaved(
                f"the disk has {free} bytes free, and {wanted} must be; free some, or lower "
                "--session-free-disk-bytes"
            )

    def _evict(self, size_bytes: int) -> None:
        """Remove files of so many bytes, as far as there are any: damaged ones, then those that
        were used least recently."""
        moved: set[str] = set()
        if size_bytes > 0:
            size_bytes -= self._files().damaged_bytes
            self._files().forget_damaged()
        for node in self.tree.to_evict(size_bytes):
            moved |= self._remove(node)
            self.counts["evicted_files"] += 1
        for name in moved:
            self._write_record(name)

    def _remove(self, node: Node) -> set[str]:
        """Remove a node's files; return the names of the sessions that ended there."""
        names = self._take_out(node)
        self._files().remove_piece(node.piece)
        return names

    def _take_out(self, node: Node) -> set[str]:
        """Forget a node; sessions that ended there end before it: return their names."""
        names = self.tree.tips.get(node.piece.key, set()).copy()
        parent = self.tree.nodes.get(node.piece.parent)
        for name in names:
            tip = "" if parent is None else parent.piece.key.hex()
            end = 0 if parent is None else parent.piece.end
            self._note(replace(self.sessions[name], tip=tip, tokens=end))
        self.tree.remove(node.piece.key)
        return names

    def _prune(self, record: SessionRecord) -> None:
        """Remove what only a session needed as it was."""
        if self.mode == "writer" and record.tip:
            for node in self.tree.exclusive(bytes.fromhex(record.tip)):
                self._remove(node)

    def _note(self, record: SessionRecord) -> None:
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

    def _write_record(self, name: str) -> None:
        """Write a session, if it can be: it is found by its content without."""
        record = self.sessions.get(name)
        if record is None or self._directory is None or self.mode != "writer":
            return
        try:
            self._directory.write_session(name, record.to_bytes())
        except OSError:
            self.counts["save_failures"] += 1

    def _put_aside(self, node: Node) -> None:
        """A file is damaged: it is as if it had never been."""
        self.counts["corrupt_files"] += 1
        self._give_up(node, self._files().put_aside)

    def _give_up(self, node: Node, remove: Callable[[Piece], None]) -> None:
        """Go on without a node, which may be another object for the same piece by now."""
        now = self.tree.nodes.get(node.piece.key)
        names = self._take_out(now) if now is not None and now.piece == node.piece else set()
        if self.mode == "writer":
            remove(node.piece)
            for name in names:
                self._write_record(name)

    def _drop_state(self, node: Node) -> None:
        self.tree.set_state(node, 0)
        if self.mode == "writer":
            self._files().remove_state(node.piece.key)

    def _lose(self) -> None:
        """The folder cannot be used: go on without, until a save finds that it can."""
        self.mode = "memory"
        self.tree, self.sessions = Tree(), {}
        if self._directory is not None:
            self._directory.unlock()

    @property
    def _used_bytes(self) -> int:
        """What counts against the quota."""
        return self.tree.size_bytes + (self._directory.damaged_bytes if self._directory else 0)

    def _files(self) -> SessionDirectory:
        if self._directory is None:
            raise FileNotFoundError(NO_DIRECTORY)
        return self._directory

    def _buffer(self, size_bytes: int) -> Bytes:
        """Return memory for a file; the same each time where that is not too much to keep."""
        if size_bytes > _SCRATCH_KEPT_BYTES:
            return np.empty(size_bytes, np.uint8)
        if len(self._scratch) < size_bytes:
            self._scratch = np.empty(size_bytes, np.uint8)
        return self._scratch[:size_bytes]


class _Place:
    """How far a save is; it holds the node there."""

    def __init__(self) -> None:
        self.node: Node | None = None

    @property
    def tip(self) -> str:
        return "" if self.node is None else self.node.piece.key.hex()

    @property
    def tokens(self) -> int:
        return 0 if self.node is None else self.node.piece.end

    def move(self, node: Node | None) -> None:
        """Hold another node, and this one no longer."""
        if node is not None:
            node.holders += 1
        if self.node is not None:
            self.node.holders -= 1
        self.node = node


def _start_anew(pieces: Sequence[Node], end: int) -> int:
    """Return from where on a chunk is written anew, up to `end`: where each file that goes costs
    least.

    Args:
        pieces: Of the chunk, the last one first.
    """
    starts = [node.piece.start for node in pieces]
    costs = [(end - start) / goes for goes, start in enumerate(starts, 1)]
    return starts[costs.index(min(costs))]


def _by_time(found: tuple[Piece, int, float]) -> float:
    return found[2]
