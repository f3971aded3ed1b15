"""A circuit breaker: calls that keep failing are refused for a while instead of begun.

```
            too many failures, or slow calls
   closed ────────────────────────────────────► open ◄───────────┐
     ▲                                            │ its time      │ a failure
     │ a window after it opened, and sound        ▼ is over       │
     └──────────────────────────────────────── half_open ─────────┘
   isolate(): from anywhere to isolated; restore(): from anywhere to closed
```

Half-open lets one call through, its probe, then two, then four, then all; each of the first seven
is a lease with a deadline, so that a probe that never ends gives its place to the next. A failure
on the way opens it again, for twice as long. It is closed again no sooner than a window after it
opened, so that it opens from closed at most once a window, however its calls alternate. An outcome
counts only in the state in which its call began. Thread-bound; the clock is passed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ..errors import CircuitOpen
from .options import BreakerOptions
from .window import RollingWindow


class State(Enum):
    """What a breaker does with a call; the names are those of the protocol."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


NEXT_STATES: Final = {
    State.CLOSED: {State.OPEN, State.ISOLATED},
    State.OPEN: {State.HALF_OPEN, State.CLOSED, State.ISOLATED},
    State.HALF_OPEN: {State.OPEN, State.CLOSED, State.ISOLATED},
    State.ISOLATED: {State.CLOSED},
}
"""Every legal change of state; from open to closed by hand only."""

_CLOSED: Final = State.CLOSED
"""Looked up once: each call asks for it twice, and an enum's members are slow to find."""

RAMP: Final = (1, 2, 4)
"""Probes of a half-open breaker, stage by stage; each stage must succeed as a whole."""

_EVERYONE: Final = len(RAMP)
"""The stage after the ramp: all calls pass, judged as when it is closed."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state, and why."""

    before: State
    after: State
    reason: str
    retry_after_ms: float | None


class Permit:
    """Leave to begin one call, which says once how it ended; whatever is said after that, or after
    the breaker has changed its state, is not heard."""

    __slots__ = ("_breaker", "_generation")
    _breaker: Breaker
    _generation: int

    def success(self, duration_s: float, now: float | None = None) -> None:
        """The call succeeded; `duration_s` says whether it was slow.

        Args:
            duration_s: How long it took.
            now: By the breaker's clock, of who has looked at it already.
        """
        breaker = self._breaker
        if self._generation == breaker.generation:
            self._generation = -1
            breaker._count(self, False, duration_s, breaker._clock() if now is None else now)

    def failure(self, duration_s: float) -> None:
        """The call failed, and not by its caller's doing."""
        breaker = self._breaker
        if self._generation == breaker.generation:
            self._generation = -1
            breaker._count(self, True, duration_s, breaker._clock())

    def neutral(self) -> None:
        """The call says nothing of the model: it was cancelled, or wrong from the start."""
        breaker = self._breaker
        if self._generation == breaker.generation:
            self._generation = -1
            breaker._give_back(self)


class Breaker:
    """Decides which calls may begin.

    Args:
        options: When it opens and closes.
        clock: Monotonic seconds.
        listener: Told of every change of state.
        label: What calls are refused of, for the message.
    """

    def __init__(
        self,
        options: BreakerOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
        listener: Callable[[Transition], None] | None = None,
        label: str = "the model",
    ) -> None:
        self._options = options or BreakerOptions()
        self._clock = clock
        self._listener = listener
        self._label = label
        self._slow_call_s = self._options.slow_call_s
        self._window = RollingWindow(self._options.window_s, self._options.buckets)
        self.state = State.CLOSED
        self.generation = 0
        """Counts the changes of state."""
        self.opened_times = 0
        self._opened_from_closed_at = -math.inf
        self._closed_at = -math.inf
        self._open_until = 0.0
        self._doublings = 0
        self._stage = 0
        self._successes = 0
        """Of this stage's probes."""
        self._leases: dict[Permit, float] = {}
        """The probes under way, and until when each has its place."""

    def acquire(self) -> Permit:
        """Return leave to begin a call.

        Raises:
            CircuitOpen: It may not; `retry_after_ms` says when one may, unless it is isolated.
        """
        is_probe = self.state is not _CLOSED and self._must_probe()
        # Without an `__init__`, which would cost as much again as all the rest.
        permit = Permit()
        permit._breaker, permit._generation = self, self.generation
        if is_probe:
            self._leases[permit] = self._clock() + self._options.lease_s
        return permit

    def record_failures(self, count: int) -> None:
        """Count calls that failed elsewhere, such as in a process that they ended.

        No more than half of the fewest that a breaker judges by: what happened elsewhere, and
        perhaps long ago, must not outweigh what happens here, and opens nothing by itself.
        """
        count = min(count, self._options.calls // 2)
        if count > 0:
            self._window.add(self._clock(), True, False, count)

    def isolate(self, reason: str = "by hand") -> None:
        """Refuse all calls until `restore`."""
        if self.state is not State.ISOLATED:
            self._change(State.ISOLATED, reason)

    def restore(self, reason: str = "by hand") -> None:
        """Let calls begin, and forget how earlier ones ended."""
        self._window.clear()
        self._doublings = 0
        if self.state is not State.CLOSED:
            self._change(State.CLOSED, reason)

    def snapshot(self) -> dict[str, Any]:
        """Return the protocol's map of a breaker."""
        self._window.forget(self._clock())
        return {
            "state": self.state.value,
            "generation": self.generation,
            "calls": self._window.calls,
            "failures": self._window.failures,
            "slow_calls": self._window.slow_calls,
            "opened_times": self.opened_times,
            "retry_after_ms": self._retry_after_ms(),
        }

    def _must_probe(self) -> bool:
        """Whether a call that begins now is a probe; raises when none may begin."""
        now = self._clock()
        if self.state is State.OPEN and now >= self._open_until:
            self._change(State.HALF_OPEN, "its time is over")
        if self.state is not State.HALF_OPEN:
            raise self._refusal()
        if self._stage == _EVERYONE:
            self._close_when_due(now)
            return False
        self._leases = {permit: ends for permit, ends in self._leases.items() if ends > now}
        if self._successes + len(self._leases) >= RAMP[self._stage]:
            raise self._refusal()
        return True

    def _count(self, permit: Permit, is_failure: bool, duration_s: float, now: float) -> None:
        """Take the outcome of a call that began in this state."""
        is_slow = duration_s > self._slow_call_s
        if self.state is not _CLOSED and self._stage < _EVERYONE:
            # Also one whose lease is over: it was begun in this state, and now it is known.
            self._give_back(permit)
            self._count_probe(now, is_failure, is_slow)
            return
        self._window.add(now, is_failure, is_slow)
        if (is_failure or is_slow) and (reason := self._why_open()) is not None:
            self._open(now, reason)
        elif self.state is not _CLOSED:
            self._close_when_due(now)

    def _count_probe(self, now: float, is_failure: bool, is_slow: bool) -> None:
        if is_failure or is_slow:
            self._open(now, "a probe failed" if is_failure else "a probe was slow")
            return
        self._successes += 1
        if self._successes >= RAMP[self._stage]:
            self._stage, self._successes = self._stage + 1, 0
            if self._stage == _EVERYONE:
                self._close_when_due(now)

    def _give_back(self, permit: Permit) -> None:
        self._leases.pop(permit, None)

    def _close_when_due(self, now: float) -> None:
        if now - self._opened_from_closed_at >= self._options.window_s:
            self._closed_at = now
            self._change(State.CLOSED, "calls succeed again")

    def _why_open(self) -> str | None:
        window, options = self._window, self._options
        if window.calls < options.calls:
            return None
        if window.failures >= options.failure_rate * window.calls:
            return f"{window.failures} of {window.calls} calls failed"
        if window.slow_calls >= options.slow_rate * window.calls:
            return f"{window.slow_calls} of {window.calls} calls were slow"
        return None

    def _open(self, now: float, reason: str) -> None:
        options = self._options
        if self.state is State.CLOSED:
            if now - self._closed_at >= options.window_s:
                self._doublings = 0
            self._opened_from_closed_at = now
        open_s = min(options.open_s * 2**self._doublings, options.open_limit_s)
        self._open_until = now + open_s
        if open_s < options.open_limit_s:
            self._doublings += 1
        self.opened_times += 1
        self._change(State.OPEN, reason)

    def _change(self, after: State, reason: str) -> None:
        before = self.state
        if after not in NEXT_STATES[before]:
            raise ValueError(f"a breaker cannot go from {before.value} to {after.value}")
        self.state = after
        self.generation += 1
        self._stage = self._successes = 0
        self._leases = {}
        if after is not State.CLOSED or before is not State.HALF_OPEN:
            self._window.clear()
        if self._listener is not None:
            self._listener(Transition(before, after, reason, self._retry_after_ms()))

    def _retry_after_ms(self) -> float | None:
        """Return when a call may begin, as far as that is known; None when one may now."""
        if self.state is State.OPEN:
            return max((self._open_until - self._clock()) * 1_000, 0.0)
        if self.state is State.HALF_OPEN and self._stage < _EVERYONE and self._leases:
            return max((min(self._leases.values()) - self._clock()) * 1_000, 0.0)
        return None

    def _refusal(self) -> CircuitOpen:
        after_ms = self._retry_after_ms()
        if self.state is State.ISOLATED:
            how = "it was isolated by hand; set its circuit to closed to use it again"
        elif self.state is State.OPEN:
            how = "its calls failed too often lately; try again later, or set its circuit to closed"
        else:
            how = "its calls failed too often lately and a few are tried first; try again later"
        return CircuitOpen(
            f"calls of {self._label} are refused: {how}",
            retry_after_ms=after_ms,
            state=self.state.value,
        )
