"""Texts and ids in batches: short ones on the loop, the rest in threads, results item by item."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Iterator
from typing import Any

import pytest

from isthmus.errors import DeadlineExceeded, InvalidRequest
from isthmus.limits import INLINE_TEXT_CHARS
from isthmus.text import batch
from isthmus.text.batch import Decode, Encode, Render, Result, TextPool
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
    template = asyncio.ensure_future(pool.run_template(lambda: gate.wait(WAIT_S)))
    operation = encode(pool, tokenizer, Result.IDS)
    try:
        async with asyncio.timeout(WAIT_S):
            (ids,) = await operation.begin(["Hello"])
        assert ids.tolist() == tokenizer.encode("Hello") and not template.done()
    finally:
        gate.set()
        await template


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


async def test_a_template_that_does_not_end_is_an_error_and_what_waited_behind_it_goes_on(
    pool: TextPool, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    class Endless:
        def render(self, messages: list[Any], options: dict[str, Any]) -> str:
            """Wait for the test."""
            gate.wait(WAIT_S)
            return "late"

    item = ([{"role": "user", "content": "hi"}], {"add_generation_prompt": True})
    monkeypatch.setattr(batch, "TEMPLATE_DEADLINE_S", 0.01)
    endless = Render(pool, Endless(), "test")  # type: ignore[arg-type]
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            await endless.begin([item])
        assert caught.value.phase == "template"
    finally:
        gate.set()
    monkeypatch.undo()
    assert await Render(pool, tokenizer, "test").begin([item]) == [tokenizer.render(*item)]
