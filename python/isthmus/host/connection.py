"""A host's requests, whatever process answers them: each settles exactly once.

One connection serves a runtime through all its processes. While none takes requests they are kept,
in order, and what was sent to one that has ended is sent to the next if that can change nothing;
all else settles with a typed error. Replies that nobody waits for are counted and dropped. Knows
messages and ids, no bytes and, but for a model's name, not what a method means.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from ..errors import Cancelled, Closing, IsthmusError, Unavailable, from_wire, own_copy
from ..limits import REQUEST_ID_LIMIT
from ..transport.writer import OrderedWriter
from ..wire.codec import MsgpackCodec
from ..wire.messages import CANCEL, CREDIT, PING, REQUEST, Kind
from .gate import Gate
from .link import Link
from .loading import Restoring
from .multiplexer import OpsMultiplexer
from .registry import ModelRegistry
from .requests import Replays, Request
from .streams import Pending

OnEvent = Callable[[str, Any], object]
"""Told of each event that belongs to no request, and of errors of the connection as `error`."""

_RESULT: Final = int(Kind.RESULT)
_ERROR: Final = int(Kind.ERROR)
_DELTA: Final = int(Kind.DELTA)
_END: Final = int(Kind.END)
_EVENT: Final = int(Kind.EVENT)
_PONG: Final = int(Kind.PONG)


class Supervisor(Protocol):
    """Looks after the process behind a connection."""

    def on_busy(self) -> None:
        """Something is waited for, and nobody watches."""
        ...

    def on_engine_dead(self, message: str) -> None:
        """The runtime says that its engine has ended."""
        ...


class Connection:
    """The requests of one host.

    Args:
        on_event: Told of events.
    """

    def __init__(self, on_event: OnEvent | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.codec = MsgpackCodec()
        self.counters: Counter[str] = Counter()
        self.registry = ModelRegistry()
        self.replays = Replays()
        self.gate = Gate(self, self.registry, self.codec, self._loop)
        self.multiplexer = OpsMultiplexer(self, self._loop)
        self.supervisor: Supervisor | None = None
        self.is_watched = False
        """Whether the supervisor need not be told of a request."""
        self._on_event = on_event
        self._kept = self.gate.kept
        self._unready, self._named = self.registry.unready, self._kept.named
        self._requests: dict[int, Request] = {}
        self._pongs: dict[int, asyncio.Future[Any]] = {}
        self._beats: dict[int, asyncio.Future[Any]] = {}
        """Pings that a caller waits for, and those of the heartbeat."""
        self._last_id = 0
        self._last_nonce = 0
        self._link: Link | None = None
        self._writer: OrderedWriter | None = None
        """Takes requests; None while they are kept."""
        self._controls: OrderedWriter | None = None
        """Takes cancels, credit and pings."""
        self._failure: IsthmusError | None = None
        self._absence: IsthmusError = Unavailable("the runtime is being started")
        """Why there is no process, when there is none."""

    @property
    def in_flight(self) -> int:
        """Requests that have not settled."""
        return len(self._requests)

    @property
    def is_waiting(self) -> bool:
        """Whether something is expected of a process that is there."""
        return self._link is not None and bool(self._requests or self._pongs)

    def request(
        self,
        method: str,
        params: Mapping[str, Any],
        options: Mapping[str, Any],
        pending: Pending,
    ) -> int:
        """Send a request, or keep it; what it gets goes to `pending`. Return its id.

        Raises:
            LocalProtocolError: The params cannot travel; nothing was sent.
            QueueFull: Too many requests wait for a runtime that is being started.
            IsthmusError: No request is taken any more, or its model is lost.
        """
        if self._failure is not None:
            self.check_open()
        number = self._free_id()
        made_at = self._loop.time() if "deadline_ms" in options else 0.0
        request = Request(method, dict(params), options, pending, made_at)
        writer = self._writer
        if writer is None or ((self._unready or self._named) and self._kept.must_wait(request)):
            if not self.gate.hold(number, request):
                return number
        else:
            request.mark = writer.bytes_written
            message = [REQUEST, number, method, request.params]
            writer.send([*message, dict(options)] if options else message, number)
        self._requests[number] = request
        if not self.is_watched:
            self._call_supervisor()
        return number

    def cancel(self, number: int) -> None:
        """Stop a request: here if it has not been sent, else by asking the runtime."""
        request = self._requests.get(number)
        if request is None:
            return
        request.is_cancelled = True
        if number in self._kept:
            self.gate.cancel(number)
        elif self._controls is not None:
            self._controls.send([CANCEL, number], number)

    def grant(self, number: int, count: int) -> None:
        """Give a stream more credit."""
        if self._controls is not None and number in self._requests and number not in self._kept:
            self._controls.send([CREDIT, number, count], number)

    @contextlib.contextmanager
    def one_write(self) -> Iterator[None]:
        """Have what is sent meanwhile leave in one write."""
        writer = self._writer
        if writer is None:
            yield
            return
        writer.hold()
        try:
            yield
        finally:
            writer.flush()

    async def flush_calls(self) -> None:
        """Send the calls that collect; return when nothing that comes next can overtake them."""
        self.multiplexer.flush()
        if self._link is not None:
            await self._link.writer.room()

    def ping(self) -> asyncio.Future[dict[str, Any]]:
        """Ask for the runtime's health, past every queue.

        Raises:
            IsthmusError: No process listens.
        """
        self.check_open()
        if self._controls is None:
            raise own_copy(self._absence)
        pong = self._ask(self._controls, self._pongs)
        if not self.is_watched:
            self._call_supervisor()
        return pong

    def beat(self) -> asyncio.Future[dict[str, Any]] | None:
        """Ask for the runtime's health on nobody's behalf; None when no process listens."""
        return None if self._controls is None else self._ask(self._controls, self._beats)

    def check_open(self) -> None:
        """Raise when no request is taken any more.

        Raises:
            IsthmusError: Why.
        """
        if self._failure is not None:
            raise own_copy(self._failure)

    def attach(self, link: Link) -> None:
        """A process takes requests: send those that were kept."""
        self._link, self._writer, self._controls = link, link.writer, link.writer
        with self.one_write():
            self.gate.release()

    def suspend(self, *, is_deaf: bool = False) -> None:
        """Keep new requests: the process will answer those that it has, and no others.

        Args:
            is_deaf: It reads no cancels and no credit either.
        """
        self._writer = None
        if is_deaf:
            self._controls = None

    def detach(self, error: IsthmusError, *, is_crash: bool) -> None:
        """The process has ended: keep what may be sent again, settle the rest with `error`.

        Args:
            is_crash: Whether what it was doing may have been the reason.
        """
        link, self._link = self._link, None
        if link is None:
            return
        self._writer = self._controls = None
        self._absence = error
        link.give_up(error)
        self.replays.note_successes(self._last_id, len(self._requests))
        requests, self._requests = self._requests, {}
        at_work: set[str] = set()
        restoring: list[str] = []
        failed: list[tuple[Request, IsthmusError]] = []
        for number, request in requests.items():
            is_written = number not in self._kept and link.has_written(number, request.mark)
            if isinstance(request.pending, Restoring):
                restoring += [request.pending.handle] if is_crash and is_written else []
            elif number in self._kept:
                self._requests[number] = request
            elif (reason := self._why_not_again(request, is_written, error)) is not None:
                failed.append((request, reason))
            else:
                self._requests[number] = request
                self._kept.keep(number, request)
            at_work.update(request.at_work if is_written else ())
        self._kept.sort(self._requests)
        self.registry.process_ended(at_work if is_crash else ())
        self._fail_pongs(error)
        for request, reason in failed:
            request.pending.on_error(reason)
        for handle in restoring:
            self.gate.lose(handle)

    def fail(self, error: IsthmusError) -> None:
        """Settle everything with `error`, and take no more requests until `reopen`."""
        if self._failure is None:
            self._failure = error
        self._absence = error
        link, self._link = self._link, None
        self._writer = self._controls = None
        if link is not None:
            link.give_up(error)
        self._fail_pongs(error)
        self.multiplexer.fail(error)
        self.gate.settle_all(error)
        requests, self._requests = self._requests, {}
        for request in requests.values():
            request.pending.on_error(own_copy(error))
        self.registry.process_ended(())

    def reopen(self) -> None:
        """Take requests again, and keep them."""
        self._failure = None

    def close(self) -> None:
        """Take no more requests: the host closes. What was sent may still settle."""
        self.multiplexer.flush()
        self._failure = Closing("this runtime has been closed; start another", phase="close")
        self.suspend(is_deaf=True)
        self.gate.settle_all(self._failure)

    def receive(self, kind: int, message: list[Any]) -> None:
        """Take a message."""
        first = message[1]
        if kind == _DELTA:
            request = self._find(first)
            if request is not None:
                request.pending.on_delta(message[2], message[3])
        elif kind in (_RESULT, _END):
            request = self._requests.pop(first, None)
            if request is not None:
                request.pending.on_value(message[2])
            else:
                self.counters["ignored"] += 1
        elif kind == _ERROR:
            self._on_error(first, from_wire(message[2]))
        elif kind == _EVENT:
            self._on_named_event(first, message[2])
        elif kind == _PONG:
            pong = self._pongs.get(first) or self._beats.get(first)
            if pong is not None and not pong.done():
                pong.set_result(message[2])
        else:
            self.counters["ignored"] += 1

    @property
    def is_sending(self) -> bool:
        """Whether a process takes requests."""
        return self._writer is not None

    def write(self, number: int, request: Request) -> None:
        """Send a request that was kept.

        Raises:
            LocalProtocolError: It cannot travel.
        """
        assert self._writer is not None
        request.mark = self._writer.bytes_written
        options = request.options_at(self._loop.time())
        message = [REQUEST, number, request.method, request.params]
        self._writer.send([*message, dict(options)] if options else message, number)

    def begin(self, method: str, params: dict[str, Any], pending: Restoring) -> None:
        """Send a request of the host's own."""
        number = self._free_id()
        request = self._requests[number] = Request(method, params, {}, pending, 0.0)
        self.write(number, request)

    def find(self, number: int) -> Request:
        """Return an unsettled request."""
        return self._requests[number]

    def forget(self, number: int) -> None:
        """A request has settled."""
        del self._requests[number]

    def _why_not_again(
        self, request: Request, is_written: bool, error: IsthmusError
    ) -> IsthmusError | None:
        """Return what a request that was sent ends with; None when it is sent again."""
        if is_written:
            return None if self.replays.take(request) else own_copy(error)
        if request.is_cancelled:
            return Cancelled("the request was cancelled before it was sent")
        return None

    def _on_named_event(self, name: str, payload: Any) -> None:
        request = payload.get("request") if isinstance(payload, dict) else None
        if name == "progress" and request is not None:
            pending = self._find(request)
            if pending is not None:
                pending.pending.on_progress(payload)
        elif name == "closing":
            self.suspend()
        elif name == "engine_dead" and self.supervisor is not None:
            message = payload.get("message") if isinstance(payload, dict) else None
            self.supervisor.on_engine_dead(str(message or "its engine has died"))
        self._tell(name, payload)

    def _on_error(self, number: int | None, error: IsthmusError) -> None:
        if number is None:
            self._tell("error", error)
            return
        self.replays.errors += 1
        request = self._find(number)
        if request is not None:
            del self._requests[number]
            request.pending.on_error(error)

    def _tell(self, name: str, payload: Any) -> None:
        if self._on_event is not None:
            # The caller's code must not be able to break the reading of the wire.
            self._loop.call_soon(self._on_event, name, payload)

    def _find(self, number: int) -> Request | None:
        request = self._requests.get(number)
        if request is None:
            self.counters["ignored"] += 1
        return request

    def _ask(
        self, writer: OrderedWriter, pongs: dict[int, asyncio.Future[Any]]
    ) -> asyncio.Future[dict[str, Any]]:
        nonce = self._last_nonce = (self._last_nonce + 1) % REQUEST_ID_LIMIT
        pong = pongs[nonce] = self._loop.create_future()
        pong.add_done_callback(lambda done: pongs.pop(nonce, None))
        pong.add_done_callback(lambda done: done.cancelled() or done.exception())
        writer.send([PING, nonce])
        return pong

    def _fail_pongs(self, error: IsthmusError) -> None:
        for pong in (*self._pongs.values(), *self._beats.values()):
            if not pong.done():
                pong.set_exception(own_copy(error))

    def _call_supervisor(self) -> None:
        if self.supervisor is not None:
            self.supervisor.on_busy()

    def _free_id(self) -> int:
        number = (self._last_id + 1) % REQUEST_ID_LIMIT
        while number in self._requests:
            number = (number + 1) % REQUEST_ID_LIMIT
        self._last_id = number
        return number
