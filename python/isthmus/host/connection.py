"""The host's end of the wire: requests out, replies to whoever waits, and one end for all of them.

Every unsettled request settles exactly once with a typed error when the process exits, its pipe
breaks or its framing is wrong. Replies that nobody waits for are counted and dropped. Knows
messages and ids, not what a method means.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from .. import __version__
from ..errors import (
    Closing,
    IsthmusError,
    RemoteProtocolError,
    RuntimeExited,
    VersionMismatch,
    from_wire,
    own_copy,
)
from ..limits import (
    FRAME_LIMIT_BYTES,
    MESSAGE_LIMIT_BYTES,
    OPEN_PIECES_LIMIT,
    PIECE_BYTES,
    PROTOCOL_VERSION,
    REQUEST_ID_LIMIT,
)
from ..transport.writer import OrderedWriter
from ..wire.codec import MsgpackCodec, Payload
from ..wire.frames import FrameDecoder
from ..wire.messages import Kind, PieceAssembler, check_message
from .multiplexer import OpsMultiplexer
from .process import ExitReport, RuntimeProcess
from .streams import Pending

OnEvent = Callable[[str, Any], object]
"""Told of each event that belongs to no request, and of errors of the connection as `error`."""

_NAME: Final = f"isthmus-python/{__version__}"


class Connection:
    """Speaks the protocol with one runtime process.

    Args:
        on_event: Told of events.
    """

    def __init__(self, on_event: OnEvent | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.hello.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.counters: Counter[str] = Counter()
        self._on_event = on_event
        self._codec = MsgpackCodec()
        self._decoder = FrameDecoder(FRAME_LIMIT_BYTES)
        self._writer = OrderedWriter(self._codec, self._loop)
        self._pieces = PieceAssembler(MESSAGE_LIMIT_BYTES, OPEN_PIECES_LIMIT)
        self.multiplexer = OpsMultiplexer(self, self._loop)
        self._pending: dict[int, Pending] = {}
        self._pongs: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._failure: IsthmusError | None = None
        self._reason: IsthmusError | None = None
        """What the runtime said was wrong with the connection as a whole."""
        self._process: RuntimeProcess | None = None
        self._is_broken = False
        self._is_assembled = False
        """Whether the message at hand came in pieces."""

    @property
    def in_flight(self) -> int:
        """Requests that have not settled."""
        return len(self._pending)

    def on_connected(self, process: RuntimeProcess) -> None:
        """Learn which process is at the other end, before anything arrives from it."""
        self._process = process

    def request(
        self,
        method: str,
        params: Mapping[str, Any],
        options: Mapping[str, Any],
        pending: Pending,
    ) -> int:
        """Send a request; what it gets goes to `pending`. Return its id.

        Raises:
            LocalProtocolError: The params cannot travel; nothing was sent.
            IsthmusError: The connection has ended.
        """
        self.check_open()
        number = self._free_id()
        message = [int(Kind.REQUEST), number, method, dict(params)]
        self._writer.send([*message, dict(options)] if options else message, number)
        self._pending[number] = pending
        return number

    def cancel(self, request: int) -> None:
        """Ask the runtime to stop a request."""
        if request in self._pending and self._failure is None:
            self._writer.send([int(Kind.CANCEL), request], request)

    def grant(self, request: int, count: int) -> None:
        """Give a stream more credit."""
        if request in self._pending and self._failure is None:
            self._writer.send([int(Kind.CREDIT), request, count], request)

    @contextlib.contextmanager
    def one_write(self) -> Iterator[None]:
        """Have what is sent meanwhile leave in one write."""
        self._writer.hold()
        try:
            yield
        finally:
            self._writer.flush()

    async def flush_calls(self) -> None:
        """Send the calls that collect; return when nothing that comes next can overtake them."""
        self.multiplexer.flush()
        await self._writer.room()

    async def ping(self) -> dict[str, Any]:
        """Return the runtime's health, answered on its event loop."""
        self.check_open()
        nonce = self._last_id = (self._last_id + 1) % REQUEST_ID_LIMIT
        pong = asyncio.get_running_loop().create_future()
        self._pongs[nonce] = pong
        self._writer.send([int(Kind.PING), nonce])
        try:
            health: dict[str, Any] = await pong
        finally:
            self._pongs.pop(nonce, None)
        return health

    def check_open(self) -> None:
        """Raise when no request is taken any more.

        Raises:
            IsthmusError: Why.
        """
        if self._failure is not None:
            raise own_copy(self._failure)

    def refuse_requests(self) -> None:
        """Take no more requests: the host closes. Those that were made may still settle."""
        if self._failure is None:
            self.multiplexer.flush()
            self._failure = Closing("this runtime has been closed; start another", phase="close")

    def fail(self, error: IsthmusError) -> None:
        """Settle everything with `error` and end the process."""
        self._is_broken = True
        self._writer.close()
        self._settle_all(error)
        if self._process is not None:
            self._process.kill()

    def on_output(self, data: bytes) -> None:
        """Take bytes; the replies of one read's handlers leave in one write."""
        if self._is_broken:
            return
        self._writer.hold()
        try:
            for payload in self._decoder.feed(data):
                self._on_payload(payload)
        except IsthmusError as error:
            self.fail(error)
        except Exception as error:  # what no rule foresaw must not leave callers waiting
            self.fail(
                RemoteProtocolError(
                    f"a message could not be handled: {type(error).__name__}: {error}",
                    kind="message",
                )
            )
        finally:
            self._writer.flush()

    def on_room(self, has_room: bool) -> None:
        """Let pieces wait, or go on."""
        if has_room:
            self._writer.resume()
        else:
            self._writer.pause()

    def on_input_lost(self) -> None:
        """Drop what was to be written; the exit settles who waits."""
        self._writer.close()

    def on_exit(self, report: ExitReport) -> None:
        """Settle everything that has not settled."""
        self._writer.close()
        error = self._reason
        if error is None:
            error = RuntimeExited(
                f"the runtime has ended ({report})",
                exit_code=report.code,
                signal=report.signal,
                stderr_tail=report.stderr_tail,
            )
        self._settle_all(error)

    def _on_payload(self, payload: Payload) -> None:
        try:
            message = check_message(self._codec.decode(payload))
        except IsthmusError as error:
            raise RemoteProtocolError(
                f"the runtime sent a message that is not of this protocol: {error.message}",
                kind="message",
            ) from error
        kind, first = message[0], message[1]
        if kind == Kind.DELTA:
            pending = self._find(first)
            if pending is not None:
                pending.on_delta(message[2], message[3])
        elif kind in (Kind.RESULT, Kind.END):
            pending = self._settle(first)
            if pending is not None:
                pending.on_value(message[2])
        elif kind == Kind.ERROR:
            self._on_error(first, from_wire(message[2]))
        else:
            self._on_other(kind, message)

    def _on_other(self, kind: int, message: list[Any]) -> None:
        if kind == Kind.EVENT:
            self._on_named_event(message[1], message[2])
        elif kind == Kind.PIECE:
            self._on_piece(message)
        elif kind == Kind.PONG:
            pong = self._pongs.get(message[1])
            if pong is not None and not pong.done():
                pong.set_result(message[2])
        elif kind == Kind.HELLO:
            self._on_hello(message[1])
        else:
            self.counters["ignored"] += 1

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
        if self.hello.done():
            self.counters["ignored"] += 1
            return
        assert self._process is not None
        self._writer = OrderedWriter(self._codec, self._loop, _piece_bytes(hello))
        self._writer.send([int(Kind.HELLO), {"protocol": PROTOCOL_VERSION, "host": _NAME}])
        self._writer.attach(self._process.stdin)
        self.hello.set_result(hello)

    def _on_named_event(self, name: str, payload: Any) -> None:
        request = payload.get("request") if isinstance(payload, dict) else None
        if name == "progress" and request is not None:
            pending = self._find(request)
            if pending is not None:
                pending.on_progress(payload)
        self._tell(name, payload)

    def _on_error(self, request: int | None, error: IsthmusError) -> None:
        if request is None:
            self._reason = error
            self._tell("error", error)
            return
        pending = self._settle(request)
        if pending is not None:
            pending.on_error(error)

    def _tell(self, name: str, payload: Any) -> None:
        if self._on_event is not None:
            # The caller's code must not be able to break the reading of the wire.
            self._loop.call_soon(self._on_event, name, payload)

    def _find(self, request: int) -> Pending | None:
        pending = self._pending.get(request)
        if pending is None:
            self.counters["ignored"] += 1
        return pending

    def _settle(self, request: int) -> Pending | None:
        pending = self._find(request)
        self._pending.pop(request, None)
        return pending

    def _settle_all(self, error: IsthmusError) -> None:
        if self._failure is None:
            self._failure = error
        if not self.hello.done():
            self.hello.set_exception(own_copy(error))
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(own_copy(error))
        self.multiplexer.fail(error)
        pending, self._pending = self._pending, {}
        for waiting in pending.values():
            waiting.on_error(own_copy(error))

    def _free_id(self) -> int:
        number = (self._last_id + 1) % REQUEST_ID_LIMIT
        while number in self._pending:
            number = (number + 1) % REQUEST_ID_LIMIT
        self._last_id = number
        return number


def _piece_bytes(hello: dict[str, Any]) -> int:
    limits = hello.get("limits")
    piece_bytes = limits.get("piece_bytes") if isinstance(limits, dict) else None
    return min(piece_bytes, PIECE_BYTES) if type(piece_bytes) is int else PIECE_BYTES
