"""The life of a host's runtime: one enum, one table of transitions, one place that says them.

A runtime outlives its processes: when one ends, the runtime is restarting, not gone. Knows no
process, no time and no policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class RuntimeState(StrEnum):
    """Where in its life a runtime is."""

    STARTING = "starting"
    """Its first process has said no hello yet."""
    RUNNING = "running"
    RESTARTING = "restarting"
    """A process has ended and another is on its way; requests wait."""
    FAILED = "failed"
    """It ended too often; requests are refused until it is told to restart."""
    CLOSING = "closing"
    CLOSED = "closed"


TRANSITIONS: Final[Mapping[RuntimeState, frozenset[RuntimeState]]] = {
    RuntimeState.STARTING: frozenset((RuntimeState.RUNNING, RuntimeState.FAILED)),
    RuntimeState.RUNNING: frozenset((RuntimeState.RESTARTING, RuntimeState.CLOSING)),
    RuntimeState.RESTARTING: frozenset(
        (RuntimeState.RUNNING, RuntimeState.FAILED, RuntimeState.CLOSING)
    ),
    RuntimeState.FAILED: frozenset((RuntimeState.RESTARTING, RuntimeState.CLOSING)),
    RuntimeState.CLOSING: frozenset((RuntimeState.CLOSED,)),
    RuntimeState.CLOSED: frozenset(),
}
"""Where a life may go from each state."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """A step in the life of a runtime.

    Attributes:
        from_state: Where it was.
        to_state: Where it is now.
        reason: Why, in words.
        error: What the callers who lost something by it were told.
        attempt: Which restart since it last ran, counted from 1; 0 when none is meant.
        delay_ms: How long it is waited for.
    """

    from_state: RuntimeState
    to_state: RuntimeState
    reason: str | None = None
    error: BaseException | None = None
    attempt: int = 0
    delay_ms: float | None = None


OnState = Callable[[StateChange], object]
"""Told of each step, on the event loop."""


class Life:
    """The state of one runtime.

    Args:
        tell: Told of each step.
    """

    def __init__(self, tell: OnState) -> None:
        self.state = RuntimeState.STARTING
        self._tell = tell

    def to(
        self,
        state: RuntimeState,
        *,
        reason: str | None = None,
        error: BaseException | None = None,
        attempt: int = 0,
        delay_ms: float | None = None,
    ) -> None:
        """Take a step.

        Raises:
            ValueError: There is no such step: a defect of the caller.
        """
        before = self.state
        if state not in TRANSITIONS[before]:
            raise ValueError(f"a runtime that is {before} cannot be {state} next")
        self.state = state
        self._tell(StateChange(before, state, reason, error, attempt, delay_ms))

    @property
    def is_over(self) -> bool:
        """Whether it ends or has ended, by the caller's wish or for good."""
        return self.state in (RuntimeState.CLOSING, RuntimeState.CLOSED)
