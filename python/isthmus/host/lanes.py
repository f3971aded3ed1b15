"""The calls of one key: they collect, leave as one request, and are told apart again.

The window decides when; the lane does it. Knows the connection only as a carrier of requests, and
takes time and timers from the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from ..errors import DeadlineExceeded, IsthmusError, own_copy
from ..multiplex.window import Flush, Window
from .batch import Batch, Member, OnSettled, Operation
from .lane_stats import LaneStats
from .streams import Pending

_TIMER_FLOOR_MS: Final = 0.1
"""Shortest delay that a timer is set for: what is almost due does not keep the loop spinning."""


class Carrier(Protocol):
    """What lanes ask of their connection."""

    def check_open(self) -> None:
        """Raise when no request is taken any more."""
        ...

    def request(
        self,
        method: str,
        params: Mapping[str, Any],
        options: Mapping[str, Any],
        pending: Pending,
    ) -> int:
        """Send a request and return its id; raise, and send nothing, when it cannot be sent."""
        ...

    def cancel(self, request: int) -> None:
        """Ask the runtime to stop a request."""
        ...

    def one_write(self) -> AbstractContextManager[None]:
        """Have what is sent meanwhile leave in one write."""
        ...


@dataclass(frozen=True, slots=True)
class LaneKey:
    """What the calls of a lane have in common; `options` are as they travel."""

    operation: Operation[Any, Any]
    model: str
    options: Mapping[str, Any]
    deadline_ms: float | None


@dataclass(frozen=True, slots=True)
class _Departure:
    """How a frame leaves."""

    reason: Flush
    held_ms: float
    deadline_ms: float | None


class Lane:
    """One key's calls.

    Args:
        key: What they have in common.
        carrier: Takes requests.
        loop: Has the time and timers.
        stats: Counts what is sent.
        wake: Has `end_turn` called at the end of this turn of the event loop.
    """

    def __init__(
        self,
        key: LaneKey,
        carrier: Carrier,
        loop: asyncio.AbstractEventLoop,
        stats: LaneStats,
        wake: Callable[[Lane], None],
    ) -> None:
        self._key = key
        self._carrier = carrier
        self._loop = loop
        self._stats = stats
        self._wake = wake
        self._window = Window(self._now_ms)
        self._members: dict[Member, None] = {}
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost if it were forgotten."""
        return self._window.is_idle and not self._is_due

    def add(self, member: Member) -> None:
        """Take a call."""
        before = self._window.before(member.size)
        if before is not None:
            self.flush(before)
        if self._key.deadline_ms is not None:
            member.joined_at = self._now_ms()
        self._members[member] = None
        full = self._window.join(member.size)
        if full is not None:
            self.flush(full)
        else:
            self._wake_once()

    def send_large(self, member: Member) -> None:
        """Send a call that would keep its neighbours waiting alone, past the window.

        Raises:
            IsthmusError: It cannot be sent.
        """
        self._request_alone(member, _Departure(Flush.BYTES, 0.0, self._key.deadline_ms))

    def give_up(self, member: Member) -> None:
        """A member's caller waits no more."""
        if member in self._members:
            del self._members[member]
            self._window.leave(member.size)
            if not self._window.calls:
                self._take()
        elif member.batch is not None:
            if member.batch.leave() and member.batch.request is not None:
                self._carrier.cancel(member.batch.request)
        elif member.request is not None:
            self._carrier.cancel(member.request)

    def end_turn(self) -> None:
        """Let go what leaves with this turn of the event loop."""
        self._is_due = False
        reason = self._window.end_turn()
        if reason is not None:
            self.flush(reason)
        elif self._window.calls and self._timer is None:
            delay_ms = max(self._window.due_at - self._now_ms(), _TIMER_FLOOR_MS)
            self._timer = self._loop.call_later(delay_ms / 1_000, self._on_time)

    def flush(self, reason: Flush) -> None:
        """Send what collects, if anything does."""
        if not self._window.calls:
            return
        departure = _Departure(reason, self._window.held_ms, self._key.deadline_ms)
        # A task that was cancelled in this turn has not run yet to say that it gives up.
        members = [member for member in self._take() if not member.is_settled]
        self._window.sent()
        settled = self._settler()
        members, departure = self._in_time(members, departure)
        if len(members) > 1:
            self._send_together(members, departure, settled)
        elif members:
            self._send_alone(members[0], departure, settled)
        else:
            settled(False)

    def fail(self, error: IsthmusError) -> None:
        """Settle what collects, each with an error of its own."""
        for member in self._take():
            self._window.leave(member.size)
            member.fail(own_copy(error))

    def _in_time(
        self, members: list[Member], departure: _Departure
    ) -> tuple[list[Member], _Departure]:
        """Fail those whose deadline passed here; the frame gets what the youngest has left."""
        deadline_ms = departure.deadline_ms
        if departure.held_ms <= 0 or type(deadline_ms) not in (int, float):
            return members, departure
        assert deadline_ms is not None
        now_ms, left = self._now_ms(), []
        for member in members:
            if now_ms - member.joined_at < deadline_ms:
                left.append(member)
            else:
                message = "the deadline passed before the call was sent"
                member.fail(DeadlineExceeded(message, phase="queue"))
        if not left:
            return left, departure
        rest_ms = deadline_ms - (now_ms - left[-1].joined_at)
        return left, replace(departure, deadline_ms=rest_ms)

    def _send_together(
        self, members: list[Member], departure: _Departure, settled: OnSettled
    ) -> None:
        operation = self._key.operation
        items = [member.item for member in members]
        params = {"model": self._key.model, **self._key.options, operation.items: items}
        batch = Batch(operation, members, settled)
        try:
            batch.request = self._carrier.request(
                f"batch_{operation.method}", params, envelope(departure.deadline_ms), batch
            )
        except Exception:  # an item cannot be encoded: each call finds out for itself
            settled(False)
            for member in members:
                self._window.sent()
                self._send_alone(member, departure, self._settler())
            return
        self._stats.add(len(members), departure.reason, departure.held_ms)
        for member in members:
            member.batch = batch

    def _send_alone(self, member: Member, departure: _Departure, settled: OnSettled) -> None:
        try:
            self._request_alone(member, departure)
        except Exception as error:  # whatever it is, it is this call's
            member.fail(error)
            settled(False)
        else:
            member.on_settled = settled

    def _request_alone(self, member: Member, departure: _Departure) -> None:
        operation, model = self._key.operation, self._key.model
        params = operation.params(member.item, model, self._key.options)
        options = envelope(departure.deadline_ms)
        member.request = self._carrier.request(operation.method, params, options, member)
        self._stats.add(1, departure.reason, departure.held_ms)

    def _settler(self) -> OnSettled:
        """Return what to call when the request that leaves now has settled."""
        sent_at = self._now_ms()

        def settled(is_answered: bool) -> None:
            self._window.settled(self._now_ms() - sent_at if is_answered else None)
            if self._window.calls:
                self._wake_once()

        return settled

    def _take(self) -> list[Member]:
        """Nothing collects any more; return what did."""
        members, self._members = list(self._members), {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return members

    def _wake_once(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._wake(self)

    def _on_time(self) -> None:
        self._timer = None
        if not self._is_due:
            self.flush(Flush.TIME)

    def _now_ms(self) -> float:
        return self._loop.time() * 1_000


def envelope(deadline_ms: float | None) -> dict[str, Any]:
    """Return the options of a request that answers once."""
    return {} if deadline_ms is None else {"deadline_ms": deadline_ms}
