"""Makes room for a load before it begins: chooses who leaves, waits until they have, reserves.

One load at a time makes room, so that no two count on the same memory. What may still be mapped is
looked at again when those who leave have left, because a heap does not always shrink. Lives on the
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from .leaving import Departures
from .load import LoadedModel
from .loads import SharedLoad
from .memory import Machine, budget_for
from .residents import Residents
from .room import Room, room_of


class KeptCaches(Protocol):
    """KV caches that are kept in what the models leave of the budget."""

    def limit(self, left_bytes: int, budget_bytes: int) -> None:
        """Say what that is from now on, and the whole budget."""
        ...

    async def give_way(self, left_bytes: int) -> int:
        """Let caches leave until they take no more; return what they still take."""
        ...


class NoCaches:
    """There are none."""

    def limit(self, left_bytes: int, budget_bytes: int) -> None:
        """Nobody has to know."""

    async def give_way(self, left_bytes: int) -> int:
        """Return 0."""
        return 0


class Fitting:
    """Holds the models to their budget.

    Args:
        residents: The models.
        departures: Sends them away.
        machine: Asks what bounds the memory now.
        is_measured: Whether the first answer of `machine` decides the budget.
        kept: What gives way to models.
    """

    def __init__(
        self,
        residents: Residents,
        departures: Departures,
        machine: Callable[[], Awaitable[Machine]],
        is_measured: bool,
        kept: KeptCaches,
    ) -> None:
        self._residents = residents
        self._departures = departures
        self._machine = machine
        self._is_measured = is_measured
        self._kept = kept
        residents.on_change = self._tell_kept
        self._tell_kept()
        self._making_room = asyncio.Lock()
        """Held between the choice who leaves and the reservation."""
        self.refused = 0

    @contextlib.asynccontextmanager
    async def room_for(self, load: SharedLoad, room: Room) -> AsyncIterator[None]:
        """Keep room for a load, once whoever must leave for it has left.

        Raises:
            MemoryLimit: It cannot fit; nobody has left for it that need not have.
        """
        async with self._making_room:
            await self._make_room(load, room)
            self._residents.reserve(load, room.total_bytes)
        try:
            yield
        finally:
            self._residents.unreserve(load)

    def enlarge(self, model: LoadedModel, kv_tokens: int) -> None:
        """Keep room for more tokens with a model that is in memory.

        Raises:
            MemoryLimit: It cannot fit.
        """
        adapter_bytes = model.room.weight_bytes - model.verified.weight_bytes
        room = room_of(model.verified, adapter_bytes, kv_tokens)
        leaving = self._residents.plan(
            room.total_bytes - model.room.total_bytes, None, besides=model
        )
        if leaving is None:
            self.refused += 1
            raise self._residents.refusal(model.source, room, None)
        for other in leaving:
            self._departures.evict(other, "budget")
        model.room = room
        self._residents.changed()

    def _tell_kept(self) -> None:
        self._kept.limit(self._residents.left_bytes, self._residents.budget_bytes)

    async def _make_room(self, load: SharedLoad, room: Room) -> None:
        residents = self._residents
        while True:
            await self._departures.finish()
            residents.kept_bytes = await self._kept.give_way(
                residents.left_bytes - room.total_bytes
            )
            left = await self._look()
            # From here to the return, or to the evictions, nothing else runs.
            leaving = residents.plan(room.total_bytes, left, also=load.replaceable(residents.find))
            if leaving is None:
                self.refused += 1
                raise residents.refusal(load.source, room, left)
            if not leaving:
                return
            for model in leaving:
                is_replaced = load.has_replaced(model, residents.find)
                self._departures.evict(model, "replaced" if is_replaced else "budget")

    async def _look(self) -> int | None:
        """Return the address space that is left; the first look decides the budget, too."""
        machine = await self._machine()
        if self._is_measured:
            self._is_measured = False
            self._residents.budget_bytes = budget_for(machine)
            self._residents.changed()
        return machine.address_space_left
