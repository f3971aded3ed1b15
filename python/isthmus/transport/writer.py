"""The one writer: messages in, bytes out, in order, gathered, never ahead of a slow reader.

Small messages of one turn of the loop leave in one write. A message over `PIECE_BYTES` leaves in
pieces, each only when the transport has room, so that small ones overtake it; messages of the same
request keep their order. The writer knows frames and pieces, not what a message means.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import LocalProtocolError
from ..limits import FRAME_LIMIT_BYTES, MESSAGE_LIMIT_BYTES, PIECE_BYTES, WRITE_WATERMARK_BYTES
from ..wire.codec import Codec
from ..wire.frames import pack_header
from ..wire.lines import encode_line
from ..wire.messages import Kind, PieceFlag


class Sink(Protocol):
    """What the writer needs of a transport."""

    def write(self, data: bytes) -> None:
        """Queue bytes."""
        ...

    def writelines(self, parts: list[bytes | memoryview]) -> None:
        """Queue bytes without joining them."""
        ...

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the other side has not taken yet."""
        ...


_NOTHING = memoryview(b"")

_LONG_TAIL_BYTES = 16 * 1024
"""A binary value from this length on is written from where it lies."""

_LONG_PART_BYTES = 4_096
"""Parts that are longer than this on average are written without being joined first."""


@dataclass(slots=True)
class _Large:
    """A message in pieces, or a small one that must not overtake it."""

    request: int | None
    head: bytes
    tail: memoryview
    channel: int
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes of the whole message."""
        return len(self.head) + len(self.tail)

    def take(self, count: int) -> bytes:
        """Return the next bytes, at most `count`."""
        start, self.offset = self.offset, min(self.offset + count, self.size)
        edge = len(self.head)
        from_tail = self.tail[max(start - edge, 0) : max(self.offset - edge, 0)]
        return self.head[start : self.offset] + from_tail if start < edge else bytes(from_tail)


class OrderedWriter:
    """Sends messages over one sink.

    Args:
        codec: Encodes messages.
        loop: Runs the gathered write at the end of the turn.
        piece_bytes: Longer messages travel in pieces.
    """

    def __init__(
        self, codec: Codec, loop: asyncio.AbstractEventLoop, piece_bytes: int = PIECE_BYTES
    ) -> None:
        self._codec = codec
        self._encode = codec.encode
        self._is_lines = codec.name == "json"
        self._piece_bytes = FRAME_LIMIT_BYTES if self._is_lines else piece_bytes
        self._limit_bytes = FRAME_LIMIT_BYTES if self._is_lines else MESSAGE_LIMIT_BYTES
        self._loop = loop
        self._sink: Sink | None = None
        self._ready: list[bytes | memoryview] = []
        self._scheduled = False
        self._paused = False
        self._closed = False
        self._ready_bytes = 0
        self._large: deque[_Large] = deque()
        self._large_bytes = 0
        self._large_requests: Counter[int | None] = Counter()
        self._channel = 0
        self._has_room = asyncio.Event()
        self.bytes_written = 0
        self.on_drained: Callable[[], None] | None = None

    def attach(self, sink: Sink) -> None:
        """Start to write to `sink`."""
        self._sink = sink
        self.flush()

    def send(self, message: list[object], request: int | None = None) -> None:
        """Queue a message; `request` is the id whose order it keeps.

        Raises:
            LocalProtocolError: The message cannot be encoded or is too long; nothing was queued.
        """
        if type(message[-1]) is not str and self._ends_in_long_binary(message):
            self._send_around(request, *self._codec.encode_around(message))
            return
        payload = self._encode(message)
        size = len(payload)
        if size > self._piece_bytes or (self._large and request in self._large_requests):
            self._enqueue_large(request, payload)
        else:
            self._ready_bytes += size
            self._ready += (payload, b"\n") if self._is_lines else (pack_header(size), payload)
        if not self._scheduled:
            self._schedule()

    def hold(self) -> None:
        """Gather everything until `flush` is called by whoever called this."""
        self._scheduled = True

    def flush(self) -> None:
        """Write what has been gathered."""
        self._scheduled = False
        sink = self._sink
        if sink is None or self._closed:
            return
        ready = self._ready
        if ready:
            size = self._ready_bytes
            self._ready, self._ready_bytes = [], 0
            self.bytes_written += size
            if size > _LONG_PART_BYTES * len(ready):
                sink.writelines(ready)
            else:
                sink.write(b"".join(ready))
        if self._large:
            self._pump()

    def pause(self) -> None:
        """The transport's buffer is full: pieces wait."""
        self._paused = True

    def resume(self) -> None:
        """The transport's buffer has drained."""
        self._paused = False
        self._pump()
        if self.on_drained is not None:
            self.on_drained()

    def close(self) -> None:
        """Drop everything: the other side is gone."""
        self._closed = True
        self._ready.clear()
        self._large.clear()
        self._large_requests.clear()
        self._ready_bytes = self._large_bytes = 0
        self._has_room.set()

    async def room(self) -> None:
        """Wait until nothing is held back any more: for producers that could go on for ever."""
        while (self._paused or self._large) and not self._closed:
            self._has_room.clear()
            await self._has_room.wait()

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait for the other side to read."""
        unread = self._sink.get_write_buffer_size() if self._sink is not None else 0
        return self._ready_bytes + self._large_bytes + unread

    @property
    def unsent_requests(self) -> frozenset[int | None]:
        """Requests of whose messages in pieces the last one has not left: nobody can have read
        them."""
        return frozenset(large.request for large in self._large)

    def _ends_in_long_binary(self, message: list[object]) -> bool:
        """Whether the message's last value, or that of the map it ends with, is a long binary one;
        which is then not copied into the message."""
        tail = message[-1]
        if type(tail) is dict and tail:
            tail = next(reversed(tail.values()))
        if type(tail) is bytes:
            size = len(tail)
        elif type(tail) is array:
            size = len(tail) * tail.itemsize
        else:
            return False
        return size >= _LONG_TAIL_BYTES and not self._is_lines

    def _send_around(self, request: int | None, head: bytes, tail: memoryview) -> None:
        size = len(head) + len(tail)
        if size > self._piece_bytes or (self._large and request in self._large_requests):
            self._enqueue_large(request, head, tail)
            return
        self._ready_bytes += size
        self._ready += (pack_header(size) + head, tail)
        if not self._scheduled:
            self._schedule()

    def _enqueue_large(self, request: int | None, head: bytes, tail: memoryview = _NOTHING) -> None:
        large = _Large(request, head, tail, (self._channel + 1) % 2**32)
        if large.size > self._limit_bytes:
            raise LocalProtocolError(
                f"a message of {large.size} bytes is over the limit of {self._limit_bytes}; "
                "send less",
                length=large.size,
                limit=self._limit_bytes,
            )
        self._channel = large.channel
        self._large.append(large)
        self._large_bytes += large.size
        if request is not None:
            self._large_requests[request] += 1
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def _pump(self) -> None:
        while self._large and not self._paused and self._sink is not None:
            large = self._large[0]
            piece = self._next_piece(large)
            if large.offset >= large.size:
                self._dequeue_large()
            self.bytes_written += len(piece)
            self._sink.write(piece)
            # Over it, not at it: only a transport that has paused says when it has room again.
            if self._sink.get_write_buffer_size() > WRITE_WATERMARK_BYTES:
                break
        if not self._paused and not self._large:
            self._has_room.set()

    def _dequeue_large(self) -> None:
        request = self._large.popleft().request
        if request is not None:
            self._large_requests[request] -= 1
            if not self._large_requests[request]:
                del self._large_requests[request]

    def _next_piece(self, large: _Large) -> bytes:
        data = large.take(self._piece_bytes)
        self._large_bytes -= len(data)
        if len(data) == large.size:
            return self._frame(data)
        flag = PieceFlag.MORE if large.offset < large.size else PieceFlag.LAST
        return self._frame(self._encode([int(Kind.PIECE), large.channel, int(flag), data]))

    def _frame(self, payload: bytes) -> bytes:
        return encode_line(payload) if self._is_lines else pack_header(len(payload)) + payload
