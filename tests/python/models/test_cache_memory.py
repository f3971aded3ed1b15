"""The budget is checked before a load, with loads under way; what is in use never leaves for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isthmus.errors import MemoryLimit, ModelLoadFailed, ModelNotLoaded
from isthmus.limits import ADDRESS_SPACE_MARGIN_BYTES
from tests.python.models.shop import KV_TOKEN_BYTES as KV
from tests.python.models.shop import Bench, turns

SIZES = {"a": 30, "b": 40, "c": 60, "tiny": 1, "huge": 1_000}


def bench(budget: int, **options: Any) -> Bench:
    """Return a cache with that budget."""
    return Bench(SIZES, budget, **options)


async def idle(shelf: Bench, *names: str) -> None:
    """Load models and give them back, in that order of use."""
    for name in names:
        await shelf.unload(await shelf.load(name))


async def test_the_least_recently_used_idle_model_leaves_first() -> None:
    shelf = bench(150)
    await idle(shelf, "a", "b", "c")
    await idle(shelf, "a")
    shelf.shop.sizes["new"] = 30
    await shelf.load("new")
    assert shelf.evicted() == [("b", "budget")]
    assert shelf.resident == {"a", "c", "new"}


async def test_using_a_handle_counts_as_use_and_loading_it_does_too() -> None:
    shelf = bench(150)
    first, second, third = [await shelf.load(name) for name in "abc"]
    shelf.cache.get(first.handle)
    for model in (first, third, second):
        await shelf.unload(model)
    shelf.shop.sizes["new"] = 30
    await shelf.load("new")
    assert shelf.evicted() == [("a", "budget")]


async def test_only_as_many_leave_as_are_needed() -> None:
    shelf = bench(150)
    await idle(shelf, "tiny", "c", "a", "b")
    shelf.shop.sizes["new"] = 50
    await shelf.load("new")
    assert shelf.evicted() == [("c", "budget")]
    assert shelf.resident == {"tiny", "a", "b", "new"}


async def test_nobody_leaves_for_what_could_not_fit_anyway() -> None:
    shelf = bench(150)
    await idle(shelf, "a", "b")
    with pytest.raises(MemoryLimit):
        await shelf.load("huge")
    assert shelf.resident == {"a", "b"} and shelf.shop.builds == 2
    assert shelf.cache.stats()["refused"] == 1


async def test_the_refusal_says_what_is_needed_what_there_is_and_who_holds_it() -> None:
    shelf = bench(100)
    model = await shelf.load("c", pin=True)
    with pytest.raises(MemoryLimit) as caught:
        await shelf.load("b")
    details = caught.value.details
    assert caught.value.phase == "load" and not caught.value.retryable
    assert (details["limit"], details["needed_bytes"]) == ("budget", 40 + KV)
    assert (details["budget_bytes"], details["used_bytes"]) == (100, 60 + KV)
    assert details["held"] == [
        {
            "model": model.handle,
            "source": "c",
            "bytes": 60 + KV,
            "references": 1,
            "pinned": True,
            "in_use": True,
            "leaving": False,
        }
    ]
    for part in (model.handle, "kv_tokens", "--model-memory-bytes"):
        assert part in caught.value.message


async def test_a_refusal_is_not_remembered() -> None:
    shelf = bench(100)
    model = await shelf.load("c")
    with pytest.raises(MemoryLimit):
        await shelf.load("b")
    await shelf.unload(model)
    await shelf.load("b")
    assert shelf.cache.stats()["known_failures"] == 0


@pytest.mark.parametrize("way", ["reference", "pin", "lease"])
async def test_what_is_in_use_never_leaves(way: str) -> None:
    shelf = bench(100)
    model = await shelf.load("c", pin=way == "pin")
    if way == "lease":
        model.lease().__enter__()
    if way != "reference":
        await shelf.unload(model)
    with pytest.raises(MemoryLimit):
        await shelf.load("b")
    assert shelf.resident == {"c"} and shelf.shop.releases == 0


async def test_two_loads_at_once_count_together() -> None:
    shelf = bench(100, is_open=False)
    tasks = [asyncio.create_task(shelf.load(name)) for name in ("c", "b")]
    await turns()
    assert shelf.cache.stats()["reserved_bytes"] == 0
    shelf.shop.open_all()
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert not isinstance(first, BaseException)
    assert isinstance(second, MemoryLimit)
    assert shelf.shop.most <= 100


async def test_a_load_waits_for_the_memory_of_those_that_leave_for_it() -> None:
    shelf = bench(100)
    await idle(shelf, "c")
    shelf.shop._is_open = False
    task = asyncio.create_task(shelf.load("b"))
    await turns()
    while not shelf.shop.releases:
        shelf.shop.open_one()
        await turns()
    assert shelf.shop.builds == 1
    shelf.shop.open_all()
    await task
    assert shelf.shop.most == 60 and shelf.resident == {"b"}


async def test_room_for_tokens_is_part_of_the_need_and_can_be_asked_for() -> None:
    shelf = bench(100)
    model = await shelf.load("a", kv_tokens=15)
    assert (model.room.kv_bytes, model.room.total_bytes) == (60, 90)
    with pytest.raises(MemoryLimit):
        await shelf.load("tiny", kv_tokens=3)
    await shelf.load("tiny", kv_tokens=2)
    assert shelf.cache.stats()["used_bytes"] == 99


async def test_a_model_in_memory_is_given_more_room_if_there_is_any() -> None:
    shelf = bench(100)
    model = await shelf.load("a", kv_tokens=5)
    await idle(shelf, "b")
    assert (await shelf.load("a", kv_tokens=15)).room.total_bytes == 90
    await turns()
    assert shelf.evicted() == [("b", "budget")]
    with pytest.raises(MemoryLimit):
        await shelf.load("a", kv_tokens=30)
    assert (model.references, model.room.kv_tokens) == (2, 15)
    assert (await shelf.load("a", kv_tokens=1)).room.kv_tokens == 15


async def test_who_wants_more_room_than_there_is_is_refused_alone() -> None:
    shelf = bench(100, is_open=False)
    tasks = [asyncio.create_task(shelf.load("a", kv_tokens=n)) for n in (1_000, 2, 5)]
    await turns()
    shelf.shop.open_all()
    greedy, modest, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(greedy, MemoryLimit) and modest is other
    assert not isinstance(other, BaseException) and other.references == 2
    assert other.room.kv_tokens == 5 and shelf.shop.builds == 1


async def test_a_model_is_replaced_after_the_new_one_is_there_if_both_fit() -> None:
    shelf = bench(150)
    old = await shelf.load("a")
    new = await shelf.load("c", replace=old.handle)
    assert (old.references, new.references) == (0, 1)
    assert shelf.resident == {"a", "c"}
    with pytest.raises(ModelNotLoaded):
        shelf.cache.get(old.handle)


async def test_others_keep_what_one_replaces() -> None:
    shelf = bench(150)
    old = await shelf.load("a")
    await shelf.load("a")
    await shelf.load("c", replace=old.handle)
    assert shelf.cache.get(old.handle).references == 1


async def test_the_old_model_leaves_first_where_only_one_fits() -> None:
    shelf = bench(100)
    old = await shelf.load("c")
    new = await shelf.load("b", replace=old.handle)
    assert shelf.resident == {"b"} and shelf.evicted() == [("c", "replaced")]
    assert shelf.shop.most == 60 and new.references == 1


@pytest.mark.parametrize("why", ["shared", "pinned", "leased"])
async def test_what_somebody_else_needs_is_not_replaced_before(why: str) -> None:
    shelf = bench(100)
    old = await shelf.load("c", pin=why == "pinned", references=2 if why == "shared" else 1)
    if why == "leased":
        old.lease().__enter__()
    before = old.references
    with pytest.raises(MemoryLimit):
        await shelf.load("b", replace=old.handle)
    assert shelf.cache.get(old.handle).references == before


async def test_who_loses_the_old_model_to_a_load_that_fails_is_told() -> None:
    shelf = bench(100)
    old = await shelf.load("c")
    shelf.shop.failures["b"] = ModelLoadFailed("broken", phase="load", cause="not_finite")
    with pytest.raises(ModelLoadFailed) as caught:
        await shelf.load("b", replace=old.handle)
    assert caught.value.details["replaced"] is True
    assert shelf.resident == set()


async def test_a_replacement_that_fails_beside_the_old_model_leaves_it_alone() -> None:
    shelf = bench(150)
    old = await shelf.load("a")
    shelf.shop.failures["b"] = ModelLoadFailed("broken", phase="load", cause="not_finite")
    with pytest.raises(ModelLoadFailed) as caught:
        await shelf.load("b", replace=old.handle)
    assert "replaced" not in caught.value.details
    assert shelf.cache.get(old.handle).references == 1


async def test_a_model_may_replace_itself() -> None:
    shelf = bench(100)
    old = await shelf.load("c")
    assert await shelf.load("c", replace=old.handle) is old
    assert old.references == 1 and shelf.cache.get(old.handle) is old


async def test_an_unknown_model_cannot_be_replaced() -> None:
    with pytest.raises(ModelNotLoaded):
        await bench(100).load("a", replace="nobody")


async def test_what_cannot_be_mapped_is_refused_before_it_is_loaded() -> None:
    shelf = bench(10**12)
    shelf.shop.address_space_left = ADDRESS_SPACE_MARGIN_BYTES + 50
    for _ in range(3):
        with pytest.raises(MemoryLimit) as caught:
            await shelf.load("c")
        assert caught.value.details["limit"] == "address_space"
        assert "RLIMIT_AS" in caught.value.message
    await shelf.load("a")
    assert shelf.shop.builds == 1


async def test_idle_models_leave_for_what_could_not_be_mapped_beside_them() -> None:
    shelf = bench(10**12)
    shelf.shop.address_space_left = ADDRESS_SPACE_MARGIN_BYTES + 70
    await idle(shelf, "a")
    await shelf.load("c")
    assert shelf.evicted() == [("a", "budget")]


async def test_a_heap_that_does_not_shrink_is_believed_over_the_sum() -> None:
    shelf = bench(10**12)
    shelf.shop.address_space_left = ADDRESS_SPACE_MARGIN_BYTES + 70
    shelf.shop.heap_shrinks = False
    await idle(shelf, "a")
    with pytest.raises(MemoryLimit):
        await shelf.load("c")
    assert shelf.shop.builds == 1


async def test_without_a_setting_the_first_load_asks_the_machine_for_the_budget() -> None:
    shelf = bench(100)
    fresh = type(shelf.cache)(
        shelf.shop, type(shelf.cache._settings)(), "tag", lambda *_: None, shelf.clock
    )
    assert fresh.stats()["budget_bytes"] > 0
    shelf.shop.address_space_left = ADDRESS_SPACE_MARGIN_BYTES * 2
    from isthmus.models.load import Source

    await fresh.load(Source("a"), lambda *_: None)
    assert fresh.stats()["budget_bytes"] == int(ADDRESS_SPACE_MARGIN_BYTES * 2 * 0.75)
