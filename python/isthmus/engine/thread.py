"""The engine thread: the only place that touches MLX.

A lazy MLX array belongs to the thread that built it, so loading, forward passes, sampling and
saving all run here, between the scheduler's steps. Calls come in through one queue; what the engine
has to say goes out as calls on the event loop, gathered so that the loop is woken once. mlx_lm is
imported here, after the runtime has said hello.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import EngineDead
from ..faults import Faults, Point
from ..limits import RUNNING_LIMIT
from .job import Job
from .scheduler import Errand, Scheduler, StepWork

T = TypeVar("T")

_LEAST_RETRY_MS = 100.0


class EngineThread:
    """Runs MLX work for the event loop.

    Args:
        loop: Where results and callbacks go.
        prepare: Run first on the thread: imports mlx_lm.
        clock: Monotonic seconds.
        faults: What is to go wrong on purpose.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        prepare: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        faults: Faults | None = None,
    ) -> None:
        self._loop = loop
        self._prepare = prepare
        self._clock = clock
        self._faults = faults
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._outbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_waking = False
        self._scheduler = Scheduler(self._post, clock, faults)
        self._thread = threading.Thread(target=self._run, name="isthmus-engine", daemon=True)
        self._failure: EngineDead | None = None
        self._is_ready = False
        self._is_busy = False
        self._progress_at = clock()
        self._turn_ends: list[Callable[[], None]] = []
        self.on_dead: Callable[[EngineDead], None] | None = None
        self.on_turn_end: Callable[[], None] | None = None
        """Called on the loop after everything that one wake-up brought."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a generation; its listener is always told how it ended, unless cancelled.

        How many there may be is bounded by who submits (`resilience.admission`).

        Raises:
            EngineDead: The thread has ended.
        """
        self._check_alive()
        self._commands.put(lambda: self._scheduler.add(job))

    def at_turn_end(self, call: Callable[[], None]) -> None:
        """Call once after the rest of what this wake-up brings; for listeners, on the loop. A turn
        of the loop's own would have to wait for the interpreter, which a busy engine holds."""
        self._turn_ends.append(call)

    def wake(self) -> None:
        """Look at the jobs again: one was cancelled or granted room."""
        self._commands.put(_nothing)

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` on the engine thread, between two steps, and return its result.

        Raises:
            EngineDead: The thread has ended.
            Exception: Whatever `work` raises.
        """
        self._check_alive()
        future: asyncio.Future[T] = self._loop.create_future()

        def command() -> None:
            if future.cancelled():
                return
            if self._failure is not None:
                self._post(_set_exception, (future, self._failure))
                return
            try:
                result = work()
            except BaseException as error:
                self._post(_set_exception, (future, _for_caller(error)))
                if not isinstance(error, Exception):
                    raise
            else:
                self._post(_set_result, (future, result))

        self._commands.put(command)
        return await future

    async def run_steps(self, work: StepWork) -> None:
        """Run step work on the engine thread, in turns with generations, until it is done.

        Cancelling the caller drops the work before its next step.

        Raises:
            EngineDead: The thread has ended.
            Exception: Whatever a step raises.
        """
        self._check_alive()
        future: asyncio.Future[None] = self._loop.create_future()

        def on_end(error: Exception | None) -> None:
            if error is None:
                _set_result(future, None)
            else:
                _set_exception(future, error)

        errand = Errand(work, lambda: not future.cancelled(), on_end)
        self._commands.put(lambda: self._scheduler.add_errand(errand))
        await future

    def wait_ms(self) -> float:
        """Return about how long it takes until one of many jobs has ended, in milliseconds."""
        return max(self._scheduler.service_s * 1_000 / RUNNING_LIMIT, _LEAST_RETRY_MS)

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait for it; return whether it did."""
        self._commands.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def health(self) -> dict[str, object]:
        """Return the `engine` map of the protocol's health."""
        state = "busy" if self._is_busy else "idle"
        if self._failure is not None:
            state = "dead"
        elif not self._is_ready:
            state = "starting"
        age = None if state == "idle" else (self._clock() - self._progress_at) * 1_000
        return {"state": state, "progress_age_ms": age}

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            if self._faults is not None:
                self._faults.strike(Point.ENGINE_PREPARE)
            self._prepare()
            self._is_ready = True
            self._serve()
        except BaseException as caught:  # the loop must hear of it, whatever it is
            error = caught
        reason = "it was stopped" if error is None else f"{type(error).__name__}: {error}"
        failure = EngineDead(f"the engine thread has ended: {reason}; restart the runtime")
        self._failure = failure
        self._scheduler.fail_all(failure)
        # On the loop, where commands come from: none can slip in after it.
        self._post(self._fail_commands, ())
        if error is not None and self.on_dead is not None:
            self._post(self.on_dead, (failure,))

    def _serve(self) -> None:
        while True:
            self._progress_at = self._clock()
            self._is_busy = self._scheduler.has_work
            try:
                command = self._commands.get(block=not self._is_busy)
            except queue.Empty:
                self._scheduler.step()
                if self._outbox:
                    # Let the loop have the interpreter: it would wait 2 ms for it otherwise.
                    time.sleep(0)
                continue
            if command is None:
                return
            self._is_busy = True
            self._progress_at = self._clock()
            command()

    def _fail_commands(self) -> None:
        """Fail what is still queued, so that no caller waits for ever; on the event loop."""
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                break
            if command is not None:
                command()
        assert self._failure is not None
        self._scheduler.fail_all(self._failure)

    def post(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Have something called on the loop, in order with all else; on the engine thread."""
        self._post(call, arguments)

    def _post(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._outbox.append((call, arguments))
        if not self._is_waking:
            self._is_waking = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                self._outbox.clear()  # the loop is closed: nobody listens

    def _drain(self) -> None:
        self._is_waking = False
        while self._outbox:
            call, arguments = self._outbox.popleft()
            self._call(call, *arguments)
        while self._turn_ends:
            self._call(self._turn_ends.pop(0))
        if self.on_turn_end is not None:
            self.on_turn_end()

    def _call(self, call: Callable[..., None], *arguments: object) -> None:
        """Call a listener; one's defect must not keep the others waiting."""
        try:
            call(*arguments)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "a listener of the engine failed", "exception": error}
            )


def _nothing() -> None:
    """The command that only wakes the thread."""


def _for_caller(error: BaseException) -> Exception:
    """Return what a caller may be raised; SystemExit and its like would end the loop."""
    if isinstance(error, Exception):
        return error
    return EngineDead(f"the engine thread has ended: {type(error).__name__}: {error}")


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
