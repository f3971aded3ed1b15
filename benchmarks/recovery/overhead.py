"""What the layer adds to a call that succeeds, in this process: guarded against bare, by turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from isthmus.resilience.registry import Resilience

from ..harness import Spread

CALLS: Final = 5_000
"""Of one round."""


def measure(rounds: int) -> Spread:
    """Return microseconds of processor time that a guarded call takes over a bare one, by paired
    rounds: other programs on the machine are no part of it."""
    return asyncio.run(_measure(rounds))


async def _measure(rounds: int) -> Spread:
    guard = Resilience(lambda handle: True, lambda: 0.0).of("benchmark").generate

    async def call() -> int:
        return 1

    over = []
    for index in range(rounds + 1):
        # Both through one more function, so that the difference is the layer alone.
        bare_s = await _timed(lambda: call())
        guarded_s = await _timed(lambda: guard.call(call))
        if index > 0:
            over.append((guarded_s - bare_s) / CALLS * 1e6)
    return Spread.of(over)


async def _timed(call: Callable[[], Awaitable[int]]) -> float:
    began = time.thread_time()
    for _ in range(CALLS):
        await call()
    return time.thread_time() - began
