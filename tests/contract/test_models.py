"""Handles to models: counted, shared, told of progress, safe to give back while in use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from isthmus import host
from isthmus.errors import InvalidRequest, IsthmusError, ModelLoadFailed, ModelNotLoaded
from isthmus.models import BUILTIN_ROOT

pytestmark = pytest.mark.asyncio(loop_scope="session")

STAGES = ["resolve", "download", "verify", "load", "warm_up"]


async def listed(runtime: host.Runtime) -> dict[str, Any]:
    """Return the models in memory by their handles."""
    found = await runtime.call("list_models")
    return {info["model"]: info for info in found["models"]}


async def leave(runtime: host.Runtime, model: host.Model) -> None:
    """Give the last reference back, and the memory with it."""
    params = {"model": model.info.model, "evict": True}
    assert (await runtime.call("unload_model", params))["resident"] is False


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
    assert {"resolve", "verify", "load", "warm_up"} <= set(stages)
    assert all(0 <= event["done"] <= event["total"] and event["unit"] for event in told)
    assert told[-1]["done"] == told[-1]["total"]
    await leave(runtime, draft)


async def test_the_same_model_is_loaded_once_and_counted(runtime: host.Runtime) -> None:
    handles = await asyncio.gather(*(runtime.load_model("default-draft") for _ in range(4)))
    assert len({handle.info.model for handle in handles}) == 1
    assert (await handles[0].refresh()).references == 4
    assert [await handle.unload() for handle in handles] == [False, False, False, True]
    with pytest.raises(ModelNotLoaded):
        await handles[0].tokenize("x")
    with pytest.raises(ModelNotLoaded):
        await runtime.call("unload_model", {"model": handles[0].info.model})


async def test_what_is_in_memory_is_listed_until_it_leaves(
    runtime: host.Runtime, model: host.Model
) -> None:
    draft = await runtime.load_model("default-draft")
    handle = draft.info.model
    assert (await listed(runtime))[handle]["source"] == "default-draft"
    left = await runtime.call("unload_model", {"model": handle})
    assert left == {"unloaded": True, "references": 0, "resident": True}
    assert (await listed(runtime))[handle]["references"] == 0
    again = await runtime.call("load_model", {"source": "default-draft"})
    assert again["references"] == 1
    left = await runtime.call("unload_model", {"model": again["model"], "evict": True})
    assert left == {"unloaded": True, "references": 0, "resident": False}
    assert handle not in await listed(runtime)
    assert model.info.model in await listed(runtime)


async def test_a_load_from_memory_tells_of_no_stage(runtime: host.Runtime) -> None:
    first = await runtime.load_model("default-draft")
    told: list[dict[str, Any]] = []
    second = await runtime.load_model("default-draft", on_progress=told.append)
    assert told == [] and second.info.load_ms == first.info.load_ms
    await first.unload()
    await leave(runtime, second)


async def test_a_pinned_model_stays_without_references(runtime: host.Runtime) -> None:
    info = await runtime.call("load_model", {"source": "default-draft", "pin": True})
    assert info["pinned"] and info["bytes"] > info["weight_bytes"]
    left = await runtime.call("unload_model", {"model": info["model"], "evict": True})
    assert left["unloaded"] and left["resident"]
    again = await runtime.call("load_model", {"source": "default-draft", "pin": False})
    assert not again["pinned"]
    left = await runtime.call("unload_model", {"model": again["model"], "evict": True})
    assert not left["resident"]


async def test_a_model_leaves_when_it_has_been_idle_for_its_time(runtime: host.Runtime) -> None:
    params = {"source": "default-draft", "idle_timeout_ms": 1}
    handle = (await runtime.call("load_model", params))["model"]
    await runtime.call("unload_model", {"model": handle})
    async with asyncio.timeout(30):
        while handle in await listed(runtime):
            await asyncio.sleep(0.001)


async def test_a_restored_handle_names_the_model_beside_its_own(runtime: host.Runtime) -> None:
    own = await runtime.call("load_model", {"source": "default-draft"})
    params = {"source": "default-draft", "handle": "draft-0ff1ce-3", "references": 2}
    restored = await runtime.call("load_model", {**params, "prior_failures": 1})
    assert (restored["model"], restored["references"]) == ("draft-0ff1ce-3", 3)
    for handle in ("draft-0ff1ce-3", own["model"]):
        ids = await runtime.call("tokenize", {"model": handle, "text": "a name"})
        assert len(ids["ids"]) > 0
    with pytest.raises(InvalidRequest) as caught:
        await runtime.call("load_model", {**params, "source": "default"})
    assert caught.value.details["field"] == "handle"
    for handle in (own["model"], "draft-0ff1ce-3", "draft-0ff1ce-3"):
        left = await runtime.call("unload_model", {"model": handle, "evict": True})
    assert left["unloaded"]
    with pytest.raises(ModelNotLoaded):
        await runtime.call("tokenize", {"model": "draft-0ff1ce-3", "text": "gone"})


async def test_one_model_replaces_another(runtime: host.Runtime, tiny_folder: Path) -> None:
    old = await runtime.call("load_model", {"source": "default-draft"})
    params = {"source": str(tiny_folder), "local_files_only": True, "replace": old["model"]}
    new = await runtime.call("load_model", params)
    with pytest.raises(ModelNotLoaded):
        await runtime.call("model_info", {"model": old["model"]})
    with pytest.raises(ModelNotLoaded):
        await runtime.call("load_model", params)
    await runtime.call("unload_model", {"model": new["model"], "evict": True})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pin", 1),
        ("idle_timeout_ms", -1),
        ("idle_timeout_ms", float("nan")),
        ("replace", 7),
        ("kv_tokens", 0),
        ("handle", "../x"),
        ("handle", "x" * 129),
        ("references", 0),
        ("prior_failures", -1),
        ("evict", True),
    ],
)
async def test_what_a_load_cannot_mean_is_refused(
    runtime: host.Runtime, field: str, value: object
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await runtime.call("load_model", {"source": "default-draft", field: value})
    assert caught.value.details["field"] == field


async def test_the_counters_tell_of_models(runtime: host.Runtime) -> None:
    before = (await runtime.stats())["models"]
    draft, again = [
        await runtime.load_model("default-draft", local_files_only=True) for _ in range(2)
    ]
    during = (await runtime.stats())["models"]
    assert during["loads"] == before["loads"] + 1 and during["hits"] == before["hits"] + 1
    assert during["used_bytes"] > before["used_bytes"]
    assert during["resident"] == before["resident"] + 1 and during["reserved_bytes"] == 0
    await again.unload()
    await leave(runtime, draft)
    after = (await runtime.stats())["models"]
    assert after["evictions"] == before["evictions"] + 1
    assert after["used_bytes"] == before["used_bytes"] <= after["budget_bytes"]


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
