"""The watchdog's hands: a timer while something is waited for, pings, and what was received.

A runtime of which nothing is asked costs no timer. The decisions are the watchdog's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .connection import Connection
from .link import Link
from .watchdog import HeartbeatOptions, Verdict, Watchdog


class Pulse:
    """Watches the process of one connection.

    Args:
        options: How.
        connection: Sends pings, and knows whether something is waited for.
        on_verdict: Told when the process has to be ended.
    """

    def __init__(
        self,
        options: HeartbeatOptions,
        connection: Connection,
        on_verdict: Callable[[Link, Verdict], object],
    ) -> None:
        self._interval_s = options.interval_ms / 1_000
        self._watchdog = Watchdog(options)
        self._connection = connection
        self._on_verdict = on_verdict
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None

    @property
    def silent_ms(self) -> float:
        """How long a process that is waited for has sent nothing."""
        if self._link is None or self._timer is None:
            return 0.0
        return self._watchdog.silent_ms(self._now_ms(), self._link.receipts)

    def attach(self, link: Link) -> None:
        """Watch another process, while something is waited for."""
        self._link = link
        self._watchdog.forget()
        self.wake()

    def detach(self) -> None:
        """Watch none."""
        self._link = None
        self._sleep()

    def wake(self) -> None:
        """Something may be waited for."""
        if self._link is not None and self._timer is None and self._connection.is_waiting:
            self._watchdog.begin(self._now_ms(), self._link.receipts)
            self._connection.is_watched = True
            self._set_timer()

    def _sleep(self) -> None:
        self._connection.is_watched = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        link = self._link
        if link is None or not self._connection.is_waiting:
            self._sleep()
            return
        self._set_timer()
        verdict = self._watchdog.look(self._now_ms(), link.receipts)
        if verdict is not None:
            self._on_verdict(link, verdict)
        elif not self._watchdog.is_pinged:
            self._ping(link)

    def _ping(self, link: Link) -> None:
        pong = self._connection.beat()
        if pong is not None:
            self._watchdog.pinged()
            pong.add_done_callback(lambda done: self._on_pong(link, done))

    def _on_pong(self, link: Link, pong: asyncio.Future[dict[str, object]]) -> None:
        if link is not self._link or pong.cancelled() or pong.exception() is not None:
            return
        verdict = self._watchdog.answered(pong.result())
        if verdict is not None:
            self._on_verdict(link, verdict)

    def _set_timer(self) -> None:
        self._timer = self._loop.call_later(self._interval_s, self._tick)

    def _now_ms(self) -> float:
        return self._loop.time() * 1_000
