"""The host and real runtimes that are killed, hang or cannot be started: nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from isthmus import host
from isthmus.errors import (
    Closing,
    IsthmusError,
    ModelLoadFailed,
    ModelNotLoaded,
    RuntimeExited,
    RuntimeFailed,
    RuntimeUnresponsive,
)
from isthmus.host.life import RuntimeState, StateChange
from tests.contract.waiting import WAIT_S
from tests.faults.peer import is_alive, runtime_command
from tests.faults.small_models import write_chain
from tests.fixtures import runtimes

SOON = host.RestartOptions(backoff_ms=1.0)
"""Restarts that do not keep a test waiting."""

QUICK = host.HeartbeatOptions(interval_ms=50.0, silence_ms=1_500.0)
ONCE = """
path = os.environ["ISTHMUS_MARK"]
if os.path.exists(path):
    sys.stderr.write("the disk is gone\\n"); sys.exit(7)
open(path, "w").close()
"""
HANGS_THE_SECOND_TIME = """
path = os.environ["ISTHMUS_MARK"]
if os.path.exists(path):
    forever()
open(path, "w").close()
"""
Scene = Callable[[], Awaitable[None]]


class Lives:
    """Keeps what is told of a runtime's life, and waits for more."""

    def __init__(self) -> None:
        self.steps: list[StateChange] = []
        self._news = asyncio.Event()

    def __call__(self, step: StateChange) -> None:
        """Take a step."""
        self.steps.append(step)
        self._news.set()

    async def until(self, state: RuntimeState) -> StateChange:
        """Wait for a step into a state that has not been waited for."""
        while True:
            for index, step in enumerate(self.steps):
                if step.to_state is state:
                    del self.steps[: index + 1]
                    return step
            self._news.clear()
            await self._news.wait()


@pytest.fixture(params=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Callable[[Scene], None]:
    """Runs a scene on a loop of each kind, and checks that no task is left."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(scene: Scene) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(2 * WAIT_S):
                await scene()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run


@asynccontextmanager
async def faulty(lives: Lives | None = None, **options: Any) -> AsyncIterator[host.Runtime]:
    """A real runtime with methods that misbehave, started again soon; its last process ends."""
    settings = {
        "command": runtime_command(),
        "env": dict(os.environ),
        "restart": SOON,
        "on_state": lives,
    }
    async with await host.start(**{**settings, **options}) as runtime:
        await lives.until(RuntimeState.RUNNING) if lives else None
        yield runtime
    assert not is_alive(runtime.pid)


async def tokens(model: host.Model, **options: Any) -> list[int]:
    """Return the greedy tokens of a prompt."""
    return (await model.generate("Once upon", max_tokens=8, **options)).ids


def test_one_that_is_killed_while_nothing_is_asked_of_it_is_followed(
    play: Callable[[Scene], None],
) -> None:
    async def scene() -> None:
        lives = Lives()
        async with faulty(lives) as runtime:
            model, draft = await runtime.load_model(), await runtime.load_model("default-draft")
            before, first = await tokens(model), runtime.pid
            await runtime.load_model()
            os.kill(first, signal.SIGKILL)
            lost = await lives.until(RuntimeState.RESTARTING)
            assert lost.reason == "signal SIGKILL"
            assert await tokens(model, draft_model=draft) == before
            assert runtime.pid != first and not is_alive(first)
            infos = {info.model: info for info in await runtime.list_models()}
            assert infos.keys() == {model.info.model, draft.info.model}
            assert infos[model.info.model].references == 2
            health, stats = await runtime.health(), await runtime.stats()
            assert health["is_ready"] and health["restarts"] == 1
            assert health["last_exit"].signal == "SIGKILL"
            assert stats["supervision"]["restored"] == 2
            assert await draft.unload() is True
            with pytest.raises(ModelNotLoaded):
                await draft.tokenize("x")

    play(scene)


def test_one_that_is_killed_at_work_leaves_nobody_waiting(play: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        lives = Lives()
        async with faulty(lives) as runtime:
            model = await runtime.load_model()
            ids = await model.tokenize("Once upon a time")
            deltas = aiter(model.generate("Once", max_tokens=4_000, ignore_eos=True))
            delivered = [await anext(deltas)]
            silent = asyncio.ensure_future(tokens(model, stream=False))
            dying = runtime.call("fault_kill", {"signal": "SIGKILL"})
            asked = [asyncio.ensure_future(model.tokenize("Once upon a time")) for _ in range(3)]
            with pytest.raises(RuntimeExited) as fatal:
                await dying
            assert fatal.value.details["signal"] == "SIGKILL"
            with pytest.raises(RuntimeExited) as caught:
                async for delta in deltas:
                    delivered.append(delta)  # noqa: PERF401 -- kept when the next one raises
            partial = caught.value.details["partial"]
            assert partial["ids"] == [token for delta in delivered for token in delta.ids]
            assert partial["ids"] and not caught.value.retryable
            assert await asyncio.gather(*asked) == [ids] * 3
            assert await silent == await tokens(model)

    play(scene)


def test_a_model_that_is_gone_from_the_disk_fails_its_callers_and_no_others(
    play: Callable[[Scene], None], tmp_path: Path
) -> None:
    async def scene() -> None:
        folder = write_chain(tmp_path / f"model-{asyncio.get_running_loop().time()}", {})
        async with faulty() as runtime:
            gone, other = await runtime.load_model(str(folder)), await runtime.load_model()
            os.kill(runtime.pid, signal.SIGKILL)
            shutil.rmtree(folder)
            failing = [asyncio.ensure_future(gone.tokenize("a")) for _ in range(2)]
            assert await other.tokenize("Once")
            results = await asyncio.gather(*failing, return_exceptions=True)
            assert all(isinstance(error, ModelLoadFailed) for error in results)
            assert results[0] is not results[1]

    play(scene)


def test_a_runtime_that_cannot_run_is_given_up_with_a_report_and_restarted_by_hand(
    play: Callable[[Scene], None], tmp_path: Path
) -> None:
    async def scene() -> None:
        mark, lives = tmp_path / f"mark-{asyncio.get_running_loop().time()}", Lives()
        options = {"env": {"ISTHMUS_MARK": str(mark)}, "restart": SOON, "on_state": lives}
        command = runtimes.command(ONCE + runtimes.ECHO)
        async with await host.start(command=command, **options) as runtime:
            assert await runtime.echo(1) == 1
            os.kill(runtime.pid, signal.SIGKILL)
            with pytest.raises(RuntimeFailed) as caught:
                await runtime.echo(2)
            report = caught.value
            assert len(report.details["ends"]) == 4
            assert "exit code 7" in report.message and "the disk is gone" in report.message
            states = [str(step.to_state) for step in lives.steps]
            assert states == ["running", "restarting", "failed"]
            assert (await runtime.health())["state"] == "failed"
            mark.unlink()
            await asyncio.gather(runtime.restart(), runtime.restart())
            assert await runtime.echo(3) == 3
        assert runtime.closed.result().code == 0

    play(scene)


def test_a_blocked_loop_is_found_and_who_waits_is_told(play: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        async with faulty(heartbeat=QUICK) as runtime:
            model, first = await runtime.load_model(), runtime.pid
            blocked = asyncio.ensure_future(runtime.call("fault_block_loop", {"seconds": 60}))
            again = asyncio.ensure_future(model.tokenize("Once"))
            with pytest.raises(RuntimeUnresponsive) as caught:
                await blocked
            assert caught.value.details["cause"] == "silent" and caught.value.retryable
            assert await again and runtime.pid != first and not is_alive(first)

    play(scene)


def test_a_dead_engine_is_found_and_who_had_no_token_need_not_know(
    play: Callable[[Scene], None],
) -> None:
    async def scene() -> None:
        async with faulty() as runtime:
            model = await runtime.load_model()
            expected = await tokens(model)
            first = runtime.pid
            with pytest.raises(IsthmusError) as caught:
                await runtime.call("fault_kill_engine", {})
            assert caught.value.code in ("ENGINE_DEAD", "RUNTIME_UNRESPONSIVE")
            assert await tokens(model) == expected and runtime.pid != first

    play(scene)


def test_a_host_that_was_blocked_does_not_kill_its_runtime(play: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        async with faulty(heartbeat=QUICK) as runtime:
            first = runtime.pid
            waiting = asyncio.ensure_future(runtime.call("fault_sleep", {"seconds": 2.5}))
            await runtime.ping()
            time.sleep(2.0)
            assert await waiting == {"slept": True} and runtime.pid == first

    play(scene)


def test_one_that_is_stopped_and_goes_on_is_left_alone(play: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        async with faulty() as runtime:
            first = runtime.pid
            os.kill(first, signal.SIGSTOP)
            call = asyncio.ensure_future(runtime.echo(1))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not call.done()
            os.kill(first, signal.SIGCONT)
            assert await call == 1 and runtime.pid == first

    play(scene)


@pytest.mark.parametrize("when", ["backoff", "start"])
def test_closing_while_it_restarts_leaves_no_process(
    play: Callable[[Scene], None], when: str, tmp_path: Path
) -> None:
    async def scene() -> None:
        lives, mark = Lives(), tmp_path / f"mark-{asyncio.get_running_loop().time()}"
        restart = host.RestartOptions(backoff_ms=0.0 if when == "start" else 60_000.0)
        command = runtimes.command(HANGS_THE_SECOND_TIME + runtimes.ECHO)
        runtime = await host.start(
            command=command, env={"ISTHMUS_MARK": str(mark)}, restart=restart, on_state=lives
        )
        first = runtime.pid
        os.kill(first, signal.SIGKILL)
        await lives.until(RuntimeState.RESTARTING)
        call = asyncio.ensure_future(runtime.echo(1))
        while when == "start" and runtime.pid == first:
            await asyncio.sleep(0)
        await asyncio.gather(runtime.close(), runtime.close())
        with pytest.raises(Closing):
            await call
        assert not is_alive(first) and not is_alive(runtime.pid)
        assert runtime.closed.result().signal == "SIGKILL"

    play(scene)


def test_a_restart_by_hand_finishes_what_is_in_flight(play: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        async with faulty() as runtime:
            model, first = await runtime.load_model(), runtime.pid
            running = asyncio.ensure_future(tokens(model))
            slow = asyncio.ensure_future(runtime.call("fault_sleep", {"seconds": 0.2}))
            await runtime.ping()
            await runtime.restart()
            assert await slow == {"slept": True} and runtime.pid != first
            assert await running == await tokens(model)

    play(scene)


def test_a_runtime_that_runs_out_of_memory_is_said_to(play: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        script = "say((0, HELLO)); hear(); hear(); sys.exit('MemoryError: std::bad_alloc')"
        runtime = await host.start(command=runtimes.command(script), restart=None)
        with pytest.raises(RuntimeExited) as caught:
            await runtime.echo(1)
        assert "out of memory" in caught.value.message
        assert "--model-memory-bytes" in caught.value.message
        await runtime.close()

    play(scene)


def test_a_hundred_restarts_leave_nothing_open(play: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        lives = Lives()
        often = host.RestartOptions(limit=1_000, backoff_ms=0.0)
        command = runtimes.command(runtimes.ECHO)
        async with await host.start(command=command, restart=often, on_state=lives) as runtime:
            for number in range(100):
                os.kill(runtime.pid, signal.SIGKILL)
                await lives.until(RuntimeState.RESTARTING)
                assert await runtime.echo(number) == number
                if number == 3:
                    before = len(os.listdir("/proc/self/fd"))
            assert (await runtime.health())["restarts"] == 100
            assert len(os.listdir("/proc/self/fd")) <= before + 1
            assert len(asyncio.all_tasks()) <= 2

    play(scene)
