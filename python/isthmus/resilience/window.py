"""A rolling window of outcomes: how many calls of the last seconds failed, or were slow.

Time is cut into buckets, of which the oldest is forgotten as a whole, so that counting a call is a
few additions whatever their number. Knows no clock: the time is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    number: int = -1
    """Which part of time it counts; -1 when it is empty."""
    calls: int = 0
    failures: int = 0
    slow_calls: int = 0


class RollingWindow:
    """Counts outcomes.

    Args:
        seconds: How far back it looks.
        buckets: In how many parts.
    """

    __slots__ = (
        "_bucket_s",
        "_buckets",
        "_current",
        "_current_ends_at",
        "calls",
        "failures",
        "slow_calls",
    )

    def __init__(self, seconds: float, buckets: int) -> None:
        self._bucket_s = seconds / buckets
        self._buckets = [_Bucket() for _ in range(buckets)]
        self._current = self._buckets[0]
        self._current_ends_at = -math.inf
        self.calls = 0
        """Of the window, as of the last `add` or `forget`; the others too."""
        self.failures = 0
        self.slow_calls = 0

    def add(self, now: float, is_failure: bool, is_slow: bool, count: int = 1) -> None:
        """Count calls that ended now."""
        if now >= self._current_ends_at:
            self.forget(now)
        bucket = self._current
        bucket.calls += count
        self.calls += count
        if is_failure:
            bucket.failures += count
            self.failures += count
        if is_slow:
            bucket.slow_calls += count
            self.slow_calls += count

    def forget(self, now: float) -> None:
        """Drop what is too old."""
        newest, many = int(now / self._bucket_s), len(self._buckets)
        for place, bucket in enumerate(self._buckets):
            if bucket.number <= newest - many:
                self.calls -= bucket.calls
                self.failures -= bucket.failures
                self.slow_calls -= bucket.slow_calls
                self._buckets[place] = _Bucket()
        self._current = self._buckets[newest % many]
        self._current.number = newest
        self._current_ends_at = (newest + 1) * self._bucket_s

    def clear(self) -> None:
        """Drop everything."""
        self._buckets = [_Bucket() for _ in self._buckets]
        self._current_ends_at = -math.inf
        self.calls = self.failures = self.slow_calls = 0
