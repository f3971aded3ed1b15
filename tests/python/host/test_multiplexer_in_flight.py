"""While a batch is in flight the calls of its key collect: until its answer, a limit, or an end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from isthmus.errors import DeadlineExceeded, RuntimeExited
from isthmus.limits import BATCH_BYTES, BATCH_CALLS, HOLD_LIMIT_MS
from tests.python.host.fakes import Bench, a_bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A multiplexer with one call in flight."""
    with a_bench() as one:
        one.count("first")
        one.loop.turn(2)
        assert one.frames == ["first"]
        yield one


def test_calls_are_held_and_leave_with_its_answer(bench: Bench) -> None:
    calls = [bench.count("a")]
    bench.loop.turn(3)
    calls.append(bench.count("bb"))
    bench.loop.advance(HOLD_LIMIT_MS / 2)
    assert bench.frames == ["first"]
    bench.answer(0)
    bench.loop.turn()
    assert bench.frames == ["first", ["a", "bb"]]
    bench.answer(1)
    bench.loop.turn()
    assert [call.result()["count"] for call in calls] == [1, 2]
    assert bench.stats()["reasons"] == {"turn": 1, "reply": 1}
    assert bench.stats()["held_ms"] == pytest.approx({"total": 2.0, "max": 2.0})


def test_what_an_answered_caller_calls_next_leaves_with_what_was_held(bench: Bench) -> None:
    async def twice() -> None:
        await bench.multiplexer.call(*args("one"))
        await bench.multiplexer.call(*args("two"))

    def args(text: str) -> Any:
        from isthmus.host.text import COUNT_TOKENS

        return COUNT_TOKENS, text, "m1", {}, None

    bench.answer(0)
    bench.loop.turn(2)
    caller = bench.loop.create_task(twice())
    bench.loop.turn(2)
    held = bench.count("held")
    bench.loop.turn(2)
    bench.answer(1)
    bench.loop.turn(2)
    assert bench.frames == ["first", "one", ["held", "two"]]
    bench.answer(2)
    bench.loop.turn()
    assert caller.done() and held.done()


def test_calls_leave_when_their_time_is_up_answered_or_not(bench: Bench) -> None:
    bench.count("a")
    bench.loop.turn(2)
    bench.loop.advance(HOLD_LIMIT_MS - 0.01)
    assert bench.frames == ["first"]
    bench.loop.advance(0.02)
    assert bench.frames == ["first", "a"]
    assert bench.stats()["reasons"] == {"turn": 1, "time": 1}


def test_a_key_whose_batches_are_quick_holds_no_longer_than_they_take(bench: Bench) -> None:
    bench.loop.advance(2.0)
    bench.answer(0)
    bench.count("second")
    bench.loop.turn(2)
    bench.count("held")
    bench.loop.turn(2)
    bench.loop.advance(1.99)
    assert bench.frames == ["first", "second"]
    bench.loop.advance(0.02)
    assert bench.frames == ["first", "second", "held"]


def test_calls_leave_when_there_are_enough(bench: Bench) -> None:
    for _ in range(BATCH_CALLS):
        bench.count("a")
    bench.loop.turn()
    assert bench.frames == ["first", ["a"] * BATCH_CALLS]
    assert bench.stats()["reasons"] == {"turn": 1, "count": 1}


def test_calls_leave_before_one_that_makes_them_too_many_bytes(bench: Bench) -> None:
    text = "x" * 65_000
    fitting = BATCH_BYTES // len(text)
    for _ in range(fitting + 1):
        bench.count(text)
    bench.loop.turn(2)
    assert bench.frames == ["first", [text] * fitting]
    assert bench.stats()["reasons"] == {"turn": 1, "bytes": 1}


def test_an_error_is_an_answer_to_those_that_were_held(bench: Bench) -> None:
    bench.count("a")
    bench.loop.turn(2)
    bench.carrier.pending[0].on_error(DeadlineExceeded("late"))
    bench.loop.turn()
    assert bench.frames == ["first", "a"]


def test_other_keys_are_not_held(bench: Bench) -> None:
    bench.count("other", add_special_tokens=False)
    bench.loop.turn(2)
    assert bench.frames == ["first", "other"]


def test_a_collecting_call_that_is_cancelled_is_never_sent(bench: Bench) -> None:
    gone, kept = bench.count("gone"), bench.count("kept")
    bench.loop.turn(2)
    gone.cancel()
    bench.loop.turn()
    bench.answer(0)
    bench.loop.turn()
    assert gone.cancelled() and bench.frames == ["first", "kept"]
    bench.answer(1)
    bench.loop.turn()
    assert kept.result() == {"count": 4}


def test_nothing_is_sent_when_all_that_collected_is_cancelled(bench: Bench) -> None:
    gone = bench.count("gone")
    bench.loop.turn(2)
    gone.cancel()
    bench.loop.turn()
    bench.loop.advance(2 * HOLD_LIMIT_MS)
    bench.answer(0)
    bench.loop.turn()
    assert gone.cancelled() and bench.frames == ["first"] and bench.multiplexer.is_idle


def test_a_deadline_that_passes_while_a_call_collects_fails_it_and_it_is_not_sent(
    bench: Bench,
) -> None:
    bench.count("busy", deadline_ms=2.0)
    bench.loop.turn(2)
    late = bench.count("late", deadline_ms=2.0)
    bench.loop.turn(2)
    bench.loop.advance(3.0)
    fresh = bench.count("fresh", deadline_ms=2.0)
    bench.loop.turn(2)
    bench.answer(1)
    bench.loop.turn(2)
    error = late.exception()
    assert isinstance(error, DeadlineExceeded) and error.phase == "queue"
    assert bench.frames == ["first", "busy", "fresh"] and not fresh.done()
    bench.answer(2)
    bench.loop.turn()
    assert fresh.result() == {"count": 5}


def test_when_every_deadline_has_passed_no_frame_is_sent(bench: Bench) -> None:
    bench.count("busy", deadline_ms=2)
    bench.loop.turn(2)
    late = [bench.count("late", deadline_ms=2) for _ in range(3)]
    bench.loop.turn(2)
    bench.loop.advance(3.0)
    bench.answer(1)
    bench.loop.turn(2)
    assert all(isinstance(call.exception(), DeadlineExceeded) for call in late)
    assert bench.frames == ["first", "busy"] and bench.stats()["calls"] == 2


def test_the_frame_carries_what_is_left_of_the_deadline(bench: Bench) -> None:
    bench.count("busy", deadline_ms=50)
    bench.loop.turn(2)
    bench.count("a", deadline_ms=50)
    bench.loop.turn(2)
    bench.loop.advance(3.0)
    bench.answer(1)
    bench.loop.turn(2)
    assert [options for _, _, options in bench.carrier.sent[1:]] == [
        {"deadline_ms": 50},
        {"deadline_ms": pytest.approx(47.0)},
    ]


@pytest.mark.parametrize("deadline", ["soon", -1, float("nan")])
def test_an_impossible_deadline_is_the_runtime_s_to_refuse(bench: Bench, deadline: Any) -> None:
    bench.count("busy", deadline_ms=deadline)
    bench.loop.turn(2)
    held = bench.count("held", deadline_ms=deadline)
    bench.loop.turn(2)
    bench.loop.advance(1.0)
    bench.answer(1)
    bench.loop.turn(2)
    assert held.done() or bench.frames == ["first", "busy", "held"]


def test_a_flush_sends_what_collects_at_once(bench: Bench) -> None:
    call = bench.count("a")
    bench.loop.turn(2)
    bench.multiplexer.flush()
    assert bench.frames == ["first", "a"] and bench.stats()["reasons"] == {"turn": 1, "close": 1}
    for frame in (1, 0):
        bench.answer(frame)
    bench.loop.turn(2)
    assert call.done() and bench.multiplexer.is_idle


def test_an_end_settles_what_collects_each_with_an_error_of_its_own(bench: Bench) -> None:
    calls = [bench.count("a"), bench.count("b")]
    bench.loop.turn(2)
    bench.multiplexer.fail(RuntimeExited("gone", signal="SIGKILL"))
    bench.loop.turn()
    one, other = (call.exception() for call in calls)
    assert isinstance(one, RuntimeExited) and isinstance(other, RuntimeExited)
    assert one is not other and one.details == other.details == {"signal": "SIGKILL"}
    bench.loop.advance(2 * HOLD_LIMIT_MS)
    bench.answer(0)
    bench.loop.turn(2)
    assert bench.frames == ["first"] and bench.multiplexer.is_idle


def test_an_end_in_the_turn_of_a_call_settles_it(bench: Bench) -> None:
    call: asyncio.Task[Any] = bench.count("a")
    bench.loop.call_soon(bench.multiplexer.fail, RuntimeExited("gone"))
    bench.loop.turn(3)
    assert isinstance(call.exception(), RuntimeExited) and bench.frames == ["first"]
