"""How a runtime ends: it drains when its input ends, and its exit code says how it went."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from isthmus import host
from isthmus.errors import Cancelled, Closing
from tests.contract.waiting import WAIT_S, idle

COMMAND = (sys.executable, "-P", "-m", "isthmus")


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command line with an input that has ended."""
    if "stdin" not in options:
        options.setdefault("input", b"")
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        timeout=WAIT_S,
        check=False,
        **options,
    )


async def test_what_is_in_flight_when_the_input_ends_is_finished() -> None:
    events: list[str] = []
    async with asyncio.timeout(WAIT_S):
        runtime = await host.start(on_event=lambda name, _: events.append(name))
        model = await runtime.load_model()
        generation = model.generate("Once", max_tokens=200, ignore_eos=True, credit=1_000)
        waiting = asyncio.ensure_future(_result(generation))
        await runtime.ping()
        await runtime.close()
        assert len((await waiting).ids) == 200
    assert runtime.closed.result().code == 0
    assert events[-1] == "closing" and set(events[:-1]) == {"progress", "model_loaded"}


async def _result(generation: host.Generation) -> host.GenerationResult:
    return await generation


async def test_what_does_not_end_within_the_grace_is_settled() -> None:
    async with asyncio.timeout(WAIT_S):
        runtime = await host.start(runtime_args=["--drain-grace-s", "0.1"])
        starved = runtime.stream("stream_echo", {"count": 10}, credit=1)
        await runtime.ping()
        await runtime.close()
        with pytest.raises(Closing):
            async for _ in starved.read():
                pass
    assert runtime.closed.result().code == 0


async def test_a_sigterm_is_like_the_end_of_input() -> None:
    async with asyncio.timeout(WAIT_S):
        runtime = await host.start(restart=None)
        assert await runtime.echo(1) == 1
        os.kill(runtime.pid, signal.SIGTERM)
        assert (await runtime.closed).code == 0
        await runtime.close()


async def test_a_sigint_is_the_host_s_business() -> None:
    async with asyncio.timeout(WAIT_S):
        async with await host.start() as runtime:
            for _ in range(3):
                os.kill(runtime.pid, signal.SIGINT)
                assert await runtime.echo(1) == 1
        report = runtime.closed.result()
    assert (report.code, report.signal) == (0, None) and "Traceback" not in report.stderr_tail


async def test_it_says_hello_before_it_can_compute_and_loads_when_it_can() -> None:
    async with asyncio.timeout(WAIT_S):
        async with await host.start() as runtime:
            assert (await runtime.ping())["engine"]["state"] in ("starting", "idle")
            model = await runtime.load_model()
            assert (await model.generate("x", max_tokens=1)).usage.completion_tokens == 1
            await idle(runtime)


async def test_it_ends_while_a_model_loads() -> None:
    async with asyncio.timeout(WAIT_S):
        runtime = await host.start(runtime_args=["--drain-grace-s", "0"])
        loading = asyncio.ensure_future(runtime.load_model())
        await runtime.ping()
        await runtime.close()
        with pytest.raises((Closing, Cancelled)):
            await loading
    assert runtime.closed.result().code == 0


def test_an_input_that_has_ended_gives_a_hello_and_an_end() -> None:
    done = run("runtime", input=b"")
    assert done.returncode == 0 and b"protocol" in done.stdout and b"closing" in done.stdout
    assert all(json.loads(line)["level"] for line in done.stderr.splitlines())


def test_an_input_that_is_no_pipe_is_refused() -> None:
    done = run("runtime", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"standard input must be a pipe" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("runtime", "--no-such-option"), ("runtime", "--codec", "xml"), ("nonsense",)]
)
def test_wrong_arguments_are_a_usage_error(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, b"") and b"usage:" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("runtime", "--help"), ("models", "--help"), ("--version",)]
)
def test_help_is_printed_for_people(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 0 and b"isthmus" in done.stdout and done.stderr == b""


def test_the_built_in_models_are_listed() -> None:
    done = run("models", "list")
    assert done.returncode == 0
    assert b"default " in done.stdout and b"default-draft" in done.stdout
