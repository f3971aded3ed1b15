"""The files of the store: names, atomic writes, bounded reads, and the lock of the one who writes.

    DIR/v1/lock                                   held by the writer, for as long as it lives
    DIR/v1/chunks/KEY-PARENT-START-END.safetensors
    DIR/v1/chunks/KEY.state.safetensors
    DIR/v1/sessions/NAME
    DIR/v1/damaged/                               what was found damaged, for whoever wonders

Every name is made of hashes and numbers, so that nothing a user says is part of a path. A file is
written under another name and put in its place; what a killed writer left is removed by the next.
Nothing is followed that is a link. Knows no format.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from .checked import BadFile, Bytes
from .chunkfile import FORMAT_VERSION, Piece

_PIECE: Final = re.compile(r"([0-9a-f]{64})-([0-9a-f]{64})-(\d{1,10})-(\d{1,10})\.safetensors")
_STATE: Final = re.compile(r"([0-9a-f]{64})\.state\.safetensors")
_SESSION: Final = re.compile(r"[0-9a-f]{64}")
_TEMPORARY: Final = ".new-"
_DAMAGED_KEPT: Final = 16
"""Damaged files that are put aside; further ones are deleted."""

_RECORD_LIMIT_BYTES: Final = 64 * 1024
_NOT_FOLLOWED: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
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
    """

    def __init__(self, path: Path, is_synced: bool = False) -> None:
        self.path = path
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
            OSError: They cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self._root, self._chunks, self._sessions, self._damaged):
            folder.mkdir(mode=0o700, exist_ok=True)

    def lock(self) -> bool:
        """Become the one who writes; return whether that is so.

        Raises:
            OSError: The folder cannot be written.
        """
        if self._lock is not None:
            return True
        flags = os.O_RDWR | os.O_CREAT | _NOT_FOLLOWED
        descriptor = os.open(self._root / "lock", flags, 0o600)
        if not _lock(descriptor):
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def unlock(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def scan(self) -> Found:
        """Look at what there is. Who writes also removes what a killed writer left."""
        pieces: list[tuple[Piece, int, float]] = []
        states: dict[bytes, int] = {}
        for entry in self._entries(self._chunks):
            piece, state = _PIECE.fullmatch(entry.name), _STATE.fullmatch(entry.name)
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # gone since it was listed
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if piece is not None:
                found = _piece_of(*piece.groups())
                if found.start < found.end:
                    pieces.append((found, status.st_size, status.st_mtime))
            elif state is not None:
                states[bytes.fromhex(state.group(1))] = status.st_size
        sessions = tuple(
            entry.name
            for entry in self._entries(self._sessions)
            if _SESSION.fullmatch(entry.name) is not None
        )
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

    def read_piece(self, piece: Piece, raw: Bytes) -> None:
        """Read a piece of exactly this size.

        Raises:
            BadFile: It has another size, or is no file.
            OSError: It cannot be read.
        """
        self._read(self._chunks / _piece_name(piece), raw)

    def read_head(self, piece: Piece, count: int) -> bytes:
        """Return the first bytes of a piece.

        Raises:
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
                os.replace(self._chunks / name, self._damaged / name)
        self.remove_piece(piece)

    def write_state(self, key: bytes, raw: Bytes) -> None:
        """Write the state after a piece; raises as `write_piece`."""
        self._write(self._chunks / _state_name(key), raw)

    def read_state(self, key: bytes, size_bytes: int) -> Bytes:
        """Return the state after a piece; raises as `read_piece`."""
        raw = np.empty(size_bytes, np.uint8)
        self._read(self._chunks / _state_name(key), raw)
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

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(_TEMPORARY):
                    yield entry
                elif self._lock is not None:
                    self._remove(folder / entry.name)

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

    def _read(self, path: Path, raw: Bytes) -> None:
        with self._reading(path) as descriptor:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes != len(raw):
                raise BadFile(f"it has {size_bytes} bytes instead of {len(raw)}")
            file, left = io.FileIO(descriptor, closefd=False), raw.data
            while left:
                count = file.readinto(left)
                if not count:
                    raise BadFile("it ended while it was read")
                left = left[count:]

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[int]:
        descriptor = os.open(path, os.O_RDONLY | _NOT_FOLLOWED | _BINARY)
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


def _piece_of(key: str, parent: str, start: str, end: str) -> Piece:
    return Piece(bytes.fromhex(key), bytes.fromhex(parent), int(start), int(end))


def _state_name(key: bytes) -> str:
    return f"{key.hex()}.state.safetensors"


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
