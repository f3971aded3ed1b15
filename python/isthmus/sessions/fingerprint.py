"""What a model is: a digest of everything that decides what its evaluated tokens look like.

All files that mlx-lm reads of the folder and of the adapter, by their content; the versions of the
libraries; the device. Hashing gigabytes takes seconds, so that digests are remembered by a file's
device, inode, size and times of change, not all of which stay as they are when a file is written. A
model whose files changed after they were loaded has no fingerprint: what is in memory cannot be
told any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import orjson

_REMEMBERED: Final = 4_096
"""Digests that are kept: a large model has some dozens of files."""

_LIBRARIES: Final = ("mlx", "mlx-lm")

FileStamp = tuple[str, int, int, int, int, int]
"""A file's path, device, inode, size, and times of change in nanoseconds."""


def stamps_of(files: Iterable[Path]) -> tuple[FileStamp, ...]:
    """Return how files look.

    Raises:
        OSError: One of them is gone.
    """
    return tuple(_stamp(file) for file in sorted(files))


def _stamp(file: Path) -> FileStamp:
    status = file.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    return str(file), status.st_dev, status.st_ino, status.st_size, *times


def fingerprint(stamps: Sequence[FileStamp], also: Sequence[str], digests: Path | None) -> bytes:
    """Return the digest of files that still look as they did, and of what else counts.

    Args:
        stamps: How the files looked before they were loaded.
        also: Whatever else decides: the dtype, the device.
        digests: Where digests are remembered, or None.

    Raises:
        OSError: A file cannot be read, or has changed.
    """
    known = _read_digests(digests)
    found: dict[str, str] = {}
    whole = hashlib.sha256(b"isthmus-model")
    for stamp in stamps:
        name = ":".join(map(str, stamp[1:]))
        path = Path(stamp[0])
        digest = known.get(name) or _digest(path)
        if _stamp(path) != stamp:
            raise OSError(f"{path} has changed since it was loaded")
        found[name] = digest
        whole.update(orjson.dumps([path.name, digest]))
    whole.update(orjson.dumps([*also, *map(_version, _LIBRARIES)]))
    if digests is not None and not found.keys() <= known.keys():
        _write_digests(digests, {**known, **found})
    return whole.digest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library


def _read_digests(path: Path | None) -> dict[str, str]:
    """Return what is remembered; nothing when it is damaged."""
    if path is None:
        return {}
    try:
        digits, _, text = path.read_bytes().partition(b" ")
        if digits != b"%08x" % zlib.crc32(text):
            return {}
        known = orjson.loads(text)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_digests(path: Path, digests: dict[str, str]) -> None:
    text = orjson.dumps(dict(list(digests.items())[-_REMEMBERED:]))
    temporary = path.with_name(f".new-{os.getpid()}-{path.name}")
    with contextlib.suppress(OSError):
        temporary.write_bytes(b"%08x %s" % (zlib.crc32(text), text))
        os.replace(temporary, path)
