"""Large messages travel in pieces, both ways, and nothing waits behind them."""

from __future__ import annotations

import asyncio
import random

import pytest

from isthmus import host
from isthmus.errors import LocalProtocolError
from isthmus.limits import MESSAGE_LIMIT_BYTES, PIECE_BYTES

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [PIECE_BYTES - 30, PIECE_BYTES, PIECE_BYTES + 1, MIB, 30 * MIB])
async def test_a_value_of_any_size_comes_back_the_same(runtime: host.Runtime, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert await runtime.echo(data) == data


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(runtime: host.Runtime) -> None:
    with pytest.raises(LocalProtocolError):
        await runtime.echo(bytes(MESSAGE_LIMIT_BYTES))
    assert await runtime.echo("next") == "next"


async def test_small_calls_overtake_large_ones(runtime: host.Runtime) -> None:
    order: list[str] = []

    async def call(name: str, data: object) -> None:
        await runtime.echo(data)
        order.append(name)

    await asyncio.gather(call("large", bytes(8 * MIB)), *(call("small", n) for n in range(20)))
    assert order == ["small"] * 20 + ["large"]


async def test_large_messages_of_many_calls_do_not_mix(runtime: host.Runtime) -> None:
    values = [bytes([number]) * (200_000 + number) for number in range(12)]
    assert await asyncio.gather(*map(runtime.echo, values)) == values


async def test_large_items_of_a_stream_keep_their_order(runtime: host.Runtime) -> None:
    items = [item async for item in runtime.stream_echo(20, "x" * 10_000, credit=20)]
    assert items == ["x" * 10_000] * 20


async def test_many_token_ids_travel_both_ways(runtime: host.Runtime, model: host.Model) -> None:
    ids = await model.tokenize("one two three " * 20_000)
    assert len(ids) * 4 > 2 * PIECE_BYTES
    assert await model.detokenize(ids) == "one two three " * 20_000
