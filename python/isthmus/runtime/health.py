"""What the runtime says of itself: loop lag, engine progress, memory, counters."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

LAG_PERIOD_S: Final = 0.25
"""How often the loop is asked for its lag; the parent is looked at with it."""


class LoopLag:
    """Measures how late the event loop runs what it was asked to run.

    Args:
        loop: The loop.
        on_tick: Called at every measurement.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_tick: Callable[[], None]) -> None:
        self._loop = loop
        self._on_tick = on_tick
        self._latest_ms = 0.0
        self._max_ms = 0.0
        self._due = loop.time() + LAG_PERIOD_S
        self._timer = loop.call_at(self._due, self._tick)

    def stop(self) -> None:
        """End the measurement."""
        self._timer.cancel()

    def take(self) -> dict[str, float]:
        """Return the latest lag and the largest since the last call, in milliseconds."""
        taken = {"loop_lag_ms": self._latest_ms, "loop_lag_max_ms": self._max_ms}
        self._max_ms = 0.0
        return taken

    def _tick(self) -> None:
        now = self._loop.time()
        self._latest_ms = max(0.0, (now - self._due) * 1_000)
        self._max_ms = max(self._max_ms, self._latest_ms)
        self._due = now + LAG_PERIOD_S
        self._timer = self._loop.call_at(self._due, self._tick)
        self._on_tick()


class Counters:
    """Counts what happened; names are stable, `stats` returns them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.started_at = time.monotonic()

    def add(self, name: str, count: int = 1) -> None:
        """Add to a counter."""
        self._counts[name] += count

    def snapshot(self) -> dict[str, Any]:
        """Return all counters and the uptime in milliseconds."""
        return {**self._counts, "uptime_ms": (time.monotonic() - self.started_at) * 1_000}


def resident_bytes() -> int:
    """Return the resident size of this process, or its peak where the present is not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
