"""Handles are counted, one source loads once however many ask, and what nobody uses may leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isthmus.errors import (
    InternalError,
    InvalidRequest,
    IsthmusError,
    MemoryLimit,
    ModelLoadFailed,
    ModelNotLoaded,
)
from isthmus.models.load import LoadedModel, LoadOptions, Source
from tests.python.models.shop import KV_TOKEN_BYTES as KV
from tests.python.models.shop import TAG, Bench, turns

SIZES = {"a": 30, "b": 40, "c": 60, "huge": 1_000}
SMALL = LoadOptions(kv_tokens=1)


def bench(budget: int = 115, **options: Any) -> Bench:
    """Return a cache with room for two of the three."""
    return Bench(SIZES, budget, **options)


def ignore(*_: Any) -> None:
    """A progress callback."""


async def test_two_who_ask_at_once_share_one_load_and_one_handle() -> None:
    shelf = bench(is_open=False)
    waiting = [asyncio.create_task(shelf.load("a")) for _ in range(2)]
    await turns()
    shelf.shop.open_all()
    first, second = await asyncio.gather(*waiting)
    assert first is second
    assert (shelf.shop.builds, first.references) == (1, 2)
    assert shelf.cache.stats()["shared_loads"] == 1


async def test_a_model_in_memory_is_handed_out_again_without_any_look_at_its_folder() -> None:
    shelf = bench()
    first = await shelf.load("a")
    looked = (shelf.shop.inspections, shelf.shop.builds)
    loading = shelf.load("a")
    with pytest.raises(StopIteration) as done:
        loading.send(None)
    assert done.value.value is first
    assert (shelf.shop.inspections, shelf.shop.builds) == looked == (1, 1)
    assert shelf.cache.stats()["hits"] == 1


async def test_another_option_is_another_model() -> None:
    shelf = bench()
    one = await shelf.cache.load(Source("a"), ignore, SMALL)
    other = await shelf.cache.load(Source("a", trust_remote_code=True), ignore, SMALL)
    assert one.handle != other.handle


async def test_a_handle_names_its_model_its_runtime_and_a_number() -> None:
    shelf = bench()
    assert (await shelf.load("a")).handle == f"a-{TAG}-1"
    shelf.shop.sizes["/some/folder x/"] = 1
    assert (await shelf.load("/some/folder x/")).handle == f"folder-x-{TAG}-2"


async def test_with_the_last_reference_the_handle_ends_and_the_weights_stay() -> None:
    shelf = bench()
    model = await shelf.load("a")
    await shelf.load("a")
    left = await shelf.unload(model)
    assert (left.references, left.is_resident) == (1, True)
    left = await shelf.unload(model)
    assert (left.references, left.is_resident) == (0, True)
    with pytest.raises(ModelNotLoaded):
        shelf.cache.get(model.handle)
    with pytest.raises(ModelNotLoaded):
        shelf.cache.unload(model.handle)
    assert shelf.cache.list() == [model] and shelf.shop.releases == 0
    assert await shelf.load("a") is model
    assert (model.references, shelf.shop.builds) == (1, 1)


async def test_it_leaves_at_once_when_that_is_asked_for() -> None:
    shelf = bench()
    model = await shelf.load("a")
    left = await shelf.unload(model, evict=True)
    assert not left.is_resident and shelf.shop.memory == {} and shelf.cache.list() == []
    assert shelf.evicted() == [("a", "unloaded")]
    assert (await shelf.load("a")).handle != model.handle


async def test_evict_takes_nothing_from_others_who_have_a_reference() -> None:
    shelf = bench()
    model = await shelf.load("a")
    await shelf.load("a")
    assert (await shelf.unload(model, evict=True)).is_resident
    assert shelf.cache.get(model.handle) is model


async def test_what_nobody_uses_leaves_after_its_time_and_one_timer_serves_all() -> None:
    shelf = bench(idle_timeout_s=60.0)
    first, second = await shelf.load("a"), await shelf.load("b", idle_timeout_s=10.0)
    await shelf.unload(first)
    shelf.clock.move(55.0)
    await shelf.unload(second)
    assert len(shelf.clock.timers) == 1
    shelf.clock.move(5.0)
    await turns()
    assert shelf.evicted() == [("a", "idle")]
    shelf.clock.move(5.0)
    await turns()
    assert shelf.evicted() == [("a", "idle"), ("b", "idle")]
    assert shelf.clock.timers == [] and shelf.shop.memory == {}
    assert shelf.cache.stats()["idle_evictions"] == 2


async def test_a_model_that_is_taken_again_in_time_stays() -> None:
    shelf = bench(idle_timeout_s=60.0)
    model = await shelf.load("a")
    await shelf.unload(model)
    shelf.clock.move(59.0)
    await shelf.load("a")
    shelf.clock.move(1_000.0)
    await turns()
    assert shelf.evicted() == [] and shelf.clock.timers == []


async def test_an_idle_time_of_zero_lets_it_leave_with_the_last_reference() -> None:
    shelf = bench(idle_timeout_s=60.0)
    model = await shelf.load("a", idle_timeout_s=0.0)
    assert not (await shelf.unload(model)).is_resident
    assert shelf.shop.memory == {}


async def test_a_pinned_model_stays_whatever_happens_until_it_is_unpinned() -> None:
    shelf = bench(budget=70)
    pinned = await shelf.load("a", pin=True)
    assert (await shelf.unload(pinned, evict=True)).is_resident
    shelf.clock.move(1e6)
    with pytest.raises(MemoryLimit):
        await shelf.load("c")
    assert shelf.resident == {"a"}
    await shelf.unload(await shelf.load("a", pin=False))
    await shelf.load("c")
    assert shelf.resident == {"c"}


async def test_a_preloaded_model_is_there_without_a_reference() -> None:
    shelf = bench()
    model = await shelf.load("a", pin=True, references=0)
    assert (model.references, model.is_pinned) == (0, True)
    with pytest.raises(ModelNotLoaded):
        shelf.cache.get(model.handle)
    assert await shelf.load("a") is model and shelf.shop.builds == 1


async def test_work_on_the_weights_keeps_them_until_it_has_ended() -> None:
    shelf = bench()
    model = await shelf.load("a")
    with model.lease(), model.lease():
        left = await shelf.unload(model, evict=True)
        assert left.release is None and not left.is_resident
        with pytest.raises(ModelNotLoaded):
            shelf.cache.get(model.handle)
        await turns()
        assert shelf.shop.releases == 0
        other = await shelf.load("a")
        assert other is not model
    await turns()
    assert shelf.evicted() == [("a", "unloaded")] and len(shelf.shop.memory) == 1
    with pytest.raises(ModelNotLoaded, match="load it again"):
        model.lease()


async def test_the_idle_time_begins_when_the_work_has_ended() -> None:
    shelf = bench(idle_timeout_s=60.0)
    model = await shelf.load("a")
    with model.lease():
        await shelf.unload(model)
        shelf.clock.move(600.0)
        await turns()
        assert shelf.resident == {"a"}
    shelf.clock.move(59.0)
    await turns()
    assert shelf.resident == {"a"}
    shelf.clock.move(1.0)
    await turns()
    assert shelf.resident == set()


async def test_a_waiter_that_leaves_does_not_end_the_load_of_the_other() -> None:
    shelf = bench(is_open=False)
    leaver, stayer = (asyncio.create_task(shelf.load("a")) for _ in range(2))
    await turns()
    leaver.cancel()
    await turns()
    shelf.shop.open_all()
    assert (await stayer).references == 1
    assert leaver.cancelled()


async def test_a_load_that_all_have_left_ends_and_gives_its_memory_back() -> None:
    shelf = bench(is_open=False)
    waiting = [asyncio.create_task(shelf.load("a")) for _ in range(2)]
    for _ in range(3):  # to the point where it has taken memory
        await turns()
        if not shelf.shop.memory:
            shelf.shop.open_one()
    await turns()
    assert shelf.shop.memory and shelf.cache.stats()["reserved_bytes"] == SIZES["a"] + KV
    for task in waiting:
        task.cancel()
    await turns()
    assert shelf.shop.memory == {} and shelf.cache.stats()["reserved_bytes"] == 0
    shelf.shop.open_all()
    assert (await shelf.load("a")).references == 1


async def test_a_waiter_cancelled_in_the_turn_of_its_answer_keeps_no_reference() -> None:
    shelf = bench(is_open=False)
    leaver, stayer = (asyncio.create_task(shelf.load("a")) for _ in range(2))
    await turns()
    # Its answer is ready by then, but it has not had its turn.
    shelf.on_event = lambda: asyncio.get_running_loop().call_soon(leaver.cancel)
    shelf.shop.open_all()
    model, _ = await asyncio.gather(stayer, leaver, return_exceptions=True)
    assert leaver.cancelled()
    assert isinstance(model, LoadedModel) and model.references == 1


async def test_of_a_waiter_cancelled_in_that_turn_nothing_that_it_asked_for_is_done() -> None:
    shelf = bench(is_open=False)
    shelf.shop.open_all()
    old = await shelf.load("b")
    shelf.shop.shut()
    stayer = asyncio.create_task(shelf.load("a"))
    leaver = asyncio.create_task(shelf.load("a", pin=True, replace=old.handle))
    await turns()
    shelf.on_event = lambda: asyncio.get_running_loop().call_soon(leaver.cancel)
    shelf.shop.open_all()
    model, _ = await asyncio.gather(stayer, leaver, return_exceptions=True)
    assert leaver.cancelled() and isinstance(model, LoadedModel)
    assert (model.references, model.is_pinned, old.references) == (1, False, 1)


async def test_more_room_is_found_once_what_is_leaving_has_left() -> None:
    shelf = bench(115)
    await shelf.load("a")
    leaving = await shelf.load("c")
    shelf.shop.shut()
    release = shelf.cache.unload(leaving.handle, evict=True).release
    wanted = asyncio.create_task(shelf.load("a", kv_tokens=15))
    await turns()
    assert release is not None and not release.done() and not wanted.done()
    shelf.shop.open_all()
    assert (await wanted).room.kv_tokens == 15


async def test_each_waiter_has_its_own_error_and_nothing_half_loaded_is_kept() -> None:
    shelf = bench(is_open=False)
    shelf.shop.failures["a"] = ModelLoadFailed("broken", phase="load", cause="not_finite")
    tasks = [asyncio.create_task(shelf.load("a")) for _ in range(3)]
    await turns()
    shelf.shop.open_all()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in errors} == {ModelLoadFailed}
    assert len({id(error) for error in errors}) == 3
    assert shelf.cache.list() == [] and shelf.shop.memory == {}
    assert shelf.cache.stats()["load_failures"] == 1


async def test_a_failure_of_the_content_is_known_until_the_folder_changes_or_time_passes() -> None:
    shelf = bench()
    shelf.shop.failures["a"] = ModelLoadFailed("broken", phase="load", cause="not_finite")
    for _ in range(3):
        with pytest.raises(ModelLoadFailed):
            await shelf.load("a")
    assert (shelf.shop.builds, shelf.cache.stats()["known_failures"]) == (1, 2)
    shelf.shop.stamps["a"] = 1
    with pytest.raises(ModelLoadFailed):
        await shelf.load("a")
    shelf.clock.move(30.0)
    del shelf.shop.failures["a"]
    await shelf.load("a")
    assert shelf.shop.builds == 3


@pytest.mark.parametrize(
    "failure",
    [
        ModelLoadFailed("the disk", phase="load", cause="io_error"),
        OSError(5, "the disk"),
        RuntimeError("a defect"),
    ],
)
async def test_what_may_pass_is_not_remembered(failure: Exception) -> None:
    shelf = bench()
    shelf.shop.failures["a"] = failure
    with pytest.raises(IsthmusError) as caught:
        await shelf.load("a")
    assert type(caught.value) in (ModelLoadFailed, InternalError)
    del shelf.shop.failures["a"]
    await shelf.load("a")


async def test_stages_are_told_to_every_waiter_in_order() -> None:
    shelf = bench(is_open=False)
    stages: list[list[str]] = [[], []]
    tasks = [
        asyncio.create_task(
            shelf.cache.load(Source("a"), lambda stage, *_, seen=seen: seen.append(stage), SMALL)
        )
        for seen in stages
    ]
    await turns()
    shelf.shop.open_all()
    await asyncio.gather(*tasks)
    assert stages[0] == ["resolve", "verify", "load", "warm_up"]
    assert stages[1] == stages[0][1:] or stages[1] == stages[0]


async def test_events_tell_of_loads_and_evictions() -> None:
    shelf = bench()
    model = await shelf.load("a")
    await shelf.unload(model, evict=True)
    assert [name for name, _ in shelf.events] == ["model_loaded", "model_evicted"]
    assert shelf.events[0][1] == {"model": model.handle, "source": "a", "load_ms": 0.0}


async def test_a_host_restores_a_handle_with_as_many_references_as_it_has() -> None:
    shelf = bench()
    model = await shelf.load("a", handle="a-000000-7", references=3, prior_failures=2)
    assert (model.handle, model.references, model.prior_failures) == ("a-000000-7", 3, 2)
    assert shelf.cache.get("a-000000-7") is model


async def test_a_source_that_is_loaded_gets_the_restored_handle_as_a_second_name() -> None:
    shelf = bench()
    model = await shelf.load("a")
    assert await shelf.load("a", handle="old-1", references=2) is model
    assert shelf.cache.get("old-1") is shelf.cache.get(model.handle)
    assert model.references == 3
    for handle in (model.handle, "old-1", "old-1"):
        await shelf.unload(handle)
    for handle in (model.handle, "old-1"):
        with pytest.raises(ModelNotLoaded):
            shelf.cache.get(handle)


async def test_a_handle_of_another_model_is_refused() -> None:
    shelf = bench()
    model = await shelf.load("a")
    with pytest.raises(InvalidRequest) as caught:
        await shelf.load("b", handle=model.handle)
    assert caught.value.details["field"] == "handle"
    await shelf.unload(model)
    with pytest.raises(InvalidRequest):
        await shelf.load("b", handle=model.handle)
    assert shelf.resident == {"a"}


async def test_two_loads_that_race_for_a_handle_are_told_apart() -> None:
    shelf = bench(is_open=False)
    tasks = [asyncio.create_task(shelf.load(name, handle="same")) for name in "ab"]
    await turns()
    shelf.shop.open_all()
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert not isinstance(first, BaseException) and isinstance(second, InvalidRequest)
    assert shelf.cache.get("same") is first


async def test_closing_fails_the_loads_that_run() -> None:
    shelf = bench(is_open=False)
    task = asyncio.create_task(shelf.load("a"))
    await turns()
    await shelf.cache.close()
    with pytest.raises(IsthmusError, match="shutting down"):
        await task


async def test_a_load_whose_caller_is_gone_is_undone() -> None:
    shelf = bench()
    options = LoadOptions(references=2, kv_tokens=1)
    model = await shelf.cache.load(Source("a"), ignore, options)
    await shelf.load("a")
    shelf.cache.undo(model, options)
    assert model.references == 1
