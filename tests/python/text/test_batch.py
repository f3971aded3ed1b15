"""Texts and ids in batches: short ones on the loop, the rest in threads, results item by item."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from array import array
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from isthmus.errors import DeadlineExceeded, InvalidRequest
from isthmus.limits import INLINE_TEXT_CHARS
from isthmus.text import pool as pool_module
from isthmus.text.batch import Decode, Encode, Render, Result
from isthmus.text.pool import TextPool
from isthmus.text.tokenizer import TextTokenizer

WAIT_S = 10.0
TEXTS = ["", "Hello, world!", "naïve 中文 👩‍👩‍👧 é", "x" * 100]


@pytest.fixture
def pool() -> Iterator[TextPool]:
    """Threads that end with the test."""
    pool = TextPool()
    yield pool
    pool.close()


def encode(
    pool: TextPool, tokenizer: TextTokenizer, result: Result, special: bool = True
) -> Encode:
    """Return the operation."""
    return Encode(pool, tokenizer, result, special, "test")


@pytest.mark.parametrize("special", [True, False])
async def test_a_batch_gives_what_single_texts_give(
    pool: TextPool, tokenizer: TextTokenizer, special: bool
) -> None:
    operation = encode(pool, tokenizer, Result.IDS, special)
    wanted = [array("I", tokenizer.encode(text, special)) for text in TEXTS]
    assert await operation.begin(TEXTS) == wanted
    assert operation.now(TEXTS, 10) == wanted
    assert operation.now(TEXTS[1:2], 10) == wanted[1:2]
    counts = encode(pool, tokenizer, Result.COUNT, special)
    assert await counts.begin(TEXTS) == [len(ids) for ids in wanted]


async def test_long_work_is_left_to_a_thread(pool: TextPool, tokenizer: TextTokenizer) -> None:
    operation = encode(pool, tokenizer, Result.IDS)
    assert operation.now(["x" * (INLINE_TEXT_CHARS + 1)], INLINE_TEXT_CHARS + 1) is None
    assert operation.now([""] * 1_000, 0) is None
    assert operation.cost("abc") == 3
    decode = Decode(pool, tokenizer, False, "test")
    assert decode.now([("ids", [])], INLINE_TEXT_CHARS + 1) is None
    assert decode.cost(("ids", b"12345678")) == 2 and decode.cost(("ids", "no ids")) == 0


async def test_pieces_say_where_each_token_lies(pool: TextPool, tokenizer: TextTokenizer) -> None:
    outcomes = await encode(pool, tokenizer, Result.PIECES, False).begin(TEXTS)
    for text, pieces in zip(TEXTS, outcomes, strict=True):
        assert pieces.ids == tokenizer.encode(text, False)
        assert len(pieces.tokens) == len(pieces.offsets) == len(pieces.ids)
        assert {place for pair in pieces.offsets for place in pair} <= set(range(len(text) + 1))
        units = text.encode("utf-16-le")
        for (start, end), (first, last) in zip(pieces.offsets, pieces.offsets_utf16(), strict=True):
            assert units[2 * first : 2 * last].decode("utf-16-le") == text[start:end]


async def test_one_bad_list_of_ids_fails_alone(pool: TextPool, tokenizer: TextTokenizer) -> None:
    good = tokenizer.encode("Hello")
    items: list[tuple[str, Any]] = [
        ("ids[0]", good),
        ("ids[1]", [tokenizer.vocab_size]),
        ("ids[2]", array("I", good).tobytes()),
        ("ids[3]", "text"),
        ("ids[4]", b"123"),
    ]
    operation = Decode(pool, tokenizer, False, "test")
    for outcomes in (await operation.begin(items), operation.now(items, 0)):
        assert outcomes is not None
        assert [outcomes[index] for index in (0, 2)] == ["Hello", "Hello"]
        for index in (1, 3, 4):
            assert isinstance(outcomes[index], InvalidRequest)
            assert outcomes[index].details["field"] == f"ids[{index}]"


async def test_a_template_that_does_not_end_keeps_no_tokenizer_waiting(
    pool: TextPool, tokenizer: TextTokenizer
) -> None:
    gate = threading.Event()
    template = asyncio.ensure_future(pool.run_templates([lambda: gate.wait(WAIT_S)]))
    operation = encode(pool, tokenizer, Result.IDS)
    try:
        async with asyncio.timeout(WAIT_S):
            (ids,) = await operation.begin(["Hello"])
        assert ids.tolist() == tokenizer.encode("Hello") and not template.done()
    finally:
        gate.set()
    assert await template == [True]


async def test_a_conversation_that_the_template_refuses_fails_alone(
    pool: TextPool, tokenizer: TextTokenizer
) -> None:
    good = ([{"role": "user", "content": "hi"}], {"add_generation_prompt": True})
    bad = ([{"role": "user"}], {})
    operation = Render(pool, tokenizer, "test")
    first, refused, last = await operation.begin([good, bad, good])
    assert first == last == tokenizer.render(*good)
    assert isinstance(refused, InvalidRequest)
    assert operation.now([good], 1) is None and operation.cost(good) == 1


class Scripted:
    """Stands for a tokenizer whose template does what the first message says."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()

    def render(self, messages: list[Any], options: dict[str, Any]) -> str:
        """Loop for ever, wait for the test in one operation, or answer."""
        self.threads.append(threading.current_thread())
        what = messages[0]["content"]
        while what == "loop":
            pass
        while what == "swallow" and not self.gate.is_set():
            with contextlib.suppress(BaseException):
                while not self.gate.is_set():
                    pass
        if what == "wait":
            self.gate.wait(WAIT_S)
        return str(what)


def conversation(what: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return an item of `Render`."""
    return [{"role": "user", "content": what}], {}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """Templates under a short deadline; none outlives the test."""
    monkeypatch.setattr(pool_module, "TEMPLATE_DEADLINE_S", 0.05)
    scripted = Scripted()
    yield scripted
    scripted.gate.set()
    for thread in scripted.threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in scripted.threads)


@pytest.mark.parametrize("what", ["loop", "swallow", "wait"])
async def test_a_template_that_does_not_end_is_an_error_of_its_conversation_alone(
    pool: TextPool, scripted: Scripted, what: str
) -> None:
    operation = Render(pool, scripted, "test")  # type: ignore[arg-type]
    items = [conversation(each) for each in ("a", what, "b", what, "c")]
    async with asyncio.timeout(WAIT_S):
        first, stuck, second, again, last = await operation.begin(items)
    assert (first, second, last) == ("a", "b", "c")
    assert [stuck.phase, again.phase] == ["template", "template"]
    assert isinstance(stuck, DeadlineExceeded)
    assert pool.templates_ended == 2
    pool.close()


async def test_the_thread_of_a_template_that_loops_is_ended_and_another_takes_its_place(
    pool: TextPool, scripted: Scripted
) -> None:
    operation = Render(pool, scripted, "test")  # type: ignore[arg-type]
    async with asyncio.timeout(WAIT_S):
        await operation.begin([conversation("loop")])
        assert await operation.begin([conversation("next")]) == ["next"]
    looping, fresh = scripted.threads
    looping.join(WAIT_S)
    assert not looping.is_alive() and fresh.is_alive()
    pool.close()


async def test_what_waits_behind_a_template_that_does_not_end_has_its_whole_deadline(
    pool: TextPool, scripted: Scripted
) -> None:
    stuck, patient = (Render(pool, scripted, name) for name in ("stuck", "patient"))  # type: ignore[arg-type]
    async with asyncio.timeout(WAIT_S):
        outcomes = await asyncio.gather(
            stuck.begin([conversation("loop"), conversation("loop")]),
            patient.begin([conversation("good")]),
        )
    assert outcomes[1] == ["good"]
    # The second endless one had to queue again: the other had its turn before it.
    assert len(scripted.threads) == 3 and scripted.threads[1] is scripted.threads[2]
    pool.close()


async def test_a_rendering_that_nobody_waits_for_any_more_is_ended_too(
    pool: TextPool, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "TEMPLATE_DEADLINE_S", WAIT_S)
    operation = Render(pool, scripted, "test")  # type: ignore[arg-type]
    abandoned = operation.begin([conversation("loop")])
    while not scripted.threads:
        await asyncio.sleep(0)
    abandoned.cancel()
    async with asyncio.timeout(WAIT_S):
        assert await operation.begin([conversation("next")]) == ["next"]
    assert pool.templates_ended == 1
    pool.close()


async def test_a_batch_that_takes_long_is_no_template_that_does_not_end(
    pool: TextPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = [threading.Event() for _ in range(4)]
    ended = [threading.Event() for _ in range(4)]
    wait, deadlines = asyncio.wait, iter(range(3))

    def render(index: int) -> int:
        begun[index].set()
        ended[index].wait(WAIT_S)
        return index

    async def until_the_next_begins(
        waiting: set[asyncio.Future[None]], timeout: float
    ) -> tuple[set[asyncio.Future[None]], set[asyncio.Future[None]]]:
        """Stand for a deadline that passes while each rendering but the first runs."""
        index = next(deadlines, None)
        if index is None:
            ended[-1].set()
            return await wait(waiting, timeout=WAIT_S)
        ended[index].set()
        await asyncio.to_thread(begun[index + 1].wait, WAIT_S)
        return set(), waiting

    monkeypatch.setattr(asyncio, "wait", until_the_next_begins)
    assert await pool.run_templates([partial(render, index) for index in range(4)]) == [0, 1, 2, 3]
    assert pool.templates_ended == 0
    pool.close()
