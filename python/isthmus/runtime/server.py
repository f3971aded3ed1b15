"""The heart of the runtime: messages in, calls routed, replies out, and an orderly end.

What can be answered at once is answered inside the read callback; the rest becomes a `Call` with a
task in the one TaskGroup. Every request settles exactly once: by its method, by a cancel or a
deadline, or by the drain at the end. The server knows no model; methods are registered with the
router.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import (
    Cancelled,
    Closing,
    DeadlineExceeded,
    DecodeError,
    DepthExceeded,
    DuplicateId,
    InternalError,
    InvalidRequest,
    IsthmusError,
    QueueFull,
    VersionMismatch,
)
from ..limits import (
    IN_FLIGHT_LIMIT,
    LARGE_MESSAGE_BYTES,
    MESSAGE_LIMIT_BYTES,
    OPEN_PIECES_LIMIT,
    PROTOCOL_VERSION,
    REQUEST_ID_LIMIT,
)
from ..multiplex.multiplexer import Multiplexer
from ..transport.writer import OrderedWriter
from ..wire.codec import Codec, Payload
from ..wire.messages import (
    CANCEL,
    CREDIT,
    HELLO,
    NO_OPTIONS,
    PIECE,
    PING,
    REQUEST,
    Kind,
    PieceAssembler,
    RequestOptions,
    check_message,
    error_message,
    is_request_id,
    parse_options,
    peek_request_id,
)
from .health import Counters
from .requests import Call
from .router import Method, Router

_RESULT = int(Kind.RESULT)


class Server:
    """Serves one host.

    Args:
        codec: Decodes payloads.
        writer: Takes replies.
        router: Knows the methods.
        group: Owns every task.
        hello: The runtime's hello.
        health: Makes the answer to a ping.
        multiplexer: Gathers what one read brings.
    """

    def __init__(
        self,
        codec: Codec,
        writer: OrderedWriter,
        router: Router,
        group: asyncio.TaskGroup,
        hello: dict[str, Any],
        health: Callable[[], dict[str, Any]],
        multiplexer: Multiplexer,
    ) -> None:
        self._decode = codec.decode
        self._writer = writer
        self._send = writer.send
        self._router = router
        self._group = group
        self._hello = hello
        self._health = health
        self.on_read_begins = multiplexer.hold
        self.on_read_ends = multiplexer.flush
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Call] = {}
        self._quick: dict[str, Method] = {}
        """Empty until the host has said hello, so that nothing is answered before."""
        self._pieces = PieceAssembler(MESSAGE_LIMIT_BYTES, OPEN_PIECES_LIMIT)
        self._is_assembled = False
        """Whether the message at hand came in pieces."""
        self._is_greeted = False
        self._is_draining = False
        self._closing_reason = "the input was closed, or SIGTERM arrived"
        self._is_idle = asyncio.Event()
        self.closing = asyncio.Event()
        """Set when no more input will come."""
        self.closed = asyncio.Event()
        """Set when there is nobody left to answer."""
        self.counters = Counters()

    @property
    def in_flight(self) -> int:
        """Requests that have not settled."""
        return len(self._calls)

    def say_hello(self) -> None:
        """Send the first frame."""
        self._send([HELLO, self._hello])

    def on_payload(self, payload: Payload) -> None:
        """Take one message."""
        try:
            message = self._decode(payload)
        except (DecodeError, DepthExceeded) as error:
            self._refuse(peek_request_id(payload), error)
            return
        if type(message) is list and len(message) == 4 and message[0] == REQUEST:
            # The hot path: what is answered within this read.
            _, request, name, params = message
            if (
                type(name) is str
                and (method := self._quick.get(name)) is not None
                and type(params) is dict
                and type(request) is int
                and 0 <= request < REQUEST_ID_LIMIT
                and request not in self._calls
            ):
                if method.inline is None:
                    self._begin(method, request, params)
                    return
                try:
                    self._send([_RESULT, request, method.inline(params)], request)
                except Exception as error:
                    self._send(error_message(request, _typed(error)), request)
                return
        self._on_message(message)

    def on_input_closed(self, error: IsthmusError | None) -> None:
        """The host sends nothing more: drain, or go at once when the framing broke."""
        if error is not None:
            self._refuse(None, error)
            self._writer.flush()
            self._closing_reason = error.message
        self._is_draining = True
        self._quick = {}
        self.closing.set()

    def on_output_closed(self) -> None:
        """Nobody reads our answers any more."""
        self.closing.set()
        self.closed.set()

    async def drain(self, grace_s: float) -> None:
        """Let unsettled requests settle, then settle the rest with CLOSING."""
        self._send([int(Kind.EVENT), "closing", {"reason": self._closing_reason}])
        if self._calls:
            self._is_idle.clear()
            waits = {
                asyncio.ensure_future(self._is_idle.wait()),
                asyncio.ensure_future(self.closed.wait()),
            }
            await asyncio.wait(waits, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        for call in list(self._calls.values()):
            call.error(Closing("the runtime is shutting down; send the request to a new one"))
            if call.task is not None:
                call.task.cancel()
        self._writer.flush()

    def _on_message(self, message: object) -> None:
        try:
            checked = check_message(message)
        except InvalidRequest as error:
            request = error.details.pop("request", None)
            self._refuse(request if is_request_id(request) else None, error)  # type: ignore[arg-type]
            return
        kind = checked[0]
        if kind == REQUEST:
            self._on_request(checked)
        elif kind == CREDIT:
            call = self._calls.get(checked[1])
            if call is not None:
                call.grant(checked[2])
        elif kind == CANCEL:
            self._interrupt(checked[1], Cancelled("the request was cancelled by its caller"))
        elif kind == PIECE:
            self._on_piece(checked)
        elif kind == PING:
            self._send([int(Kind.PONG), checked[1], self._health()])
        elif kind == HELLO:
            self._on_hello(checked[1])
        else:
            self._refuse(None, InvalidRequest(f"kind {kind} is not for a host", field="kind"))

    def _on_hello(self, hello: dict[str, Any]) -> None:
        version = hello.get("protocol")
        if version != PROTOCOL_VERSION:
            error = VersionMismatch(
                f"the host speaks protocol version {version!r}, this runtime (isthmus "
                f"{self._hello['runtime']}) version {PROTOCOL_VERSION}; install the same version "
                "of both packages",
                host=version if isinstance(version, int) else None,
                runtime=PROTOCOL_VERSION,
            )
            self.on_input_closed(error)
            return
        self._is_greeted = True
        if not self._is_draining:
            self._quick = dict(self._router.quick_methods)

    def _on_piece(self, message: list[Any]) -> None:
        if self._is_assembled:
            self._refuse(None, InvalidRequest("a piece inside a piece", field="kind"))
            return
        payload = self._pieces.add(message[1], message[2], message[3])
        if payload is None:
            return
        if len(payload) < LARGE_MESSAGE_BYTES:
            self._on_assembled(payload)
        else:
            self._loop.call_soon(self._on_assembled, payload)

    def _on_assembled(self, payload: Payload) -> None:
        self._is_assembled = True
        try:
            self.on_payload(payload)
        finally:
            self._is_assembled = False

    def _on_request(self, message: list[Any]) -> None:
        _, request, name, params = message[:4]
        try:
            self._check_can_take(request)
            options = parse_options(message[4]) if len(message) > 4 else NO_OPTIONS
            method = self._router.find(name)
        except IsthmusError as error:
            self._refuse(request, error)
            return
        if method.inline is not None:
            try:
                self._send([_RESULT, request, method.inline(params)], request)
            except Exception as error:
                self._send(error_message(request, _typed(error)), request)
        else:
            self._begin(method, request, params, options)

    def _begin(
        self,
        method: Method,
        request: int,
        params: dict[str, Any],
        options: RequestOptions = NO_OPTIONS,
    ) -> None:
        call = Call(request, method.name, options, time.monotonic(), self._send, self._forget)
        self._calls[request] = call
        if options.deadline_ms is not None:
            call.timer = self._loop.call_later(
                options.deadline_ms / 1_000, self._on_deadline, call, options.deadline_ms
            )
        try:
            if len(self._calls) > IN_FLIGHT_LIMIT:
                raise QueueFull(
                    f"{IN_FLIGHT_LIMIT} requests are unsettled; wait for some of them",
                    retry_after_ms=100.0,
                )
            if method.begin is not None:
                method.begin(call, params)
            elif method.run is not None:
                self._run(call, method.run(call, params))
        except Exception as error:
            call.error(_typed(error))

    def _run(self, call: Call, work: Coroutine[Any, Any, None]) -> None:
        call.task = self._group.create_task(self._await(call, work))
        # A task that is cancelled before its first step never touches its coroutine.
        call.task.add_done_callback(lambda _: work.close())

    def _check_can_take(self, request: int) -> None:
        if not self._is_greeted:
            raise InvalidRequest("say hello before the first request", field="hello")
        if self._is_draining:
            raise Closing("the runtime is shutting down; send the request to a new one")
        if request in self._calls:
            raise DuplicateId(f"request id {request} is still in use", duplicate=True)

    async def _await(self, call: Call, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            call.error(Cancelled("the request was cancelled"))
        except Exception as error:
            call.error(_typed(error))

    def _on_deadline(self, call: Call, deadline_ms: float) -> None:
        self.counters.add("deadlines_exceeded")
        call.interrupt(
            DeadlineExceeded(
                f"{call.method} was not done within its deadline of {deadline_ms:g} ms",
                phase=call.phase,
            )
        )

    def _interrupt(self, request: int, error: IsthmusError) -> None:
        call = self._calls.get(request)
        if call is not None:
            self.counters.add("cancelled")
            call.interrupt(error)

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.request, None)
        if not self._calls:
            self._is_idle.set()

    def _refuse(self, request: int | None, error: IsthmusError) -> None:
        self.counters.add("refused")
        self._send(error_message(request, error), request)


def _typed(error: Exception) -> IsthmusError:
    """Return what a caller is told; a defect in one method must not end the others."""
    if isinstance(error, IsthmusError):
        return error
    return InternalError(f"{type(error).__name__}: {error}")
