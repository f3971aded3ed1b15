"""A host's requests, whatever process answers them: each settles exactly once.

One connection serves a runtime through all its processes. While none takes requests they are kept,
in order, and what was sent to one that has ended is sent to the next if that can change nothing;
all else settles with a typed error. Knows messages and ids, no bytes and, but for the names of
models, not what a method means.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import Closing, IsthmusError, Unavailable, own_copy
from ..limits import REQUEST_ID_LIMIT
from ..transport.writer import OrderedWriter
from ..wire.codec import MsgpackCodec
from ..wire.messages import CANCEL, CREDIT, REQUEST
from .gate import Gate
from .inbox import Inbox, OnEvent
from .link import Link
from .loading import Restoring
from .multiplexer import OpsMultiplexer
from .parting import part
from .pings import Pings
from .registry import ModelRegistry
from .requests import Replays, Request
from .streams import Pending


class Connection:
    """The requests of one host.

    Args:
        on_event: Told of events.
    """

    def __init__(self, on_event: OnEvent | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.codec = MsgpackCodec()
        self.registry = ModelRegistry()
        self.replays = Replays()
        self._requests: dict[int, Request] = {}
        self._pings = Pings(self._loop)
        self.inbox = Inbox(self._requests, self._pings, self.replays, self._loop, on_event)
        self.gate = Gate(self, self.registry, self.codec, self._loop)
        self.multiplexer = OpsMultiplexer(self, self._loop)
        self.on_busy: Callable[[], object] = lambda: None
        """Told when something is waited for and nobody watches the process."""
        self.is_watched = False
        self._kept = self.gate.kept
        self._unready, self._named = self.registry.unready, self._kept.named
        self.inbox.on_closing = self.suspend
        self._last_id = 0
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
        return self._link is not None and (bool(self._requests) or self._pings.is_waiting)

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
            self.on_busy()
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
        pong = self._pings.send(self._controls, is_asked=True)
        if not self.is_watched:
            self.on_busy()
        return pong

    def beat(self) -> asyncio.Future[dict[str, Any]] | None:
        """Ask for the runtime's health on nobody's behalf; None when no process listens."""
        if self._controls is None:
            return None
        return self._pings.send(self._controls, is_asked=False)

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

    def detach(self, error: IsthmusError, *, is_crash: bool, has_next: bool = True) -> None:
        """The process has ended: keep what may be sent again, settle the rest with `error`.

        Args:
            is_crash: Whether what it was doing may have been the reason.
            has_next: Whether another process is to follow.
        """
        link, self._link = self._link, None
        if link is None:
            return
        self._writer = self._controls = None
        self._absence = error
        link.give_up(error)
        self.replays.note_successes(self._last_id, len(self._requests))
        unloadable = self.registry.handles if has_next else ()
        parting = part(self._requests, self._kept, link, self.replays, unloadable, error)
        self._requests.clear()
        self._requests.update(parting.kept)
        self._kept.keep_all(parting.kept)
        self.registry.process_ended(parting.at_work if is_crash else ())
        self._pings.fail(error)
        for request, reason in parting.failed:
            request.pending.on_error(reason)
        for request in parting.unsent:
            request.pending.on_unsent()
        for handle in parting.restoring if is_crash else ():
            self.gate.lose(handle)
        if has_next:
            self.gate.settle_unloads()

    def fail(self, error: IsthmusError) -> None:
        """Settle everything with `error`, and take no more requests until `reopen`."""
        if self._failure is None:
            self._failure = error
        self._absence = error
        link, self._link = self._link, None
        self._writer = self._controls = None
        if link is not None:
            link.give_up(error)
        self._pings.fail(error)
        self.multiplexer.fail(error)
        self.gate.settle_all(error)
        requests = list(self._requests.values())
        self._requests.clear()
        for request in requests:
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

    def _free_id(self) -> int:
        number = (self._last_id + 1) % REQUEST_ID_LIMIT
        while number in self._requests:
            number = (number + 1) % REQUEST_ID_LIMIT
        self._last_id = number
        return number
