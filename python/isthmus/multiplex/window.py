"""When a host lets collected calls go: a pure controller, the same in both languages.

One window stands for one key (method, model, options). It counts; the calls themselves are kept by
the multiplexer, which asks it at each event. It never holds a call while nothing of its key is in
flight. Twin: `bridge/src/connection/window.ts`; shared cases: `tests/vectors/window.json`.

    nothing in flight   a batch leaves at the end of the turn of the event loop that began it
    a batch in flight   calls collect until it is answered, the batch is full, or time is up

Time is up after as long as batches of this key took lately, at most `hold_limit_ms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..limits import BATCH_BYTES, BATCH_CALLS, HOLD_FLOOR_MS, HOLD_LIMIT_MS


class Flush(StrEnum):
    """Why a batch left."""

    TURN = "turn"
    """Nothing was in flight: it left with its turn."""
    REPLY = "reply"
    """What was in flight has been answered."""
    COUNT = "count"
    BYTES = "bytes"
    TIME = "time"
    CLOSE = "close"
    """The connection is about to end."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How much may collect."""

    calls: int = BATCH_CALLS
    size_bytes: int = BATCH_BYTES
    hold_limit_ms: float = HOLD_LIMIT_MS
    hold_floor_ms: float = HOLD_FLOOR_MS


DEFAULT_LIMITS: Final = WindowLimits()

_LEARNING_RATE: Final = 0.25
"""Weight of the latest batch in the average duration."""


class Window:
    """Decides when the calls of one key leave.

    Args:
        clock: Monotonic milliseconds.
        limits: How much may collect.
    """

    __slots__ = (
        "_average_ms",
        "_clock",
        "_is_held",
        "_limits",
        "calls",
        "in_flight",
        "opened_at",
        "size_bytes",
    )

    def __init__(self, clock: Callable[[], float], limits: WindowLimits = DEFAULT_LIMITS) -> None:
        self._clock = clock
        self._limits = limits
        self._average_ms: float | None = None
        self._is_held = False
        self.calls = 0
        """Calls that collect."""
        self.size_bytes = 0
        """What they carry."""
        self.opened_at = 0.0
        """When the first of them came."""
        self.in_flight = 0
        """Batches of this key that are not answered."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing collects and nothing is in flight."""
        return self.calls == 0 and self.in_flight == 0

    @property
    def due_at(self) -> float:
        """When what collects must leave, answered or not."""
        hold_ms = self._limits.hold_limit_ms
        if self._average_ms is not None:
            hold_ms = min(max(self._average_ms, self._limits.hold_floor_ms), hold_ms)
        return self.opened_at + hold_ms

    @property
    def held_ms(self) -> float:
        """How long the first of the collected calls has been kept back; 0 within its own turn."""
        return self._clock() - self.opened_at if self._is_held else 0.0

    def before(self, size_bytes: int) -> Flush | None:
        """Return why what has collected must leave before a call of this size joins."""
        if self.calls > 0 and self.size_bytes + size_bytes > self._limits.size_bytes:
            return Flush.BYTES
        return None

    def join(self, size_bytes: int) -> Flush | None:
        """Take one call; return why the batch must leave now, if it must."""
        if self.calls == 0:
            self.opened_at = self._clock()
            self._is_held = self.in_flight > 0
        self.calls += 1
        self.size_bytes += size_bytes
        if self.calls >= self._limits.calls:
            return Flush.COUNT
        if self.size_bytes >= self._limits.size_bytes:
            return Flush.BYTES
        return None

    def leave(self, size_bytes: int) -> None:
        """Forget one call that collects: its caller gave up."""
        self.calls -= 1
        self.size_bytes -= size_bytes

    def end_turn(self) -> Flush | None:
        """Return why the batch leaves with this turn of the event loop; None while it is held."""
        if self.calls == 0:
            return None
        if self.in_flight == 0:
            return Flush.REPLY if self._is_held else Flush.TURN
        if self._clock() >= self.due_at:
            return Flush.TIME
        self._is_held = True
        return None

    def sent(self) -> None:
        """What collected has left as one batch."""
        self.calls = self.size_bytes = 0
        self.in_flight += 1

    def settled(self, took_ms: float | None) -> None:
        """A batch has been answered after so long, or ended without an answer (None)."""
        self.in_flight -= 1
        if took_ms is None:
            return
        average = self._average_ms
        self._average_ms = (
            took_ms if average is None else average + _LEARNING_RATE * (took_ms - average)
        )
