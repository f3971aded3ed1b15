"""Text operations for many items at once, and the threads in which they run.

Short work is done on the event loop, where waking a thread would cost more; the rest goes to a
thread and from there to the tokenizer's own threads, which run without the GIL. A text that is long
on its own shares no batch with short ones. Every item has its own result or error.
"""

from __future__ import annotations

import asyncio
import ctypes
import queue
import threading
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

from ..errors import DeadlineExceeded, InvalidRequest
from ..limits import INLINE_TEXT_CHARS, TEMPLATE_DEADLINE_S
from .ids import count_token_ids, read_token_ids
from .tokenizer import TextTokenizer

T = TypeVar("T")

BATCH_COST: Final = 1_000_000
"""Characters or ids of one batch: bounds how long those that come next wait."""

_RENDER_MESSAGES: Final = 256
"""Messages of the conversations that are rendered in one go."""

_INLINE_ITEMS: Final = 256
"""Items that are handled on the event loop in one go: empty ones have a price, too."""

_FEW: Final = 2
"""Texts that are encoded one by one: the tokenizer's own threads, which sleep, are awoken for a
batch, and that takes longer than so many short texts."""

_TEXT_THREADS: Final = 4
"""Batches of different operations that run at once; the tokenizers' own threads do the work."""


_END_EVERY_S: Final = 0.05
_END_ATTEMPTS: Final = 200
"""How often a thread is told to end: an exception in it can be swallowed, or wait for a single
operation of the interpreter to be over. After 10 s it is left alone, and runs on."""


class Result(Enum):
    """What encoding a text gives."""

    IDS = "tokenize"
    COUNT = "count_tokens"
    PIECES = "tokenize_pieces"


class RenderingEnded(BaseException):
    """Raised in a thread that renders for too long; no template can catch it."""


class _TemplateThread:
    """A thread for chat templates that can be ended in the middle of one."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._busy_lock = threading.Lock()
        """Guards `_is_busy`, so that nothing is raised in the thread once its work is done."""
        self._is_busy = False
        # A daemon: a template that cannot be ended must not keep the process from ending.
        self._thread = threading.Thread(target=self._serve, name="isthmus-template", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Run `work` in the thread."""
        future: Future[None] = Future()

        def run() -> None:
            try:
                work()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        future.set_running_or_notify_cancel()
        self._work.put(run)
        return future

    def close(self) -> None:
        """Let it end after what it is doing."""
        self._work.put(None)

    def end(self) -> bool:
        """Tell the thread to end now; return whether there is no need to say so again."""
        with self._busy_lock:
            if self._is_busy and self._thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread.ident), ctypes.py_object(RenderingEnded)
                )
        return not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            while (run := self._work.get()) is not None:
                self._set_busy(True)
                run()
                self._set_busy(False)
        except RenderingEnded:
            pass

    def _set_busy(self, is_busy: bool) -> None:
        with self._busy_lock:
            self._is_busy = is_busy


class TextPool:
    """Owns the threads in which text work that would stall the loop is done.

    Chat templates have a thread of their own: they are programs from the model folder, and one that
    does not end must not keep tokenizers waiting. It is ended, and another thread takes its place.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_TEXT_THREADS, thread_name_prefix="isthmus-text")
        self._template: _TemplateThread | None = None
        self._template_lock = asyncio.Lock()
        """Guards the templates' thread: one batch of conversations at a time."""
        self.templates_ended = 0
        """Threads that were ended because a template was not."""

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run tokenizer work."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def run_templates(self, renderings: Sequence[Callable[[], T]]) -> list[T]:
        """Render chat templates, each under a deadline that counts from its turn.

        Returns:
            What they gave; when one did not end in time, only what those before it gave.
        """
        given: list[T] = []

        def work() -> None:
            for render in renderings:
                given.append(render())  # noqa: PERF401 - its length is looked at meanwhile

        async with self._template_lock:
            thread = self._template = self._template or _TemplateThread()
            rendering = thread.submit(work)
            waiting = asyncio.wrap_future(rendering)
            count = 0
            try:
                while not (await asyncio.wait({waiting}, timeout=TEMPLATE_DEADLINE_S))[0]:
                    if len(given) == count:
                        return given[:count]
                    count = len(given)
                await waiting
                return given
            finally:
                if not rendering.done():
                    # Given up, also where the caller was cancelled: nobody may wait behind it.
                    self._replace_thread(thread)

    def _replace_thread(self, thread: _TemplateThread) -> None:
        self._template = None
        self.templates_ended += 1
        thread.close()
        _end(asyncio.get_running_loop(), thread, _END_ATTEMPTS)

    def close(self) -> None:
        """Let the threads end after what they are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._template is not None:
            self._template.close()


def _end(loop: asyncio.AbstractEventLoop, thread: _TemplateThread, attempts: int) -> None:
    """End a thread, again and again until it has."""
    if not thread.end() and attempts > 1:
        loop.call_later(_END_EVERY_S, _end, loop, thread, attempts - 1)


class Encode:
    """Texts to ids, counts or pieces.

    Outcomes: an `array` of ids, an integer, or `Pieces`.
    """

    batch_cost = BATCH_COST

    def __init__(
        self,
        pool: TextPool,
        tokenizer: TextTokenizer,
        result: Result,
        add_special_tokens: bool,
        label: str,
    ) -> None:
        self._pool = pool
        self._tokenizer = tokenizer
        self._result = result
        self._special = add_special_tokens
        self.label = label

    def cost(self, item: str) -> int:
        """Return the number of characters."""
        return len(item)

    def now(self, items: Sequence[str], cost: int) -> list[Any] | None:
        """Encode short texts."""
        if not _belongs_on_loop(items, cost):
            return None
        if len(items) <= _FEW and self._result is not Result.PIECES:
            ids = [array("I", self._tokenizer.encode(text, self._special)) for text in items]
            return ids if self._result is Result.IDS else list(map(len, ids))
        return self._encode(items)

    def begin(self, items: Sequence[str]) -> asyncio.Future[list[Any]]:
        """Encode in a thread."""
        return self._pool.run(lambda: self._encode(items))

    def _encode(self, items: Sequence[str]) -> list[Any]:
        texts = list(items)
        if self._result is Result.PIECES:
            return list(self._tokenizer.encode_pieces(texts, self._special))
        if self._result is Result.COUNT:
            return list(self._tokenizer.count_batch(texts, self._special))
        return list(self._tokenizer.encode_batch(texts, self._special))


class Decode:
    """Ids, in wire form, to texts."""

    batch_cost = BATCH_COST

    def __init__(
        self, pool: TextPool, tokenizer: TextTokenizer, skip_special_tokens: bool, label: str
    ) -> None:
        self._pool = pool
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self.label = label

    def cost(self, item: tuple[str, object]) -> int:
        """Return the number of ids."""
        return count_token_ids(item[1])

    def now(self, items: Sequence[tuple[str, object]], cost: int) -> list[Any] | None:
        """Decode few ids."""
        return self._decode(items) if _belongs_on_loop(items, cost) else None

    def begin(self, items: Sequence[tuple[str, object]]) -> asyncio.Future[list[Any]]:
        """Decode in a thread."""
        return self._pool.run(lambda: self._decode(items))

    def _decode(self, items: Sequence[tuple[str, object]]) -> list[Any]:
        outcomes: list[Any] = []
        good: list[list[int]] = []
        for name, value in items:
            try:
                ids = read_token_ids(name, value)
                self._tokenizer.check(ids, name)
            except InvalidRequest as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
                good.append(ids)
        texts = iter(self._tokenizer.decode_batch(good, self._skip))
        return [next(texts) if outcome is None else outcome for outcome in outcomes]


class Render:
    """Conversations to texts, with the model's chat template.

    An item is the messages and the template's variables.
    """

    batch_cost = _RENDER_MESSAGES

    def __init__(self, pool: TextPool, tokenizer: TextTokenizer, label: str) -> None:
        self._pool = pool
        self._tokenizer = tokenizer
        self.label = label

    def cost(self, item: tuple[list[dict[str, Any]], dict[str, Any]]) -> int:
        """Return the number of messages."""
        return len(item[0])

    def now(self, items: Sequence[Any], cost: int) -> None:
        """Never on the event loop: a template is a program."""
        return None

    def begin(
        self, items: Sequence[tuple[list[dict[str, Any]], dict[str, Any]]]
    ) -> asyncio.Future[list[Any]]:
        """Render in the templates' thread; one that does not end is an error of its own."""
        return asyncio.ensure_future(self._render_all(items))

    async def _render_all(self, items: Sequence[Any]) -> list[Any]:
        renderings = [partial(self._render, *item) for item in items]
        outcomes: list[Any] = []
        while len(outcomes) < len(items):
            outcomes += await self._pool.run_templates(renderings[len(outcomes) :])
            if len(outcomes) < len(items):
                # The rest of these comes after whoever waits for the thread.
                outcomes.append(_too_slow())
        return outcomes

    def _render(self, messages: list[dict[str, Any]], variables: dict[str, Any]) -> Any:
        try:
            return self._tokenizer.render(messages, variables)
        except InvalidRequest as error:
            return error


def _too_slow() -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the model's chat template did not end within {TEMPLATE_DEADLINE_S:g} s; send `ids` or "
        "`prompt` instead of messages",
        phase="template",
    )


def _belongs_on_loop(items: Sequence[Any], cost: int) -> bool:
    """Whether work is so little that waking a thread for it would cost more."""
    return cost <= INLINE_TEXT_CHARS and len(items) <= _INLINE_ITEMS
