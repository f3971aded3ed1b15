"""Whatever the process at the other end does, the host says what it was; nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop

from isthmus import host
from isthmus.errors import (
    Closing,
    FrameTooLarge,
    IsthmusError,
    LocalProtocolError,
    RuntimeExited,
    StartFailed,
    StartTimeout,
    VersionMismatch,
)
from isthmus.host.process import Tail, runtime_environment
from tests.fixtures import runtimes

WAIT_S = 20.0
QUICK = host.Graces(close_s=0.05, terminate_s=0.05)
Play = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    """Runs a coroutine on a loop of each kind, and checks that no task is left."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(test: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(WAIT_S):
                await test()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    yield run


async def start(script: str, **options: Any) -> host.Runtime:
    """Start a fake runtime that is not started again."""
    default = {"graces": QUICK, "restart": None}
    return await host.start(command=runtimes.command(script), **{**default, **options})


@pytest.mark.parametrize(
    ("script", "error", "shown"),
    [
        (runtimes.DEAD_AT_START, StartFailed, "no module named mlx"),
        (runtimes.SILENT, StartTimeout, "doctor"),
        (runtimes.NOT_A_RUNTIME, FrameTooLarge, "48 65 6c 6c 6f"),
        (runtimes.FROM_THE_FUTURE, VersionMismatch, "99"),
    ],
    ids=["dead", "silent", "no runtime", "another version"],
)
def test_a_start_that_fails_says_why(
    play: Play, script: str, error: type[IsthmusError], shown: str
) -> None:
    async def test() -> None:
        timeout_s = 0.3 if script is runtimes.SILENT else WAIT_S
        with pytest.raises(error) as caught:
            await start(script, start_timeout_s=timeout_s)
        assert shown in caught.value.message

    play(test)


@pytest.mark.parametrize("path", ["/nonexistent/python", os.devnull, ""])
def test_a_command_that_cannot_be_run_is_named(play: Play, path: str) -> None:
    async def test() -> None:
        with pytest.raises(StartFailed) as caught:
            await host.start(python=path)
        assert repr(path) in caught.value.message
        assert caught.value.details["cause"] == "spawn"

    play(test)


def test_an_exit_before_the_hello_carries_code_and_standard_error(play: Play) -> None:
    async def test() -> None:
        with pytest.raises(StartFailed) as caught:
            await start(runtimes.DEAD_AT_START)
        assert caught.value.details["exit_code"] == 3
        assert "no module" in str(caught.value.details["stderr_tail"])
        assert not caught.value.retryable

    play(test)


def test_calls_are_answered_and_the_end_is_reported(play: Play) -> None:
    async def test() -> None:
        async with await start(runtimes.ECHO) as runtime:
            assert runtime.hello["runtime"] == "fake" and runtime.pid > 0
            assert await asyncio.gather(*map(runtime.echo, range(50))) == list(range(50))
            assert await runtime.ping() == {"loop_lag_ms": 0}
        assert runtime.closed.result() == host.ExitReport(0, None, "")
        await runtime.close()
        for call in (runtime.echo(1), runtime.ping()):
            with pytest.raises(Closing):
                await call

    play(test)


@pytest.mark.parametrize(
    ("script", "signal_name"),
    [(runtimes.ENDS_ON_SIGTERM, "SIGTERM"), (runtimes.DEAF_TO_ITS_END, "SIGKILL")],
)
def test_who_does_not_go_when_asked_is_made_to(play: Play, script: str, signal_name: str) -> None:
    async def test() -> None:
        runtime = await start(script)
        await asyncio.gather(runtime.close(), runtime.close())
        assert runtime.closed.result().signal == signal_name

    play(test)


def test_what_is_in_flight_when_it_is_closed_settles(play: Play) -> None:
    async def test() -> None:
        runtime = await start(runtimes.ENDS_ON_SIGTERM)
        waiting = asyncio.ensure_future(runtime.echo(1))
        await asyncio.sleep(0)
        await runtime.close()
        with pytest.raises(IsthmusError):
            await waiting
        assert runtime.in_flight == 0

    play(test)


@pytest.mark.parametrize("script", [runtimes.DIES_MID_STREAM, runtimes.DIES_MID_FRAME])
def test_when_it_is_killed_everybody_who_waits_is_told(play: Play, script: str) -> None:
    async def test() -> None:
        runtime = await start(script)
        stream, others = runtime.stream_echo(10), [runtime.ping(), runtime.echo(1)]
        reading = asyncio.ensure_future(read(stream))
        results = await asyncio.gather(*others, return_exceptions=True)
        for error in [*results, (await reading)[1]]:
            assert isinstance(error, RuntimeExited) and error.details["signal"] == "SIGKILL"
        assert runtime.closed.result().signal == "SIGKILL"
        with pytest.raises(RuntimeExited):
            await runtime.echo(2)
        await runtime.close()

    async def read(stream: Any) -> tuple[list[Any], BaseException | None]:
        items = []
        try:
            async for item in stream:
                items.append(item)  # noqa: PERF401 -- kept when the next one raises
        except IsthmusError as error:
            return items, error
        return items, None

    play(test)


def test_items_that_came_before_the_death_are_delivered_first(play: Play) -> None:
    async def test() -> None:
        runtime = await start(runtimes.DIES_MID_STREAM)
        items = []
        with pytest.raises(RuntimeExited) as caught:
            async for item in runtime.stream_echo(10):
                items.append(item)  # noqa: PERF401 -- kept when the next one raises
        assert items == [0, 1] and caught.value.details["received"] == 2
        assert "about to die" in caught.value.message
        await runtime.close()

    play(test)


def test_broken_framing_ends_the_connection_and_the_process(play: Play) -> None:
    async def test() -> None:
        runtime = await start(runtimes.BREAKS_FRAMING)
        with pytest.raises(FrameTooLarge):
            await runtime.echo(1)
        assert (await runtime.closed).signal == "SIGKILL"
        with pytest.raises(FrameTooLarge):
            await runtime.echo(1)
        await runtime.close()

    play(test)


def test_an_error_of_an_odd_shape_still_settles_its_request(play: Play) -> None:
    async def test() -> None:
        runtime = await start(runtimes.ODD_ERROR)
        with pytest.raises(IsthmusError):
            await runtime.echo(1)
        await runtime.close()

    play(test)


def test_replies_for_nobody_are_counted_and_dropped(play: Play) -> None:
    async def test() -> None:
        events: list[Any] = []
        runtime = await start(runtimes.SENDS_NONSENSE, on_event=lambda *event: events.append(event))
        assert await runtime.echo(1) == "good"
        await runtime.close()
        assert runtime.ignored == 4 and events == [("later", {})]

    play(test)


def test_what_the_runtime_says_of_the_connection_is_the_reason_of_its_end(play: Play) -> None:
    async def test() -> None:
        runtime = await start(runtimes.FROM_THE_FUTURE_ITSELF)
        with pytest.raises(VersionMismatch, match="update the host"):
            await runtime.echo(1)
            await runtime.echo(1)
        await runtime.close()

    play(test)


def test_the_exit_counts_though_a_grandchild_holds_the_pipes(play: Play) -> None:
    async def test() -> None:
        runtime = await start(runtimes.LEAVES_A_CHILD)
        with pytest.raises(RuntimeExited) as caught:
            await runtime.echo(1)
        assert caught.value.details["exit_code"] == 4
        assert "leaving" in str(caught.value.details["stderr_tail"])
        await runtime.close()

    play(test)


def test_standard_error_is_drained_and_its_end_is_kept(play: Play) -> None:
    async def test() -> None:
        async with await start(runtimes.FLOODS_STDERR) as runtime:
            assert await runtime.echo(1) == "done"
        tail = runtime.closed.result().stderr_tail
        assert tail.endswith("the end\n") and len(tail) == 64 * 1024

    play(test)


def test_a_model_whose_load_was_cancelled_too_late_is_given_back(play: Play) -> None:
    async def test() -> None:
        heard = asyncio.get_running_loop().create_future()
        runtime = await start(
            runtimes.ANSWERS_LATE, on_event=lambda _, body: heard.set_result(body)
        )
        loading = asyncio.ensure_future(runtime.load_model())
        await asyncio.sleep(0)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        assert await heard == ["unload_model", {"model": "late-1"}]
        await runtime.close()

    play(test)


def test_writing_to_a_runtime_that_reads_no_more_harms_nobody(play: Play) -> None:
    async def test() -> None:
        heard = asyncio.get_running_loop().create_future()
        runtime = await start(runtimes.CLOSES_ITS_INPUT, on_event=lambda *_: heard.set_result(None))
        await heard
        waiting = [asyncio.ensure_future(runtime.echo(b"x" * 100_000)) for _ in range(5)]
        await asyncio.sleep(0)
        await runtime.close()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, RuntimeExited)

    play(test)


def test_a_value_that_cannot_travel_fails_here_and_the_connection_lives(play: Play) -> None:
    async def test() -> None:
        async with await start(runtimes.ECHO) as runtime:
            for bad in (object(), "\ud800", 2**64, bytes(64 * 1024 * 1024)):
                with pytest.raises(LocalProtocolError):
                    await runtime.echo(bad)
            assert await runtime.echo("good") == "good" and runtime.in_flight == 0

    play(test)


def test_ids_wrap_around_those_that_are_in_use(play: Play) -> None:
    async def test() -> None:
        async with await start(runtimes.ECHO) as runtime:
            connection = runtime._connection
            connection._last_id = 2**32 - 3
            connection._requests[2**32 - 1] = connection._requests[1] = None  # type: ignore[assignment]
            assert [connection._free_id() for _ in range(4)] == [2**32 - 2, 0, 2, 3]
            connection._requests.clear()
            assert await runtime.echo("x") == "x"

    play(test)


def test_the_runtime_inherits_what_is_allowed_and_no_secrets(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LD_PRELOAD_CANARY", "secret")
    monkeypatch.setenv("HF_HOME", "/models")

    async def test() -> None:
        async with await start(runtimes.REPORTS_ENVIRONMENT, env={"GIVEN": "1"}) as runtime:
            seen = await runtime.echo(0)
        assert (seen["GIVEN"], seen["HF_HOME"]) == ("1", "/models")
        assert "secret" not in seen.values()

    play(test)


def test_the_allow_list_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_A", "1")
    monkeypatch.setenv("MINE", "2")
    assert runtime_environment(("MINE_*",), {"B": "3"}) == {"MINE_A": "1", "B": "3"}
    assert runtime_environment((), {}) == {}


def test_a_tail_keeps_the_last_bytes_however_they_come() -> None:
    for size in (1, 3, 7, 100):
        tail, data = Tail(10), bytes(range(97, 123)) * 2
        for start_at in range(0, len(data), size):
            tail.add(data[start_at : start_at + size])
        assert tail.text() == data[-10:].decode()
    assert Tail().text() == ""


def test_the_default_command_is_this_interpreter_s_runtime(play: Play) -> None:
    async def test() -> None:
        async with await host.start(
            graces=host.Graces(), runtime_args=["--blas", "off"]
        ) as runtime:
            assert runtime.hello["blas"] == {"name": "bundled", "path": None}
            assert runtime.hello["python"] == sys.version.split()[0]
        assert runtime.closed.result().code == 0

    play(test)
