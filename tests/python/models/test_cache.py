"""Handles are counted, and one source loads once however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from isthmus.errors import ModelLoadFailed, ModelNotLoaded
from isthmus.models import cache as cache_module
from isthmus.models.cache import ModelCache
from isthmus.models.load import Source

T = TypeVar("T")
SOURCE = Source("default")


class GatedEngine:
    """Runs work when its gate opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.loads = 0

    async def run(self, work: Callable[[], T]) -> T:
        await self.gate.wait()
        self.loads += 1
        return work()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> GatedEngine:
    """A cache's engine; loading a model costs nothing and needs no mlx."""
    verified = SimpleNamespace(path=Path("model"), weight_bytes=8, eos_token_ids=())
    monkeypatch.setattr(cache_module, "verify", lambda *_, **__: verified)
    monkeypatch.setattr(cache_module, "load_network", lambda *_: (object(), 32))
    monkeypatch.setattr(cache_module, "load_tokenizer", lambda *_: object())
    monkeypatch.setattr(
        cache_module, "TextTokenizer", lambda _, size: SimpleNamespace(vocab_size=size)
    )
    monkeypatch.setattr(cache_module, "_release", lambda model: None)
    return GatedEngine()


def ignore(*_: Any) -> None:
    """A progress callback."""


async def test_two_who_ask_at_once_share_one_load_and_one_handle(engine: GatedEngine) -> None:
    cache = ModelCache(engine, ())
    waiting = [asyncio.create_task(cache.load(SOURCE, ignore)) for _ in range(2)]
    engine.gate.set()
    first, second = await asyncio.gather(*waiting)
    assert first is second
    assert (engine.loads, first.references) == (1, 2)


async def test_a_loaded_model_is_handed_out_again_without_a_load(engine: GatedEngine) -> None:
    engine.gate.set()
    cache = ModelCache(engine, ())
    first = await cache.load(SOURCE, ignore)
    assert await cache.load(SOURCE, ignore) is first
    assert engine.loads == 1


async def test_another_option_is_another_model(engine: GatedEngine) -> None:
    engine.gate.set()
    cache = ModelCache(engine, ())
    first = await cache.load(SOURCE, ignore)
    other = await cache.load(Source("default", trust_remote_code=True), ignore)
    assert first.handle != other.handle


async def test_the_last_reference_lets_the_model_go(engine: GatedEngine) -> None:
    engine.gate.set()
    cache = ModelCache(engine, ())
    handle = (await cache.load(SOURCE, ignore)).handle
    await cache.load(SOURCE, ignore)
    await cache.unload(handle)
    assert cache.get(handle).references == 1
    await cache.unload(handle)
    with pytest.raises(ModelNotLoaded):
        cache.get(handle)


async def test_a_waiter_that_leaves_does_not_end_the_load_of_the_other(
    engine: GatedEngine,
) -> None:
    cache = ModelCache(engine, ())
    leaver, stayer = (asyncio.create_task(cache.load(SOURCE, ignore)) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    engine.gate.set()
    model = await stayer
    assert model.references == 1
    assert leaver.cancelled() or (await asyncio.gather(leaver, return_exceptions=True))


async def test_a_failed_load_is_told_to_every_waiter_and_not_remembered(
    engine: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ModelLoadFailed("broken", cause="corrupt_weights")

    engine.gate.set()
    cache = ModelCache(engine, ())
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "load_network", fail)
        tasks = [cache.load(SOURCE, ignore) for _ in range(2)]
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [ModelLoadFailed] * 2
    assert (await cache.load(SOURCE, ignore)).references == 1


async def test_progress_is_told_to_every_waiter_in_order(engine: GatedEngine) -> None:
    engine.gate.set()
    cache = ModelCache(engine, ())
    stages: list[list[str]] = [[], []]
    await asyncio.gather(
        *(cache.load(SOURCE, lambda stage, *_, seen=seen: seen.append(stage)) for seen in stages)
    )
    assert stages[0] == ["resolve", "verify", "load", "load"] == stages[1]
