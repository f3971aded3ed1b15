"""Row 63: turns of a kept conversation that collide, are cancelled, or end with their process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from isthmus import host
from isthmus.errors import DeadlineExceeded, RuntimeExited, SessionBusy
from tests.faults.conversations import (
    CHUNK_TOKENS,
    GREEDY,
    KEPT,
    SOON,
    TOKENS,
    chunks,
    counted,
    keeping,
    leftovers,
    on_disk,
    prompt,
    said,
    uncached,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 30.0
PREFILL_TOKENS = 32


@dataclass(slots=True)
class Heard:
    """Waits for news of a prompt that is evaluated."""

    news: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, name: str, payload: Any) -> None:
        """Take an event."""
        if name == "progress" and payload["stage"] == "prefill":
            self.news.set()

    async def wait(self) -> None:
        """Wait for the next one."""
        self.news.clear()
        async with asyncio.timeout(WAIT_S):
            await self.news.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def heard() -> Heard:
    """What the runtime tells of its prompts."""
    return Heard()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(
    tmp_path_factory: pytest.TempPathFactory, heard: Heard
) -> AsyncIterator[host.Runtime]:
    """One that keeps sessions, and evaluates prompts in many chunks."""
    arguments = ("--prefill-chunk-tokens", str(PREFILL_TOKENS))
    sessions = host.SessionOptions(dir=tmp_path_factory.mktemp("sessions"))
    async with await host.start(
        runtime_args=arguments, sessions=sessions, on_event=heard
    ) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(runtime: host.Runtime) -> host.Model:
    """The built-in model."""
    return await runtime.load_model()


async def test_two_turns_at_once_run_one_after_the_other(
    runtime: host.Runtime, model: host.Model
) -> None:
    session = await runtime.sessions.open("queued", model=model)
    first, second = prompt(1), [*prompt(1), *prompt(2, 20)]
    answers = await asyncio.gather(said(session, first), said(session, second))
    assert [answer.ids for answer in answers] == [
        await uncached(model, first),
        await uncached(model, second),
    ]
    assert [answer.reused for answer in answers] == [0, TOKENS]


async def test_many_calls_at_once_run_in_the_order_in_which_they_were_made(
    runtime: host.Runtime, model: host.Model
) -> None:
    session = await runtime.sessions.open("ordered", model=model)
    running = asyncio.ensure_future(said(session, prompt(3)))
    await asyncio.sleep(0)
    truncated, saved = await asyncio.gather(session.truncate(100), session.save())
    assert (await running).reused == 0
    assert (truncated.state, truncated.tokens, saved.saved) == ("hot", 100, True)
    again = said(session, prompt(3))
    answer, deleted, anew = await asyncio.gather(again, session.delete(), said(session, prompt(3)))
    assert (answer.reused, deleted, anew.reused) == (100, True, 0)


MESSAGES = [{"role": "user", "content": "Once upon a time there was a fox. " * 40}]
SLOW_TO_BEGIN: dict[str, dict[str, Any]] = {
    "messages": {"messages": MESSAGES},
    "a long text": {"prompt": "Once upon a time there was a fox. " * 130},
    "a format": {"prompt": "x", "response_format": {"type": "regex", "pattern": "[a-z]{99}"}},
}


@pytest.mark.parametrize("what", SLOW_TO_BEGIN)
async def test_no_call_overtakes_a_turn_whose_prompt_is_being_made(
    runtime: host.Runtime, model: host.Model, what: str
) -> None:
    name = what.replace(" ", "-")
    session = await runtime.sessions.open(name, model=model)
    running = session.generate(max_tokens=4, **SLOW_TO_BEGIN[what])
    deleted = asyncio.ensure_future(session.delete())
    assert (await running).finish_reason == "length"
    assert await deleted
    assert name not in [info.id for info in await runtime.sessions.list()]


async def test_a_turn_on_a_busy_session_fails_when_it_does_not_want_to_wait(
    runtime: host.Runtime, model: host.Model, heard: Heard
) -> None:
    session = await runtime.sessions.open("busy", model=model, when_busy="fail")
    running = session.generate(ids=prompt(4, 1_500), **GREEDY)
    await heard.wait()
    with pytest.raises(SessionBusy) as caught:
        await session.generate(ids=prompt(4), **GREEDY)
    assert caught.value.retryable
    for call in (session.save(), session.evict(), session.truncate(0), session.delete()):
        with pytest.raises(SessionBusy):
            await call
    result = await running
    assert result.ids == await uncached(model, prompt(4, 1_500))
    assert (await session.save()).saved


async def test_a_cancelled_prefill_keeps_what_was_evaluated(
    runtime: host.Runtime, model: host.Model, heard: Heard
) -> None:
    session = await runtime.sessions.open("cancelled", model=model)
    ids = prompt(5, 1_500)
    generation = session.generate(ids=ids, **GREEDY)
    await heard.wait()
    generation.cancel()
    assert (await generation).finish_reason == "cancelled"
    answer = await said(session, ids)
    assert answer.state == "hot" and PREFILL_TOKENS <= answer.reused < len(ids) - 1
    assert answer.ids == await uncached(model, ids)


async def test_a_cancelled_answer_is_kept_as_far_as_it_came(
    runtime: host.Runtime, model: host.Model
) -> None:
    session = await runtime.sessions.open("cut", model=model)
    generation = session.generate(ids=prompt(6), max_tokens=2_000, ignore_eos=True)
    async for _ in generation:
        generation.cancel()
    result = await generation
    assert result.finish_reason == "cancelled" and result.ids
    longer = [*prompt(6), *result.ids, *prompt(7, 20)]
    answer = await said(session, longer)
    assert TOKENS + len(result.ids) - 1 <= answer.reused <= TOKENS + len(result.ids)
    assert answer.ids == await uncached(model, longer)


async def test_a_deadline_in_the_prefill_keeps_what_was_there_before(
    runtime: host.Runtime, model: host.Model
) -> None:
    session = await runtime.sessions.open("late", model=model)
    await said(session, prompt(8))
    longer = [*prompt(8), *prompt(9, 1_500)]
    with pytest.raises(DeadlineExceeded):
        await session.generate(ids=longer, deadline_ms=30, **GREEDY)
    answer = await said(session, longer)
    assert answer.reused >= TOKENS
    assert answer.ids == await uncached(model, longer)


async def test_two_tenants_with_one_id_and_one_prompt_share_nothing(
    runtime: host.Runtime, model: host.Model
) -> None:
    ids = prompt(10)
    expected = await uncached(model, ids)
    for tenant in ("alice", "bob", None):
        session = await runtime.sessions.open("same", model=model, tenant=tenant)
        assert session.info.state == "cold"
        answer = await on_disk(session, ids)
        assert (answer.ids, answer.state, answer.reused) == (expected, "cold", 0)
    # Now all are on disk, and nobody is in memory.
    session = await runtime.sessions.open("other", model=model, tenant="carol")
    answer = await said(session, ids)
    assert (answer.ids, answer.state, answer.reused) == (expected, "cold", 0)
    for tenant in ("alice", "bob", "carol", "nobody"):
        listed = await runtime.sessions.list(tenant=tenant)
        found = {"alice": ["same"], "bob": ["same"], "carol": ["other"], "nobody": []}[tenant]
        assert [info.id for info in listed] == found
    assert await runtime.sessions.delete("same", tenant="alice")
    session = await runtime.sessions.open("same", model=model, tenant="bob")
    answer = await said(session, ids)
    assert (answer.ids, answer.state, answer.reused) == (expected, "warm", TOKENS - 1)


async def crash(runtime: host.Runtime) -> None:
    """Kill the process and wait for the next one."""
    before = runtime.pid
    os.kill(before, signal.SIGKILL)
    async with asyncio.timeout(WAIT_S):
        while runtime.pid == before or runtime.state is not host.RuntimeState.RUNNING:
            await asyncio.sleep(0.01)


async def test_one_that_was_saved_goes_on_warm_in_the_next_process(tmp_path: Path) -> None:
    async with keeping(tmp_path) as runtime:
        model = await runtime.load_model()
        session = await runtime.sessions.open("a", model=model)
        first = await said(session, prompt(1))
        assert (await session.save()).saved
        await crash(runtime)
        longer = [*prompt(1), *first.ids, *prompt(2, 20)]
        answer = await said(session, longer)
        assert (answer.state, answer.reused) == ("warm", KEPT)
        assert answer.ids == await uncached(model, longer)


async def test_killed_while_it_saves_it_goes_on_with_the_files_that_are_whole(
    tmp_path: Path,
) -> None:
    ids = prompt(1, 1_800)
    async with keeping(tmp_path, fsync=True) as runtime:
        model = await runtime.load_model()
        session = await runtime.sessions.open("a", model=model)
        first = await said(session, ids)
        async with asyncio.timeout(WAIT_S):
            while len(chunks(tmp_path)) < 3:
                await asyncio.sleep(0)
        await crash(runtime)
        answer = await said(session, ids)
        assert answer.ids == first.ids
        assert answer.state == "warm" and 2 * CHUNK_TOKENS <= answer.reused <= len(ids) - 1
        assert answer.ids == await uncached(model, ids)
        assert await counted(runtime, "corrupt_files") == 0
        assert (await session.save()).saved and leftovers(tmp_path) == []
        await crash(runtime)
        assert (await said(session, ids)).reused == len(ids) - 1


async def test_killed_in_a_turn_that_had_no_token_the_turn_is_answered_by_the_next(
    tmp_path: Path,
) -> None:
    heard = Heard()
    arguments = ("--prefill-chunk-tokens", str(PREFILL_TOKENS))
    sessions = host.SessionOptions(dir=tmp_path)
    async with await host.start(
        runtime_args=arguments, sessions=sessions, on_event=heard, restart=SOON
    ) as runtime:
        model = await runtime.load_model()
        session = await runtime.sessions.open("a", model=model)
        await on_disk(session, prompt(1))
        longer = [*prompt(1), *prompt(2, 1_000)]
        running = asyncio.ensure_future(said(session, longer))
        await heard.wait()
        deleted = asyncio.ensure_future(session.delete())
        os.kill(runtime.pid, signal.SIGKILL)
        answer = await running
        assert (answer.state, answer.reused) == ("warm", TOKENS)
        assert answer.ids == await uncached(model, longer)
        # It may have been written to the process that ended, and is not repeated then.
        (outcome,) = await asyncio.gather(deleted, return_exceptions=True)
        assert outcome is True or isinstance(outcome, RuntimeExited)
