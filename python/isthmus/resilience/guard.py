"""One call of a model, guarded: total time-out, retry, breaker, bulkhead, attempt time-out.

From the outside in, in this order: the deadline covers all attempts and their waits; each attempt
asks the breaker anew, takes a place in the bulkhead, and may have a time-out of its own. Which
failures are tried again and which count against the model is one table, `RULES`. A call that
succeeds pays for a few counters: no task, no timer unless there is a time-out, and no tenacity.
What the attempt does is not known here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from ..errors import DeadlineExceeded, IsthmusError
from ..limits import BREAKER_DEADLINE_S
from .admission import Bulkhead
from .breaker import Breaker, Permit
from .retry import Retrier

T = TypeVar("T")


class Weight(Enum):
    """What an outcome says of the model."""

    FAILURE = "failure"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows from an error: whether it is tried again, and what it says of the model."""

    is_retried: bool
    weight: Weight


_CALLERS: Final = Rule(False, Weight.NEUTRAL)
"""The caller's own, or of the runtime's state: another attempt would end alike."""

_MODELS: Final = Rule(False, Weight.FAILURE)
"""The model's: it would do the same again."""

RULES: Final = {
    "INVALID_REQUEST": _CALLERS,
    "MODEL_NOT_LOADED": _CALLERS,
    "PATH_REFUSED": _CALLERS,
    "CODE_REFUSED": _CALLERS,
    "FRAME_TOO_LARGE": _CALLERS,
    "LOCAL_PROTOCOL_ERROR": _CALLERS,
    "CONSTRAINT_FAILED": _CALLERS,
    "CANCELLED": _CALLERS,
    "QUEUE_FULL": _CALLERS,
    "MEMORY_LIMIT": _CALLERS,
    "CIRCUIT_OPEN": _CALLERS,
    "CLOSING": _CALLERS,
    "ENGINE_DEAD": _CALLERS,
    "UNAVAILABLE": Rule(True, Weight.FAILURE),
    "DEADLINE_EXCEEDED": _MODELS,
    "NUMERIC_ERROR": _MODELS,
    "INTERNAL": _MODELS,
}
"""By code; what is not here is the model's. A deadline that passes before the model runs, or leaves
it less than BREAKER_DEADLINE_S, is the caller's (`weigh`). Nothing is tried again once a token is
out (`is_retried`)."""

_ATTEMPT: Final = "attempt"
"""The phase of a time-out that the runtime sets, not the caller."""

_BEFORE_IT_RUNS: Final = frozenset(("queue", "template"))
"""Phases in which a deadline says nothing of the model."""


def is_retried(error: Exception) -> bool:
    """Whether a call that ended so is tried again."""
    return (
        isinstance(error, IsthmusError)
        and RULES.get(error.code, _MODELS).is_retried
        and not error.details.get("completion_tokens")
    )


def weigh(error: Exception, seconds: float = math.inf) -> Weight:
    """Return what an error says of the model, of a call that ran for so long."""
    if not isinstance(error, IsthmusError):
        return Weight.FAILURE
    if isinstance(error, DeadlineExceeded) and (
        error.phase in _BEFORE_IT_RUNS or (error.phase != _ATTEMPT and seconds < BREAKER_DEADLINE_S)
    ):
        return Weight.NEUTRAL
    return RULES.get(error.code, _MODELS).weight


class Guard:
    """Guards the calls of one kind on one model.

    Args:
        retrier: Shared by all models: the budget for retries is one.
        breaker: The model's.
        bulkhead: Bounds the calls under way.
        attempt_timeout_s: Longest that one attempt may take; None does not bound it.
        clock: Monotonic seconds.
    """

    __slots__ = ("_attempt_timeout_s", "_clock", "breaker", "bulkhead", "retrier")

    def __init__(
        self,
        retrier: Retrier,
        breaker: Breaker,
        bulkhead: Bulkhead | None = None,
        attempt_timeout_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.retrier = retrier
        self.breaker = breaker
        self.bulkhead = bulkhead
        self._attempt_timeout_s = attempt_timeout_s
        self._clock = clock

    async def call(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        deadline: float | None = None,
        measure: Callable[[T], float] | None = None,
        is_first: bool = True,
    ) -> T:
        """Return what an attempt returns.

        Args:
            attempt: Begins one attempt.
            deadline: By the clock; no attempt begins after it. Ending the one that runs then is
                the caller's, who has a timer for it already.
            measure: The seconds by which a success counts as slow; without it, those it took.
            is_first: Whether more attempts may follow.

        Raises:
            CircuitOpen: The breaker lets no call begin.
            QueueFull: Too many are under way.
            Exception: Of the last attempt.
        """
        # One coroutine, and little called: each of either costs a tenth of what guarding may.
        clock, bulkhead, retrier = self._clock, self.bulkhead, self.retrier
        permit = self.breaker.acquire()
        if bulkhead is not None:
            try:
                bulkhead.enter()
            except BaseException:
                permit.neutral()
                raise
        if is_first:
            retrier.attempts += 1
        started = clock()
        try:
            if self._attempt_timeout_s is None:
                result = await attempt()
            else:
                result = await self._in_time(attempt, self._attempt_timeout_s)
        except BaseException as error:
            self._judge(permit, error, clock() - started)
            if not is_first or not isinstance(error, Exception) or not is_retried(error):
                raise
            failure = error
        else:
            now = clock()
            permit.success(now - started if measure is None else measure(result), now)
            if is_first:
                retrier.budget.success()
            return result
        finally:
            if bulkhead is not None:
                bulkhead.leave()
        return await retrier.again(
            lambda: self.call(attempt, measure=measure, is_first=False),
            failure,
            is_retryable=is_retried,
            deadline=deadline,
        )

    async def _in_time(self, attempt: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        timeout = asyncio.timeout(timeout_s)
        try:
            async with timeout:
                return await attempt()
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(
                f"the model did not answer within {timeout_s:g} s; ask for less at a time",
                phase=_ATTEMPT,
            ) from None

    def _judge(self, permit: Permit, error: BaseException, seconds: float) -> None:
        if isinstance(error, Exception) and weigh(error, seconds) is Weight.FAILURE:
            permit.failure(seconds)
        else:
            permit.neutral()
