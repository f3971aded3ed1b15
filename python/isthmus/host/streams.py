"""What a request waits for: one reply, or a stream of deltas and then its end.

Both settle exactly once and ignore what comes after. A stream's reader grants credit back in halves
of its window, so that a slow reader stops only its own producer. Knows no process and no frame; the
connection hands in what arrives, and takes cancels and credit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from ..errors import Cancelled, InvalidRequest, IsthmusError

Progress = Callable[[dict[str, Any]], object]
"""Told of each progress event of a request."""


def cancelled_unsent() -> Cancelled:
    """Return what a request fails with that is cancelled before it is sent."""
    return Cancelled("the request was cancelled before it was sent")


class Pending(Protocol):
    """An unsettled request, as the connection sees it."""

    @property
    def has_received(self) -> bool:
        """Whether a part of its answer has arrived, and may have been acted on."""
        ...

    def on_delta(self, count: int, payload: Any) -> None:
        """Stream items arrived."""
        ...

    def on_value(self, value: Any) -> None:
        """It has settled: its result, or its stream's end."""
        ...

    def on_error(self, error: IsthmusError) -> None:
        """It has failed; nothing follows."""
        ...

    def on_unsent(self) -> None:
        """It was cancelled before it was sent; nothing follows."""
        ...

    def on_progress(self, payload: dict[str, Any]) -> None:
        """An event about it arrived."""
        ...


class Wire(Protocol):
    """What a stream asks of its connection."""

    def cancel(self, request: int) -> None:
        """Ask the runtime to stop a request."""
        ...

    def grant(self, request: int, count: int) -> None:
        """Give a stream more credit."""
        ...


class Reply:
    """A request with one answer.

    Args:
        on_progress: Told of progress events.
        on_abandoned: Given the value when nobody waits for it any more.
    """

    has_received = False

    def __init__(
        self,
        on_progress: Progress | None = None,
        on_abandoned: Callable[[Any], object] | None = None,
    ) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._on_progress = on_progress
        self._on_abandoned = on_abandoned

    def on_delta(self, count: int, payload: Any) -> None:
        """Ignore: the request is no stream."""

    def on_value(self, value: Any) -> None:
        """Settle."""
        if not self.future.done():
            self.future.set_result(value)
        elif self._on_abandoned is not None:
            self._on_abandoned(value)

    def on_error(self, error: IsthmusError) -> None:
        """Settle."""
        if not self.future.done():
            self.future.set_exception(error)

    def abandon(self) -> None:
        """Its caller was cancelled, perhaps between the answer and the turn in which to take it."""
        future = self.future
        has_value = future.done() and not future.cancelled() and future.exception() is None
        if has_value and self._on_abandoned is not None:
            self._on_abandoned(future.result())

    def on_unsent(self) -> None:
        """Settle."""
        self.on_error(cancelled_unsent())

    def on_progress(self, payload: dict[str, Any]) -> None:
        """Hand the event on."""
        if self._on_progress is not None and not self.future.done():
            # The caller's code must not be able to break the reading of the wire.
            self.future.get_loop().call_soon(self._on_progress, payload)


class Stream:
    """A request that answers in deltas; read by one reader at a time.

    Args:
        wire: Takes cancels and credit.
        window: The credit that the request is sent with.
    """

    def __init__(self, wire: Wire, window: int) -> None:
        self.request: int | None = None
        """Its id, once it has been sent."""
        self.received = 0
        """Items that have arrived."""
        self.end: Any = None
        """The end's value, once it has settled without an error."""
        self.unsent_end: Any = None
        """The end's value of one that is cancelled before it is sent; without it that fails."""
        self.error: IsthmusError | None = None
        self.is_settled = False
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._grant_at = max(window // 2, 1)
        self._ungranted = 0
        self._arrived: deque[tuple[int, Any]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._is_read = False
        self._is_cancelled = False
        self._is_abandoned = False

    @property
    def has_received(self) -> bool:
        """Whether items have arrived."""
        return self.received > 0

    def on_delta(self, count: int, payload: Any) -> None:
        """Keep items until they are read."""
        if not self.is_settled and not self._is_abandoned:
            self.received += count
            self._arrived.append((count, payload))
            self._notify()

    def on_value(self, value: Any) -> None:
        """Settle."""
        if not self.is_settled:
            self.is_settled, self.end = True, value
            self._notify()

    def on_error(self, error: IsthmusError) -> None:
        """Settle; what arrived before can still be read, and the request is not to be repeated."""
        if not self.is_settled:
            error.details.setdefault("received", self.received)
            if self.received:
                error.retryable = False  # type: ignore[misc]
            self.is_settled, self.error = True, error
            self._notify()

    def on_unsent(self) -> None:
        """Settle."""
        if self.unsent_end is None:
            self.on_error(cancelled_unsent())
        else:
            self.on_value(self.unsent_end)

    def on_progress(self, payload: dict[str, Any]) -> None:
        """Ignore: streams have no progress."""

    def cancel(self) -> None:
        """Ask the runtime to stop, once; what arrives until it does can still be read."""
        if not self.is_settled and not self._is_cancelled and self.request is not None:
            self._is_cancelled = True
            self._wire.cancel(self.request)

    def abandon(self) -> None:
        """Cancel, and drop what nobody will read."""
        self._is_abandoned = True
        self._arrived.clear()
        self.cancel()

    def abandon_soon(self) -> None:
        """Abandon it from a finalizer, which may run on any thread and after the loop."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.abandon)

    async def read(self) -> AsyncGenerator[Any, None]:
        """Yield each payload, then raise the stream's error if it has one.

        Leaving early, by `break`, an exception or a cancelled task, cancels the request.

        Raises:
            InvalidRequest: Somebody else reads it.
        """
        if self._is_read:
            raise InvalidRequest("this stream is being read already; it has one reader at a time")
        self._is_read, has_ended = True, False
        try:
            while (entry := await self._next()) is not None:
                yield entry[0]
            has_ended = True
        finally:
            self._is_read = False
            if not has_ended:
                self.abandon()

    async def _next(self) -> tuple[Any] | None:
        while not self._arrived:
            if self.error is not None:
                raise self.error
            if self.is_settled:
                return None
            await self._wait()
        count, payload = self._arrived.popleft()
        self._consume(count)
        return (payload,)

    async def _wait(self) -> None:
        self._wake = self._loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _consume(self, count: int) -> None:
        self._ungranted += count
        if self._ungranted >= self._grant_at and not self.is_settled and self.request is not None:
            self._wire.grant(self.request, self._ungranted)
            self._ungranted = 0

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
