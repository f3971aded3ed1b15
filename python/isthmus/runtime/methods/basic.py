"""`echo` and `stream_echo`: the bridge without a model, for tests and for measuring."""

from __future__ import annotations

from typing import Any

from ...limits import CREDIT_LIMIT
from ..params import Params
from ..requests import Call
from ..router import Router
from ..streams import Credit

_ITEMS_PER_DELTA = 64
"""Echoed items of one delta: large enough to hide the frame, small enough to keep order visible."""


def register(router: Router) -> None:
    """Add the methods."""
    router.register("echo", inline=echo)
    router.register("stream_echo", run=stream_echo)


def echo(params: dict[str, Any]) -> object:
    """Return `data`."""
    if len(params) != 1 or "data" not in params:
        fields = Params(params)
        data = fields.take("data", None)
        fields.done()
        return data
    return params["data"]


async def stream_echo(call: Call, params: dict[str, Any]) -> None:
    """Send `count` items, each `data` or its index, as fast as the reader takes them."""
    fields = Params(params)
    count = fields.integer("count", 0, CREDIT_LIMIT)
    data = fields.take("data", None)
    fields.done()
    credit = Credit(call.options.credit)
    call.on_credit = credit.grant
    sent = 0
    while sent < count:
        taken = await credit.take(min(count - sent, _ITEMS_PER_DELTA))
        items = list(range(sent, sent + taken)) if data is None else [data] * taken
        call.delta(taken, items)
        sent += taken
    call.end({"count": count})
