"""The one thread that touches the disk: reading before evicting before saving.

Work is a function, or a generator that yields where something more urgent may go first. Saves are
bounded in number: one too many is refused, which costs a reload later. Results arrive on the event
loop. Every wait is bounded by who waits.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import Any, Final, TypeVar

T = TypeVar("T")

SAVES_LIMIT: Final = 64
"""Saves that may wait; each holds the memory of what it is to save."""


class Urgency(IntEnum):
    """What goes first."""

    RESTORE = 0
    MANAGE = 1
    SAVE = 2


class Worker:
    """Runs work on one thread.

    Args:
        loop: Where results go.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._numbers = itertools.count()
        self._waiting: list[tuple[int, int, _Work]] = []
        self._changed = threading.Condition()
        """Guards `_waiting`, `_is_ending` and `_has_ended`."""
        self._is_ending = False
        self._has_ended = False
        self._saves = 0
        self._thread = threading.Thread(target=self._run, name="isthmus-sessions", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether one more save may wait."""
        return self._saves < SAVES_LIMIT

    def submit(
        self, urgency: Urgency, work: Callable[[], T] | Generator[None, None, T]
    ) -> asyncio.Future[T]:
        """Queue work; return its result to come, cancelled when the thread has ended."""
        future: asyncio.Future[T] = self._loop.create_future()
        if urgency is Urgency.SAVE:
            self._saves += 1
            future.add_done_callback(self._saved)
        entry = _Work(work, future)
        with self._changed:
            if self._has_ended:
                future.cancel()
                return future
            heapq.heappush(self._waiting, (urgency, next(self._numbers), entry))
            self._changed.notify()
        return future

    def stop(self, timeout_s: float) -> bool:
        """Have what waits done, for so long; return whether it was."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _saved(self, _: asyncio.Future[Any]) -> None:
        self._saves -= 1

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_ending:
                        self._has_ended = True
                        return
                    self._changed.wait()
                urgency, number, work = heapq.heappop(self._waiting)
            if not work.step():
                with self._changed:
                    # With its old number: before what came later.
                    heapq.heappush(self._waiting, (urgency, number, work))
                continue
            try:
                self._loop.call_soon_threadsafe(work.settle)
            except RuntimeError:
                continue  # the loop is closed: nobody waits


class _Work:
    """Work, and who waits for it."""

    def __init__(self, work: Any, future: asyncio.Future[Any]) -> None:
        self._work = work
        self._future = future
        self._result: Any = None
        self._error: Exception | None = None

    def step(self) -> bool:
        """Do some of it; return whether it is done."""
        try:
            if not isinstance(self._work, Generator):
                self._result = self._work()
                return True
            next(self._work)
        except StopIteration as end:
            self._result = end.value
        except Exception as error:  # whatever it is, who waits must hear of it
            self._error = error
        else:
            return False
        return True

    def settle(self) -> None:
        """Tell who waits; on the event loop."""
        self._work = None
        if self._future.done():
            return
        if self._error is not None:
            self._future.set_exception(self._error)
        else:
            self._future.set_result(self._result)
