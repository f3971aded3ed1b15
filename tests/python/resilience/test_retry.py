"""What fails in passing is tried again, within a deadline and a budget; nothing else is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import NumericError, Unavailable
from isthmus.resilience.retry import Retrier, RetryBudget
from tests.python.resilience.clock import Clock

WAIT_S = 10.0


def passes(error: Exception) -> bool:
    """Whether a failure passes."""
    return isinstance(error, Unavailable)


class Attempts:
    """Attempts that end one after the other as they are told to."""

    def __init__(self, outcomes: Iterable[Exception | int]) -> None:
        self.outcomes = list(outcomes)
        self.begun = 0

    async def __call__(self) -> int:
        """Make one."""
        self.begun += 1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def a_retrier(clock: Clock, budget: RetryBudget | None = None, attempts: int = 3) -> Retrier:
    """Return one that waits as long as it may."""
    return Retrier(
        budget, attempts=attempts, clock=clock, sleep=clock.sleep, uniform=lambda low, high: high
    )


async def test_a_first_success_is_one_attempt() -> None:
    retrier, attempts = a_retrier(Clock()), Attempts([7])
    assert await retrier.call(attempts, is_retryable=passes) == 7
    assert attempts.begun == 1
    assert retrier.stats() == {
        "attempts": 1,
        "retries": 0,
        "refused_by_budget": 0,
        "budget_tokens": 100.0,
    }


async def test_a_call_may_have_a_first_wait_of_its_own() -> None:
    clock = Clock()
    retrier, attempts = a_retrier(clock), Attempts([Unavailable("1"), Unavailable("2"), 7])
    await retrier.call(attempts, is_retryable=passes, backoff_s=0.3)
    assert clock.slept == [0.3, 0.6]


async def test_what_passes_is_tried_again_with_growing_waits() -> None:
    clock = Clock()
    attempts = Attempts([Unavailable("1"), Unavailable("2"), Unavailable("3"), 7])
    retrier = a_retrier(clock, attempts=9)
    assert await retrier.call(attempts, is_retryable=passes) == 7
    assert clock.slept == [0.01, 0.02, 0.04]
    assert (retrier.attempts, retrier.retries) == (4, 3)


async def test_the_waits_are_drawn_between_zero_and_their_bound() -> None:
    clock, bounds = Clock(), list[tuple[float, float]]()

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.25 * high

    retrier = Retrier(
        attempts=9, backoff_limit_s=0.03, clock=clock, sleep=clock.sleep, uniform=uniform
    )
    attempts = Attempts([*(Unavailable("x") for _ in range(4)), 7])
    await retrier.call(attempts, is_retryable=passes)
    assert bounds == [(0, 0.01), (0, 0.02), (0, 0.03), (0, 0.03)]
    assert clock.slept == [high / 4 for _, high in bounds]


async def test_the_last_attempt_s_error_is_raised() -> None:
    attempts = Attempts([Unavailable("1"), Unavailable("2"), Unavailable("3"), 7])
    with pytest.raises(Unavailable, match="3"):
        await a_retrier(Clock()).call(attempts, is_retryable=passes)
    assert attempts.begun == 3


@pytest.mark.parametrize("first", [[], [Unavailable("1")]])
async def test_what_does_not_pass_is_final(first: list[Exception]) -> None:
    attempts = Attempts([*first, NumericError("NaN"), 7])
    with pytest.raises(NumericError):
        await a_retrier(Clock()).call(attempts, is_retryable=passes)
    assert attempts.begun == len(first) + 1


async def test_no_wait_passes_the_deadline() -> None:
    clock = Clock()
    attempts = Attempts([Unavailable(str(number)) for number in range(20)])
    with pytest.raises(Unavailable):
        await a_retrier(clock, attempts=20).call(
            attempts, is_retryable=passes, deadline=clock.now + 0.5
        )
    assert clock.slept == [0.01, 0.02, 0.04, 0.08, 0.16]
    assert attempts.begun == 6


async def cancelled_in(attempt: Callable[[], Awaitable[int]], begun: asyncio.Event) -> Retrier:
    """Cancel a call once it has begun what it is cancelled in."""
    retrier = Retrier(backoff_s=1_000.0, backoff_limit_s=1_000.0, uniform=lambda low, high: high)
    call = asyncio.ensure_future(retrier.call(attempt, is_retryable=lambda error: True))
    await asyncio.wait_for(begun.wait(), WAIT_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, WAIT_S)
    return retrier


async def test_a_cancel_in_an_attempt_or_in_a_wait_is_never_tried_again() -> None:
    begun = asyncio.Event()

    async def hang() -> int:
        begun.set()
        await asyncio.Event().wait()
        return 0

    async def fail() -> int:
        begun.set()
        raise Unavailable("x")

    assert (await cancelled_in(hang, begun)).attempts == 1
    begun.clear()
    assert (await cancelled_in(fail, begun)).attempts == 1


async def test_a_cancel_in_a_later_attempt_is_never_tried_again() -> None:
    clock, begun, calls = Clock(), asyncio.Event(), []

    async def fail_then_hang() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("x")
        begun.set()
        await asyncio.Event().wait()
        return 0

    retrier = Retrier(clock=clock, sleep=clock.sleep)
    call = asyncio.ensure_future(retrier.call(fail_then_hang, is_retryable=lambda error: True))
    await asyncio.wait_for(begun.wait(), WAIT_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, WAIT_S)
    assert len(calls) == 2


async def test_a_storm_is_stopped_by_the_budget() -> None:
    retrier = a_retrier(Clock(), RetryBudget(10, 0.1))
    for _ in range(100):
        with pytest.raises(Unavailable):
            await retrier.call(Attempts([Unavailable("x")] * 3), is_retryable=passes)
    assert retrier.attempts == 103
    assert retrier.refused_by_budget == 99


def test_the_budget_refuses_at_or_under_half_and_recovers_by_successes() -> None:
    budget = RetryBudget(10, 0.5)
    assert [budget.failure() for _ in range(6)] == [True] * 4 + [False] * 2
    for _ in range(5):
        budget.success()
    assert budget.tokens == 6.5
    assert budget.failure() and not budget.failure()


@given(st.lists(st.booleans(), max_size=400), st.integers(1, 100), st.floats(0, 1))
def test_the_budget_allows_half_of_it_and_a_share_of_the_successes(
    outcomes: list[bool], tokens: int, ratio: float
) -> None:
    budget, allowed = RetryBudget(tokens, ratio), 0
    for is_success in outcomes:
        if is_success:
            budget.success()
        elif budget.failure():
            allowed += 1
        assert 0 <= budget.tokens <= tokens
    assert allowed <= tokens / 2 + ratio * outcomes.count(True) + 1e-6


def test_nothing_is_imported_for_a_call_that_succeeds() -> None:
    code = (
        "import asyncio, sys\n"
        "from isthmus.resilience.retry import Retrier\n"
        "async def one(): return 1\n"
        "asyncio.run(Retrier().call(one, is_retryable=lambda error: True))\n"
        "print('tenacity' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
