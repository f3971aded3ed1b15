"""The one writer: messages in, bytes out, in order, gathered, never ahead of a slow reader.

Small messages of one turn of the loop leave in one write. A message over `PIECE_BYTES` leaves in
pieces, each only when the transport has room, so that small ones overtake it; messages of the same
request keep their order. The writer knows frames and pieces, not what a message means.
"""

from __future__ import annotations

import asyncio
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

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the other side has not taken yet."""
        ...


@dataclass(slots=True)
class _Large:
    """A message in pieces, or a small one that must not overtake it."""

    request: int | None
    payload: bytes
    channel: int
    offset: int = 0


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
        self._encode = codec.encode
        self._is_lines = codec.name == "json"
        self._piece_bytes = FRAME_LIMIT_BYTES if self._is_lines else piece_bytes
        self._limit_bytes = FRAME_LIMIT_BYTES if self._is_lines else MESSAGE_LIMIT_BYTES
        self._loop = loop
        self._sink: Sink | None = None
        self._ready: list[bytes] = []
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
        payload = self._encode(message)
        size = len(payload)
        if size > self._piece_bytes or (self._large and request in self._large_requests):
            self._enqueue_large(request, payload)
        else:
            self._ready_bytes += size
            self._ready += (payload, b"\n") if self._is_lines else (pack_header(size), payload)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def hold(self) -> None:
        """Gather everything until `flush` is called by whoever called this."""
        self._scheduled = True

    def flush(self) -> None:
        """Write what has been gathered."""
        self._scheduled = False
        if self._sink is None or self._closed:
            return
        if self._ready:
            data = b"".join(self._ready)
            self._ready.clear()
            self._ready_bytes = 0
            self._write(data)
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

    def _enqueue_large(self, request: int | None, payload: bytes) -> None:
        if len(payload) > self._limit_bytes:
            raise LocalProtocolError(
                f"a message of {len(payload)} bytes is over the limit of {self._limit_bytes}; "
                "send less",
                length=len(payload),
                limit=self._limit_bytes,
            )
        self._channel = (self._channel + 1) % 2**32
        self._large.append(_Large(request, payload, self._channel))
        self._large_bytes += len(payload)
        if request is not None:
            self._large_requests[request] += 1

    def _pump(self) -> None:
        while self._large and not self._paused and self._sink is not None:
            large = self._large[0]
            piece = self._next_piece(large)
            if large.offset >= len(large.payload):
                self._dequeue_large()
            self._write(piece)
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
        start, end = large.offset, min(large.offset + self._piece_bytes, len(large.payload))
        large.offset = end
        self._large_bytes -= end - start
        if end - start == len(large.payload):
            return self._frame(large.payload)
        flag = PieceFlag.MORE if end < len(large.payload) else PieceFlag.LAST
        piece = [int(Kind.PIECE), large.channel, int(flag), large.payload[start:end]]
        return self._frame(self._encode(piece))

    def _frame(self, payload: bytes) -> bytes:
        return encode_line(payload) if self._is_lines else pack_header(len(payload)) + payload

    def _write(self, data: bytes) -> None:
        assert self._sink is not None
        self.bytes_written += len(data)
        self._sink.write(data)
