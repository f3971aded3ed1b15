"""A clock that goes when a test says so."""

from __future__ import annotations


class Clock:
    """Monotonic seconds; sleeping is going on at once."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        """Let time pass, as `asyncio.sleep` does."""
        self.slept.append(seconds)
        self.now += seconds
