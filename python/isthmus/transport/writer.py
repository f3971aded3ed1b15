"""The one writer: messages in, bytes out, in order, gathered, never ahead of a slow reader.

Small messages of one turn of the loop leave in one write. A message over `PIECE_BYTES` leaves in
pieces, each only when the transport has room, so that small ones overtake it; messages of the same
request keep their order. The writer knows frames and pieces, not what a message means.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..limits import FRAME_LIMIT_BYTES, PIECE_BYTES, WRITE_WATERMARK_BYTES
from ..wire.codec import Codec
from ..wire.frames import encode_frame
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
        self._frame: Callable[[bytes, int], bytes] = encode_frame
        self._piece_bytes = piece_bytes
        if codec.name == "json":
            self._frame, self._piece_bytes = encode_line, FRAME_LIMIT_BYTES
        self._loop = loop
        self._sink: Sink | None = None
        self._ready: list[bytes] = []
        self._scheduled = False
        self._paused = False
        self._closed = False
        self._large: deque[_Large] = deque()
        self._channel = 0
        self.bytes_written = 0
        self.frames_written = 0
        self.on_drained: Callable[[], None] | None = None

    def attach(self, sink: Sink) -> None:
        """Start to write to `sink`."""
        self._sink = sink
        self.flush()

    def send(self, message: list[object], request: int | None = None) -> None:
        """Queue a message; `request` is the id whose order it keeps.

        Raises:
            LocalProtocolError: The message cannot be encoded; nothing was queued.
        """
        payload = self._encode(message)
        if len(payload) > self._piece_bytes or (self._large and self._must_wait(request)):
            self._channel = (self._channel + 1) % 2**32
            self._large.append(_Large(request, payload, self._channel))
        else:
            self._ready.append(self._frame(payload, FRAME_LIMIT_BYTES))
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
            self._write(b"".join(self._ready), len(self._ready))
            self._ready.clear()
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

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait for the other side to read."""
        waiting = sum(len(large.payload) - large.offset for large in self._large)
        unread = self._sink.get_write_buffer_size() if self._sink is not None else 0
        return waiting + unread + sum(map(len, self._ready))

    def _must_wait(self, request: int | None) -> bool:
        return request is not None and any(large.request == request for large in self._large)

    def _pump(self) -> None:
        while self._large and not self._paused and self._sink is not None:
            large = self._large[0]
            self._write(self._next_frame(large), 1)
            if large.offset >= len(large.payload):
                self._large.popleft()
            if self._sink.get_write_buffer_size() >= WRITE_WATERMARK_BYTES:
                return

    def _next_frame(self, large: _Large) -> bytes:
        start, end = large.offset, large.offset + self._piece_bytes
        large.offset = end
        if len(large.payload) <= self._piece_bytes:
            return self._frame(large.payload, FRAME_LIMIT_BYTES)
        flag = PieceFlag.MORE if end < len(large.payload) else PieceFlag.LAST
        piece = [int(Kind.PIECE), large.channel, int(flag), large.payload[start:end]]
        return self._frame(self._encode(piece), FRAME_LIMIT_BYTES + self._piece_bytes)

    def _write(self, data: bytes, frames: int) -> None:
        assert self._sink is not None
        self.bytes_written += len(data)
        self.frames_written += frames
        self._sink.write(data)
