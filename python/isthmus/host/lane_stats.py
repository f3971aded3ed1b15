"""What lanes have done, kept longer than the lanes themselves."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from ..multiplex.window import Flush

_LANES_KEPT: Final = 256
"""Lanes that are remembered; the oldest goes first."""


class LaneStats:
    """Frames and calls of one operation with the same model and options."""

    def __init__(self) -> None:
        self.frames = 0
        """Requests sent."""
        self.calls = 0
        """Calls that they carried."""
        self.largest = 0
        """Most calls in one frame."""
        self.sizes: Counter[int] = Counter()
        """Frames by how many calls they carried, counted under the next power of two."""
        self.reasons: dict[Flush, int] = dict.fromkeys(Flush, 0)
        """Frames by why they left."""
        self.held_total_ms = 0.0
        self.held_max_ms = 0.0
        """How long the first call of a frame was kept back."""

    def add(self, calls: int, reason: Flush, held_ms: float) -> None:
        """Count one frame."""
        self.frames += 1
        self.calls += calls
        self.largest = max(self.largest, calls)
        self.sizes[1 << (calls - 1).bit_length()] += 1
        self.reasons[reason] += 1
        self.held_total_ms += held_ms
        self.held_max_ms = max(self.held_max_ms, held_ms)

    def to_dict(self) -> dict[str, Any]:
        """Return the counters."""
        return {
            "frames": self.frames,
            "calls": self.calls,
            "largest": self.largest,
            "sizes": dict(self.sizes),
            "reasons": {reason.value: count for reason, count in self.reasons.items()},
            "held_ms": {"total": self.held_total_ms, "max": self.held_max_ms},
        }


class StatsBook:
    """The statistics of all lanes, by what the lanes are for."""

    def __init__(self) -> None:
        self._lanes: dict[str, LaneStats] = {}

    def find(self, label: str) -> LaneStats:
        """Find or begin the statistics of lanes with this label."""
        stats = self._lanes.get(label)
        if stats is None:
            if len(self._lanes) >= _LANES_KEPT:
                del self._lanes[next(iter(self._lanes))]
            stats = self._lanes[label] = LaneStats()
        return stats

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return all counters."""
        return {label: stats.to_dict() for label, stats in self._lanes.items()}
