"""Whose turn it is: the one that has used the least time, as in Linux's fair scheduler.

Each key has a virtual time: the seconds that it used, divided by its weight. Who comes back from
idling starts at the time of the one that ran last, so that nobody saves up turns. Knows no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_LEAST_SECONDS: Final = 1e-6
"""Charged for any turn, so that turns too short for the clock are shared, too."""


class FairShare(Generic[Key]):
    """Divides one worker's time."""

    def __init__(self) -> None:
        self._used: dict[Key, float] = {}
        self._now = 0.0

    def pick(self, runnable: Collection[Key]) -> Key:
        """Return whose turn it is; of equals the first. Keys that are not runnable are forgotten.

        Args:
            runnable: At least one.
        """
        self._used = {key: max(self._used.get(key, 0.0), self._now) for key in runnable}
        picked = min(self._used, key=self._used.__getitem__)
        self._now = self._used[picked]
        return picked

    def charge(self, key: Key, seconds: float, weight: float = 1.0) -> None:
        """Say how long the turn of `key` took; a weight of 2 gives it twice the time of others."""
        self._used[key] += max(seconds, _LEAST_SECONDS) / weight
