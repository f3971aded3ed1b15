"""Tries again what failed in passing, within one deadline and one budget for all callers.

The first attempt is bare: a call that succeeds pays for two counters. tenacity is imported after
the first failure that may be retried, because importing it takes 35 ms, which is more than most
calls do. Which failures pass is the caller's to say (`guard.RULES` for calls of a model). Knows no
model and no wire; the clock, the sleep and the randomness are passed in.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ..limits import (
    RETRY_ATTEMPTS,
    RETRY_BACKOFF_LIMIT_S,
    RETRY_BACKOFF_S,
    RETRY_BUDGET_RATIO,
    RETRY_BUDGET_TOKENS,
)

T = TypeVar("T")


class RetryBudget:
    """A token bucket that a storm of failures empties, as in gRPC's retry throttling (A6).

    Args:
        tokens: The most that it holds, and what it begins with.
        ratio: What a success gives back.
    """

    __slots__ = ("_most", "_ratio", "tokens")

    def __init__(
        self, tokens: float = RETRY_BUDGET_TOKENS, ratio: float = RETRY_BUDGET_RATIO
    ) -> None:
        self._most = tokens
        self._ratio = ratio
        self.tokens = tokens

    def success(self) -> None:
        """Give back what a success is worth."""
        if self.tokens < self._most:
            self.tokens = min(self.tokens + self._ratio, self._most)

    def failure(self) -> bool:
        """Take a token for a failure that may be retried; return whether it is: more than half of
        the bucket must be left."""
        self.tokens = max(self.tokens - 1.0, 0.0)
        return self.tokens > self._most / 2


class Retrier:
    """Calls attempts until one succeeds, or fails for good.

    Args:
        budget: Shared by all calls.
        attempts: Most attempts of one call, the first among them.
        backoff_s: Upper bound of the first wait; it doubles.
        backoff_limit_s: Upper bound of any wait.
        clock: Monotonic seconds.
        sleep: Waits so many seconds.
        uniform: Draws a wait between two bounds: full jitter.
    """

    __slots__ = (
        "_backoff_limit_s",
        "_backoff_s",
        "_clock",
        "_most_attempts",
        "_sleep",
        "_uniform",
        "attempts",
        "budget",
        "refused_by_budget",
        "retries",
    )

    def __init__(
        self,
        budget: RetryBudget | None = None,
        *,
        attempts: int = RETRY_ATTEMPTS,
        backoff_s: float = RETRY_BACKOFF_S,
        backoff_limit_s: float = RETRY_BACKOFF_LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.budget = budget or RetryBudget()
        self.attempts = 0
        """Attempts begun, first ones among them."""
        self.retries = 0
        self.refused_by_budget = 0
        self._most_attempts = attempts
        self._backoff_s = backoff_s
        self._backoff_limit_s = backoff_limit_s
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform

    async def call(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        is_retryable: Callable[[Exception], bool],
        deadline: float | None = None,
        backoff_s: float | None = None,
    ) -> T:
        """Return what an attempt returns.

        Args:
            attempt: Begins one attempt.
            is_retryable: Whether a failure passes by itself. A cancel is none.
            deadline: By the clock, when no further attempt may begin; a wait that would pass it is
                not begun.
            backoff_s: Upper bound of this call's first wait, where the usual one does not fit.

        Raises:
            Exception: Of the last attempt.
        """
        self.attempts += 1
        try:
            result = await attempt()
        except Exception as error:
            if not is_retryable(error):
                raise
            failure = error
        else:
            self.budget.success()
            return result
        return await self.again(
            attempt,
            failure,
            is_retryable=is_retryable,
            deadline=deadline,
            backoff_s=backoff_s,
        )

    async def again(
        self,
        attempt: Callable[[], Awaitable[T]],
        failure: Exception,
        *,
        is_retryable: Callable[[Exception], bool],
        deadline: float | None = None,
        backoff_s: float | None = None,
    ) -> T:
        """Go on after a first attempt that failed with `failure`, which may be retried.

        Raises:
            Exception: Of the last attempt.
        """
        from .backoff import retrying

        async for trial in retrying(
            stop=lambda number, wait_s: self._stops(number, wait_s, deadline),
            is_retryable=is_retryable,
            backoff_s=self._backoff_s if backoff_s is None else backoff_s,
            backoff_limit_s=self._backoff_limit_s,
            sleep=self._sleep,
            uniform=self._uniform,
        ):
            with trial:
                if trial.retry_state.attempt_number == 1:
                    raise failure
                self.attempts += 1
                self.retries += 1
                result = await attempt()
                self.budget.success()
                return result
        raise failure

    def stats(self) -> dict[str, Any]:
        """Return the counters of the protocol's `retries`."""
        return {
            "attempts": self.attempts,
            "retries": self.retries,
            "refused_by_budget": self.refused_by_budget,
            "budget_tokens": self.budget.tokens,
        }

    def _stops(self, number: int, wait_s: float, deadline: float | None) -> bool:
        """Whether the failure of attempt `number` is final; asked once for each failure."""
        is_affordable = self.budget.failure()
        if number >= self._most_attempts:
            return True
        if not is_affordable:
            self.refused_by_budget += 1
            return True
        return deadline is not None and self._clock() + wait_s >= deadline
