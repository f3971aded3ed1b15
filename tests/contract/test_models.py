"""Handles to models: counted, shared, told of progress, safe to give back while in use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from isthmus import host
from isthmus.errors import IsthmusError, ModelLoadFailed, ModelNotLoaded
from isthmus.models import BUILTIN_ROOT

pytestmark = pytest.mark.asyncio(loop_scope="session")

STAGES = ["resolve", "download", "verify", "load", "warm_up"]


async def test_the_info_describes_the_model(model: host.Model) -> None:
    info = model.info
    assert (info.source, info.architecture, info.dtype) == ("default", "llama", "float32")
    assert Path(info.path) == BUILTIN_ROOT / "chat"
    assert (info.vocab_size, info.context_length, info.quantization) == (768, 4096, None)
    assert info.parameters > 10**6 and info.weight_bytes == 4 * info.parameters
    assert info.eos_token_ids and info.has_chat_template and info.load_ms > 0
    assert (await model.refresh()).model == info.model


async def test_quantisation_is_described(tiny: host.Model) -> None:
    assert tiny.info.quantization is not None
    assert (tiny.info.quantization["bits"], tiny.info.quantization["group_size"]) == (4, 32)


async def test_loading_tells_of_its_stages_in_order(runtime: host.Runtime) -> None:
    told: list[dict[str, Any]] = []
    draft = await runtime.load_model("default-draft", on_progress=told.append)
    stages = [event["stage"] for event in told]
    assert stages == sorted(stages, key=STAGES.index)
    assert {"resolve", "verify", "load"} <= set(stages)
    assert all(0 <= event["done"] <= event["total"] and event["unit"] for event in told)
    assert told[-1]["done"] == told[-1]["total"]
    assert await draft.unload() is True


async def test_the_same_model_is_loaded_once_and_counted(runtime: host.Runtime) -> None:
    handles = await asyncio.gather(*(runtime.load_model("default-draft") for _ in range(4)))
    assert len({handle.info.model for handle in handles}) == 1
    assert (await handles[0].refresh()).references == 4
    assert [await handle.unload() for handle in handles] == [False, False, False, True]
    with pytest.raises(ModelNotLoaded):
        await handles[0].tokenize("x")
    with pytest.raises(ModelNotLoaded):
        await handles[0].unload()


async def test_what_is_loaded_is_listed(runtime: host.Runtime, model: host.Model) -> None:
    before = {info.model for info in await runtime.list_models()}
    draft = await runtime.load_model("default-draft")
    listed = {info.model: info for info in await runtime.list_models()}
    assert set(listed) == before | {draft.info.model}
    assert listed[draft.info.model].source == "default-draft"
    await draft.unload()
    assert {info.model for info in await runtime.list_models()} == before


async def test_a_model_that_is_unloaded_while_it_generates_finishes_first(
    runtime: host.Runtime,
) -> None:
    draft = await runtime.load_model("default-draft")
    expected = await draft.generate("Once", max_tokens=60, ignore_eos=True)
    running = [draft.generate("Once", max_tokens=60, ignore_eos=True) for _ in range(40)]
    reading = aiter(running[0])
    await anext(reading)
    assert await draft.unload() is True
    results = await asyncio.gather(*running[1:])
    assert {tuple(result.ids) for result in results} == {tuple(expected.ids)}
    async for _ in reading:
        pass
    with pytest.raises(ModelNotLoaded):
        await draft.generate("Once")


async def test_a_cancelled_load_leaves_nothing_behind(runtime: host.Runtime) -> None:
    loading = asyncio.ensure_future(runtime.load_model("default-draft"))
    await asyncio.sleep(0)
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    draft = await runtime.load_model("default-draft")
    assert (await draft.refresh()).references == 1
    assert await draft.unload() is True


async def test_one_of_two_who_load_may_leave(runtime: host.Runtime) -> None:
    stays, leaves = (asyncio.ensure_future(runtime.load_model("default-draft")) for _ in "ab")
    await asyncio.sleep(0)
    leaves.cancel()
    draft = await stays
    assert (await draft.refresh()).references == 1
    assert await draft.unload() is True


async def test_who_cannot_be_loaded_says_why_and_the_runtime_lives(
    runtime: host.Runtime, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for source in (str(tmp_path / "empty"), str(tmp_path / "missing")):
        with pytest.raises(IsthmusError) as caught:
            await runtime.load_model(source, local_files_only=True)
        assert caught.value.phase == "load" and not caught.value.retryable
    failures = await asyncio.gather(
        *(runtime.load_model(str(tmp_path / "empty")) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(failure, ModelLoadFailed) for failure in failures)
    assert len({id(failure) for failure in failures}) == 3
    assert await runtime.echo("alive") == "alive"
