"""Whether a runtime that is waited for still listens and gets on: pure decisions.

Judged by what was received, never by the wall clock: a host that was itself blocked, or stopped,
has heard nothing in that time and holds it against nobody. A long prompt counts as progress with
every chunk. Knows no process and no timer; time in milliseconds is passed in. Twin:
`bridge/src/process/watchdog.ts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..limits import (
    HEARTBEAT_INTERVAL_MS,
    HEARTBEAT_LATE_INTERVALS,
    HEARTBEAT_SILENCE_MS,
    HEARTBEAT_STUCK_MS,
)


@dataclass(frozen=True, slots=True)
class HeartbeatOptions:
    """How a runtime is watched while something is asked of it.

    Attributes:
        interval_ms: Between two looks, each with a ping.
        silence_ms: A runtime that was pinged and sent nothing for so long is ended.
        stuck_ms: So is one whose engine is busy and has finished nothing for so long.
    """

    interval_ms: float = HEARTBEAT_INTERVAL_MS
    silence_ms: float = HEARTBEAT_SILENCE_MS
    stuck_ms: float = HEARTBEAT_STUCK_MS


class Cause(StrEnum):
    """Why a runtime that lives has to be ended; `details["cause"]` of the error."""

    SILENT = "silent"
    ENGINE_DEAD = "engine_dead"
    ENGINE_STUCK = "engine_stuck"


@dataclass(frozen=True, slots=True)
class Verdict:
    """That it has to be ended, and what was seen."""

    cause: Cause
    message: str


class Watchdog:
    """Watches one process.

    Args:
        options: How.
    """

    def __init__(self, options: HeartbeatOptions) -> None:
        self._options = options
        self._looked_ms = self._heard_ms = 0.0
        self._receipts = 0
        self._is_pinged = False

    @property
    def is_pinged(self) -> bool:
        """Whether a ping has not been answered."""
        return self._is_pinged

    def begin(self, now_ms: float, receipts: int) -> None:
        """Begin to watch: what was before says nothing.

        Args:
            receipts: Reads from the process so far.
        """
        self._looked_ms = self._heard_ms = now_ms
        self._receipts = receipts

    def forget(self) -> None:
        """The process has changed: no ping is on its way."""
        self._is_pinged = False

    def look(self, now_ms: float, receipts: int) -> Verdict | None:
        """Look once an interval; a ping is due afterwards if none is on its way."""
        options = self._options
        was_blocked = now_ms - self._looked_ms > HEARTBEAT_LATE_INTERVALS * options.interval_ms
        self._looked_ms = now_ms
        if was_blocked or receipts != self._receipts:
            self._heard_ms, self._receipts = now_ms, receipts
        silent_ms = now_ms - self._heard_ms
        if self._is_pinged and silent_ms >= options.silence_ms:
            return Verdict(Cause.SILENT, f"it has sent nothing for {silent_ms / 1_000:.1f} s")
        return None

    def pinged(self) -> None:
        """A ping has been sent."""
        self._is_pinged = True

    def answered(self, health: object) -> Verdict | None:
        """Take the answer to a ping."""
        self._is_pinged = False
        engine = health.get("engine") if isinstance(health, Mapping) else None
        return self._judge(engine) if isinstance(engine, Mapping) else None

    def silent_ms(self, now_ms: float, receipts: int) -> float:
        """Return how long nothing has been received; 0 when something has since the last look."""
        return 0.0 if receipts != self._receipts else max(now_ms - self._heard_ms, 0.0)

    def _judge(self, engine: Mapping[str, Any]) -> Verdict | None:
        state, age_ms = engine.get("state"), engine.get("progress_age_ms")
        if state == "dead":
            return Verdict(Cause.ENGINE_DEAD, "its engine has died")
        if state != "busy" or type(age_ms) not in (int, float) or age_ms is None:
            return None
        if age_ms < self._options.stuck_ms:
            return None
        return Verdict(
            Cause.ENGINE_STUCK, f"its engine has finished nothing for {age_ms / 1_000:.1f} s"
        )
