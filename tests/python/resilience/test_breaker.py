"""The breaker opens on failures and slowness, tries again with care, and heeds no old outcome."""

from __future__ import annotations

import pytest

from isthmus.errors import CircuitOpen
from isthmus.resilience.breaker import Breaker, Permit, State, Transition
from isthmus.resilience.options import BreakerOptions
from tests.python.resilience.clock import Clock

OPTIONS = BreakerOptions()


class Watched:
    """A breaker with a clock of its own and a list of what it did."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.changes: list[Transition] = []
        self.breaker = Breaker(OPTIONS, self.clock, self.changes.append, "m-1")

    def succeed(self, count: int = 1, duration_s: float = 0.1) -> None:
        """Make calls that succeed."""
        for _ in range(count):
            self.breaker.acquire().success(duration_s)

    def fail(self, count: int = 1) -> None:
        """Make calls that fail."""
        for _ in range(count):
            self.breaker.acquire().failure(0.1)

    def refusal(self) -> CircuitOpen:
        """Return the error of a call that may not begin."""
        with pytest.raises(CircuitOpen) as caught:
            self.breaker.acquire()
        return caught.value

    def half_open(self) -> Permit:
        """Open it, wait until it tries again, and return the probe."""
        self.fail(OPTIONS.calls)
        self.clock.go(OPTIONS.open_s)
        return self.breaker.acquire()


@pytest.fixture
def watched() -> Watched:
    """A fresh breaker."""
    return Watched()


def test_it_lets_calls_pass_while_they_succeed(watched: Watched) -> None:
    watched.succeed(1_000)
    assert watched.breaker.state is State.CLOSED
    assert watched.changes == []


def test_it_does_not_judge_by_few_calls(watched: Watched) -> None:
    watched.fail(OPTIONS.calls - 1)
    assert watched.breaker.state is State.CLOSED
    watched.fail()
    assert watched.breaker.state is State.OPEN


def test_it_opens_at_the_failure_rate_and_not_below(watched: Watched) -> None:
    watched.succeed(11)
    watched.fail(10)
    assert watched.breaker.state is State.CLOSED
    watched.fail()
    assert watched.breaker.state is State.OPEN


def test_failures_that_are_too_old_do_not_count(watched: Watched) -> None:
    watched.fail(OPTIONS.calls - 1)
    watched.clock.go(OPTIONS.window_s + 3)
    watched.fail(OPTIONS.calls - 1)
    assert watched.breaker.state is State.CLOSED


def test_it_opens_when_most_calls_are_slow(watched: Watched) -> None:
    watched.succeed(2)
    watched.succeed(7, OPTIONS.slow_call_s + 1)
    assert watched.breaker.state is State.CLOSED
    watched.succeed(1, OPTIONS.slow_call_s + 1)
    assert watched.breaker.state is State.OPEN
    assert watched.changes[0].reason == "8 of 10 calls were slow"


def test_an_open_one_refuses_at_once_and_says_when_to_come_back(watched: Watched) -> None:
    watched.fail(OPTIONS.calls)
    watched.clock.go(1.0)
    error = watched.refusal()
    assert error.retry_after_ms == pytest.approx((OPTIONS.open_s - 1.0) * 1_000)
    assert error.retryable
    assert error.details["state"] == "open"
    assert "m-1" in error.message


def test_after_its_time_one_probe_passes_and_the_others_fail_fast(watched: Watched) -> None:
    watched.half_open()
    watched.clock.go(10.0)
    errors = [watched.refusal() for _ in range(100)]
    assert {error.retry_after_ms for error in errors} == {(OPTIONS.lease_s - 10.0) * 1_000}


def test_probes_that_succeed_let_two_pass_then_four_then_all(watched: Watched) -> None:
    watched.half_open().success(0.1)
    for allowed in (2, 4):
        permits = [watched.breaker.acquire() for _ in range(allowed)]
        watched.refusal()
        for permit in permits:
            permit.success(0.1)
    permits = [watched.breaker.acquire() for _ in range(100)]
    assert watched.breaker.state is State.HALF_OPEN
    watched.clock.go(OPTIONS.window_s)
    permits[0].success(0.1)
    assert watched.breaker.state is State.CLOSED


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_limit(watched: Watched) -> None:
    watched.fail(OPTIONS.calls)
    waits = []
    for _ in range(6):
        waits.append(watched.refusal().retry_after_ms)
        watched.clock.go(waits[-1] / 1_000)  # type: ignore[operator]
        watched.fail()
    assert waits == [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]


def test_a_window_of_being_closed_resets_how_long_it_opens(watched: Watched) -> None:
    watched.half_open().failure(0.1)
    watched.clock.go(2 * OPTIONS.open_s)
    watched.succeed(7)
    watched.clock.go(OPTIONS.window_s)
    watched.succeed()
    assert watched.breaker.state is State.CLOSED
    watched.clock.go(OPTIONS.window_s)
    watched.fail(OPTIONS.calls)
    assert watched.refusal().retry_after_ms == OPTIONS.open_s * 1_000


def test_a_slow_probe_opens_it_again(watched: Watched) -> None:
    watched.half_open().success(OPTIONS.slow_call_s + 1)
    assert watched.breaker.state is State.OPEN
    assert watched.changes[-1].reason == "a probe was slow"


def test_a_permit_counts_at_most_once(watched: Watched) -> None:
    permit = watched.breaker.acquire()
    permit.failure(0.1)
    permit.failure(0.1)
    permit.success(0.1)
    permit.neutral()
    assert watched.breaker.snapshot()["calls"] == 1


def test_isolated_by_hand_it_refuses_until_it_is_restored(watched: Watched) -> None:
    before = watched.breaker.acquire()
    watched.breaker.isolate()
    watched.breaker.isolate()
    watched.clock.go(10_000)
    assert watched.refusal().retry_after_ms is None
    watched.breaker.restore()
    before.failure(0.1)
    assert watched.breaker.snapshot()["failures"] == 0
    watched.succeed()
    assert [change.after for change in watched.changes] == [State.ISOLATED, State.CLOSED]


@pytest.mark.parametrize("state", [State.OPEN, State.HALF_OPEN, State.CLOSED])
def test_restoring_it_closes_it_and_forgets_its_failures(watched: Watched, state: State) -> None:
    if state is State.CLOSED:
        watched.fail(3)
    elif state is State.OPEN:
        watched.fail(OPTIONS.calls)
    else:
        watched.half_open()
    watched.breaker.restore()
    assert watched.breaker.state is State.CLOSED
    watched.fail(OPTIONS.calls - 1)
    assert watched.breaker.state is State.CLOSED


def test_failures_elsewhere_weigh_as_much_as_half_of_the_calls_it_judges_by(
    watched: Watched,
) -> None:
    watched.breaker.record_failures(50)
    watched.fail(OPTIONS.calls // 2 - 1)
    assert watched.breaker.state is State.CLOSED
    watched.fail()
    assert watched.breaker.state is State.OPEN


def test_successes_here_outweigh_failures_elsewhere(watched: Watched) -> None:
    watched.breaker.record_failures(50)
    watched.succeed(OPTIONS.calls)
    watched.fail()
    assert watched.breaker.state is State.CLOSED


def test_every_change_is_told_with_its_reason_and_when_to_come_back(watched: Watched) -> None:
    watched.half_open()
    assert watched.changes == [
        Transition(State.CLOSED, State.OPEN, "10 of 10 calls failed", OPTIONS.open_s * 1_000),
        Transition(State.OPEN, State.HALF_OPEN, "its time is over", None),
    ]


def test_its_snapshot_says_what_it_knows(watched: Watched) -> None:
    watched.succeed(2)
    watched.succeed(1, OPTIONS.slow_call_s + 1)
    watched.fail()
    assert watched.breaker.snapshot() == {
        "state": "closed",
        "generation": 0,
        "calls": 4,
        "failures": 1,
        "slow_calls": 1,
        "opened_times": 0,
        "retry_after_ms": None,
    }
    watched.fail(OPTIONS.calls - 4)
    snapshot = watched.breaker.snapshot()
    assert (snapshot["state"], snapshot["generation"], snapshot["opened_times"]) == ("open", 1, 1)
    assert snapshot["retry_after_ms"] == OPTIONS.open_s * 1_000
