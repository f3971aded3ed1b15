"""The files of the store: names, atomic writes, bounded reads, and the lock of the one who writes.

    DIR/v1/lock                                   held by the writer, for as long as it lives
    DIR/v1/chunks/KEY-PARENT-START-END.safetensors
    DIR/v1/chunks/KEY.state.safetensors
    DIR/v1/sessions/NAME
    DIR/v1/damaged/                               what was found damaged, for whoever wonders

Every name is made of hashes and numbers, so that nothing a user says is part of a path. A file is
written under another name and put in its place; what a killed writer left is removed by the next.
Nothing is followed that is a link, and no file is touched that has another name. Knows no format.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from .chain import CHUNK_TOKENS, boundary_before
from .checked import BadFile, Bytes
from .chunkfile import FORMAT_VERSION, Piece

_PIECE: Final = re.compile(r"([0-9a-f]{64})-([0-9a-f]{64})-(\d{1,10})-(\d{1,10})\.safetensors")
_STATE: Final = re.compile(r"([0-9a-f]{64})\.state\.safetensors")
_SESSION: Final = re.compile(r"[0-9a-f]{64}")
_TEMPORARY: Final = ".new-"
_DAMAGED_KEPT: Final = 16
"""Damaged files that are put aside; further ones are deleted, and all of them to make room."""

_PARTS_AT_ONCE: Final = 512
"""Parts of one read; POSIX allows 1,024 on most systems."""

_RECORD_LIMIT_BYTES: Final = 64 * 1024
_NOT_FOLLOWED: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NOT_WAITING: Final = getattr(os, "O_NONBLOCK", 0)
"""Opening a pipe would otherwise wait for who writes it; files do not care."""

_BINARY: Final = getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at the folder found."""

    pieces: tuple[tuple[Piece, int, float], ...]
    """Each with its size and the time of its last use."""
    states: dict[bytes, int]
    """Sizes of state files, by their key."""
    sessions: tuple[str, ...]


class SessionDirectory:
    """The files below one folder.

    Args:
        path: The folder; it is made when it is not there.
        is_synced: Whether a write returns only when the disk has it.

    Attributes:
        damaged_bytes: What the files take that were found damaged and are kept.
    """

    def __init__(self, path: Path, is_synced: bool = False) -> None:
        self.path = path
        self.damaged_bytes = 0
        self._root = path / f"v{FORMAT_VERSION}"
        self._chunks = self._root / "chunks"
        self._sessions = self._root / "sessions"
        self._damaged = self._root / "damaged"
        self._is_synced = is_synced
        self._numbers = itertools.count()
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            OSError: They cannot be made, or one of them is a link.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self._root, self._chunks, self._sessions, self._damaged):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.is_symlink():
                raise NotADirectoryError(f"{folder} is a link")

    def lock(self) -> bool:
        """Become the one who writes; return whether that is so.

        Raises:
            OSError: The folder cannot be written.
        """
        if self._lock is not None:
            return True
        flags = os.O_RDWR | os.O_CREAT | _NOT_FOLLOWED
        descriptor = os.open(self._root / "lock", flags, 0o600)
        try:
            if _lock(descriptor):
                self._lock, descriptor = descriptor, -1
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return self._lock is not None

    def is_locked(self) -> bool:
        """Whether the folder is still the one that was locked, and locked."""
        if self._lock is None or os.name == "nt":  # where an open file stays
            return self._lock is not None
        try:
            status = os.stat(self._root / "lock", follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(status, os.fstat(self._lock))

    def unlock(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def scan(self) -> Found:
        """Look at what there is. Who writes also removes what a killed writer left."""
        pieces: list[tuple[Piece, int, float]] = []
        states: dict[bytes, int] = {}
        for name, status in self._files(self._chunks):
            state = _STATE.fullmatch(name)
            if state is not None:
                states[bytes.fromhex(state.group(1))] = status.st_size
            elif (piece := _piece_of(name)) is not None:
                pieces.append((piece, status.st_size, status.st_mtime))
        sessions = tuple(
            name for name, _ in self._files(self._sessions) if _SESSION.fullmatch(name) is not None
        )
        self.damaged_bytes = sum(status.st_size for _, status in self._files(self._damaged))
        return Found(tuple(pieces), states, sessions)

    def stamp(self) -> tuple[int, ...]:
        """Return what changes when another process has written."""
        folders = (self._chunks, self._sessions)
        return tuple(os.stat(folder).st_mtime_ns for folder in folders)

    def write_piece(self, piece: Piece, raw: Bytes) -> None:
        """Write a piece.

        Raises:
            OSError: It cannot be written; nothing is left of it.
        """
        self._write(self._chunks / _piece_name(piece), raw)

    def read_piece(self, piece: Piece, *parts: Bytes) -> None:
        """Read a piece of exactly the size of these parts, one after the other into them.

        Raises:
            BadFile: It has another size, or is no file.
            OSError: It cannot be read.
        """
        self._read(self._chunks / _piece_name(piece), parts)

    def read_head(self, piece: Piece, count: int) -> bytes:
        """Return the first bytes of a piece.

        Raises:
            BadFile: It is no file.
            OSError: It cannot be read.
        """
        with self._reading(self._chunks / _piece_name(piece)) as descriptor:
            return os.read(descriptor, count)

    def remove_piece(self, piece: Piece, keeps_state: bool = False) -> None:
        """Delete a piece and its state, if they are there."""
        self._remove(self._chunks / _piece_name(piece))
        if not keeps_state:
            self._remove(self._chunks / _state_name(piece.key))

    def touch(self, piece: Piece) -> None:
        """Take note that a piece was used, for who looks at the folder after us."""
        with contextlib.suppress(OSError):
            os.utime(self._chunks / _piece_name(piece))

    def put_aside(self, piece: Piece) -> None:
        """Take a damaged piece out of the way."""
        name = _piece_name(piece)
        with contextlib.suppress(OSError):
            if len(os.listdir(self._damaged)) < _DAMAGED_KEPT:
                size_bytes = os.stat(self._chunks / name, follow_symlinks=False).st_size
                os.replace(self._chunks / name, self._damaged / name)
                self.damaged_bytes += size_bytes
        self.remove_piece(piece)

    def forget_damaged(self) -> None:
        """Delete what was put aside."""
        for name, _ in self._files(self._damaged):
            if _piece_of(name) is not None:
                self._remove(self._damaged / name)
        self.damaged_bytes = 0

    def write_state(self, key: bytes, raw: Bytes) -> None:
        """Write the state after a piece; raises as `write_piece`."""
        self._write(self._chunks / _state_name(key), raw)

    def read_state(self, key: bytes, size_bytes: int) -> Bytes:
        """Return the state after a piece; raises as `read_piece`."""
        raw = np.empty(size_bytes, np.uint8)
        self._read(self._chunks / _state_name(key), (raw,))
        return raw

    def remove_state(self, key: bytes) -> None:
        """Delete the state after a piece."""
        self._remove(self._chunks / _state_name(key))

    def write_session(self, name: str, raw: bytes) -> None:
        """Write a session; raises as `write_piece`."""
        self._write(self._sessions / name, np.frombuffer(raw, np.uint8))

    def read_session(self, name: str) -> bytes:
        """Return a session.

        Raises:
            BadFile: It is no file.
            OSError: It cannot be read.
        """
        with self._reading(self._sessions / name) as descriptor:
            return os.read(descriptor, _RECORD_LIMIT_BYTES)

    def remove_session(self, name: str) -> None:
        """Delete a session."""
        self._remove(self._sessions / name)

    def free_bytes(self) -> int:
        """Return what the disk has room for."""
        return shutil.disk_usage(self._root).free

    def _files(self, folder: Path) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the files of a folder; who writes removes the temporary ones."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(_TEMPORARY):
                    if self._lock is not None:
                        self._remove(folder / entry.name)
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:  # gone since it was listed
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield entry.name, status

    def _write(self, target: Path, raw: Bytes) -> None:
        temporary = target.parent / f"{_TEMPORARY}{os.getpid()}-{next(self._numbers)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOT_FOLLOWED | _BINARY
        descriptor = os.open(temporary, flags, 0o600)
        try:
            try:
                _write_all(descriptor, raw)
                if self._is_synced:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, target)
        except BaseException:
            self._remove(temporary)
            raise
        if self._is_synced:
            _sync_folder(target.parent)

    def _read(self, path: Path, parts: Sequence[Bytes]) -> None:
        with self._reading(path) as descriptor:
            size_bytes, wanted = os.fstat(descriptor).st_size, sum(map(len, parts))
            if size_bytes != wanted:
                raise BadFile(f"it has {size_bytes} bytes instead of {wanted}")
            read = _read_one if sys.platform == "win32" else os.readv
            left = [part.data for part in parts]
            while left:
                count = read(descriptor, left[:_PARTS_AT_ONCE])
                if not count:
                    raise BadFile("it ended while it was read")
                while left and count >= len(left[0]):
                    count -= len(left.pop(0))
                if count:
                    left[0] = left[0][count:]

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[int]:
        descriptor = os.open(path, os.O_RDONLY | _NOT_FOLLOWED | _NOT_WAITING | _BINARY)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadFile("it is no regular file")
            yield descriptor
        finally:
            os.close(descriptor)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()


def _piece_name(piece: Piece) -> str:
    return f"{piece.key.hex()}-{piece.parent.hex()}-{piece.start}-{piece.end}.safetensors"


def _piece_of(name: str) -> Piece | None:
    """Return the piece that a file of this name is of; None for names that we do not give."""
    groups = _PIECE.fullmatch(name)
    if groups is None:
        return None
    key, parent, start, end = groups.groups()
    piece = Piece(bytes.fromhex(key), bytes.fromhex(parent), int(start), int(end))
    is_in_one_chunk = piece.start < piece.end <= boundary_before(piece.start) + CHUNK_TOKENS
    return piece if is_in_one_chunk and _piece_name(piece) == name else None


def _state_name(key: bytes) -> str:
    return f"{key.hex()}.state.safetensors"


def _read_one(descriptor: int, parts: Sequence[memoryview]) -> int:
    """Read into the first of the parts, where the system cannot read into several."""
    return io.FileIO(descriptor, closefd=False).readinto(parts[0]) or 0


def _write_all(descriptor: int, raw: Bytes) -> None:
    left = raw.data
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a file until it is closed, or its process ends; return whether that was possible."""
    attempt: Callable[[], None]
    try:
        import fcntl
    except ImportError:
        import msvcrt

        def attempt() -> None:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:

        def attempt() -> None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    try:
        attempt()
    except (BlockingIOError, PermissionError):
        return False
    return True
