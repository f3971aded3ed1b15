"""What arrives while a batch is computed is computed as one; each item has its own outcome."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import InvalidRequest, IsthmusError
from isthmus.multiplex.multiplexer import Multiplexer

WAIT_S = 10.0


class Doubles:
    """Doubles numbers; batches wait for the test when they are not done on the loop."""

    def __init__(self, label: str = "doubles", limit: int = 100, now_limit: int = 0) -> None:
        self.label = label
        self.batch_cost = limit
        self.now_limit = now_limit
        self.begun: list[list[int]] = []
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    def cost(self, item: int) -> int:
        """Every item costs itself."""
        return item

    def now(self, items: Sequence[int], cost: int) -> list[Any] | None:
        """Compute cheap batches."""
        return self._doubled(items) if cost <= self.now_limit else None

    def begin(self, items: Sequence[int]) -> asyncio.Future[list[Any]]:
        """Compute when the test lets it."""
        self.begun.append(list(items))
        return asyncio.ensure_future(self._compute(items))

    async def _compute(self, items: Sequence[int]) -> list[Any]:
        await self.gate.wait()
        return self._doubled(items)

    def _doubled(self, items: Sequence[int]) -> list[Any]:
        self.batches.append(list(items))
        if 13 in items:
            raise KeyError("thirteen")
        return [InvalidRequest("seven", field="x") if item == 7 else 2 * item for item in items]


class Caller:
    """Owns a call, and keeps what it is told."""

    def __init__(self) -> None:
        self.is_settled = False
        self.phase = ""
        self.told: list[list[Any]] = []

    def error(self, error: IsthmusError) -> None:
        """Take an error of the whole call."""
        self.is_settled = True
        self.told.append([error])

    def done(self, outcomes: list[Any]) -> None:
        """Take the outcomes."""
        self.is_settled = True
        self.told.append(outcomes)


@contextlib.asynccontextmanager
async def a_multiplexer() -> AsyncIterator[Multiplexer]:
    """One whose tasks have an owner."""
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        yield Multiplexer(group.create_task, asyncio.get_running_loop())


def add(multiplexer: Multiplexer, operation: Any, *items: int) -> Caller:
    """Add one call's items."""
    caller = Caller()
    multiplexer.add(operation, items, caller, caller.done)
    return caller


async def turns(count: int = 5) -> None:
    """Let tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_cheap_work_is_done_within_the_flush() -> None:
    async with a_multiplexer() as multiplexer:
        operation = Doubles(now_limit=10)
        caller = add(multiplexer, operation, 1, 2)
        multiplexer.flush()
        assert caller.told == [[2, 4]] and multiplexer.pending_cost == 0


async def test_what_one_read_brings_is_one_batch_whatever_frames_it_came_in() -> None:
    async with a_multiplexer() as multiplexer:
        operation = Doubles(now_limit=10)
        multiplexer.hold()
        callers = [add(multiplexer, operation, *items) for items in ((1,), (2, 3), (4,))]
        await turns()
        assert operation.batches == []
        multiplexer.flush()
        assert operation.batches == [[1, 2, 3, 4]]
        assert [caller.told for caller in callers] == [[[2]], [[4, 6]], [[8]]]


async def test_what_is_added_outside_a_read_is_computed_with_the_turn() -> None:
    async with a_multiplexer() as multiplexer:
        caller = add(multiplexer, Doubles(now_limit=10), 3)
        await turns(1)
        assert caller.told == [[6]]


async def test_what_arrives_meanwhile_is_computed_as_one_batch() -> None:
    async with a_multiplexer() as multiplexer:
        operation = Doubles()
        first = add(multiplexer, operation, 1)
        multiplexer.flush()
        await turns()
        rest = [add(multiplexer, operation, item) for item in range(2, 6)]
        assert (first.phase, rest[0].phase) == ("running", "queue")
        operation.gate.set()
        await turns()
        assert operation.batches == [[1], [2, 3, 4, 5]]
        assert [caller.told[0][0] for caller in rest] == [4, 6, 8, 10]
        assert multiplexer.pending(operation) == 0


async def test_a_batch_has_a_bound_and_keeps_the_order() -> None:
    async with a_multiplexer() as multiplexer:
        operation = Doubles(limit=10)
        callers = [add(multiplexer, operation, 6) for _ in range(3)]
        operation.gate.set()
        await turns(10)
        assert operation.batches == [[6], [6], [6]]
        assert all(caller.told == [[12]] for caller in callers)


async def test_one_bad_item_has_its_own_error() -> None:
    async with a_multiplexer() as multiplexer:
        caller = add(multiplexer, Doubles(now_limit=100), 1, 7, 2)
        multiplexer.flush()
        ((first, bad, last),) = caller.told
        assert (first, last) == (2, 4) and isinstance(bad, InvalidRequest)


async def test_a_batch_that_fails_is_an_error_of_each_of_its_items_and_of_no_later_one() -> None:
    async with a_multiplexer() as multiplexer:
        operation = Doubles()
        operation.gate.set()
        one, other = add(multiplexer, operation, 13), add(multiplexer, operation, 1, 2)
        await turns()
        errors = [*one.told[0], *other.told[0]]
        assert [error.code for error in errors] == ["INTERNAL"] * 3
        assert len({id(error) for error in errors}) == 3
        later = add(multiplexer, operation, 4)
        await turns()
        assert later.told == [[8]]


async def test_a_defect_on_the_loop_is_an_error_too() -> None:
    async with a_multiplexer() as multiplexer:
        caller = add(multiplexer, Doubles(now_limit=100), 13)
        multiplexer.flush()
        assert isinstance(caller.told[0][0], IsthmusError)


async def test_an_answer_that_cannot_be_made_is_an_error_of_its_call_alone() -> None:
    async with a_multiplexer() as multiplexer:
        operation, broken = Doubles(), Caller()
        operation.gate.set()
        multiplexer.add(operation, (1,), broken, lambda outcomes: outcomes[5])
        other = add(multiplexer, operation, 2)
        await turns(10)
        assert [error.code for error in broken.told[0]] == ["INTERNAL"]
        assert other.told == [[4]] and add(multiplexer, operation, 3).told == []
        await turns(10)


async def test_the_next_batch_is_begun_before_the_replies_of_the_last_are_made() -> None:
    async with a_multiplexer() as multiplexer:
        operation, seen = Doubles(), []
        first = Caller()
        multiplexer.add(operation, (1,), first, lambda _: seen.append(list(operation.begun)))
        multiplexer.flush()
        await turns()
        add(multiplexer, operation, 2)
        operation.gate.set()
        await turns(10)
        assert seen == [[[1], [2]]]


async def test_who_has_settled_meanwhile_is_left_out() -> None:
    async with a_multiplexer() as multiplexer:
        operation = Doubles()
        add(multiplexer, operation, 1)
        multiplexer.flush()
        await turns()
        gone, kept = add(multiplexer, operation, 2), add(multiplexer, operation, 3)
        gone.is_settled = True
        operation.gate.set()
        await turns()
        assert operation.batches == [[1], [3]] and (gone.told, kept.told) == ([], [[6]])
        assert multiplexer.pending_cost == 0


async def test_operations_do_not_wait_for_each_other() -> None:
    async with a_multiplexer() as multiplexer:
        slow, quick = Doubles("slow"), Doubles("quick")
        quick.gate.set()
        waiting, served = add(multiplexer, slow, 1), add(multiplexer, quick, 2)
        await turns()
        assert (waiting.told, served.told) == ([], [[4]])
        again = add(multiplexer, quick, 5)
        await turns()
        assert again.told == [[10]]
        slow.gate.set()
        await turns()
        assert waiting.told == [[2]]


async def test_a_coroutine_gets_its_item_or_its_error() -> None:
    async with a_multiplexer() as multiplexer:
        operation = Doubles(now_limit=100)
        assert await multiplexer.call(operation, 4) == 8
        with pytest.raises(InvalidRequest):
            await multiplexer.call(operation, 7)


async def test_a_cancelled_coroutine_gives_its_item_up() -> None:
    async with a_multiplexer() as multiplexer:
        operation = Doubles()
        add(multiplexer, operation, 1)
        multiplexer.flush()
        call = asyncio.ensure_future(multiplexer.call(operation, 5))
        await turns()
        call.cancel()
        operation.gate.set()
        await turns(10)
        assert operation.batches == [[1]] and multiplexer.pending_cost == 0


async def test_the_counters_tell_batches_from_lone_calls() -> None:
    async with a_multiplexer() as multiplexer:
        operation = Doubles(now_limit=3)
        add(multiplexer, operation, 1)
        multiplexer.flush()
        operation.gate.set()
        add(multiplexer, operation, 2, 2)
        add(multiplexer, operation, 3)
        await turns()
        assert multiplexer.stats() == {
            "doubles": {"batches": 2, "on_loop": 1, "calls": 3, "items": 4, "largest": 3}
        }


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.lists(st.integers(1, 15), max_size=3)),
        st.tuples(st.just("drop"), st.integers(0, 9)),
        st.sampled_from([("hold",), ("flush",), ("turn",), ("open",)]),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None, database=None)
@given(STEPS)
def test_in_any_order_each_call_hears_its_own_outcomes_once(steps: list[Any]) -> None:
    async def play() -> None:
        operations = [Doubles("a"), Doubles("b", limit=5), Doubles("c", now_limit=8)]
        callers: list[tuple[list[int], Caller]] = []
        async with a_multiplexer() as multiplexer:
            for name, *rest in steps:
                if name == "add":
                    callers.append((rest[1], add(multiplexer, operations[rest[0]], *rest[1])))
                elif name == "drop" and rest[0] < len(callers):
                    callers[rest[0]][1].is_settled = True
                elif name == "hold":
                    multiplexer.hold()
                elif name == "flush":
                    multiplexer.flush()
                elif name == "turn":
                    await turns(1)
                elif name == "open":
                    operations[0].gate.set()
            multiplexer.flush()
            for operation in operations:
                operation.gate.set()
        assert multiplexer.pending_cost == 0
        for items, caller in callers:
            assert len(caller.told) == 1 or (caller.is_settled and not caller.told)
            assert all(len(outcomes) == len(items) for outcomes in caller.told)
            for item, outcome in zip(items, caller.told[0] if caller.told else [], strict=False):
                is_error = isinstance(outcome, IsthmusError)
                assert is_error if item in (7, 13) else is_error or outcome == 2 * item

    asyncio.run(play())
