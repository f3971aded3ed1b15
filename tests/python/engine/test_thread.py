"""The engine thread: what it is given is done or fails, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from isthmus.engine.thread import EngineThread
from isthmus.errors import EngineDead
from tests.python.engine.fakes import FakeErrand, listener_of, make_job

WAIT_S = 10.0


@contextlib.asynccontextmanager
async def an_engine(
    prepare: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[EngineThread]:
    """A started engine, ended with the test."""
    engine = EngineThread(asyncio.get_running_loop(), prepare, clock)
    engine.start()
    try:
        yield engine
    finally:
        assert await asyncio.to_thread(engine.stop, WAIT_S)


async def ended(engine: EngineThread, **options: Any) -> Any:
    """Run a job to its end; return its listener."""
    done = asyncio.Event()
    job = make_job("a", [], on_end=done.set, **options)
    engine.submit(job)
    await asyncio.wait_for(done.wait(), WAIT_S)
    return listener_of(job)


async def died(engine: EngineThread) -> None:
    """Wait until the thread has ended."""
    await asyncio.to_thread(engine._thread.join, WAIT_S)
    assert not engine._thread.is_alive()


def leave() -> None:
    """End whichever thread runs this."""
    raise SystemExit("the engine is made to end")


async def test_work_runs_on_the_engine_s_own_thread() -> None:
    async with an_engine() as engine:
        name = await asyncio.wait_for(engine.run(lambda: threading.current_thread().name), WAIT_S)
        assert name == "isthmus-engine"


async def test_what_work_raises_is_raised_to_its_caller_alone() -> None:
    async with an_engine() as engine:
        bad = engine.run(lambda: 1 / 0)
        good = engine.run(lambda: "good")
        results = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(results[0], ZeroDivisionError) and results[1] == "good"


async def test_work_that_nobody_waits_for_is_not_begun() -> None:
    async with an_engine() as engine:
        gate, ran = threading.Event(), []
        first = asyncio.ensure_future(engine.run(lambda: gate.wait(WAIT_S)))
        second = asyncio.ensure_future(engine.run(lambda: ran.append("second")))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        gate.set()
        await asyncio.wait_for(first, WAIT_S)
        await asyncio.wait_for(engine.run(lambda: None), WAIT_S)
        assert ran == []


async def test_step_work_runs_to_its_end_on_the_engine_s_thread() -> None:
    names: set[str] = set()

    class Work(FakeErrand):
        def step(self) -> bool:
            names.add(threading.current_thread().name)
            return super().step()

    async with an_engine() as engine:
        work = Work("e", [], 5)
        await asyncio.wait_for(engine.run_steps(work), WAIT_S)
        assert work.done == 5 and names == {"isthmus-engine"}


async def test_step_work_goes_on_between_the_tokens_of_a_job() -> None:
    # Time is shared: where none passes, turns are.
    async with an_engine(clock=lambda: 0.0) as engine:
        job = make_job("a", log := [], max_tokens=10**9, granted=10**9)
        engine.submit(job)
        await asyncio.wait_for(engine.run_steps(FakeErrand("e", log, 20)), WAIT_S)
        job.is_cancelled = True
        engine.wake()
        # Each turn has one of either; the job's first may have come before.
        first, last = log.index("e:s0"), log.index("e:s19")
        assert sum(entry.startswith("a:") for entry in log[first : last + 1]) >= 18


async def test_what_step_work_raises_is_raised_to_its_caller_alone() -> None:
    async with an_engine() as engine:
        bad = engine.run_steps(FakeErrand("bad", [], 9, {2: ZeroDivisionError("at 2")}))
        good = engine.run_steps(FakeErrand("good", [], 9))
        results = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(results[0], ZeroDivisionError) and results[1] is None


async def test_step_work_whose_caller_is_cancelled_is_dropped() -> None:
    async with an_engine() as engine:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        class Endless(FakeErrand):
            def step(self) -> bool:
                loop.call_soon_threadsafe(begun.set)
                return super().step()

        work = Endless("e", [], 10**9)
        waiting = asyncio.ensure_future(engine.run_steps(work))
        await asyncio.wait_for(begun.wait(), WAIT_S)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        # One more piece of step work has its turn only when the first is gone.
        await asyncio.wait_for(engine.run_steps(FakeErrand("f", [], 1)), WAIT_S)
        done = work.done
        await asyncio.wait_for(engine.run_steps(FakeErrand("g", [], 3)), WAIT_S)
        assert work.done == done


async def test_when_the_engine_dies_step_work_is_told() -> None:
    engine = EngineThread(asyncio.get_running_loop(), lambda: None)
    engine.start()
    fatal = engine.run_steps(FakeErrand("x", [], 9, {1: SystemExit("in a step")}))
    other = engine.run_steps(FakeErrand("e", [], 10**9))
    results = await asyncio.wait_for(asyncio.gather(fatal, other, return_exceptions=True), WAIT_S)
    assert all(isinstance(result, EngineDead) for result in results)
    await died(engine)
    with pytest.raises(EngineDead):
        await engine.run_steps(FakeErrand("late", [], 1))


async def test_a_job_s_listener_hears_of_it_on_the_loop() -> None:
    async with an_engine() as engine:
        heard = await ended(engine, max_tokens=5)
        assert (heard.ids, heard.text) == ([0, 1, 2, 3, 4], "abcde")


async def test_work_is_done_between_the_steps_of_a_job() -> None:
    async with an_engine() as engine:
        job = make_job("a", [], max_tokens=10**9, granted=10**9)
        engine.submit(job)
        assert await asyncio.wait_for(engine.run(lambda: 7), WAIT_S) == 7
        job.is_cancelled = True
        engine.wake()


async def test_a_starved_job_goes_on_when_it_is_granted_room() -> None:
    async with an_engine() as engine:
        done = asyncio.Event()
        job = make_job("a", [], max_tokens=3, granted=0, on_end=done.set)
        engine.submit(job)
        await asyncio.wait_for(engine.run(lambda: None), WAIT_S)
        assert not done.is_set()
        job.granted = 3
        engine.wake()
        await asyncio.wait_for(done.wait(), WAIT_S)


@pytest.mark.parametrize("cause", ["prepare", "command", "step"])
async def test_when_it_dies_everybody_who_waits_is_told(cause: str) -> None:
    begun = threading.Event()

    def prepare() -> None:
        begun.wait(WAIT_S)
        if cause == "prepare":
            raise ImportError("no mlx here")

    engine = EngineThread(asyncio.get_running_loop(), prepare)
    reasons: list[EngineDead] = []
    engine.on_dead = reasons.append
    engine.start()
    jobs = [make_job("a", [], granted=0) for _ in range(3)]
    for job in jobs:
        engine.submit(job)
    waiting = []
    if cause == "command":
        waiting.append(asyncio.ensure_future(engine.run(leave)))
    if cause == "step":
        engine.submit(make_job("x", [], script={"d0": SystemExit("in a step")}))  # type: ignore[dict-item]
    else:
        waiting.append(asyncio.ensure_future(engine.run(lambda: "never done")))
    await asyncio.sleep(0)
    begun.set()
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), WAIT_S)
    assert all(isinstance(result, EngineDead) for result in results)
    await died(engine)
    await asyncio.sleep(0)
    assert all(isinstance(listener_of(job).errors[0], EngineDead) for job in jobs)
    assert len(reasons) == 1 and engine.health()["state"] == "dead"
    for refused in (lambda: engine.submit(jobs[0]), engine._check_alive):
        with pytest.raises(EngineDead):
            refused()
    with pytest.raises(EngineDead):
        await engine.run(lambda: None)


async def test_what_is_queued_behind_the_end_fails_and_is_not_done() -> None:
    done: list[str] = []
    async with an_engine() as engine:
        gate = threading.Event()
        first = asyncio.ensure_future(engine.run(lambda: gate.wait(WAIT_S)))
        await asyncio.sleep(0)
        engine._commands.put(None)
        late = asyncio.ensure_future(engine.run(lambda: done.append("late")))
        job = make_job("late", [])
        engine.submit(job)
        await asyncio.sleep(0)
        gate.set()
        await asyncio.wait_for(first, WAIT_S)
        with pytest.raises(EngineDead):
            await asyncio.wait_for(late, WAIT_S)
        await asyncio.sleep(0)
        assert not done and isinstance(listener_of(job).errors[0], EngineDead)


async def test_a_listener_s_defect_does_not_keep_the_others_waiting() -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def defect() -> None:
        raise KeyError("a defect")

    async with an_engine() as engine:
        engine.submit(make_job("bad", [], on_end=defect))
        assert (await ended(engine)).outcomes
    assert len(reported) == 1


async def test_its_health_says_what_it_does() -> None:
    gate = threading.Event()

    def prepare() -> None:
        gate.wait(WAIT_S)

    async with an_engine(prepare) as engine:
        assert engine.health()["state"] == "starting"
        gate.set()
        await asyncio.wait_for(engine.run(lambda: None), WAIT_S)
        working, go_on = threading.Event(), threading.Event()

        def work() -> None:
            working.set()
            go_on.wait(WAIT_S)

        busy = asyncio.ensure_future(engine.run(work))
        await asyncio.to_thread(working.wait, WAIT_S)
        health = engine.health()
        assert health["state"] == "busy" and isinstance(health["progress_age_ms"], float)
        go_on.set()
        await asyncio.wait_for(busy, WAIT_S)


async def test_a_thread_that_does_not_end_is_reported() -> None:
    gate = threading.Event()
    engine = EngineThread(asyncio.get_running_loop(), lambda: None)
    engine.start()
    stuck = asyncio.ensure_future(engine.run(lambda: gate.wait(WAIT_S)))
    await asyncio.sleep(0)
    assert engine.stop(0.0) is False
    gate.set()
    await asyncio.wait_for(stuck, WAIT_S)
    await died(engine)
