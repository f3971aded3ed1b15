"""What a cached handle adds to a call: it is found, counted as used, leased and given back."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, cast

from isthmus.limits import KV_ROOM_TOKENS
from isthmus.models.cache import CacheSettings, ModelCache
from isthmus.models.load import LoadedModel, LoadOptions, Source
from isthmus.models.making import ModelMaker
from isthmus.models.memory import Machine
from isthmus.models.room import Room

_CALLS: Final = 20_000
_HANDLES: Final = 16


async def measure(rounds: int) -> dict[str, list[float]]:
    """Return microseconds a call, a value for each round: of a call's use of a handle, and of a
    `load_model` that finds its model in memory with the `unload_model` after it."""
    cache = ModelCache(
        cast(ModelMaker, _Nobody()), CacheSettings(budget_bytes=1 << 40), "bench", lambda *_: None
    )
    models = [_model(number) for number in range(_HANDLES)]
    for model in models:
        cache.residents.add(model)
    handles = [model.handle for model in models]
    used, loaded = [], []
    for _ in range(rounds + 1):
        used.append(_per_call(lambda count: _use(cache, handles, count)))
        start = time.perf_counter()
        await _load(cache, models[0].source, _CALLS // 10)
        loaded.append((time.perf_counter() - start) / (_CALLS // 10) * 1e6)
    # The first round fills caches and is dropped.
    return {"handle_us": used[1:], "load_and_unload_us": loaded[1:]}


def _use(cache: ModelCache, handles: list[str], count: int) -> None:
    for number in range(count):
        with cache.get(handles[number % _HANDLES]).lease():
            pass


def _per_call(work: Any) -> float:
    start = time.perf_counter()
    work(_CALLS)
    used = time.perf_counter() - start
    start = time.perf_counter()
    for number in range(_CALLS):
        _ = number % _HANDLES
    return (used - (time.perf_counter() - start)) / _CALLS * 1e6


async def _load(cache: ModelCache, source: Source, count: int) -> None:
    options = LoadOptions()
    for _ in range(count):
        model = await cache.load(source, _ignore, options)
        cache.unload(model.handle)


def _ignore(*_: object) -> None:
    """A progress callback."""


def _model(number: int) -> LoadedModel:
    nothing = cast(Any, None)
    model = LoadedModel(
        f"model-{number}", Source(f"model-{number}"), nothing, object(), nothing, 768, 0.0, 1
    )
    model.room = Room(1_000, 1_000, KV_ROOM_TOKENS)
    return model


class _Nobody:
    """Makes nothing: everything is in memory."""

    async def machine(self) -> Machine:
        """Nothing is loaded, so nobody asks."""
        raise NotImplementedError

    async def release(self, model: LoadedModel) -> None:
        """Nothing leaves."""
        await asyncio.sleep(0)
