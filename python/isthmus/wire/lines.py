"""Framing of the JSON codec: one message a line.

The twin of `frames.py` for `--codec json`: same methods, same limit, same errors.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import FrameTooLarge, RemoteProtocolError
from ..limits import FRAME_LIMIT_BYTES


def encode_line(payload: bytes) -> bytes:
    """Return `payload` as a line."""
    return payload + b"\n"


class LineDecoder:
    """Cuts a byte stream into lines; blank lines are skipped."""

    def __init__(self, limit: int = FRAME_LIMIT_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._have = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each line that `data` completes.

        Raises:
            FrameTooLarge: A line grows over the limit.
        """
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._parts.append(line)
            whole = b"".join(self._parts)
            self._parts.clear()
            self._have = 0
            self._check(len(whole))
            if whole.strip():
                yield whole
        self._have += len(rest)
        self._check(self._have)
        if rest:
            self._parts.append(rest)

    def eof(self) -> None:
        """Say that the input has ended.

        Raises:
            RemoteProtocolError: It ended inside a line.
        """
        if self._have:
            raise RemoteProtocolError("the input ended inside a line", kind="truncated")

    def _check(self, length: int) -> None:
        if length > self._limit:
            raise FrameTooLarge(
                f"a line of {length} bytes or more is over the limit of {self._limit}",
                length=length,
                limit=self._limit,
            )
