"""Who may work on a session, what is kept after a turn, and what each operation leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from isthmus.engine.speculate import Speculation
from isthmus.engine.speculation import SpeculationCosts
from isthmus.errors import InvalidRequest, SessionBusy
from isthmus.sessions.reference import SessionReference
from isthmus.sessions.turn import Turn
from tests.python.engine.networks import network
from tests.python.engine.session_rig import Rig, alone, rig, text

A = SessionReference("a")
PROMPT = text(1, 300)


def tiny() -> Any:
    """Return the model of these tests."""
    return network("tiny")


async def test_turns_of_one_session_run_one_at_a_time_in_order(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path) as made:
        order: list[int] = []
        first_in = asyncio.Event()
        go_on = asyncio.Event()

        async def work(number: int) -> None:
            async with made.turn(A):
                order.append(number)
                first_in.set()
                if number == 0:
                    await go_on.wait()

        first = asyncio.create_task(work(0))
        await first_in.wait()
        others = [asyncio.create_task(work(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(SessionBusy, match="'a'"):
            made.turn(SessionReference("a", waits=False))
        # Another session is free.
        await made.generate("b", PROMPT, 2)
        go_on.set()
        await asyncio.gather(first, *others)
        assert order == [0, 1, 2]


async def test_a_place_is_taken_when_a_call_is_made_and_given_back_when_it_is_dropped(
    tmp_path: Path,
) -> None:
    async with rig(tiny(), tmp_path) as made:
        first = made.manager.place(A)
        deleting = asyncio.create_task(made.delete("a"))
        await asyncio.sleep(0)
        async with made.manager.turn(first, made.model):
            assert not deleting.done()
        await deleting
        dropped = made.manager.place(A)
        waiting = asyncio.create_task(made.generate("a", PROMPT, 1))
        await asyncio.sleep(0)
        del dropped
        assert (await waiting).ids


async def test_who_does_not_want_to_wait_may_come_when_the_call_before_has_its_answer(
    tmp_path: Path,
) -> None:
    async with rig(tiny(), tmp_path) as made:
        answered = False
        first = made.manager.place(A, lambda: answered)
        unwilling = SessionReference("a", waits=False)
        async with made.manager.turn(first, made.model):
            with pytest.raises(SessionBusy):
                made.manager.place(unwilling)
            answered = True
            next_one = made.manager.place(unwilling)
        async with made.manager.turn(next_one, made.model):
            pass


async def test_a_waiting_call_that_is_cancelled_leaves_the_queue(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path) as made:
        async with made.turn(A):
            waiting = asyncio.create_task(made.generate("a", PROMPT, 1))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert (await made.generate("a", PROMPT, 1, waits=False)).ids


async def test_a_turn_that_never_began_leaves_what_was_kept(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path) as made:
        await made.generate("a", PROMPT, 2)
        async with made.turn(A) as turn:
            await turn.prepare(PROMPT)
            turn.begin()(None)
        assert (await made.generate("a", PROMPT, 2)).state == "hot"


async def test_a_failed_turn_keeps_what_it_had_begun_with(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path) as made:
        first = await made.generate("a", PROMPT, 4)
        longer = [*PROMPT, *first.ids[:-1], *text(2, 40)]
        await made.fail("a", longer)
        after = await made.generate("a", longer, 3)
        assert (after.state, after.reused) == ("hot", 303)
        assert after.ids == alone(tiny(), longer, 3).ids
        await made.save("a")
        await made.fail("c", text(8, 300))
        assert (await made.save("c"))["tokens"] == 0


async def test_a_cancelled_prompt_keeps_what_was_evaluated(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path, chunk_tokens=64) as made:
        stopped = await made.generate("a", PROMPT, 4, stops_after=2)
        assert stopped.ids == []
        assert (await made.save("a"))["tokens"] == 128
    async with rig(tiny(), tmp_path, chunk_tokens=64) as again:
        answer = await again.generate("a", PROMPT, 4)
        assert (answer.state, answer.reused) == ("warm", 128)
        assert answer.ids == alone(tiny(), PROMPT, 4, 64).ids


async def test_a_fork_goes_its_own_way(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path) as made:
        first = await made.generate("a", PROMPT, 4)
        await made.save("a")
        before = made.store.stats()["saved_bytes"]
        info = await made.fork("a", "b")
        assert (info["state"], info["tokens"], info["saved_tokens"]) == ("hot", 303, 303)
        assert made.store.stats()["saved_bytes"] == before
        with pytest.raises(InvalidRequest, match="'b' already"):
            await made.fork("a", "b")
        one, other = ([*PROMPT, *first.ids[:-1], *text(seed, 20)] for seed in (3, 4))
        for session, prompt in (("a", one), ("b", other), ("a", one), ("b", other)):
            answer = await made.generate(session, prompt, 3)
            assert answer.reused >= 303
            assert answer.ids == alone(tiny(), prompt, 3).ids
        await made.delete("a")
        await made.evict("b")
        assert (await made.generate("b", other, 3)).state == "warm"


async def test_forks_in_both_directions_at_once_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    async with rig(tiny(), tmp_path) as made:
        await made.generate("a", PROMPT, 2)
        await made.generate("b", PROMPT, 2)
        both = asyncio.gather(made.fork("a", "b"), made.fork("b", "a"), return_exceptions=True)
        results = await asyncio.wait_for(both, 20)
        assert [type(result) for result in results] == [InvalidRequest, InvalidRequest]


async def test_truncating_forgets_the_end_in_memory_and_on_disk(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path) as made:
        await made.generate("a", PROMPT, 4)
        info = await made.truncate("a", 100)
        assert (info["tokens"], info["saved_tokens"]) == (100, 100)
        assert (await made.generate("a", PROMPT, 1)).reused == 100
        info = await made.truncate("a", 0)
        assert (info["state"], info["tokens"]) == ("cold", 0)
        assert made.store.stats()["disk_bytes"] == 0


async def test_deleting_leaves_nothing(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path) as made:
        assert not await made.delete("a")
        await made.generate("a", PROMPT, 4)
        await made.open("b")
        assert await made.delete("a") and await made.delete("b")
        assert not await made.delete("a")
        assert await made.manager.infos("") == []
        assert made.store.stats()["disk_bytes"] == 0 and made.memory.drop("a") == 0
        assert (await made.generate("a", PROMPT, 4)).state == "cold"


async def test_sessions_leave_memory_by_least_recent_use_but_pinned_ones_stay(
    tmp_path: Path,
) -> None:
    async with rig(tiny(), tmp_path) as made:
        await made.generate("p", text(9, 300), 2, pin=True)
        one = made.memory.held_bytes
        made.memory.limit_bytes = 3 * one
        for session in ("a", "b", "c"):
            await made.generate(session, text(ord(session), 300), 2)
            await made.save(session)
        states = {info["id"]: info["state"] for info in await made.manager.infos("")}
        assert states == {"p": "hot", "a": "warm", "b": "hot", "c": "hot"}
        assert made.memory.held_bytes <= 3 * one
        # Models need the room.
        assert made.memory.fit(0) == one
        states = {info["id"]: info["state"] for info in await made.manager.infos("")}
        assert states == {"p": "hot", "a": "warm", "b": "warm", "c": "warm"}
        assert (await made.generate("a", text(ord("a"), 300), 2)).state == "warm"


async def test_a_session_whose_turn_is_about_to_begin_makes_no_room(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path) as made:
        await made.generate("a", PROMPT, 2)
        async with made.turn(A) as turn:
            await turn.prepare(PROMPT)
            made.memory.fit(0)
            assert made.memory.of_owner(A.name) is not None
        made.memory.fit(0)
        assert made.memory.of_owner(A.name) is None


async def test_without_a_folder_sessions_are_hot_or_gone() -> None:
    async with rig(tiny(), None) as made:
        assert (await made.generate("a", PROMPT, 2)).state == "cold"
        assert (await made.generate("a", PROMPT, 2)).state == "hot"
        saved = await made.save("a")
        assert not saved["saved"] and "--session-dir" in saved["reason"]
        assert (await made.evict("a")) == {"evicted": False, "freed_bytes": 0}
        info = await made.open("a")
        assert (info["state"], info["saved_tokens"]) == ("hot", 0)


async def test_another_model_reuses_nothing_under_the_same_name(tmp_path: Path) -> None:
    async with rig(tiny(), tmp_path) as made:
        await made.generate("a", PROMPT, 2)
    async with rig(tiny(), tmp_path, fingerprint=b"other") as other:
        answer = await other.generate("a", PROMPT, 2)
        assert (answer.state, answer.reused) == ("cold", 0)


async def test_speculation_goes_on_from_a_session_and_leaves_one(tmp_path: Path) -> None:
    lookup = Speculation(None, 0, SpeculationCosts(), 4)
    prompt = [*text(1, 40)] * 6
    async with rig(tiny(), tmp_path) as made:
        first = await made.generate("a", prompt, 12, speculation=lookup)
        longer = [*prompt, *first.ids[:-1], *text(1, 20)]
        hot = await made.generate("a", longer, 12, speculation=lookup)
        await made.evict("a")
        warm = await made.generate("a", longer, 12, speculation=lookup)
    assert first.ids == alone(tiny(), prompt, 12).ids
    assert hot.ids == warm.ids == alone(tiny(), longer, 12).ids
    assert (hot.state, warm.state) == ("hot", "warm")


async def test_a_slow_or_broken_disk_costs_the_cache_and_not_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tiny(), tmp_path) as made:
        await made.generate("a", PROMPT, 2)
        await made.evict("a")

        async def never(self: Turn, *_: object) -> None:
            raise TimeoutError

        monkeypatch.setattr(Turn, "_find", never)
        answer = await made.generate("a", PROMPT, 2)
        assert (answer.state, answer.ids) == ("cold", alone(tiny(), PROMPT, 2).ids)
        assert made.store.stats()["restore_failures"] == 1


async def test_one_save_too_many_is_left_out_and_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tiny(), tmp_path) as made:
        with monkeypatch.context() as full:
            full.setattr("isthmus.sessions.worker.SAVES_LIMIT", 0)
            await made.generate("a", PROMPT, 2)
        stats = made.manager.stats(0, 0)
        assert (stats["dropped_saves"], stats["disk_bytes"]) == (1, 0)
        assert (await made.save("a"))["tokens"] == 301
        assert await _is_warm(made)


async def _is_warm(made: Rig) -> bool:
    await made.evict("a")
    return (await made.generate("a", PROMPT, 2)).state == "warm"
