"""Long and many texts go to one worker thread, and from there to the tokenizer's own threads.

What has arrived while the last batch was computed is computed as one batch for each (tokenizer,
options). Every text has its own result or error. Nothing is ever held back to wait for company.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import IsthmusError
from .tokenizer import TextTokenizer

T = TypeVar("T")

BATCH_CHARS = 1_000_000
"""Text of one batch: bounds how long those that come next wait."""


@dataclass(slots=True)
class _Pending:
    texts: list[str]
    future: asyncio.Future[list[list[int]]]


@dataclass(slots=True)
class _Lane:
    """Texts for one tokenizer with the same options."""

    pending: list[_Pending] = field(default_factory=list)
    is_running: bool = False


class TextWorker:
    """Owns the thread in which text work that would stall the loop is done."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="isthmus-text")
        self._lanes: dict[tuple[TextTokenizer, bool], _Lane] = {}
        self.pending_chars = 0
        self.on_drained: Callable[[], None] | None = None

    async def encode(
        self, tokenizer: TextTokenizer, texts: list[str], add_special_tokens: bool
    ) -> list[list[int]]:
        """Return the ids of each text, computed with whatever else has arrived."""
        loop = asyncio.get_running_loop()
        key = (tokenizer, add_special_tokens)
        lane = self._lanes.setdefault(key, _Lane())
        pending = _Pending(texts, loop.create_future())
        lane.pending.append(pending)
        chars = sum(map(len, texts))
        self.pending_chars += chars
        if not lane.is_running:
            lane.is_running = True
            self._start(loop, key, lane)
        try:
            return await pending.future
        finally:
            self.pending_chars -= chars
            if self.on_drained is not None:
                self.on_drained()

    async def run(self, work: Callable[[], T]) -> T:
        """Run other text work, such as a chat template, in the worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(
        self, loop: asyncio.AbstractEventLoop, key: tuple[TextTokenizer, bool], lane: _Lane
    ) -> None:
        batch = _take(lane.pending)
        if not batch:
            lane.is_running = False
            self._lanes.pop(key, None)
            return
        texts = [text for pending in batch for text in pending.texts]
        computed = loop.run_in_executor(self._pool, key[0].encode_batch, texts, key[1])

        def finish(done: asyncio.Future[list[list[int]]]) -> None:
            _settle(batch, done)
            self._start(loop, key, lane)

        computed.add_done_callback(finish)


def _take(pending: list[_Pending]) -> list[_Pending]:
    """Remove and return the next batch; who no longer waits is left out."""
    chars, count = 0, 0
    while count < len(pending) and (count == 0 or chars < BATCH_CHARS):
        chars += sum(map(len, pending[count].texts))
        count += 1
    batch, pending[:count] = pending[:count], []
    return [entry for entry in batch if not entry.future.done()] or (
        _take(pending) if pending else []
    )


def _settle(batch: list[_Pending], done: asyncio.Future[list[list[int]]]) -> None:
    failure = asyncio.CancelledError() if done.cancelled() else done.exception()
    if failure is not None:
        for pending in batch:
            if not pending.future.done():
                pending.future.set_exception(
                    IsthmusError(f"the tokenizer failed: {type(failure).__name__}: {failure}")
                )
        return
    results = iter(done.result())
    for pending in batch:
        ids = [next(results) for _ in pending.texts]
        if not pending.future.done():
            pending.future.set_result(ids)
