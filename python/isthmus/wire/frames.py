"""Framing: bytes in, payloads out.

     0        4                      4+n
     +--------+-----------------------+
     | n      | payload, n bytes      |     n: unsigned 32-bit, big-endian, 1 .. limit
     +--------+-----------------------+

A length over the limit is refused from the header, before the payload is buffered. Every byte is
copied at most twice, wherever the input is cut. This module knows no message, no clock, no socket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct

from ..errors import FrameTooLarge, RemoteProtocolError
from ..limits import FRAME_LIMIT_BYTES

_HEADER = Struct(">I")
HEADER_BYTES = _HEADER.size

_SHORT_BYTES = 4_096
"""A longer payload is handed on without a copy."""

pack_header = _HEADER.pack
"""The four bytes in front of a payload of so many bytes."""


class FrameDecoder:
    """Cuts a byte stream into payloads; `feed` what arrives, iterate over what it completes."""

    def __init__(self, limit: int = FRAME_LIMIT_BYTES) -> None:
        self._limit = limit
        self._short_bytes = min(limit, _SHORT_BYTES)
        self._parts: list[bytes] = []
        self._have = 0
        self._need = HEADER_BYTES

    def feed(self, data: bytes) -> Iterable[bytes | memoryview]:
        """Return each payload that `data` completes, long ones as views of it.

        Raises:
            FrameTooLarge: A header announces more than the limit.
            RemoteProtocolError: A header announces an empty frame.
        """
        have = self._have + len(data)
        if have < self._need:
            self._parts.append(data)
            self._have = have
            return ()
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
            self._have = 0
        length = have - HEADER_BYTES
        if 0 < length <= self._short_bytes and data[:HEADER_BYTES] == pack_header(length):
            # One whole short frame: what a lone call brings.
            self._need = HEADER_BYTES
            return (data[HEADER_BYTES:],)
        return self._cut(data)

    def _cut(self, data: bytes) -> Iterator[bytes | memoryview]:
        start, end, unpack = 0, len(data), _HEADER.unpack_from
        need = HEADER_BYTES
        while end - start >= HEADER_BYTES:
            (length,) = unpack(data, start)
            if not 0 < length <= self._limit:
                raise self._refuse(length, data[start : start + 32])
            need = HEADER_BYTES + length
            stop = start + need
            if stop > end:
                break
            if length > _SHORT_BYTES:
                yield memoryview(data)[start + HEADER_BYTES : stop]
            else:
                yield data[start + HEADER_BYTES : stop]
            start, need = stop, HEADER_BYTES
        self._have, self._need = end - start, need
        if self._have:
            self._parts.append(data[start:] if start else data)

    def eof(self) -> None:
        """Say that the input has ended.

        Raises:
            RemoteProtocolError: It ended inside a frame (`details.kind` is `truncated`).
        """
        if self._have:
            raise RemoteProtocolError(
                f"the input ended inside a frame: {self._have} of {self._need} bytes; "
                "the other side died or does not speak this protocol",
                kind="truncated",
            )

    def _refuse(self, length: int, head: bytes) -> FrameTooLarge | RemoteProtocolError:
        if length == 0:
            return RemoteProtocolError("a frame of length 0 is not a message", kind="empty")
        return FrameTooLarge(
            f"a frame of {length} bytes is over the limit of {self._limit}; "
            f"if this is not an Isthmus peer, it began with {head.hex(' ')}",
            length=length,
            limit=self._limit,
            head=head.hex(),
        )
