"""Keeps a runtime running: owns its process, and starts another when that one ends.

At most one process exists at any time. A process that ends, or is ended because it listens no more,
is followed by another when the policy says so; else the runtime is given up until it is told to
restart. Everything begun here has ended when `close` returns. Requests are the connection's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..errors import Closing, IsthmusError, own_copy
from ..limits import ENGINE_DEAD_ANSWERS_MS
from .connection import Connection
from .ends import Ends
from .life import Life, RuntimeState, StateChange
from .link import Link
from .options import KeeperOptions
from .process import KILL_WAIT_S, ExitReport, RuntimeProcess
from .pulse import Pulse
from .reports import cause_of, exit_error, unresponsive_error
from .starting import Launch, begin_process
from .watchdog import Cause, Verdict

_UNKNOWN_END: Final = ExitReport(None, None, "")


class Keeper:
    """Keeps one runtime.

    Args:
        launch: Starts a process.
        connection: Has the requests.
        options: How.
        uniform: Draws from 0 to 1, for the waits before restarts.
    """

    def __init__(
        self,
        launch: Launch,
        connection: Connection,
        options: KeeperOptions,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.hello: Mapping[str, Any] = {}
        """What the newest process said of itself first."""
        self.closed: asyncio.Future[ExitReport] = self._loop.create_future()
        self.restarts = 0
        """Times that it ran again."""
        self.last_exit: ExitReport | None = None
        self.last_error: IsthmusError | None = None
        """What those were told who waited for the last process that was lost."""
        self._launch = launch
        self._connection = connection
        self._options = options
        self._life = Life(self._tell)
        self._ends = Ends(options.restart, uniform)
        self._pulse: Pulse | None = None
        if options.heartbeat is not None:
            self._pulse = Pulse(options.heartbeat, connection, self._on_verdict)
        self._link: Link | None = None
        """That of the newest process, which may be starting."""
        self._before: RuntimeProcess | None = None
        """The process before it."""
        self._attached: Link | None = None
        """The link of the process that answers."""
        self._ran_at = 0.0
        self._attempt = 0
        self._hurry = asyncio.Event()
        """Ends a wait before a restart."""
        self._task: asyncio.Task[None] | None = None
        """Brings the next process up."""
        self._closing: asyncio.Task[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        connection.on_busy = self._on_busy
        connection.inbox.on_engine_dead = self._on_engine_dead

    @property
    def state(self) -> RuntimeState:
        """Where in its life the runtime is."""
        return self._life.state

    @property
    def process(self) -> RuntimeProcess:
        """The newest process."""
        newest = self._newest_process()
        assert newest is not None
        return newest

    @property
    def silent_ms(self) -> float:
        """How long a process that is waited for has sent nothing."""
        return 0.0 if self._pulse is None else self._pulse.silent_ms

    async def start(self) -> None:
        """Start the first process; a start that fails is not repeated.

        Raises:
            IsthmusError: Why there is none.
        """
        try:
            link = await self._begin()
        except BaseException as error:
            self._life.to(RuntimeState.FAILED, error=error)
            raise
        self._run(link)

    async def restart(self) -> None:
        """Have another process, and forget how often it has ended; return when it runs.

        Raises:
            Closing: The runtime has been closed.
            IsthmusError: It cannot be started.
        """
        if self._life.is_over:
            raise Closing("this runtime has been closed; start another", phase="close")
        self._ends.clear()
        if self.state is RuntimeState.RESTARTING:
            self._hurry.set()
        else:
            is_running = self.state is RuntimeState.RUNNING
            self._life.to(RuntimeState.RESTARTING, reason="it was told to", attempt=1, delay_ms=0)
            self._connection.reopen()
            self._connection.suspend(is_deaf=True)
            self._rest()
            self._attempt = 1
            self._task = self._loop.create_task(self._replace(is_running))
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    async def close(self) -> None:
        """End the runtime; what was sent has the drain's grace to settle."""
        if self._closing is None and not self._life.is_over:
            self._connection.close()
            self._life.to(RuntimeState.CLOSING, reason="it was told to")
            self._settle_waiters(Closing("this runtime has been closed", phase="close"))
            self._rest()
            self._closing = self._loop.create_task(self._close())
        if self._closing is not None:
            await asyncio.shield(self._closing)
        else:
            await asyncio.wait({self.closed}, timeout=KILL_WAIT_S)

    def on_broken(self, link: Link, error: IsthmusError) -> None:
        """End a process that does not speak the protocol."""
        if link is self._attached:
            self._lose(error)
        if link.process is not None:
            link.process.kill()

    def on_ended(self, link: Link, report: ExitReport) -> None:
        """A process has ended."""
        self.last_exit = report
        is_killed = link.process is not None and link.process.is_killed
        error = link.reason or link.failure or exit_error(report, is_killed)
        if link is self._attached:
            self._lose(error)
        link.give_up(error)
        if self.state is RuntimeState.CLOSING and self._closing is None:
            self._finish()

    async def _begin(self) -> Link:
        """Start a process and return its link when it has said hello."""
        self._before = self._newest_process()
        link = self._link = Link(self, self._connection.inbox.receive, self._connection.codec)
        self.hello = await begin_process(
            self._launch, link, self._before, self._options, lambda: not self._life.is_over
        )
        return link

    def _newest_process(self) -> RuntimeProcess | None:
        started = None if self._link is None else self._link.process
        return self._before if started is None else started

    def _run(self, link: Link) -> None:
        """A process answers."""
        self._attached = link
        self._hurry.clear()
        self._ran_at = self._loop.time()
        self._life.to(RuntimeState.RUNNING, attempt=self._attempt)
        self._attempt = 0
        self._connection.attach(link)
        if self._pulse is not None:
            self._pulse.attach(link)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _rest(self) -> None:
        """Watch no process."""
        if self._pulse is not None:
            self._pulse.detach()

    def _lose(self, error: IsthmusError) -> None:
        """The process answers no more: settle, keep, and decide what follows."""
        self._attached = None
        self.last_error = error
        self._rest()
        if self.state is RuntimeState.RESTARTING:
            self._connection.detach(error, is_crash=False)
        elif self.state is RuntimeState.CLOSING:
            self._connection.fail(error)
        elif self._options.restart is None:
            self._life.to(RuntimeState.CLOSING, reason=cause_of(error), error=error)
            self._connection.fail(error)
        else:
            lived_ms = (self._loop.time() - self._ran_at) * 1_000
            delay_ms = self._ends.add(self._loop.time() * 1_000, error, lived_ms)
            self._attempt = 1
            self._life.to(
                RuntimeState.RESTARTING,
                reason=cause_of(error),
                error=error,
                attempt=self._attempt,
                delay_ms=delay_ms,
            )
            self._connection.detach(error, is_crash=True, has_next=delay_ms is not None)
            if delay_ms is None:
                self._give_up()
            else:
                self._task = self._loop.create_task(self._bring_up(delay_ms))

    async def _replace(self, is_running: bool) -> None:
        """End the process, which may finish what it has, and start another."""
        if is_running:
            await self._stop()
        await self._bring_up(0.0)

    async def _bring_up(self, delay_ms: float) -> None:
        """Start processes until one runs, or the policy gives up."""
        while True:
            await self._pause(delay_ms / 1_000)
            if self._life.is_over:
                return
            try:
                link = await self._begin()
            except Exception as error:
                if self._life.is_over:
                    return
                delay = self._ends.add(self._loop.time() * 1_000, error)
                if delay is None:
                    self._give_up()
                    return
                delay_ms = delay
                self._attempt += 1
            else:
                if not self._life.is_over:
                    self.restarts += 1
                    self._run(link)
                return

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    def _give_up(self) -> None:
        error = self._ends.report()
        self._life.to(RuntimeState.FAILED, reason=error.message, error=error, attempt=self._attempt)
        self._connection.fail(error)
        self._settle_waiters(error)

    def _on_verdict(self, link: Link, verdict: Verdict) -> None:
        if link is not self._attached:
            return
        if verdict.cause is Cause.ENGINE_DEAD:
            self._connection.suspend()
            self._loop.call_later(ENGINE_DEAD_ANSWERS_MS / 1_000, self._end, link, verdict)
        else:
            self._end(link, verdict)

    def _on_busy(self) -> None:
        """Watch the process: something is waited for."""
        if self._pulse is not None:
            self._pulse.wake()

    def _on_engine_dead(self, message: str) -> None:
        """End the process, when what it still answers has had time to arrive."""
        if self._attached is not None and self._pulse is not None:
            self._on_verdict(self._attached, Verdict(Cause.ENGINE_DEAD, message))

    def _end(self, link: Link, verdict: Verdict) -> None:
        """End a process that is of no use."""
        if link is self._attached and link.process is not None:
            self._lose(unresponsive_error(verdict, link.process.stderr))
            link.process.kill()

    async def _close(self) -> None:
        self._hurry.set()
        if self._attached is not None:
            await self._stop()
        elif self._link is not None and self._link.process is not None:
            self._link.process.kill()
        if self._task is not None:
            await asyncio.wait({self._task})
        newest = self._newest_process()
        if newest is not None and not newest.ended.done():
            await newest.stop(0.0, 0.0)
        self._connection.fail(Closing("this runtime has been closed", phase="close"))
        self._finish()

    async def _stop(self) -> None:
        """Ask the process to end, and see to it that it does."""
        until = self._loop.time() + self._options.graces.close_s
        try:
            # What waits for the runtime to read would be lost with the pipe.
            async with asyncio.timeout_at(until):
                await self._connection.flush_calls()
        except TimeoutError:
            pass
        left_s = max(until - self._loop.time(), 0.0)
        await self.process.stop(left_s, self._options.graces.terminate_s)

    def _finish(self) -> None:
        self._life.to(RuntimeState.CLOSED)
        if not self.closed.done():
            self.closed.set_result(self.last_exit or _UNKNOWN_END)

    def _settle_waiters(self, error: IsthmusError) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(own_copy(error))

    def _tell(self, change: StateChange) -> None:
        if self._options.on_state is not None:
            # The caller's code must not be able to break what is under way.
            self._loop.call_soon(self._options.on_state, change)
