"""Whether a runtime whose process has ended is started again, and how long that waits.

As Erlang's supervisors: so many restarts in so much time and no more, and a count of ends in a row
that only healthy time sets back, never a hello alone. Pure: time and randomness are passed in.
Twin: `bridge/src/process/restart-policy.ts`; both are held to `tests/vectors/restarts.json`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..limits import (
    RESTART_BACKOFF_MS,
    RESTART_HEALTHY_MS,
    RESTART_LIMIT,
    RESTART_MAX_BACKOFF_MS,
    RESTART_WINDOW_MS,
)

_DOUBLINGS: Final = 64
"""More would leave the range of a float."""


@dataclass(frozen=True, slots=True)
class RestartOptions:
    """How often, and how soon, a runtime is started again.

    Attributes:
        limit: Most restarts that begin within the window, and most ends in a row of processes that
            were not healthy.
        window_ms: The window, in milliseconds.
        backoff_ms: Upper bound of the first wait; it doubles.
        max_backoff_ms: Upper bound of any wait.
        healthy_ms: How long after its hello a process has to live to count as healthy.
    """

    limit: int = RESTART_LIMIT
    window_ms: float = RESTART_WINDOW_MS
    backoff_ms: float = RESTART_BACKOFF_MS
    max_backoff_ms: float = RESTART_MAX_BACKOFF_MS
    healthy_ms: float = RESTART_HEALTHY_MS


class RestartPolicy:
    """Decides about one runtime.

    Args:
        options: How often and how soon.
        uniform: Draws from 0 to 1: full jitter, so that hosts that lost their runtimes together
            do not start them together.
    """

    def __init__(
        self,
        options: RestartOptions = RestartOptions(),
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._options = options
        self._uniform = uniform
        self._begun_ms: deque[float] = deque()
        self._unhealthy = 0

    def next(self, now_ms: float, healthy_for_ms: float) -> float | None:
        """Take the end of a process; return the milliseconds to wait, or None to give up.

        Args:
            now_ms: When it ended.
            healthy_for_ms: How long it lived after its hello; 0 if it said none.
        """
        options = self._options
        before = self._unhealthy
        if healthy_for_ms >= options.healthy_ms:
            before = self._unhealthy = 0
        else:
            self._unhealthy += 1
        while self._begun_ms and now_ms - self._begun_ms[0] >= options.window_ms:
            self._begun_ms.popleft()
        if len(self._begun_ms) >= options.limit or self._unhealthy > options.limit:
            return None
        self._begun_ms.append(now_ms)
        bound_ms = options.backoff_ms * 2.0 ** min(before, _DOUBLINGS)
        return self._uniform() * min(bound_ms, options.max_backoff_ms)

    def clear(self) -> None:
        """Forget all ends: somebody has looked at it."""
        self._begun_ms.clear()
        self._unhealthy = 0
