"""Row 48: a generation fails after its first tokens: nothing is repeated, nothing is lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from isthmus import host
from isthmus.errors import EngineDead, IsthmusError, NumericError, RuntimeExited
from isthmus.host.generation import Generation
from isthmus.host.model import Model
from isthmus.host.runtime import Runtime
from tests.faults.peer import DEADLINE_S, runtime_command
from tests.faults.small_models import write_chain

PARTIAL = {"text": "aaaaa", "ids": [97] * 5, "completion_tokens": 5}
NOTHING = {"text": "", "ids": [], "completion_tokens": 0}


def play(
    folder: Path,
    scene: Callable[[Runtime, Model], Awaitable[None]],
    restart: host.RestartOptions | None = None,
) -> None:
    """Run a scene with a runtime and a model, and end the runtime."""

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S):
            started = await host.start(
                command=runtime_command(), env=dict(os.environ), restart=restart, heartbeat=None
            )
            async with started as runtime:
                await scene(runtime, await runtime.load_model(str(folder)))

    asyncio.run(run())


async def failed(generation: Generation) -> tuple[str, IsthmusError]:
    """Iterate over a generation that fails; return the text that came and the error."""
    text = ""
    with pytest.raises(IsthmusError) as caught:
        async for delta in generation:
            text += delta.text
    return text, caught.value


def test_the_tokens_come_and_then_the_error_with_all_of_them(chain_folder: Path) -> None:
    async def scene(runtime: Runtime, model: Model) -> None:
        await runtime.call("fault_die_at_token", {"tokens": 5})
        text, error = await failed(model.generate("a", max_tokens=50))
        assert isinstance(error, RuntimeExited) and error.details["signal"] == "SIGKILL"
        assert (text, error.retryable) == ("aaaaa", False)
        assert error.details["partial"] == PARTIAL

    play(chain_folder, scene)


def test_a_generation_that_is_only_awaited_has_them_too(chain_folder: Path) -> None:
    async def scene(runtime: Runtime, model: Model) -> None:
        await runtime.call("fault_die_at_token", {"tokens": 5})
        with pytest.raises(RuntimeExited) as caught:
            await model.generate("a", max_tokens=50)
        assert caught.value.details["partial"] == PARTIAL and not caught.value.retryable

    play(chain_folder, scene)


def test_one_that_is_not_streamed_fails_at_once_with_nothing_delivered(chain_folder: Path) -> None:
    async def scene(runtime: Runtime, model: Model) -> None:
        await runtime.call("fault_die_at_token", {"tokens": 5})
        with pytest.raises(RuntimeExited) as caught:
            await model.generate("a", max_tokens=50, stream=False)
        # Nobody has seen a token of it: it may be repeated.
        assert caught.value.details["partial"] == NOTHING and caught.value.retryable

    play(chain_folder, scene)


def test_one_of_which_nothing_was_delivered_is_repeated_and_another_is_not(
    chain_folder: Path,
) -> None:
    async def scene(runtime: Runtime, model: Model) -> None:
        silent = model.generate("b", max_tokens=3_000, stream=False)
        streamed = aiter(model.generate("a", max_tokens=3_000, ignore_eos=True))
        await anext(streamed)
        await runtime.call("fault_die_at_token", {"tokens": 5})
        with pytest.raises(RuntimeExited) as caught:
            async for _ in streamed:
                pass
        assert not caught.value.retryable and caught.value.details["partial"]["text"]
        assert (await silent).text == "b" * 3_000
        assert (await runtime.stats())["supervision"]["replayed"] == 1

    play(chain_folder, scene, host.RestartOptions())


def test_when_the_engine_dies_only_what_had_no_token_may_be_repeated(chain_folder: Path) -> None:
    async def scene(runtime: Runtime, model: Model) -> None:
        deltas = aiter(model.generate("a", max_tokens=10**5))
        await anext(deltas)
        await runtime.call("fault_break_step", {})
        with pytest.raises(EngineDead) as caught:
            _ = [delta async for delta in deltas]
        partial = caught.value.details["partial"]
        assert not caught.value.retryable and partial["completion_tokens"] > 0
        assert partial["text"] == "a" * partial["completion_tokens"]
        _, refused = await failed(model.generate("a"))
        assert refused.retryable and refused.details["partial"] == NOTHING

    play(chain_folder, scene)


def test_logits_that_break_in_the_middle_leave_what_came_before_them(tmp_path: Path) -> None:
    async def scene(runtime: Runtime, model: Model) -> None:
        text, error = await failed(model.generate("a", max_tokens=50))
        assert isinstance(error, NumericError) and text == "bc"
        partial = {"text": "bc", "ids": [98, 99], "completion_tokens": 2}
        assert error.details["partial"] == partial
        assert error.details["completion_tokens"] == 2

    play(write_chain(tmp_path / "model", {97: 98, 98: 99}, overflow={99: "nan"}), scene)
