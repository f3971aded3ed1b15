"""A request in flight: it settles exactly once, whatever races.

A `Call` is what a method gets. The server makes one for each request that is not answered inline,
and forgets it when it settles. Cancels and deadlines interrupt it: either its task is cancelled, or
what the method put in `on_interrupt` is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..errors import IsthmusError
from ..wire.messages import Kind, RequestOptions, error_message

_RESULT = int(Kind.RESULT)
_DELTA = int(Kind.DELTA)
_END = int(Kind.END)

Send = Callable[[list[Any], int | None], None]


class Call:
    """One request.

    Args:
        request: Its id.
        method: Its method's name.
        options: Its envelope.
        arrived_at: Monotonic seconds.
        send: Queues a message of this request.
        forget: Told when it settles.
    """

    __slots__ = (
        "_forget",
        "_send",
        "arrived_at",
        "is_settled",
        "method",
        "on_credit",
        "on_interrupt",
        "options",
        "phase",
        "request",
        "task",
        "timer",
    )

    def __init__(
        self,
        request: int,
        method: str,
        options: RequestOptions,
        arrived_at: float,
        send: Send,
        forget: Callable[[Call], None],
    ) -> None:
        self.request = request
        self.method = method
        self.options = options
        self.arrived_at = arrived_at
        self.is_settled = False
        self.phase = "running"
        """Where it is when its deadline passes."""
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.on_interrupt: Callable[[IsthmusError], None] | None = None
        self.on_credit: Callable[[int], None] | None = None
        self._send = send
        self._forget = forget

    @property
    def deadline_at(self) -> float | None:
        """When its deadline passes, in monotonic seconds; None without one."""
        deadline_ms = self.options.deadline_ms
        return None if deadline_ms is None else self.arrived_at + deadline_ms / 1_000

    def delta(self, count: int, payload: object) -> None:
        """Send stream items; the method has checked its credit."""
        if not self.is_settled:
            self._send([_DELTA, self.request, count, payload], self.request)

    def end(self, value: object) -> None:
        """Settle a stream."""
        self._settle([_END, self.request, value])

    def result(self, value: object) -> None:
        """Settle with a result."""
        self._settle([_RESULT, self.request, value])

    def error(self, error: IsthmusError) -> None:
        """Settle with an error."""
        self._settle(error_message(self.request, error))

    def event(self, name: str, payload: dict[str, Any]) -> None:
        """Send an event about this request."""
        if not self.is_settled:
            self._send([int(Kind.EVENT), name, {"request": self.request, **payload}], self.request)

    def interrupt(self, error: IsthmusError) -> None:
        """Stop it: it was cancelled, or its deadline passed."""
        if self.is_settled:
            return
        if self.on_interrupt is not None:
            self.on_interrupt(error)
            return
        self.error(error)
        if self.task is not None:
            self.task.cancel()

    def grant(self, count: int) -> None:
        """The host has room for `count` more items."""
        if self.on_credit is not None and not self.is_settled:
            self.on_credit(count)

    def _settle(self, message: list[Any]) -> None:
        if self.is_settled:
            return
        try:
            self._send(message, self.request)
        except IsthmusError as error:
            self._send(error_message(self.request, error), self.request)
        self.is_settled = True
        self.on_interrupt = self.on_credit = None
        if self.timer is not None:
            self.timer.cancel()
        self._forget(self)
