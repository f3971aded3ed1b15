"""Loads under way: who waits for each, and how each of them hears of its end.

One `SharedLoad` for each source, however many ask. A waiter has a future of its own, so that its
cancel, its error and its references are its own; the load ends when the last one has left. Lives on
the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import IsthmusError, own_copy
from .load import LoadedModel, LoadOptions, Progress, Source


@dataclass(slots=True, eq=False)
class Waiter:
    """One who waits for a load.

    Attributes:
        result: Settles once: the model, of which it then has its references, or an error of its
            own.
        is_replaced: Whether the model that it gives in exchange has left already.
    """

    options: LoadOptions
    progress: Progress
    result: asyncio.Future[LoadedModel]
    is_replaced: bool = False


@dataclass(slots=True, eq=False)
class SharedLoad:
    """A load under way."""

    source: Source
    waiters: list[Waiter]
    task: asyncio.Task[None] | None = None

    def tell(self, stage: str, done: int = 0, total: int = 1, unit: str = "steps") -> None:
        """Tell every waiter how far it is."""
        for waiter in tuple(self.waiters):
            waiter.progress(stage, done, total, unit)

    def succeed(self, model: LoadedModel, take: Callable[[Waiter], None]) -> None:
        """Give the model to each waiter; who cannot take it, by `take`, has that error alone."""
        for waiter in tuple(self.waiters):
            if waiter.result.done():
                continue
            try:
                take(waiter)
            except IsthmusError as error:
                waiter.result.set_exception(_for(waiter, error))
            else:
                waiter.result.set_result(model)

    def fail(self, error: IsthmusError) -> None:
        """Give each waiter its own copy of an error."""
        for waiter in tuple(self.waiters):
            if not waiter.result.done():
                waiter.result.set_exception(_for(waiter, error))

    def replaceable(self, find: Callable[[str], LoadedModel | None]) -> list[LoadedModel]:
        """Return the models in use that nobody else needs, if their waiters give them up."""
        offered: dict[LoadedModel, int] = {}
        for waiter in self.waiters:
            handle = waiter.options.replace
            model = None if handle is None or waiter.is_replaced else find(handle)
            if model is not None:
                offered[model] = offered.get(model, 0) + 1
        return [
            model
            for model, count in offered.items()
            if model.references == count and not model.is_pinned and not model.leases
        ]

    def has_replaced(self, model: LoadedModel, find: Callable[[str], LoadedModel | None]) -> bool:
        """Note that a model is about to leave for this load; return whether anybody offered it."""
        offered = False
        for waiter in self.waiters:
            handle = waiter.options.replace
            if handle is not None and find(handle) is model:
                waiter.is_replaced = offered = True
        return offered


def _for(waiter: Waiter, error: IsthmusError) -> IsthmusError:
    own = own_copy(error)
    if waiter.is_replaced:
        own.details["replaced"] = True
    return own
