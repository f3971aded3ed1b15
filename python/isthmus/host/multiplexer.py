"""Many small calls become few frames, and the caller does not notice.

Calls of one turn of the event loop with the same key (operation, model, options, deadline) leave as
one batch; a lone call leaves as itself. When they leave is the window's decision. Each call keeps
its own result, error, cancellation and deadline. Twin: `bridge/src/connection/ops-multiplexer.ts`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

from ..errors import IsthmusError
from ..limits import ALONE_BYTES
from ..multiplex.window import Flush
from .batch import Member, Operation
from .lane_stats import StatsBook
from .lanes import Carrier, Lane, LaneKey

_LANES_KEPT: Final = 64
"""Idle lanes are kept up to this many: they know how long their batches take."""


class OpsMultiplexer:
    """Groups the calls of one connection.

    Args:
        carrier: Takes requests.
        loop: Ends turns, has the time and timers.
    """

    def __init__(self, carrier: Carrier, loop: asyncio.AbstractEventLoop) -> None:
        self._carrier = carrier
        self._loop = loop
        self._lanes: dict[str, Lane] = {}
        self._book = StatsBook()
        self._due: list[Lane] = []
        """Lanes to look at when the turn ends."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing collects and nothing is in flight."""
        return not self._due and all(lane.is_idle for lane in self._lanes.values())

    def stats(self) -> dict[str, dict[str, Any]]:
        """Return the counters of each operation, model and options."""
        return self._book.to_dict()

    async def call(
        self,
        operation: Operation[Any, Any],
        item: Any,
        model: str,
        options: Mapping[str, Any],
        deadline_ms: float | None,
    ) -> Any:
        """Make a call that may share its frame with others, and return its result as it came.

        Raises:
            IsthmusError: The call's own error, or why it cannot be sent.
        """
        self._carrier.check_open()
        shown = f" {json.dumps(options, separators=(',', ':'), default=repr)}" if options else ""
        label = f"{operation.method} {model}{shown}"
        name = label if deadline_ms is None else f"{label} {deadline_ms!r}"
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._open(name, label, LaneKey(operation, model, options, deadline_ms))
        member = Member(item, operation.size(item), self._loop.create_future())
        if member.size > ALONE_BYTES:
            lane.send_large(member)
        else:
            lane.add(member)
        return await self._outcome(lane, member)

    def flush(self) -> None:
        """Send all that collects: what comes next must not overtake it."""
        for lane in self._lanes.values():
            lane.flush(Flush.CLOSE)

    def fail(self, error: IsthmusError) -> None:
        """Settle all that collects, each with an error of its own."""
        for lane in self._lanes.values():
            lane.fail(error)

    async def _outcome(self, lane: Lane, member: Member) -> Any:
        try:
            return await member.future
        except asyncio.CancelledError:
            if member.future.cancelled():
                lane.give_up(member)
            else:
                # It had settled in the turn of its cancel: nobody is going to look.
                member.future.exception()
            raise

    def _open(self, name: str, label: str, key: LaneKey) -> Lane:
        if len(self._lanes) >= _LANES_KEPT:
            self._lanes = {kept: lane for kept, lane in self._lanes.items() if not lane.is_idle}
        stats = self._book.find(label)
        lane = self._lanes[name] = Lane(key, self._carrier, self._loop, stats, self._wake)
        return lane

    def _wake(self, lane: Lane) -> None:
        if not self._due:
            self._loop.call_soon(self._end_turn)
        self._due.append(lane)

    def _end_turn(self) -> None:
        due, self._due = self._due, []
        with self._carrier.one_write():
            for lane in due:
                lane.end_turn()
