"""A source becomes a model in threads and on the engine; what fails in passing is tried again."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from isthmus.errors import ModelLoadFailed
from isthmus.models import BUILTIN_ROOT, making
from isthmus.models.load import LoadedModel, Source
from isthmus.models.making import FolderMaker, StepWork
from isthmus.models.network import NetworkLoad
from isthmus.resilience.retry import Retrier

T = TypeVar("T")

DRAFT = Source("default-draft")


class HereEngine:
    """Runs work where it is asked to; the test may hold the steps up."""

    def __init__(self) -> None:
        self.steps = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, work: Callable[[], T]) -> T:
        """Run it."""
        return work()

    async def run_steps(self, work: StepWork) -> None:
        """Run it to its end, with a turn for others before each step."""
        while True:
            await asyncio.sleep(0)
            await self.gate.wait()
            self.steps += 1
            if work.step():
                return


async def no_wait(_seconds: float) -> None:
    """Wait not."""


def maker_of(engine: HereEngine) -> tuple[FolderMaker, Retrier]:
    """Return a maker that waits for nothing between attempts."""
    retrier = Retrier(sleep=no_wait)
    return FolderMaker(engine, (), retrier), retrier


def ignore(*_: Any) -> None:
    """A progress callback."""


async def test_a_source_is_inspected_built_and_released() -> None:
    engine = HereEngine()
    maker, _ = maker_of(engine)
    told: list[str] = []

    def tell(stage: str, *_: Any) -> None:
        told.append(stage)

    inspected = await maker.inspect(DRAFT, tell)
    assert inspected.verified.path == BUILTIN_ROOT / "draft" and inspected.adapter is None
    parts = await maker.build(inspected, tell)
    assert parts.vocab_size == 768 and engine.steps >= 3
    stages = list(dict.fromkeys(told))
    assert stages == ["verify", "load", "warm_up"]
    model = LoadedModel("m", DRAFT, inspected.verified, parts.network, parts.tokenizer, 768, 0.0)
    model.operation("x", object)
    await maker.release(model)
    assert model.network is None


async def test_the_machine_is_asked_on_the_engine_thread() -> None:
    maker, _ = maker_of(HereEngine())
    assert (await maker.machine()).physical


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_disk_that_fails_in_passing_is_read_again(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, retrier = maker_of(HereEngine())
    verify, left = making.verify, [failures]

    def flaky(*arguments: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "the disk")
        return verify(*arguments, **options)

    monkeypatch.setattr(making, "verify", flaky)
    await maker.inspect(DRAFT, ignore)
    assert retrier.retries == failures


async def test_three_attempts_are_all(monkeypatch: pytest.MonkeyPatch) -> None:
    maker, retrier = maker_of(HereEngine())

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "the disk")

    monkeypatch.setattr(making, "verify", fail)
    with pytest.raises(OSError, match="the disk"):
        await maker.inspect(DRAFT, ignore)
    assert retrier.attempts == 3


async def test_what_is_wrong_with_the_content_is_not_tried_again(tmp_path: Path) -> None:
    maker, retrier = maker_of(HereEngine())
    with pytest.raises(ModelLoadFailed):
        await maker.inspect(Source(str(tmp_path)), ignore)
    assert retrier.attempts == 1


@pytest.mark.parametrize("way", ["cancel", "bad tokenizer"])
async def test_a_build_that_ends_early_drops_what_it_had(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HereEngine()
    maker, _ = maker_of(engine)
    dropped: list[NetworkLoad] = []
    drop = NetworkLoad.drop
    monkeypatch.setattr(NetworkLoad, "drop", lambda load: (dropped.append(load), drop(load)))
    if way == "bad tokenizer":

        def fail(*_: Any) -> Any:
            raise ModelLoadFailed("bad", phase="load", cause="bad_tokenizer")

        monkeypatch.setattr(making, "load_tokenizer", fail)
    inspected = await maker.inspect(DRAFT, ignore)
    engine.gate.clear()
    building = asyncio.ensure_future(maker.build(inspected, ignore))
    await asyncio.sleep(0)
    if way == "cancel":
        building.cancel()
    error = (await asyncio.gather(building, return_exceptions=True))[0]
    assert isinstance(error, asyncio.CancelledError if way == "cancel" else ModelLoadFailed)
    assert len(dropped) == 1 and dropped[0].network is None


async def test_the_errors_of_both_halves_of_a_build_are_heard() -> None:
    async def end(error: Exception | None) -> str:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return "done"

    def both(first: Exception | None, second: Exception | None) -> Awaitable[tuple[str, str]]:
        return making._both(end(first), end(second))

    assert await both(None, None) == ("done", "done")
    for pair in ((ValueError(), None), (None, ValueError()), (ValueError(), KeyError())):
        with pytest.raises(ValueError):
            await both(*pair)
