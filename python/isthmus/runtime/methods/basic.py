"""`echo` and `stream_echo`: the bridge without a model, for tests and for measuring."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ...limits import CREDIT_LIMIT
from ..params import Params
from ..requests import Call
from ..router import Router
from ..streams import Credit

_ITEMS_PER_DELTA = 64
"""Echoed items of one delta: large enough to hide the frame, small enough to keep order visible."""


_ITEMS_PER_TURN = 16 * _ITEMS_PER_DELTA
"""Echoed items after which others have their turn, however much credit there is."""

Room = Callable[[], Awaitable[None]]


def register(router: Router, room: Room) -> None:
    """Add the methods."""
    router.register("echo", inline=echo)
    router.register("stream_echo", run=StreamEcho(room).run)


def echo(params: dict[str, Any]) -> object:
    """Return `data`."""
    if len(params) != 1 or "data" not in params:
        fields = Params(params)
        data = fields.take("data", None)
        fields.done()
        return data
    return params["data"]


class StreamEcho:
    """Answers `stream_echo`.

    Args:
        room: Waits until the host has taken what is written.
    """

    def __init__(self, room: Room) -> None:
        self._room = room

    def run(self, call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Send `count` items, each `data` or its index, as fast as the reader takes them.

        What the reader grants counts from here on, also before the first step of the coroutine.
        """
        fields = Params(params)
        count = fields.integer("count", 0, CREDIT_LIMIT)
        data = fields.take("data", None)
        fields.done()
        credit = Credit(call.options.credit)
        call.on_credit = credit.grant
        return self._send(call, count, data, credit)

    async def _send(self, call: Call, count: int, data: object, credit: Credit) -> None:
        sent = 0
        while sent < count:
            taken = await credit.take(min(count - sent, _ITEMS_PER_DELTA))
            items = list(range(sent, sent + taken)) if data is None else [data] * taken
            call.delta(taken, items)
            sent += taken
            await self._room()
            if sent % _ITEMS_PER_TURN == 0:
                await asyncio.sleep(0)
        call.end({"count": count})
