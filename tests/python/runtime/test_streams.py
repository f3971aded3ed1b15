"""A producer goes on only while its reader has room; a method is found by its name."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import UnknownMethod
from isthmus.limits import CREDIT_LIMIT
from isthmus.runtime.router import Router
from isthmus.runtime.streams import Credit


async def test_what_is_taken_is_no_more_than_granted_or_wanted() -> None:
    credit = Credit(5)
    assert await credit.take(3) == 3
    assert await credit.take(100) == 2


async def test_without_credit_the_producer_waits_for_a_grant() -> None:
    credit = Credit(0)
    taking = asyncio.ensure_future(credit.take(10))
    await asyncio.sleep(0)
    assert not taking.done()
    credit.grant(4)
    assert await taking == 4


async def test_a_cancelled_producer_takes_nothing() -> None:
    credit = Credit(0)
    taking = asyncio.ensure_future(credit.take(10))
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    credit.grant(4)
    assert await credit.take(10) == 4


async def test_credit_has_a_bound() -> None:
    credit = Credit(10)
    for _ in range(3):
        credit.grant(CREDIT_LIMIT)
    assert await credit.take(2 * CREDIT_LIMIT) == CREDIT_LIMIT


@settings(max_examples=100, deadline=None, database=None)
@given(st.integers(0, 5), st.lists(st.integers(1, 9), max_size=10), st.integers(1, 7))
def test_everything_granted_is_taken_once(initial: int, grants: list[int], wanted: int) -> None:
    async def play() -> None:
        credit, taken, total = Credit(initial), 0, initial + sum(grants)

        async def produce() -> None:
            nonlocal taken
            while taken < total:
                taken += await credit.take(min(wanted, total - taken))

        producer, granted = asyncio.ensure_future(produce()), initial
        for grant in grants:
            await asyncio.sleep(0)
            assert taken <= granted
            granted += grant
            credit.grant(grant)
        await asyncio.wait_for(producer, 10)
        assert taken == total

    asyncio.run(play())


def test_a_method_is_found_by_its_name() -> None:
    router = Router()
    router.register("b", inline=lambda params: 1)
    router.register("a", inline=lambda params: 2)
    assert router.names == ["a", "b"]
    assert router.find("a").name == "a" and set(router.quick_methods) == {"a", "b"}


def test_a_method_is_registered_once_and_with_a_form() -> None:
    router = Router()
    router.register("a", inline=lambda params: 1)
    for forms in ({"inline": lambda params: 1}, {}):
        with pytest.raises(ValueError):
            router.register("a", **forms)
    with pytest.raises(ValueError):
        router.register("b")


def test_an_unknown_method_is_named_but_not_at_length() -> None:
    with pytest.raises(UnknownMethod) as caught:
        Router().find("x" * 10_000)
    assert len(caught.value.message) < 300
