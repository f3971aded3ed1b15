"""When a breaker opens and closes."""

from __future__ import annotations

from dataclasses import dataclass

from ..limits import (
    BREAKER_BUCKETS,
    BREAKER_CALLS,
    BREAKER_FAILURE_RATE,
    BREAKER_LEASE_S,
    BREAKER_OPEN_LIMIT_S,
    BREAKER_OPEN_S,
    BREAKER_SLOW_CALL_S,
    BREAKER_SLOW_RATE,
    BREAKER_WINDOW_S,
)


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    """When a breaker opens and closes; see limits.py for each."""

    window_s: float = BREAKER_WINDOW_S
    buckets: int = BREAKER_BUCKETS
    calls: int = BREAKER_CALLS
    failure_rate: float = BREAKER_FAILURE_RATE
    slow_rate: float = BREAKER_SLOW_RATE
    slow_call_s: float = BREAKER_SLOW_CALL_S
    open_s: float = BREAKER_OPEN_S
    open_limit_s: float = BREAKER_OPEN_LIMIT_S
    lease_s: float = BREAKER_LEASE_S
