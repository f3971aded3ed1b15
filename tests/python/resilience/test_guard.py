"""A guarded call: each layer in its place, and each outcome weighed by one table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from isthmus import errors
from isthmus.errors import (
    BY_CODE,
    Cancelled,
    CircuitOpen,
    DeadlineExceeded,
    IsthmusError,
    NumericError,
    QueueFull,
    Unavailable,
)
from isthmus.limits import BREAKER_DEADLINE_S
from isthmus.resilience.admission import Bulkhead
from isthmus.resilience.breaker import Breaker, State
from isthmus.resilience.guard import RULES, Guard, Weight, is_retried, weigh
from isthmus.resilience.options import BreakerOptions
from isthmus.resilience.retry import Retrier
from tests.python.resilience.clock import Clock

WAIT_S = 10.0
OPTIONS = BreakerOptions()


class Guarded:
    """A guard whose parts can be seen."""

    def __init__(self, limit: int = 10, attempt_timeout_s: float | None = None) -> None:
        self.clock = Clock()
        self.retrier = Retrier(clock=self.clock, sleep=self.clock.sleep)
        self.breaker = Breaker(OPTIONS, self.clock)
        self.bulkhead = Bulkhead(limit, lambda: 250.0, "calls")
        self.guard = Guard(self.retrier, self.breaker, self.bulkhead, attempt_timeout_s, self.clock)
        self.begun = 0

    async def call(self, *outcomes: Exception | int, **options: Any) -> int:
        """Make a call whose attempts end so, one after the other."""
        left = list(outcomes)

        async def attempt() -> int:
            self.begun += 1
            outcome = left.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return await self.guard.call(attempt, **options)

    def counts(self) -> tuple[int, int]:
        """Return the breaker's calls and failures."""
        snapshot = self.breaker.snapshot()
        return snapshot["calls"], snapshot["failures"]


@pytest.fixture
def guarded() -> Guarded:
    """A fresh guard."""
    return Guarded()


async def test_a_success_is_one_attempt_and_one_call_of_the_breaker(guarded: Guarded) -> None:
    assert await guarded.call(7) == 7
    assert (guarded.begun, guarded.counts(), guarded.bulkhead.count) == (1, (1, 0), 0)
    assert guarded.retrier.attempts == 1


async def test_each_attempt_is_a_call_of_its_own_for_the_breaker(guarded: Guarded) -> None:
    assert await guarded.call(Unavailable("x"), Unavailable("x"), 7) == 7
    assert (guarded.begun, guarded.counts()) == (3, (3, 2))
    assert (guarded.retrier.attempts, guarded.retrier.retries) == (3, 2)


async def test_a_breaker_that_opens_ends_the_attempts(guarded: Guarded) -> None:
    for _ in range(OPTIONS.calls - 1):
        guarded.breaker.acquire().failure(0.1)
    with pytest.raises(CircuitOpen):
        await guarded.call(Unavailable("x"), 7)
    assert guarded.begun == 1
    with pytest.raises(CircuitOpen):
        await guarded.call(7)
    assert (guarded.begun, guarded.bulkhead.count) == (1, 0)


async def test_a_full_bulkhead_refuses_and_says_nothing_of_the_model() -> None:
    guarded, gate = Guarded(limit=1), asyncio.Event()

    async def wait() -> int:
        await gate.wait()
        return 1

    first = asyncio.ensure_future(guarded.guard.call(wait))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as caught:
        await guarded.call(7)
    assert (caught.value.retry_after_ms, guarded.begun) == (250.0, 0)
    gate.set()
    assert await asyncio.wait_for(first, WAIT_S) == 1
    assert guarded.counts() == (1, 0)
    assert await guarded.call(7) == 7


async def test_a_probe_that_finds_the_bulkhead_full_gives_its_place_back() -> None:
    guarded = Guarded(limit=0)
    for _ in range(OPTIONS.calls):
        guarded.breaker.acquire().failure(0.1)
    guarded.clock.go(OPTIONS.open_s)
    for _ in range(3):
        with pytest.raises(QueueFull):
            await guarded.call(7)
    assert guarded.breaker.state is State.HALF_OPEN


async def test_a_cancelled_call_is_neutral_and_leaves_its_place(guarded: Guarded) -> None:
    begun = asyncio.Event()

    async def hang() -> int:
        begun.set()
        await asyncio.Event().wait()
        return 0

    call = asyncio.ensure_future(guarded.guard.call(hang))
    await asyncio.wait_for(begun.wait(), WAIT_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, WAIT_S)
    assert (guarded.counts(), guarded.bulkhead.count) == ((0, 0), 0)


async def test_no_attempt_begins_after_the_deadline(guarded: Guarded) -> None:
    with pytest.raises(Unavailable):
        await guarded.call(Unavailable("x"), 7, deadline=guarded.clock.now)
    assert guarded.begun == 1


async def test_an_attempt_s_time_out_is_the_model_s_failure_and_not_tried_again() -> None:
    guarded = Guarded(attempt_timeout_s=0.001)

    async def hang() -> int:
        await asyncio.Event().wait()
        return 0

    with pytest.raises(DeadlineExceeded) as caught:
        await asyncio.wait_for(guarded.guard.call(hang), WAIT_S)
    assert caught.value.phase == "attempt"
    assert guarded.counts() == (1, 1)


async def test_a_time_out_of_the_attempt_s_own_is_not_taken_for_the_guard_s() -> None:
    guarded = Guarded(attempt_timeout_s=WAIT_S)
    with pytest.raises(TimeoutError):
        await guarded.call(TimeoutError())


async def test_what_counts_as_slow_is_the_caller_s_to_measure(guarded: Guarded) -> None:
    await guarded.call(7, measure=lambda result: OPTIONS.slow_call_s + result)
    assert guarded.breaker.snapshot()["slow_calls"] == 1
    await guarded.call(7, measure=lambda result: 0.0)
    assert guarded.breaker.snapshot()["slow_calls"] == 1


async def test_an_error_that_is_none_of_ours_is_the_model_s(guarded: Guarded) -> None:
    with pytest.raises(ValueError, match="odd"):
        await guarded.call(ValueError("odd"))
    assert guarded.counts() == (1, 1)


def make(code: str, **details: Any) -> IsthmusError:
    """Return an error with a code."""
    return BY_CODE[code]("x", **details)


NEUTRAL = (
    "INVALID_REQUEST",
    "MODEL_NOT_LOADED",
    "PATH_REFUSED",
    "FRAME_TOO_LARGE",
    "CONSTRAINT_FAILED",
    "CANCELLED",
    "QUEUE_FULL",
    "MEMORY_LIMIT",
    "CIRCUIT_OPEN",
    "CLOSING",
    "ENGINE_DEAD",
)


@pytest.mark.parametrize("code", NEUTRAL)
def test_these_say_nothing_of_the_model_and_are_not_tried_again(code: str) -> None:
    assert weigh(make(code)) is Weight.NEUTRAL
    assert not is_retried(make(code))


@pytest.mark.parametrize("code", ["NUMERIC_ERROR", "INTERNAL", "DEADLINE_EXCEEDED"])
def test_these_are_the_model_s_failures_and_are_not_tried_again(code: str) -> None:
    assert weigh(make(code)) is Weight.FAILURE
    assert not is_retried(make(code))


def test_what_passes_is_tried_again_but_not_once_a_token_is_out() -> None:
    assert weigh(Unavailable("x")) is Weight.FAILURE
    assert is_retried(Unavailable("x"))
    assert is_retried(Unavailable("x", completion_tokens=0))
    assert not is_retried(Unavailable("x", completion_tokens=1))


@pytest.mark.parametrize(
    ("phase", "weight"),
    [
        ("queue", Weight.NEUTRAL),
        ("template", Weight.NEUTRAL),
        ("prefill", Weight.FAILURE),
        ("decode", Weight.FAILURE),
        ("running", Weight.FAILURE),
    ],
)
def test_a_deadline_counts_only_when_the_model_was_running(phase: str, weight: Weight) -> None:
    assert weigh(DeadlineExceeded("x", phase=phase)) is weight


def test_a_deadline_that_leaves_the_model_no_time_says_nothing_of_it() -> None:
    late = DeadlineExceeded("x", phase="decode")
    assert weigh(late, BREAKER_DEADLINE_S / 2) is Weight.NEUTRAL
    assert weigh(late, BREAKER_DEADLINE_S) is Weight.FAILURE


def test_the_table_names_only_codes_that_there_are() -> None:
    assert set(RULES) <= set(BY_CODE)


@pytest.mark.parametrize("kind", [Cancelled, errors.InvalidRequest, NumericError])
async def test_no_error_is_swallowed(kind: Callable[[str], Exception], guarded: Guarded) -> None:
    with pytest.raises(kind):  # type: ignore[call-overload]
        await guarded.call(kind("x"))
