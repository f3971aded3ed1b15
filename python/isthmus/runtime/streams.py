"""Credit-based streams: a producer goes on only while its reader has room."""

from __future__ import annotations

import asyncio

from ..limits import CREDIT_LIMIT


class Credit:
    """Room that a reader has granted and a coroutine uses up.

    Args:
        initial: Items that may be sent before the first grant.
    """

    def __init__(self, initial: int) -> None:
        self._left = initial
        self._granted = asyncio.Event()

    def grant(self, count: int) -> None:
        """Add room."""
        self._left = min(self._left + count, CREDIT_LIMIT)
        self._granted.set()

    async def take(self, wanted: int) -> int:
        """Wait until there is room; return how many of `wanted` items may be sent, at least 1."""
        while self._left == 0:
            self._granted.clear()
            await self._granted.wait()
        taken = min(self._left, wanted)
        self._left -= taken
        return taken
