"""The runtime's lanes: what arrives for an operation while its last batch runs, runs as one batch.

Calls are added while a read from the host is handled; `flush` then computes each lane's: on the
event loop where that is cheap, else as one batch, lanes of different operations together under one
`asyncio.gather`. It does not matter in which frames calls came. Every item has its own result or
error. Nothing is ever kept waiting for company.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ..errors import InternalError, IsthmusError, own_copy

Outcome = Any | IsthmusError
"""What one item came to."""


class Operation(Hashable, Protocol):
    """Work that can be done for many items at once; equal operations share their batches."""

    @property
    def label(self) -> str:
        """Its name in statistics."""
        ...

    @property
    def batch_cost(self) -> int:
        """Cost at which a batch is closed: bounds how long those that come next wait."""
        ...

    def cost(self, item: Any) -> int:
        """Return the cost of one item, in units of its own."""
        ...

    def now(self, items: Sequence[Any], cost: int) -> list[Outcome] | None:
        """Return the outcomes, computed on the event loop, or None when that would stall it."""
        ...

    def begin(self, items: Sequence[Any]) -> Awaitable[list[Outcome]]:
        """Begin to compute, before this returns; what it returns gives each item's outcome."""
        ...


class Owner(Protocol):
    """Whose items they are."""

    is_settled: bool
    phase: str

    def error(self, error: IsthmusError) -> None:
        """Settle with an error."""
        ...


@dataclass(slots=True, eq=False)
class Entry:
    """Items of one call, and what to do with their outcomes."""

    items: Sequence[Any]
    cost: int
    owner: Owner
    done: Callable[[list[Outcome]], None]


@dataclass(slots=True)
class LaneStats:
    """What a lane has done; survives the lane."""

    batches: int = 0
    on_loop: int = 0
    """Batches that were computed on the event loop."""
    calls: int = 0
    items: int = 0
    largest: int = 0

    def add(self, calls: int, items: int, is_on_loop: bool) -> None:
        """Count one batch."""
        self.batches += 1
        self.on_loop += is_on_loop
        self.calls += calls
        self.items += items
        self.largest = max(self.largest, items)

    def to_wire(self) -> dict[str, int]:
        """Return the counters."""
        return {
            "batches": self.batches,
            "on_loop": self.on_loop,
            "calls": self.calls,
            "items": self.items,
            "largest": self.largest,
        }


@dataclass(slots=True)
class _Lane:
    operation: Operation
    pending: list[Entry] = field(default_factory=list)
    is_running: bool = False


_STATS_LIMIT: Final = 256
"""Operations that statistics are kept for; the oldest goes first."""


class Multiplexer:
    """Groups calls by operation.

    Args:
        start: Runs a coroutine in a task that somebody owns.
        loop: Flushes what was added outside a read.
    """

    def __init__(
        self,
        start: Callable[[Coroutine[Any, Any, None]], object],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._start = start
        self._loop = loop
        self._lanes: dict[Operation, _Lane] = {}
        self._due: list[_Lane] = []
        self._is_scheduled = False
        self._stats: dict[str, LaneStats] = {}
        self.pending_cost = 0
        """Cost of what has not been computed."""
        self.on_drained: Callable[[], None] | None = None

    def add(
        self,
        operation: Operation,
        items: Sequence[Any],
        owner: Owner,
        done: Callable[[list[Outcome]], None],
    ) -> None:
        """Compute items with whatever else has arrived; `done` gets an outcome for each.

        An owner that has settled meanwhile is left out, and hears nothing.
        """
        lane = self._lanes.get(operation)
        if lane is None:
            lane = self._lanes[operation] = _Lane(operation)
        cost = sum(map(operation.cost, items))
        owner.phase = "queue"
        lane.pending.append(Entry(items, cost, owner, done))
        self.pending_cost += cost
        if not lane.is_running and len(lane.pending) == 1:
            self._due.append(lane)
            if not self._is_scheduled:
                self._is_scheduled = True
                self._loop.call_soon(self.flush)

    async def call(self, operation: Operation, item: Any) -> Any:
        """Return the outcome of one item, or raise it.

        Raises:
            IsthmusError: The item's own error.
        """
        waiter = _Waiter(self._loop.create_future())
        self.add(operation, (item,), waiter, lambda outcomes: waiter.settle(outcomes[0]))
        try:
            return await waiter.future
        finally:
            waiter.is_settled = True

    def hold(self) -> None:
        """Gather everything until whoever called this calls `flush`."""
        self._is_scheduled = True

    def flush(self) -> None:
        """Compute what has been gathered."""
        self._is_scheduled = False
        if not self._due:
            return
        due, self._due = self._due, []
        waiting: list[tuple[_Lane, list[Entry]]] = []
        for lane in due:
            batch = self._take(lane)
            if batch and self._is_done_now(lane, batch):
                batch = self._take(lane)
            if batch:
                lane.is_running = True
                waiting.append((lane, batch))
            else:
                del self._lanes[lane.operation]
        if waiting:
            self._start(self._run_together(waiting))

    def pending(self, operation: Operation) -> int:
        """Return how many items of an operation wait for its running batch."""
        lane = self._lanes.get(operation)
        return 0 if lane is None else sum(len(entry.items) for entry in lane.pending)

    def stats(self) -> dict[str, dict[str, int]]:
        """Return the counters of each operation."""
        return {label: stats.to_wire() for label, stats in self._stats.items()}

    def _take(self, lane: _Lane) -> list[Entry]:
        """Remove and return the next batch; who no longer waits is left out."""
        batch: list[Entry] = []
        cost = count = 0
        for entry in lane.pending:
            if batch and cost + entry.cost > lane.operation.batch_cost:
                break
            count += 1
            if entry.owner.is_settled:
                self.pending_cost -= entry.cost
                continue
            entry.owner.phase = "running"
            batch.append(entry)
            cost += entry.cost
        del lane.pending[:count]
        return batch

    def _is_done_now(self, lane: _Lane, batch: list[Entry]) -> bool:
        items = _items(batch)
        try:
            outcomes = lane.operation.now(items, sum(entry.cost for entry in batch))
        except Exception as error:  # a defect of one operation must not keep the others waiting
            outcomes = [error] * len(items)
        if outcomes is None:
            return False
        self._settle(lane, batch, outcomes, True)
        return True

    async def _run_together(self, waiting: list[tuple[_Lane, list[Entry]]]) -> None:
        await asyncio.gather(*(self._run(lane, batch) for lane, batch in waiting))

    async def _run(self, lane: _Lane, batch: list[Entry]) -> None:
        try:
            work = _begin(lane.operation, batch)
            while batch:
                try:
                    outcomes = await work
                except Exception as error:  # the batch's failure is each item's
                    outcomes = [error] * sum(len(entry.items) for entry in batch)
                done, batch = batch, self._take(lane)
                if batch:
                    # The next one is computed while the replies of this one are made.
                    work = _begin(lane.operation, batch)
                self._settle(lane, done, outcomes, False)
                if not batch and (batch := self._take(lane)):
                    work = _begin(lane.operation, batch)
        finally:
            del self._lanes[lane.operation]

    def _settle(
        self, lane: _Lane, batch: list[Entry], outcomes: Sequence[Outcome], is_on_loop: bool
    ) -> None:
        self._count(lane.operation.label).add(len(batch), len(outcomes), is_on_loop)
        start = 0
        for entry in batch:
            stop = start + len(entry.items)
            self.pending_cost -= entry.cost
            if not entry.owner.is_settled:
                try:
                    entry.done(
                        [
                            _own(outcome) if isinstance(outcome, Exception) else outcome
                            for outcome in outcomes[start:stop]
                        ]
                    )
                except (
                    Exception
                ) as error:  # a defect in one answer must not keep the others waiting
                    entry.owner.error(InternalError(f"{type(error).__name__}: {error}"))
            start = stop
        if self.on_drained is not None:
            self.on_drained()

    def _count(self, label: str) -> LaneStats:
        stats = self._stats.get(label)
        if stats is None:
            if len(self._stats) >= _STATS_LIMIT:
                del self._stats[next(iter(self._stats))]
            stats = self._stats[label] = LaneStats()
        return stats


class _Waiter:
    """Owns an item that a coroutine awaits."""

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.is_settled = False
        self.phase = "queue"

    def settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, IsthmusError):
            self.error(outcome)
        elif not self.future.done():
            self.future.set_result(outcome)

    def error(self, error: IsthmusError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _begin(operation: Operation, batch: list[Entry]) -> Awaitable[list[Outcome]]:
    """Begin a batch; what fails at once fails like what fails later."""
    try:
        return operation.begin(_items(batch))
    except Exception as error:
        failed: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed


def _items(batch: list[Entry]) -> Sequence[Any]:
    return batch[0].items if len(batch) == 1 else [item for entry in batch for item in entry.items]


def _own(error: Exception) -> IsthmusError:
    """Return a caller's own error, so that no two add details to the same one."""
    if isinstance(error, IsthmusError):
        return own_copy(error)
    return InternalError(f"{type(error).__name__}: {error}")
