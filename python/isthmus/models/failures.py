"""Which failures of a load pass by themselves, and which are remembered.

A failure of input or output may pass: it is tried again. What is wrong with a folder stays wrong
while the folder looks the same: it is answered again from memory for a while, without reading what
may be gigabytes. A model of the Hub has no folder to look at, so its name and time alone decide.
Reads no more than the names, sizes and times of a folder's files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from ..errors import (
    CodeRefused,
    InternalError,
    IsthmusError,
    ModelLoadFailed,
    Unavailable,
    own_copy,
)
from ..limits import KNOWN_FAILURE_S, KNOWN_FAILURES_LIMIT
from .load import Source

TRANSIENT_ERRNOS: Final = frozenset(
    number
    for name in (
        *("EIO", "EAGAIN", "EINTR", "EBUSY", "ETIMEDOUT", "ESTALE", "ENETDOWN", "ENETUNREACH"),
        *("ENETRESET", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if (number := getattr(errno, name, None)) is not None
)
"""Failures of a disk, a network or a file system over one that the next try may not meet."""

_PASSING_CAUSES: Final = frozenset(
    ("io_error", "transient_io", "offline", "disk_full", "download_failed")
)
"""Causes that do not lie in what the model's folder holds."""

Stamp = tuple[object, ...]
"""How a source's folders look: equal stamps, equal content, as far as anybody can tell cheaply."""


def is_transient(error: BaseException) -> bool:
    """Whether a load that failed like this may succeed when it is tried again at once."""
    if isinstance(error, ModelLoadFailed):
        cause = error.details.get("cause")
        if cause == "io_error" and error.__cause__ is not None:
            return is_transient(error.__cause__)
        return cause == "transient_io"
    if isinstance(error, Unavailable | ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS


def load_error(source: Source, error: Exception) -> IsthmusError:
    """Return what those who wait for a load are told."""
    if isinstance(error, IsthmusError):
        return error
    shown = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        return ModelLoadFailed(
            f"{source.source} cannot be read: {shown}; try again",
            phase="load",
            cause="io_error",
        )
    return InternalError(f"the load of {source.source} failed: {shown}", phase="load")


def stamp_of(source: Source) -> Stamp:
    """Look at a source's folder and its adapter's; on any thread but the event loop's."""
    return tuple(_look(path) for path in (source.source, source.adapter_path))


class KnownFailures:
    """Loads that failed for what their folder holds.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_source: dict[Source, tuple[float, Stamp, IsthmusError]] = {}

    def __len__(self) -> int:
        return len(self._by_source)

    def find(self, source: Source, stamp: Stamp) -> IsthmusError | None:
        """Return the error of a load that would fail again, as a copy."""
        known = self._by_source.get(source)
        if known is None:
            return None
        until, then, error = known
        if self._clock() >= until or stamp != then:
            del self._by_source[source]
            return None
        return own_copy(error)

    def remember(self, source: Source, stamp: Stamp, error: IsthmusError) -> None:
        """Keep an error that lies in the content; `stamp` is how it looked before the load."""
        if not _is_of_content(error):
            return
        self._by_source.pop(source, None)
        while len(self._by_source) >= KNOWN_FAILURES_LIMIT:
            del self._by_source[next(iter(self._by_source))]
        self._by_source[source] = (self._clock() + KNOWN_FAILURE_S, stamp, own_copy(error))


def _is_of_content(error: IsthmusError) -> bool:
    if isinstance(error, CodeRefused):
        return True
    return isinstance(error, ModelLoadFailed) and error.details.get("cause") not in _PASSING_CAUSES


def _look(path: str | None) -> object:
    if path is None:
        return None
    try:
        with os.scandir(os.path.expanduser(path)) as entries:
            return tuple(sorted(_look_at(entry) for entry in entries))
    except (OSError, ValueError) as error:
        return type(error).__name__


def _look_at(entry: os.DirEntry[str]) -> tuple[str, int, int]:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing, or gone since it was listed
        return entry.name, -1, -1
    return entry.name, status.st_size, status.st_mtime_ns
