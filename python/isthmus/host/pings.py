"""Pings that have not been answered: those that a caller waits for, and those of the heartbeat."""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import IsthmusError, own_copy
from ..limits import REQUEST_ID_LIMIT
from ..transport.writer import OrderedWriter
from ..wire.messages import PING


class Pings:
    """The unanswered pings of one connection.

    Args:
        loop: Makes futures.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._unanswered: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._asked: set[int] = set()
        """Those that a caller waits for."""
        self._last = 0

    @property
    def is_waiting(self) -> bool:
        """Whether a caller waits for one."""
        return bool(self._asked)

    def send(self, writer: OrderedWriter, *, is_asked: bool) -> asyncio.Future[dict[str, Any]]:
        """Send one; the future is the runtime's health."""
        nonce = self._last = (self._last + 1) % REQUEST_ID_LIMIT
        pong = self._unanswered[nonce] = self._loop.create_future()
        if is_asked:
            self._asked.add(nonce)
        pong.add_done_callback(lambda done: self._forget(nonce, done))
        writer.send([PING, nonce])
        return pong

    def answered(self, nonce: object, health: dict[str, Any]) -> None:
        """Take an answer; one that nobody waits for is dropped."""
        pong = self._unanswered.get(nonce) if type(nonce) is int else None
        if pong is not None and not pong.done():
            pong.set_result(health)

    def fail(self, error: IsthmusError) -> None:
        """No answer will come any more."""
        for pong in self._unanswered.values():
            if not pong.done():
                pong.set_exception(own_copy(error))

    def _forget(self, nonce: int, pong: asyncio.Future[dict[str, Any]]) -> None:
        self._unanswered.pop(nonce, None)
        self._asked.discard(nonce)
        if not pong.cancelled():
            pong.exception()  # whether anybody looks or not
