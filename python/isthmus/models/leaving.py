"""How models leave memory: when they have been idle for their time, or when they are sent away.

One timer for all idle models, none for each use. A model that work holds a lease on leaves when
that work has ended. Its memory is given back by `ModelMaker.release`, and counts until then. Lives
on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from ..errors import EngineDead
from .load import LoadedModel, Stay
from .residents import Residents

OnEvent = Callable[[str, dict[str, Any]], None]
"""Told `(name, payload)` of the protocol's events `model_loaded` and `model_evicted`."""

Release = Callable[[LoadedModel], Any]

_TIMER_LIMIT_S: Final = 3_600.0
"""A timer for later is set again: loops differ in how far ahead they can be asked to call."""


class Timer(Protocol):
    """A call that is due."""

    def cancel(self) -> None:
        """Call it not."""
        ...


CallLater = Callable[[float, Callable[[], None]], Timer]
"""As the event loop's `call_later`."""


class Departures:
    """Sends models away.

    Args:
        residents: The models.
        release: Gives a model's memory back.
        on_event: Told of each that has left.
        clock: Monotonic seconds.
        call_later: Sets the timer; the running loop's by default.
    """

    def __init__(
        self,
        residents: Residents,
        release: Release,
        on_event: OnEvent,
        clock: Callable[[], float],
        call_later: CallLater | None,
    ) -> None:
        self._residents = residents
        self._release = release
        self._on_event = on_event
        self._clock = clock
        self._call_later = call_later
        self._timer: Timer | None = None
        self._due = 0.0
        self._condemned: dict[LoadedModel, str] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self.evictions = 0
        self.idle_evictions = 0

    def on_free(self, model: LoadedModel) -> None:
        """Nobody has a reference, and the last work may have ended."""
        if model.leases:
            return
        if model.stay is Stay.CONDEMNED:
            self.evict(model, self._condemned.pop(model))
        elif model.stay is Stay.RESIDENT and not model.is_pinned:
            if model.idle_timeout_s <= 0:
                self.evict(model, "unloaded")
            else:
                model.idle_since = self._clock()
                self.set_timer()

    def let_go(self, model: LoadedModel, reason: str) -> asyncio.Task[None] | None:
        """Have a model leave now, or when the work on it has ended; return its release if that has
        begun."""
        if not model.leases:
            return self.evict(model, reason)
        self._residents.withdraw(model, Stay.CONDEMNED)
        self._condemned[model] = reason
        return None

    def evict(self, model: LoadedModel, reason: str) -> asyncio.Task[None]:
        """Have a model leave that no work is done on."""
        if model.stay is Stay.RESIDENT:
            self._residents.withdraw(model, Stay.LEAVING)
        else:
            model.enter(Stay.LEAVING)
        task = asyncio.create_task(self._leave(model, reason))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)
        return task

    async def finish(self) -> bool:
        """Wait until the memory of those that are leaving is back; return whether any was."""
        if not self._releases:
            return False
        await asyncio.wait(set(self._releases))
        return True

    def set_timer(self) -> None:
        """Set the timer for the model whose idle time ends first."""
        due = min(
            (
                model.idle_since + model.idle_timeout_s
                for model in self._residents.idle()
                if model.idle_since is not None
            ),
            default=None,
        )
        if self._timer is not None:
            if due == self._due:
                return
            self.stop()
        if due is not None:
            self._due = due
            call_later = self._call_later or asyncio.get_running_loop().call_later
            delay_s = min(max(due - self._clock(), 0.0), _TIMER_LIMIT_S)
            self._timer = call_later(delay_s, self._sweep)

    def stop(self) -> None:
        """Take the timer back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock()
        for model in self._residents.idle():
            if model.idle_since is not None and now >= model.idle_since + model.idle_timeout_s:
                self.evict(model, "idle")
        self.set_timer()

    async def _leave(self, model: LoadedModel, reason: str) -> None:
        # A dead engine keeps its memory until the process ends.
        try:
            with contextlib.suppress(EngineDead):
                await self._release(model)
        finally:
            self._residents.remove(model)
        self.evictions += 1
        self.idle_evictions += reason == "idle"
        self._on_event(
            "model_evicted",
            {"model": model.handle, "source": model.source.source, "reason": reason},
        )
