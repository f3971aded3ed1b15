"""The threads in which text work that would stall the loop is done.

Tokenizer work shares a few threads; chat templates have one of their own, which is ended when a
template is not. Knows no tokenizer and no template.
"""

from __future__ import annotations

import asyncio
import ctypes
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from ..limits import TEMPLATE_DEADLINE_S

T = TypeVar("T")

_TEXT_THREADS: Final = 4
"""Batches of different operations that run at once; the tokenizers' own threads do the work."""

_END_EVERY_S: Final = 0.05
_END_ATTEMPTS: Final = 200
"""How often a thread is told to end: an exception in it can be swallowed, or wait for a single
operation of the interpreter to be over. After 10 s it is left alone, and runs on."""


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
