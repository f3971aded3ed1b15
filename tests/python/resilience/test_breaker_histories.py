"""Whatever happens in whatever order, the breaker keeps its promises."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from isthmus.errors import CircuitOpen
from isthmus.resilience.breaker import NEXT_STATES, Breaker, State, Transition
from isthmus.resilience.options import BreakerOptions
from tests.python.resilience.clock import Clock

OPTIONS = BreakerOptions(calls=4)


class Histories(RuleBasedStateMachine):
    """Random calls, outcomes and pauses, against what must hold."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(OPTIONS, self.clock, self.on_change)
        self.changes: list[tuple[float, Transition]] = []
        self.begun: list[tuple[object, int, float]] = []
        """Permits that have not ended, the generation and the time in which each began."""

    def on_change(self, change: Transition) -> None:
        """Check a change of state."""
        assert change.after in NEXT_STATES[change.before]
        self.changes.append((self.clock.now, change))

    @rule(target=permits)
    def begin(self) -> object:
        """Begin a call if that is allowed."""
        try:
            permit = self.breaker.acquire()
        except CircuitOpen as error:
            assert self.breaker.state is not State.CLOSED
            assert error.retry_after_ms is None or error.retry_after_ms >= 0
            return None
        assert self.breaker.state in (State.CLOSED, State.HALF_OPEN)
        self.begun.append((permit, self.breaker.generation, self.clock.now))
        return permit

    @rule(
        permit=consumes(permits),
        outcome=st.sampled_from(["success", "failure", "neutral", "slow", "failure", "twice"]),
    )
    def end(self, permit: object, outcome: str) -> None:
        """End a call; one of an earlier state changes nothing."""
        found = next((one for one in self.begun if one[0] is permit), None)
        if found is None:
            return
        self.begun.remove(found)
        before = self.breaker.snapshot()
        if outcome in ("success", "slow"):
            found[0].success(OPTIONS.slow_call_s + 1 if outcome == "slow" else 0.1)  # type: ignore[attr-defined]
        elif outcome == "neutral":
            found[0].neutral()  # type: ignore[attr-defined]
        else:
            found[0].failure(0.1)  # type: ignore[attr-defined]
        after = self.breaker.snapshot()
        if found[1] != before["generation"] or outcome == "neutral":
            assert (after["generation"], after["calls"]) == (before["generation"], before["calls"])
        if outcome == "twice":
            found[0].failure(0.1)  # type: ignore[attr-defined]
            assert self.breaker.snapshot() == after

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 5.0, 10.0, 31.0, 61.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.go(seconds)

    @rule(seconds=st.sampled_from([5.0, 10.0]), outcome=st.booleans())
    def burst(self, seconds: float, outcome: bool) -> None:
        """Make several calls that end at once, so that rates matter."""
        for _ in range(12):
            self.end(self.begin(), "success" if outcome else "failure")
        self.clock.go(seconds)

    @invariant()
    def no_more_probes_than_its_stage_allows(self) -> None:
        """One probe at first, then two, then four; a lease that is over is not counted."""
        breaker = self.breaker
        if breaker.state is State.HALF_OPEN and breaker._stage < 3:
            under_way = [
                permit
                for permit, generation, began in self.begun
                if generation == breaker.generation
                and permit in breaker._leases
                and self.clock.now < began + OPTIONS.lease_s
            ]
            assert len(under_way) <= (1, 2, 4)[breaker._stage]

    @invariant()
    def it_opens_from_closed_at_most_once_a_window(self) -> None:
        """However the calls alternate."""
        times = [
            at
            for at, change in self.changes
            if change.before is State.CLOSED and change.after is State.OPEN
        ]
        assert all(b - a >= OPTIONS.window_s for a, b in pairwise(times))

    @invariant()
    def it_opens_longer_each_time_until_it_was_closed_for_a_window(self) -> None:
        """Twice as long, up to the limit."""
        opened = [change for _, change in self.changes if change.after is State.OPEN]
        for change in opened:
            wait_ms = change.retry_after_ms
            assert wait_ms is not None
            assert OPTIONS.open_s * 1_000 <= wait_ms + 1e-6
            assert wait_ms <= OPTIONS.open_limit_s * 1_000 + 1e-6
        for one, other in pairwise(opened):
            if other.before is State.HALF_OPEN:
                assert one.retry_after_ms is not None and other.retry_after_ms is not None
                doubled = min(2 * one.retry_after_ms, OPTIONS.open_limit_s * 1_000)
                assert abs(other.retry_after_ms - doubled) < 1e-3

    @invariant()
    def each_generation_is_one_change(self) -> None:
        """Nothing changes its state without being told."""
        assert self.breaker.generation == len(self.changes)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
