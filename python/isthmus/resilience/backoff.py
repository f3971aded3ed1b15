"""How long a retry waits and when it gives up, by tenacity.

Apart from `retry`, so that tenacity is imported when something has failed, and not before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.wait import wait_exponential, wait_random_exponential


class FullJitter(wait_random_exponential):
    """A wait drawn from zero to a bound that doubles, with randomness that is passed in."""

    def __init__(
        self, backoff_s: float, limit_s: float, uniform: Callable[[float, float], float]
    ) -> None:
        super().__init__(multiplier=backoff_s, max=limit_s)
        self._uniform = uniform

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the seconds to wait after this attempt."""
        bound: float = wait_exponential.__call__(self, retry_state)
        return self._uniform(0.0, bound)


def retrying(
    *,
    stop: Callable[[int, float], bool],
    is_retryable: Callable[[Exception], bool],
    backoff_s: float,
    backoff_limit_s: float,
    sleep: Callable[[float], Awaitable[None]],
    uniform: Callable[[float, float], float],
) -> AsyncRetrying:
    """Return tenacity's loop over attempts.

    Args:
        stop: Given the number of an attempt that failed and the seconds that would be waited,
            returns whether that failure is final.
        is_retryable: Whether a failure passes; what is no `Exception`, as a cancel, never does.
        backoff_s: Upper bound of the first wait.
        backoff_limit_s: Upper bound of any wait.
        sleep: Waits.
        uniform: Draws a wait.
    """
    return AsyncRetrying(
        sleep=sleep,
        stop=lambda state: stop(state.attempt_number, state.upcoming_sleep),
        wait=FullJitter(backoff_s, backoff_limit_s, uniform),
        retry=retry_if_exception(
            lambda error: isinstance(error, Exception) and is_retryable(error)
        ),
        reraise=True,
    )
