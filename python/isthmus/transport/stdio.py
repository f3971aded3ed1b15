"""The claimed pipes on the event loop: protocol callbacks, no StreamReader.

`open_stdio` connects the writer before the reader, because uvloop delivers data before
`connect_read_pipe` returns. What one read brings is decoded and handled inline, and the replies of
that read leave in one write.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Protocol

from ..errors import IsthmusError
from ..limits import READ_BYTES, WRITE_WATERMARK_BYTES
from ..wire.codec import Payload
from .claim import ClaimedPipes
from .writer import OrderedWriter


class Decoder(Protocol):
    """Cuts bytes into payloads; `FrameDecoder` or `LineDecoder`."""

    def feed(self, data: bytes) -> Iterable[Payload]:
        """Yield the payloads that `data` completes."""
        ...

    def eof(self) -> None:
        """Say that the input has ended."""
        ...


class Receiver(Protocol):
    """Who gets what arrives."""

    on_read_begins: Callable[[], None]
    """Called before the payloads of one read."""
    on_read_ends: Callable[[], None]
    """Called after them, before the replies are written."""

    def on_payload(self, payload: Payload) -> None:
        """One payload arrived."""
        ...

    def on_input_closed(self, error: IsthmusError | None) -> None:
        """No more payloads will come; `error` says why when the framing broke."""
        ...

    def on_output_closed(self) -> None:
        """Nobody reads the output any more."""
        ...


class _ReadEnd(asyncio.Protocol):
    def __init__(self, receiver: Receiver, decoder: Decoder, writer: OrderedWriter) -> None:
        self._receiver = receiver
        self._decoder = decoder
        self._writer = writer
        self._is_broken = False

    def data_received(self, data: bytes) -> None:
        if self._is_broken:
            return
        self._writer.hold()
        self._receiver.on_read_begins()
        on_payload = self._receiver.on_payload
        try:
            for payload in self._decoder.feed(data):
                on_payload(payload)
        except IsthmusError as error:
            self._is_broken = True
            self._receiver.on_input_closed(error)
        finally:
            self._receiver.on_read_ends()
            self._writer.flush()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._is_broken:
            return
        self._is_broken = True
        try:
            self._decoder.eof()
        except IsthmusError as error:
            self._receiver.on_input_closed(error)
        else:
            self._receiver.on_input_closed(None)


class _WriteEnd(asyncio.BaseProtocol):
    def __init__(self, receiver: Receiver, writer: OrderedWriter) -> None:
        self._receiver = receiver
        self._writer = writer

    def pause_writing(self) -> None:
        self._writer.pause()

    def resume_writing(self) -> None:
        self._writer.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writer.close()
        self._receiver.on_output_closed()


class StdioTransport:
    """The two open ends; made by `open_stdio`."""

    def __init__(self, reader: asyncio.ReadTransport, writer: asyncio.WriteTransport) -> None:
        self._reader = reader
        self._writer = writer

    def pause_reading(self) -> None:
        """Let the host's pipe fill: too much work waits."""
        if not self._reader.is_closing():
            self._reader.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._reader.is_closing():
            self._reader.resume_reading()

    def close(self) -> None:
        """Close both ends; what is buffered is still written."""
        self._reader.close()
        self._writer.close()


async def open_stdio(
    pipes: ClaimedPipes,
    receiver: Receiver,
    decoder: Decoder,
    writer: OrderedWriter,
    on_writable: Callable[[], None],
) -> StdioTransport:
    """Connect the claimed pipes to the running loop.

    Args:
        pipes: The claimed descriptors.
        receiver: Gets payloads and the ends of both directions.
        decoder: Cuts the input.
        writer: Gets the output's sink and its backpressure.
        on_writable: Called once the output is open and before the first input: says hello.
    """
    loop = asyncio.get_running_loop()
    write_transport, _ = await loop.connect_write_pipe(
        lambda: _WriteEnd(receiver, writer), os.fdopen(pipes.write_fd, "wb", buffering=0)
    )
    write_transport.set_write_buffer_limits(high=WRITE_WATERMARK_BYTES)
    writer.attach(write_transport)
    on_writable()
    read_transport, _ = await loop.connect_read_pipe(
        lambda: _ReadEnd(receiver, decoder, writer), os.fdopen(pipes.read_fd, "rb", buffering=0)
    )
    if hasattr(read_transport, "max_size"):
        read_transport.max_size = READ_BYTES
    return StdioTransport(read_transport, write_transport)
