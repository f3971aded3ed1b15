"""What sessions promise (docs/protocol.md, section 3.4), through the Python host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from isthmus import host
from isthmus.errors import InvalidRequest
from tests.faults.conversations import (
    ANSWER_TOKENS,
    GREEDY,
    KEPT,
    TOKENS,
    keeping,
    on_disk,
    prompt,
    said,
    uncached,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNTS = (
    *("saves", "saved_bytes", "save_failures", "dropped_saves", "restores", "restored_bytes"),
    *("restore_failures", "corrupt_files", "evicted_files", "expired_sessions"),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keeper(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[host.Runtime]:
    """A runtime with a folder of its own."""
    async with keeping(tmp_path_factory.mktemp("sessions")) as runtime:
        yield runtime
        assert (await runtime.ping())["in_flight"] == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chat(keeper: host.Runtime) -> host.Model:
    """The built-in model."""
    return await keeper.load_model()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def draft(keeper: host.Runtime) -> host.Model:
    """The one that drafts for it."""
    return await keeper.load_model("default-draft")


async def test_a_session_is_cold_then_hot_then_warm(keeper: host.Runtime, chat: host.Model) -> None:
    before = time.time()
    session = await keeper.sessions.open("states", model=chat)
    info = session.info
    assert (info.id, info.state, info.tokens, info.saved_tokens) == ("states", "cold", 0, 0)
    assert (info.memory_bytes, info.disk_bytes, info.kv, info.pin) == (0, 0, "native", False)
    assert not info.busy and before - 5 <= info.used_at <= time.time() + 5
    await said(session, prompt(1))
    info = await session.refresh()
    assert (info.state, info.tokens, info.busy) == ("hot", KEPT, False)
    assert info.memory_bytes > 0
    saved = await session.save()
    assert (saved.saved, saved.tokens, saved.reason) == (True, KEPT, None)
    assert saved.written_bytes >= 0
    again = await session.save()
    assert (again.saved, again.tokens, again.written_bytes) == (True, KEPT, 0)
    evicted = await session.evict()
    assert evicted.evicted and evicted.freed_bytes == info.memory_bytes
    assert await session.evict() == host.EvictResult(False, 0)
    info = await session.refresh()
    assert (info.state, info.tokens, info.saved_tokens) == ("warm", KEPT, KEPT)
    assert info.memory_bytes == 0 and info.disk_bytes > 0


async def test_a_generation_says_from_where_its_cache_came(
    keeper: host.Runtime, chat: host.Model
) -> None:
    session = await keeper.sessions.open("reports", model=chat)
    first = await session.generate(ids=prompt(2), **GREEDY)
    assert first.cache is not None and set(first.cache) == {
        *("state", "reused_tokens", "prefilled_tokens", "load_ms", "prefill_ms"),
    }
    assert (first.cache["state"], first.cache["load_ms"]) == ("cold", 0)
    longer = [*prompt(2), *first.ids, *prompt(3, 40)]
    for state in ("hot", "warm"):
        if state == "warm":
            await session.truncate(KEPT)
            await session.save()
            await session.evict()
        result = await session.generate(ids=longer, **GREEDY)
        cache = result.cache
        assert cache is not None and cache["state"] == state
        assert cache["reused_tokens"] == result.usage.cached_tokens == KEPT
        assert cache["prefilled_tokens"] == len(longer) - KEPT
        assert (cache["load_ms"] > 0) == (state == "warm") and cache["prefill_ms"] > 0
        assert result.ids == await uncached(chat, longer)


async def test_a_prompt_that_parts_from_what_is_kept_is_evaluated_from_there(
    keeper: host.Runtime, chat: host.Model
) -> None:
    session = await keeper.sessions.open("parts", model=chat)
    await said(session, prompt(4))
    other = [*prompt(4)[:300], *prompt(5, 100)]
    answer = await said(session, other)
    assert (answer.state, answer.reused) == ("hot", 300)
    assert answer.ids == await uncached(chat, other)
    await on_disk(session, prompt(4))
    answer = await said(session, other)
    assert answer.reused == 300
    assert answer.ids == await uncached(chat, other)


async def test_a_session_begins_with_its_first_generation_too(
    keeper: host.Runtime, chat: host.Model
) -> None:
    params = {"model": chat.info.model, "prompt": "Once", "session": {"id": "unopened"}}
    result = await keeper.call("generate", {**params, "max_tokens": 4, "stream": False})
    assert result["cache"]["state"] == "cold" and result["text"]
    assert "unopened" in [info.id for info in await keeper.sessions.list()]


async def test_not_streamed_it_gives_the_same_in_one_result(
    keeper: host.Runtime, chat: host.Model
) -> None:
    session = await keeper.sessions.open("whole", model=chat)
    assert (await said(session, prompt(6), stream=False)).ids == await uncached(chat, prompt(6))
    longer = [*prompt(6), *prompt(7, 20)]
    answer = await said(session, longer, stream=False)
    assert (answer.state, answer.reused) == ("hot", TOKENS)
    assert answer.ids == await uncached(chat, longer)


@pytest.mark.parametrize("where", ["hot", "warm"])
@pytest.mark.parametrize("how", ["prompt_lookup", "draft_model"])
async def test_speculation_changes_no_token_of_a_session(
    keeper: host.Runtime, chat: host.Model, draft: host.Model, how: str, where: str
) -> None:
    options: dict[str, Any] = {how: draft if how == "draft_model" else True}
    # A tenant of its own, so that nobody else's is shared.
    name = f"{how}-{where}"
    session = await keeper.sessions.open(name, model=chat, tenant=name)
    # It goes on as it began, so that there is something to look up.
    ids = prompt(8, 100) * 3
    answer = await said(session, ids, **options)
    assert answer.ids == await uncached(chat, ids)
    if where == "warm":
        assert (await session.save()).saved and (await session.evict()).evicted
    longer = [*ids, *answer.ids, *ids[:50]]
    answer = await said(session, longer, **options)
    assert answer.state == where and answer.reused >= len(ids)
    assert answer.ids == await uncached(chat, longer)


async def test_sessions_and_plain_generations_at_once_have_their_own_tokens(
    keeper: host.Runtime, chat: host.Model
) -> None:
    prompts = [prompt(20 + number, 60 + 40 * number) for number in range(6)]
    sessions = [await keeper.sessions.open(f"crowd-{n}", model=chat) for n in range(3)]
    makers: list[host.Model | host.Session] = [*sessions, chat, chat, chat]
    for _ in range(2):
        answers = await asyncio.gather(
            *(said(maker, ids) for maker, ids in zip(makers, prompts, strict=True))
        )
        for answer, ids in zip(answers, prompts, strict=True):
            assert answer.ids == await uncached(chat, ids)
        prompts = [
            [*ids, *answer.ids, *prompt(30, 30)]
            for ids, answer in zip(prompts, answers, strict=True)
        ]


async def test_a_fork_goes_on_from_there_and_each_is_itself(
    keeper: host.Runtime, chat: host.Model
) -> None:
    session = await keeper.sessions.open("trunk", model=chat, kv="native", pin=True)
    first = await said(session, prompt(40))
    branch = await session.fork("branch")
    assert (branch.info.id, branch.info.state, branch.info.tokens) == ("branch", "hot", KEPT)
    assert (branch.info.kv, branch.info.pin) == ("native", True)
    left, right = ([*prompt(40), *first.ids, *prompt(n, 30)] for n in (41, 42))
    answers = await asyncio.gather(said(session, left), said(branch, right))
    assert [answer.reused for answer in answers] == [KEPT, KEPT]
    assert [answer.ids for answer in answers] == [
        await uncached(chat, left),
        await uncached(chat, right),
    ]
    for each in (session, branch):
        assert (await each.save()).saved and (await each.evict()).evicted
    assert (await said(branch, right)).state == "warm"
    assert await session.delete() is True
    assert (await branch.evict()).evicted
    answer = await said(branch, right)
    assert (answer.state, answer.ids) == ("warm", answers[1].ids)
    assert await branch.delete() is True


@pytest.mark.parametrize("is_hot", [True, False], ids=["hot", "warm"])
async def test_a_fork_of_what_is_on_disk_shares_it(
    keeper: host.Runtime, chat: host.Model, is_hot: bool
) -> None:
    session = await keeper.sessions.open(f"shared-{is_hot}", model=chat)
    await said(session, prompt(43 + is_hot))
    await session.save()
    if not is_hot:
        await session.evict()
    before = (await keeper.sessions.stats())["disk_bytes"]
    fork = await session.fork(f"fork-{is_hot}")
    assert fork.info.state == ("hot" if is_hot else "warm")
    assert fork.info.saved_tokens == KEPT
    assert (await keeper.sessions.stats())["disk_bytes"] == before
    assert (await said(fork, prompt(43 + is_hot))).reused == TOKENS - 1


async def test_a_fork_to_what_exists_is_refused(keeper: host.Runtime, chat: host.Model) -> None:
    one = await keeper.sessions.open("one", model=chat)
    await keeper.sessions.open("two", model=chat)
    for to in ("one", "two"):
        with pytest.raises(InvalidRequest) as caught:
            await one.fork(to)
        assert caught.value.details["field"] == "to"
    # Another tenant's name is no obstacle.
    await keeper.sessions.open("three", model=chat, tenant="alice")
    assert (await one.fork("three")).id == "three"


@pytest.mark.parametrize("where", ["hot", "warm"])
@pytest.mark.parametrize("tokens", [0, 1, 100, 256, 300, KEPT, 10_000])
async def test_what_is_truncated_is_forgotten(
    keeper: host.Runtime, chat: host.Model, where: str, tokens: int
) -> None:
    ids = prompt(50 + tokens)
    session = await keeper.sessions.open(f"cut-{where}-{tokens}", model=chat)
    await (on_disk if where == "warm" else said)(session, ids)
    left = min(tokens, KEPT)
    info = await session.truncate(tokens)
    assert (info.state, info.tokens) == (where if left else "cold", left)
    assert info.saved_tokens <= left
    answer = await said(session, ids)
    assert answer.ids == await uncached(chat, ids)
    if where == "hot":
        # Fewer than 16 tokens are not worth it.
        assert answer.reused == (min(left, TOKENS - 1) if left >= 16 else 0)
    await session.delete()


async def test_what_is_deleted_is_gone_and_begins_anew(
    keeper: host.Runtime, chat: host.Model
) -> None:
    session = await keeper.sessions.open("gone", model=chat)
    before = await keeper.sessions.stats()
    await on_disk(session, prompt(60))
    assert await session.delete() is True
    after = await keeper.sessions.stats()
    assert (after["disk_bytes"], after["chunks"]) == (before["disk_bytes"], before["chunks"])
    assert after["hot_bytes"] == before["hot_bytes"]
    assert "gone" not in [info.id for info in await keeper.sessions.list()]
    assert await session.delete() is False
    answer = await said(session, prompt(60))
    assert (answer.state, answer.reused) == ("cold", 0)
    assert await keeper.sessions.delete("gone") is True
    assert await keeper.sessions.delete("never-there") is False


async def test_the_latest_used_one_is_listed_first(keeper: host.Runtime, chat: host.Model) -> None:
    for name in ("older", "newer"):
        session = await keeper.sessions.open(name, model=chat, tenant="lists")
        await said(session, prompt(61, 20))
    assert [info.id for info in await keeper.sessions.list(tenant="lists")] == ["newer", "older"]
    await (await keeper.sessions.open("older", model=chat, tenant="lists")).refresh()
    listed = await keeper.sessions.list(tenant="lists")
    assert [info.id for info in listed] == ["older", "newer"]
    assert [info.tokens for info in listed] == [20 + ANSWER_TOKENS - 1] * 2
    assert not {"older", "newer"} & {info.id for info in await keeper.sessions.list()}


async def test_a_session_that_works_says_that_it_is_busy(
    keeper: host.Runtime, chat: host.Model
) -> None:
    session = await keeper.sessions.open("works", model=chat, tenant="busy")
    running = session.generate(ids=prompt(62), max_tokens=400, ignore_eos=True)
    # Held: an iterator that is let go of stops its generation.
    deltas = aiter(running)
    await anext(deltas)
    (info,) = await keeper.sessions.list(tenant="busy")
    assert info.busy
    running.cancel()
    assert not (await session.refresh()).busy


@pytest.mark.parametrize("kv", ["q8", "k8v4", "q4"])
async def test_another_format_is_kept_smaller_and_answers(
    keeper: host.Runtime, chat: host.Model, kv: Any
) -> None:
    session = await keeper.sessions.open(f"as-{kv}", model=chat, kv=kv)
    assert session.info.kv == kv
    first = await on_disk(session, prompt(63))
    assert first.ids == await uncached(chat, prompt(63))
    native = await keeper.sessions.open(f"not-{kv}", model=chat)
    await on_disk(native, prompt(63))
    assert (await session.refresh()).disk_bytes < (await native.refresh()).disk_bytes
    answer = await said(session, prompt(63))
    assert (answer.state, answer.reused) == ("warm", TOKENS - 1)
    # With another one it goes on, and nothing of what was kept is reused.
    exact = await keeper.sessions.open(f"as-{kv}", model=chat, kv="native")
    assert exact.info.kv == "native" and exact.info.tokens == 0
    await native.delete()
    answer = await said(exact, prompt(63))
    assert (answer.reused, answer.ids) == (0, first.ids)
    await exact.delete()


async def test_options_that_are_not_given_stay_as_they_are(
    keeper: host.Runtime, chat: host.Model
) -> None:
    await keeper.sessions.open("stays", model=chat, kv="q8", pin=True)
    session = await keeper.sessions.open("stays", model=chat)
    assert (session.info.kv, session.info.pin) == ("q8", True)
    session = await keeper.sessions.open("stays", model=chat, pin=False)
    assert (session.info.kv, session.info.pin) == ("q8", False)


async def test_the_counters_are_all_there_and_in_stats_too(keeper: host.Runtime) -> None:
    stats = await keeper.sessions.stats()
    assert set(stats) == {
        *("directory", "mode", "sessions", "hot", "hot_bytes", "hot_limit_bytes"),
        *("chunks", "disk_bytes", "quota_bytes", *COUNTS),
    }
    assert stats["mode"] == "writer" and stats["directory"]
    assert all(type(stats[name]) is int and stats[name] >= 0 for name in COUNTS)
    assert stats["hot_bytes"] <= stats["hot_limit_bytes"]
    assert set((await keeper.stats())["sessions"]) == set(stats)


async def test_the_counters_of_a_new_runtime_know_its_folder(keeper: host.Runtime) -> None:
    path = (await keeper.sessions.stats())["directory"]
    async with keeping(path) as second:
        stats = await second.sessions.stats()
        assert (stats["mode"], stats["directory"]) == ("reader", path)
        assert stats["chunks"] > 0 and stats["sessions"] > 0


async def test_without_a_folder_everything_is_in_memory() -> None:
    async with keeping(None) as runtime:
        model = await runtime.load_model()
        session = await runtime.sessions.open("a", model=model)
        await said(session, prompt(1))
        saved = await session.save()
        assert (saved.saved, saved.tokens) == (False, 0) and "--session-dir" in str(saved.reason)
        assert not (await session.evict()).evicted
        assert (await session.truncate(300)).tokens == 300
        assert (await said(session, prompt(1))).reused == 300
        fork = await session.fork("b")
        assert (fork.info.state, fork.info.tokens) == ("hot", KEPT)
        assert {info.id for info in await runtime.sessions.list()} == {"a", "b"}
        stats = await runtime.sessions.stats()
        assert (stats["directory"], stats["mode"], stats["hot"]) == (None, "memory", 2)
        assert await fork.delete() and await session.delete()
        stats = await runtime.sessions.stats()
        assert (stats["sessions"], stats["hot_bytes"]) == (0, 0)
