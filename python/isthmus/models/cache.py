"""Handles to models: counted, loaded once however many ask, kept for the next, evicted in time.

A model in memory is handed out again without any input or output. What nobody uses stays until it
has been idle for its time, or until another one needs the memory; the least recently used leaves
first, and what is in use never does. Whether a model fits is decided before it is loaded. Lives on
the event loop; who must leave is decided in `residents.py`, how in `leaving.py`; who waits for a
load is kept in `loads.py`, and everything slow is behind `ModelMaker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import Closing, MemoryLimit, ModelNotLoaded
from ..limits import MODEL_IDLE_TIMEOUT_S
from .failures import KnownFailures, Stamp, load_error
from .fitting import Fitting, KeptCaches, NoCaches
from .leaving import CallLater, Departures, OnEvent
from .load import LoadedModel, LoadOptions, Progress, Source, Stay
from .loads import SharedLoad, Waiter
from .making import Inspected, ModelMaker, Parts
from .memory import budget_for, read_machine
from .residents import Residents
from .room import Room, room_of

_NAME_CHARS: Final = 100
_COUNTED: Final = (*("loads", "hits", "shared_loads", "load_failures", "known_failures"),)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What a user may set.

    Attributes:
        budget_bytes: What models may take together; None asks the machine.
        idle_timeout_s: How long a model without references stays, unless its load says.
    """

    budget_bytes: int | None = None
    idle_timeout_s: float = MODEL_IDLE_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What is left of a model after a reference was given back.

    Attributes:
        references: How many others have.
        is_resident: Whether the next load finds it in memory.
        release: The way of its memory back to the system, if that has begun.
    """

    references: int
    is_resident: bool
    release: asyncio.Task[None] | None


class ModelCache:
    """All loaded models.

    Args:
        maker: Loads and releases them.
        settings: Budget and idle time.
        tag: Makes handles differ from those of other runtimes.
        on_event: Told of loads and evictions.
        clock: Monotonic seconds.
        call_later: Sets the one timer for idle models; the running loop's by default.
        kept: KV caches that give way to models.
    """

    def __init__(
        self,
        maker: ModelMaker,
        settings: CacheSettings,
        tag: str,
        on_event: OnEvent,
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater | None = None,
        kept: KeptCaches | None = None,
    ) -> None:
        self._maker = maker
        self._settings = settings
        self._tag = tag
        self._on_event = on_event
        self._clock = clock
        self._loading: dict[Source, SharedLoad] = {}
        self._failures = KnownFailures(clock)
        self._number = 0
        self._counts: Counter[str] = Counter()
        budget_bytes = settings.budget_bytes
        self.residents = Residents(
            budget_for(read_machine(is_on_engine=False)) if budget_bytes is None else budget_bytes
        )
        self._departures = Departures(self.residents, maker.release, on_event, clock, call_later)
        self._fitting = Fitting(
            self.residents,
            self._departures,
            maker.machine,
            is_measured=budget_bytes is None,
            kept=kept or NoCaches(),
        )
        self.get = self.residents.get
        """Return the model with a handle; raises ModelNotLoaded."""

    def list(self) -> list[LoadedModel]:
        """Return all models that a load would find in memory, the oldest first."""
        return self.residents.all()

    async def load(
        self, source: Source, progress: Progress, options: LoadOptions | None = None
    ) -> LoadedModel:
        """Return a model with references to it, loading it if nobody has.

        Raises:
            InvalidRequest: The handle that it must have is another model's.
            ModelNotLoaded: The handle to replace names no model.
            MemoryLimit: It does not fit.
            IsthmusError: Why it cannot be loaded.
        """
        options = options or LoadOptions()
        if options.handle is not None:
            self.residents.check_name(options.handle, source)
        if options.replace is not None:
            self.get(options.replace)
        model = self.residents.of_source(source)
        if model is not None and (options.kv_tokens or 0) > model.room.kv_tokens:
            # Who is leaving counts until it has left.
            await self._departures.finish()
            model = self.residents.of_source(source)
        if model is None:
            return await self._join(source, progress, options)
        self._take(model, options)
        self._adopt(model, options)
        self._counts["hits"] += 1
        return model

    def unload(self, handle: str, evict: bool = False) -> Unloaded:
        """Give one reference back, at once; with the last one the handle ends.

        Args:
            evict: Let the weights leave at once, if that was the last reference.

        Raises:
            ModelNotLoaded: The handle names no model.
        """
        model = self.get(handle)
        release = self._give_back(model, 1, evict)
        return Unloaded(model.references, model.stay is Stay.RESIDENT, release)

    def undo(self, model: LoadedModel, options: LoadOptions) -> None:
        """Give back what a load took whose caller is gone."""
        if 0 < options.references <= model.references:
            self._give_back(model, options.references)

    async def close(self) -> None:
        """End the loads that run, and the timer."""
        for load in tuple(self._loading.values()):
            if load.task is not None:
                load.task.cancel()
        self._departures.stop()

    def stats(self) -> dict[str, Any]:
        """Return the counters of the protocol's `models` (section 2.5)."""
        models = self.residents.all()
        return {
            "budget_bytes": self.residents.budget_bytes,
            "used_bytes": self.residents.used_bytes,
            "reserved_bytes": self.residents.reserved_bytes,
            "resident": len(models),
            "idle": sum(not model.is_in_use for model in models),
            "pinned": sum(model.is_pinned for model in models),
            "evictions": self._departures.evictions,
            "idle_evictions": self._departures.idle_evictions,
            "refused": self._fitting.refused,
            **{name: self._counts[name] for name in _COUNTED},
        }

    async def _join(self, source: Source, progress: Progress, options: LoadOptions) -> LoadedModel:
        waiter = Waiter(options, progress, asyncio.get_running_loop().create_future())
        load = self._loading.get(source)
        if load is None:
            load = self._loading[source] = SharedLoad(source, [waiter])
            load.task = asyncio.create_task(self._run(load))
        else:
            self._counts["shared_loads"] += 1
            load.waiters.append(waiter)
        try:
            model = await waiter.result
            self._adopt(model, options, waiter.is_replaced)
            return model
        except asyncio.CancelledError:
            result = waiter.result
            if result.done() and not result.cancelled() and result.exception() is None:
                self.undo(result.result(), options)
            raise
        finally:
            load.waiters.remove(waiter)
            if not load.waiters and load.task is not None and not load.task.done():
                # Who comes next must not join a load that is being cancelled.
                self._end_load(load)
                load.task.cancel()

    def _end_load(self, load: SharedLoad) -> None:
        if self._loading.get(load.source) is load:
            del self._loading[load.source]

    async def _run(self, load: SharedLoad) -> None:
        stamp: Stamp = ()
        try:
            load.tell("resolve")
            stamp = await self._maker.stamp(load.source)
            known = self._failures.find(load.source, stamp)
            if known is not None:
                self._counts["known_failures"] += 1
                load.fail(known)
                return
            await self._load(load)
        except asyncio.CancelledError:
            load.fail(Closing("the runtime is shutting down; load the model in a new one"))
            raise
        except MemoryLimit as error:
            load.fail(error)
        except Exception as error:  # whatever a load raises is its waiters' to hear
            failure = load_error(load.source, error)
            self._counts["load_failures"] += 1
            self._failures.remember(load.source, stamp, failure)
            load.fail(failure)
            # It refers to this frame, which refers to it.
            del failure
        finally:
            self._end_load(load)

    async def _load(self, load: SharedLoad) -> None:
        started = self._clock()
        inspected = await self._maker.inspect(load.source, load.tell)

        def room_for(waiter: Waiter) -> Room:
            tokens = waiter.options.kv_tokens
            return room_of(inspected.verified, inspected.adapter_bytes, tokens)

        def tell(stage: str, done: int, total: int, unit: str) -> None:
            if stage == "load":
                self.residents.has_mapped(load, done)
            load.tell(stage, done, total, unit)

        # Who wants more than another has it enlarged, or is refused alone.
        room = min(map(room_for, load.waiters), key=lambda room: room.total_bytes)
        async with self._fitting.room_for(load, room):
            parts = await self._maker.build(inspected, tell)
        model = self._made(load, inspected, parts, room, (self._clock() - started) * 1_000)
        self.residents.add(model)
        self._end_load(load)
        self._counts["loads"] += 1
        self._on_event(
            "model_loaded",
            {"model": model.handle, "source": model.source.source, "load_ms": model.load_ms},
        )
        load.succeed(
            model,
            lambda waiter: self._take(
                model, replace(waiter.options, kv_tokens=room_for(waiter).kv_tokens)
            ),
        )
        if not model.is_in_use:
            self._departures.on_free(model)

    def _made(
        self, load: SharedLoad, inspected: Inspected, parts: Parts, room: Room, load_ms: float
    ) -> LoadedModel:
        return LoadedModel(
            handle=self._handle_for(load),
            source=load.source,
            verified=inspected.verified,
            network=parts.network,
            tokenizer=parts.tokenizer,
            vocab_size=parts.vocab_size,
            stamps=parts.stamps,
            load_ms=load_ms,
            room=room,
            idle_timeout_s=self._settings.idle_timeout_s,
            on_free=self._departures.on_free,
        )

    def _handle_for(self, load: SharedLoad) -> str:
        """Return the name that a waiter asks for, or else one that no runtime gives again."""
        for waiter in load.waiters:
            if waiter.options.handle is not None and self.residents.is_free(waiter.options.handle):
                return waiter.options.handle
        name = load.source.source.rstrip("/").rsplit("/", 1)[-1]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_NAME_CHARS] or "model"
        while True:
            self._number += 1
            handle = f"{name}-{self._tag}-{self._number}"
            if self.residents.is_free(handle):
                return handle

    def _take(self, model: LoadedModel, options: LoadOptions) -> None:
        """Give references to a model in memory to a caller, with room for its tokens."""
        if options.handle is not None:
            self.residents.check_name(options.handle, model.source)
        if options.kv_tokens is not None and options.kv_tokens > model.room.kv_tokens:
            self._fitting.enlarge(model, options.kv_tokens)
        model.prior_failures = max(model.prior_failures, options.prior_failures)
        self.residents.take(model, options.references, options.handle)

    def _adopt(self, model: LoadedModel, options: LoadOptions, is_replaced: bool = False) -> None:
        """Do the rest of what a load asks for: its caller has the model now."""
        if options.pin is not None:
            model.is_pinned = options.pin
        if options.idle_timeout_s is not None:
            model.idle_timeout_s = options.idle_timeout_s
        if options.replace is not None and not is_replaced:
            with contextlib.suppress(ModelNotLoaded):
                # It may have been unloaded meanwhile.
                self._give_back(self.get(options.replace), 1)
        self._departures.set_timer()

    def _give_back(
        self, model: LoadedModel, references: int, evict: bool = False
    ) -> asyncio.Task[None] | None:
        """Take references away; return the release of its memory, if that begins now."""
        self.residents.give_back(model, references)
        if model.references > 0 or model.is_pinned:
            return None
        if evict or model.idle_timeout_s <= 0:
            return self._departures.let_go(model, "unloaded")
        self._departures.on_free(model)
        return None
