"""Bulkheads: how many calls may be under way, so that a flood of one kind sinks only its own.

Each model has one, inside one for all of them: what floods one model is refused there, and the
others' calls still find room. Refusing is at once and says when to come back; nothing waits here.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import QueueFull


class Bulkhead:
    """Counts what is under way.

    Args:
        limit: The most.
        wait_ms: About how long until a place is free, in milliseconds.
        label: What is counted, for the message.
        whole: The bulkhead that this one lies in.
    """

    __slots__ = ("_label", "_limit", "_wait_ms", "_whole", "count")

    def __init__(
        self,
        limit: int,
        wait_ms: Callable[[], float],
        label: str,
        whole: Bulkhead | None = None,
    ) -> None:
        self._limit = limit
        self._wait_ms = wait_ms
        self._label = label
        self._whole = whole
        self.count = 0
        """Places taken."""

    def enter(self) -> None:
        """Take a place, here and in the whole.

        Raises:
            QueueFull: There is none.
        """
        if self.count >= self._limit:
            raise self._refusal()
        whole = self._whole
        if whole is not None:
            if whole.count >= whole._limit:
                raise whole._refusal()
            whole.count += 1
        self.count += 1

    def leave(self) -> None:
        """Give the place back."""
        self.count -= 1
        if self._whole is not None:
            self._whole.count -= 1

    def _refusal(self) -> QueueFull:
        return QueueFull(
            f"{self._limit} {self._label} are under way or queued; try again later",
            retry_after_ms=self._wait_ms(),
            phase="queue",
        )
