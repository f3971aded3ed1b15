"""What arrives while the last batch is computed is computed as one; nobody is held back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from isthmus.errors import IsthmusError
from isthmus.text import batch
from isthmus.text.batch import TextWorker

WAIT_S = 10.0


class FakeTokenizer:
    """Gives a text's length; its first batch waits for the test."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], bool]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def encode_batch(self, texts: list[str], add_special_tokens: bool = True) -> list[list[int]]:
        """Note the batch."""
        self.batches.append((texts, add_special_tokens))
        self.begun.set()
        assert self.go_on.wait(WAIT_S)
        if "bad" in texts:
            raise ValueError("no such text")
        return [[len(text)] for text in texts]


@contextlib.asynccontextmanager
async def a_worker() -> AsyncIterator[tuple[TextWorker, Any]]:
    """A worker whose tokenizer is let go at the end."""
    worker, tokenizer = TextWorker(), FakeTokenizer()
    try:
        yield worker, tokenizer
    finally:
        tokenizer.go_on.set()
        worker.close()


def begin(worker: TextWorker, tokenizer: Any, *texts: str, special: bool = True) -> Any:
    """Start to encode."""
    return asyncio.ensure_future(worker.encode(tokenizer, list(texts), special))


async def begun(tokenizer: Any) -> None:
    """Wait until the first batch is being computed."""
    assert await asyncio.to_thread(tokenizer.begun.wait, WAIT_S)


async def test_a_lone_text_is_computed_at_once() -> None:
    async with a_worker() as (worker, tokenizer):
        tokenizer.go_on.set()
        assert await asyncio.wait_for(begin(worker, tokenizer, "abc"), WAIT_S) == [[3]]


async def test_what_arrives_meanwhile_is_computed_as_one_batch() -> None:
    async with a_worker() as (worker, tokenizer):
        first = begin(worker, tokenizer, "a")
        await begun(tokenizer)
        rest = [begin(worker, tokenizer, "b" * size) for size in range(2, 7)]
        await asyncio.sleep(0)
        tokenizer.go_on.set()
        assert await asyncio.wait_for(asyncio.gather(first, *rest), WAIT_S) == [
            [[size]] for size in range(1, 7)
        ]
        assert [len(texts) for texts, _ in tokenizer.batches] == [1, 5]


async def test_texts_with_other_options_are_a_batch_of_their_own() -> None:
    async with a_worker() as (worker, tokenizer):
        tokenizer.go_on.set()
        calls = [begin(worker, tokenizer, "ab", special=special) for special in (True, False)]
        await asyncio.wait_for(asyncio.gather(*calls), WAIT_S)
        assert sorted(tokenizer.batches) == [(["ab"], False), (["ab"], True)]


async def test_who_no_longer_waits_is_left_out() -> None:
    async with a_worker() as (worker, tokenizer):
        first = begin(worker, tokenizer, "first")
        await begun(tokenizer)
        gone, kept = begin(worker, tokenizer, "gone"), begin(worker, tokenizer, "kept!")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        tokenizer.go_on.set()
        assert await asyncio.wait_for(asyncio.gather(first, kept), WAIT_S) == [[[5]], [[5]]]
        assert [texts for texts, _ in tokenizer.batches] == [["first"], ["kept!"]]


async def test_a_batch_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "BATCH_CHARS", 10)
    async with a_worker() as (worker, tokenizer):
        calls = [begin(worker, tokenizer, "x" * 6) for _ in range(5)]
        tokenizer.go_on.set()
        await asyncio.wait_for(asyncio.gather(*calls), WAIT_S)
        assert max(len(texts) for texts, _ in tokenizer.batches) == 2


async def test_a_failing_tokenizer_is_a_typed_error_and_the_next_batch_is_computed() -> None:
    async with a_worker() as (worker, tokenizer):
        tokenizer.go_on.set()
        with pytest.raises(IsthmusError, match="no such text"):
            await asyncio.wait_for(begin(worker, tokenizer, "bad"), WAIT_S)
        assert await asyncio.wait_for(begin(worker, tokenizer, "good"), WAIT_S) == [[4]]


async def test_waiting_text_is_counted_until_it_is_done_or_given_up() -> None:
    async with a_worker() as (worker, tokenizer):
        drained = []
        worker.on_drained = lambda: drained.append(worker.pending_chars)
        done, given_up = begin(worker, tokenizer, "abc", "de"), begin(worker, tokenizer, "x" * 7)
        await begun(tokenizer)
        assert worker.pending_chars == 12
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert drained == [5]
        tokenizer.go_on.set()
        await asyncio.wait_for(done, WAIT_S)
        assert drained == [5, 0]


async def test_no_texts_give_no_results() -> None:
    async with a_worker() as (worker, tokenizer):
        tokenizer.go_on.set()
        assert await asyncio.wait_for(begin(worker, tokenizer), WAIT_S) == []


async def test_other_work_runs_in_the_worker_s_thread() -> None:
    async with a_worker() as (worker, _):
        name = await asyncio.wait_for(worker.run(lambda: threading.current_thread().name), WAIT_S)
        assert name.startswith("isthmus-text")
