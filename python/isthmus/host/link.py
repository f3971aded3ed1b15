"""One process's end of the wire: its bytes become messages, messages become its bytes.

A link lives as long as its process and no longer: what arrives from a process that has been given
up reaches nobody. Knows frames, pieces and the hello; what a message means is the connection's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from .. import __version__
from ..errors import IsthmusError, RemoteProtocolError, VersionMismatch, from_wire, own_copy
from ..limits import (
    FRAME_LIMIT_BYTES,
    MESSAGE_LIMIT_BYTES,
    OPEN_PIECES_LIMIT,
    PIECE_BYTES,
    PROTOCOL_VERSION,
)
from ..transport.writer import OrderedWriter
from ..wire.codec import MsgpackCodec, Payload
from ..wire.frames import FrameDecoder
from ..wire.messages import HELLO, PIECE, Kind, PieceAssembler, check_message
from .process import ExitReport, RuntimeProcess

_NAME: Final = f"isthmus-python/{__version__}"
_ERROR: Final = int(Kind.ERROR)
_OWN: Final = frozenset((HELLO, PIECE, _ERROR))
"""Kinds that a link looks at itself."""


class LinkOwner(Protocol):
    """Answers for the process at the other end."""

    def on_broken(self, link: Link, error: IsthmusError) -> None:
        """What it writes is not the protocol; nothing more is read from it."""
        ...

    def on_ended(self, link: Link, report: ExitReport) -> None:
        """It has ended."""
        ...


class Link:
    """Speaks the protocol with one runtime process.

    Args:
        owner: Told of its end.
        receive: Given each message, its kind first.
        codec: Encodes and decodes.
    """

    def __init__(
        self,
        owner: LinkOwner,
        receive: Callable[[int, list[Any]], object],
        codec: MsgpackCodec,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.hello.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.process: RuntimeProcess | None = None
        self.writer = OrderedWriter(codec, self._loop)
        self.receipts = 0
        """Reads that brought something."""
        self.reason: IsthmusError | None = None
        """What the runtime said was wrong with the connection as a whole."""
        self.failure: IsthmusError | None = None
        """Why nothing can be read from it any more."""
        self._owner = owner
        self._receive = receive
        self._codec = codec
        self._decoder = FrameDecoder(FRAME_LIMIT_BYTES)
        self._pieces = PieceAssembler(MESSAGE_LIMIT_BYTES, OPEN_PIECES_LIMIT)
        self._unsent: frozenset[int | None] = frozenset()
        self._is_assembled = False
        """Whether the message at hand came in pieces."""

    def on_connected(self, process: RuntimeProcess) -> None:
        """Learn which process is at the other end, before anything arrives from it."""
        self.process = process

    def on_output(self, data: bytes) -> None:
        """Take bytes; the replies of one read's handlers leave in one write."""
        if self.failure is not None:
            return
        self.receipts += 1
        self.writer.hold()
        try:
            for payload in self._decoder.feed(data):
                self._on_payload(payload)
        except IsthmusError as error:
            self._break(error)
        except Exception as error:  # what no rule foresaw must not leave callers waiting
            message = f"a message could not be handled: {type(error).__name__}: {error}"
            self._break(RemoteProtocolError(message, kind="message"))
        finally:
            self.writer.flush()

    def on_room(self, has_room: bool) -> None:
        """Let pieces wait, or go on."""
        if has_room:
            self.writer.resume()
        else:
            self.writer.pause()

    def on_input_lost(self) -> None:
        """Drop what was to be written; the exit settles who waits."""
        self._unsent |= self.writer.unsent_requests
        self.writer.close()

    def on_exit(self, report: ExitReport) -> None:
        """Read no more, and say so."""
        self._owner.on_ended(self, report)

    def give_up(self, error: IsthmusError) -> None:
        """Neither read nor write any more."""
        if self.failure is None:
            self.failure = error
            self.on_input_lost()
            if not self.hello.done():
                self.hello.set_exception(own_copy(error))

    def has_written(self, number: int, mark: int) -> bool:
        """Whether the process may have read a request: one that was handed to the writer when
        `mark` bytes had been written. Only of a link that was given up."""
        return self.writer.bytes_written > mark and number not in self._unsent

    def _break(self, error: IsthmusError) -> None:
        self.give_up(error)
        self._owner.on_broken(self, error)

    def _on_payload(self, payload: Payload) -> None:
        try:
            message = check_message(self._codec.decode(payload))
        except IsthmusError as error:
            raise RemoteProtocolError(
                f"the runtime sent a message that is not of this protocol: {error.message}",
                kind="message",
            ) from error
        kind: int = message[0]
        if kind not in _OWN:
            self._receive(kind, message)
        elif kind == PIECE:
            self._on_piece(message)
        elif kind == HELLO and not self.hello.done():
            self._on_hello(message[1])
        else:
            if kind == _ERROR and message[1] is None:
                self.reason = from_wire(message[2])
            self._receive(kind, message)

    def _on_piece(self, message: list[Any]) -> None:
        if self._is_assembled:
            raise RemoteProtocolError("the runtime sent a piece inside a piece", kind="pieces")
        whole = self._pieces.add(message[1], message[2], message[3])
        if whole is not None:
            self._is_assembled = True
            try:
                self._on_payload(whole)
            finally:
                self._is_assembled = False

    def _on_hello(self, hello: dict[str, Any]) -> None:
        version = hello.get("protocol")
        if version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"the runtime (isthmus {hello.get('runtime')}) speaks protocol version "
                f"{version!r}, this host version {PROTOCOL_VERSION}; install the same version of "
                "both",
                host=PROTOCOL_VERSION,
                runtime=version,
            )
        assert self.process is not None
        self.writer = OrderedWriter(self._codec, self._loop, _piece_bytes(hello))
        self.writer.send([HELLO, {"protocol": PROTOCOL_VERSION, "host": _NAME}])
        self.writer.attach(self.process.stdin)
        self.hello.set_result(hello)


def _piece_bytes(hello: dict[str, Any]) -> int:
    limits = hello.get("limits")
    piece_bytes = limits.get("piece_bytes") if isinstance(limits, dict) else None
    return min(piece_bytes, PIECE_BYTES) if type(piece_bytes) is int else PIECE_BYTES
