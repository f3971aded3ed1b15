"""What a host can ask of models beside loading them, and faults that it has armed."""

from __future__ import annotations

import asyncio

import pytest

from isthmus import host
from isthmus.errors import CircuitOpen, ModelNotLoaded, UnknownMethod
from tests.contract.waiting import WAIT_S


async def test_models_are_pinned_replaced_and_evicted() -> None:
    async with asyncio.timeout(WAIT_S), await host.start() as runtime:
        draft = await runtime.load_model("default-draft", pin=True, kv_tokens=128)
        assert draft.info.pinned and draft.info.bytes > draft.info.weight_bytes
        assert await draft.unload(evict=True) is True
        assert [info.references for info in await runtime.list_models()] == [0]
        draft = await runtime.load_model("default-draft", pin=False, idle_timeout_ms=3_600_000)
        assert not draft.info.pinned
        model = await runtime.load_model("default", replace=draft)
        assert model.info.references == 1
        with pytest.raises(ModelNotLoaded):
            await draft.tokenize("x")
        assert await model.unload(evict=True) is True
        listed = [info.source for info in await runtime.list_models()]
        assert "default" not in listed


async def test_a_circuit_is_opened_and_closed_by_hand() -> None:
    async with asyncio.timeout(WAIT_S), await host.start() as runtime:
        model = await runtime.load_model()
        assert (await model.set_circuit("isolated"))["state"] == "isolated"
        with pytest.raises(CircuitOpen):
            await model.generate("x", max_tokens=1)
        assert (await model.set_circuit("closed"))["state"] == "closed"
        assert (await model.generate("x", max_tokens=1)).ids
        assert (await runtime.stats())["breakers"].keys() == {model.info.model}


async def test_faults_are_armed_at_the_start_and_later_and_a_crash_is_survived() -> None:
    faults = ["request:slow:ms=1,method=echo"]
    async with asyncio.timeout(WAIT_S), await host.start(faults=faults) as runtime:
        model = await runtime.load_model()
        expected = await model.generate("Once", max_tokens=8)
        await runtime.inject_fault("engine.step:crash:after=2")
        again = await model.generate("Once", max_tokens=8, stream=False)
        assert again.ids == expected.ids
        assert (await runtime.health())["restarts"] == 1
        await runtime.clear_faults()


async def test_without_faults_there_is_no_way_to_arm_one() -> None:
    async with asyncio.timeout(WAIT_S), await host.start() as runtime:
        with pytest.raises(UnknownMethod):
            await runtime.inject_fault("engine.step:crash")
