"""The ends of a runtime's processes: counted, judged by the policy, reported in the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..errors import IsthmusError, RuntimeFailed, StartFailed
from .reports import ProcessEnd, cause_of, failed_error
from .restarts import RestartOptions, RestartPolicy


class Ends:
    """The ends that nobody asked for.

    Args:
        options: When to go on; None for never.
        uniform: Draws from 0 to 1, for the waits.
    """

    def __init__(self, options: RestartOptions | None, uniform: Callable[[], float]) -> None:
        self._policy = None if options is None else RestartPolicy(options, uniform)
        self._ends: deque[ProcessEnd] = deque(maxlen=1 + (0 if options is None else options.limit))

    def add(self, now_ms: float, error: Exception, lived_ms: float = 0.0) -> float | None:
        """Take an end; return the milliseconds to wait for another process, or None for none.

        Args:
            error: What those were told who waited.
            lived_ms: How long the process lived after its hello; 0 if it said none.
        """
        if not isinstance(error, IsthmusError):
            error = StartFailed(f"it cannot be started: {error!r}", phase="start")
        self._ends.append(ProcessEnd(now_ms, lived_ms, cause_of(error), error))
        return None if self._policy is None else self._policy.next(now_ms, lived_ms)

    def report(self) -> RuntimeFailed:
        """Return what is to be said of a runtime that is given up."""
        return failed_error(self._ends)

    def clear(self) -> None:
        """Forget them: somebody has looked."""
        self._ends.clear()
        if self._policy is not None:
            self._policy.clear()
