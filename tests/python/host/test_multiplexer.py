"""Calls of one turn travel as one frame; each keeps its own result, error and cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from isthmus.errors import (
    Closing,
    InvalidRequest,
    IsthmusError,
    LocalProtocolError,
    ModelNotLoaded,
    RemoteProtocolError,
    RuntimeExited,
    UnknownError,
)
from isthmus.host.batch import own_copy
from isthmus.limits import ALONE_BYTES
from tests.python.host.fakes import Bench, a_bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A multiplexer with a fake carrier and a fake clock."""
    with a_bench() as one:
        yield one


def test_a_lone_call_leaves_as_itself_at_the_end_of_its_turn(bench: Bench) -> None:
    call = bench.count("abc")
    bench.loop.turn()
    assert bench.frames == []
    bench.loop.turn()
    assert bench.carrier.sent == [("count_tokens", {"model": "m1", "text": "abc"}, {})]
    bench.answer(0)
    bench.loop.turn()
    assert call.result() == {"count": 3}
    assert bench.multiplexer.is_idle and bench.carrier.writes == 1


def test_calls_of_one_turn_are_one_frame_and_each_has_its_own_result(bench: Bench) -> None:
    calls = [bench.count(text) for text in ("a", "bb", "ccc")]
    bench.loop.turn(2)
    assert bench.carrier.sent == [
        ("batch_count_tokens", {"model": "m1", "texts": ["a", "bb", "ccc"]}, {})
    ]
    bench.answer(0)
    bench.loop.turn()
    assert [call.result()["count"] for call in calls] == [1, 2, 3]


def test_a_thousand_calls_are_four_frames(bench: Bench) -> None:
    calls = [bench.count("x" * (index % 200)) for index in range(1_000)]
    bench.loop.turn(2)
    assert [len(frame) for frame in bench.frames] == [256, 256, 256]
    for frame in range(3):
        bench.answer(frame)
    bench.loop.turn(2)
    bench.answer(3)
    bench.loop.turn()
    assert [call.result()["count"] for call in calls] == [index % 200 for index in range(1_000)]
    assert bench.stats() == {
        "frames": 4,
        "calls": 1_000,
        "largest": 256,
        "sizes": {256: 4},
        "reasons": {"count": 3, "reply": 1},
        "held_ms": {"total": 0.0, "max": 0.0},
    }


def test_operation_options_and_deadline_part_calls_and_the_type_of_an_option_does(
    bench: Bench,
) -> None:
    calls = [
        bench.count("a"),
        bench.count("b", add_special_tokens=False),
        bench.count("c", add_special_tokens=0),
        bench.count("d", deadline_ms=50.0),
        bench.count("e"),
    ]
    bench.loop.turn(2)
    assert bench.frames == [["a", "e"], "b", "c", "d"]
    assert bench.carrier.sent[1][1]["add_special_tokens"] is False
    assert [options for _, _, options in bench.carrier.sent] == [{}, {}, {}, {"deadline_ms": 50.0}]
    assert list(bench.multiplexer.stats()) == [
        "count_tokens m1",
        'count_tokens m1 {"add_special_tokens":false}',
        'count_tokens m1 {"add_special_tokens":0}',
    ]
    assert not any(call.done() for call in calls)


def test_one_bad_item_fails_alone_under_the_name_that_its_caller_knows(bench: Bench) -> None:
    good, bad, other = (bench.count(text) for text in ("a", 7, "b"))
    bench.loop.turn(2)
    bench.answer(0)
    bench.loop.turn()
    error = bad.exception()
    assert isinstance(error, InvalidRequest) and str(error) == "text must be a string"
    assert error.details == {"field": "text"}
    assert (good.result(), other.result()) == ({"count": 1}, {"count": 1})


def test_a_field_that_is_not_the_item_s_keeps_its_name(bench: Bench) -> None:
    calls = [bench.count("a"), bench.count("b")]
    bench.loop.turn(2)
    fields: list[Any] = ["texts[10]", None]
    wire = [{"error": {"code": "INTERNAL", "details": {"field": field}}} for field in fields]
    bench.carrier.pending[0].on_value({"results": wire})
    bench.loop.turn()
    assert [error_of(call).details["field"] for call in calls] == fields


@pytest.mark.parametrize(
    "error", [ModelNotLoaded("no", model="m1"), UnknownError("NEW", "?", True)]
)
def test_an_error_of_the_frame_gives_each_call_a_copy_of_its_own(
    bench: Bench, error: IsthmusError
) -> None:
    calls = [bench.count("a"), bench.count("b")]
    bench.loop.turn(2)
    bench.carrier.pending[0].on_error(error)
    bench.loop.turn()
    one, other = map(error_of, calls)
    assert one.to_wire() == other.to_wire() == error.to_wire()
    assert len({id(one), id(other), id(error)}) == 3
    assert one.details is not other.details and type(one) is type(error)


@pytest.mark.parametrize(
    "answer", [{"results": [{"count": 1}]}, {"results": 7}, None, [1]], ids=str
)
def test_an_answer_of_another_shape_fails_every_call_of_its_batch(
    bench: Bench, answer: object
) -> None:
    calls = [bench.count("a"), bench.count("b")]
    bench.loop.turn(2)
    bench.carrier.pending[0].on_value(answer)
    bench.loop.turn()
    for call in calls:
        assert isinstance(call.exception(), RemoteProtocolError)
    assert bench.multiplexer.is_idle


def test_a_batch_that_cannot_be_encoded_is_sent_call_by_call(bench: Bench) -> None:
    texts: list[Any] = ["a", "\ud800", object(), "b"]
    good, torn, odd, other = map(bench.count, texts)
    bench.loop.turn(2)
    assert bench.frames == ["a", "b"]
    for frame in (0, 1):
        bench.answer(frame)
    bench.loop.turn()
    assert (good.result(), other.result()) == ({"count": 1}, {"count": 1})
    for call in (torn, odd):
        assert isinstance(call.exception(), LocalProtocolError)
    assert bench.multiplexer.is_idle and bench.stats()["calls"] == 2


def test_a_lone_call_that_cannot_be_encoded_finds_out(bench: Bench) -> None:
    call = bench.count("\ud800")
    bench.loop.turn(3)
    assert isinstance(call.exception(), LocalProtocolError) and bench.multiplexer.is_idle


def test_a_large_call_goes_alone_and_at_once(bench: Bench) -> None:
    small, large, other = (bench.count(text) for text in ("a", "x" * (ALONE_BYTES + 1), "b"))
    bench.loop.turn(1)
    assert bench.frames == ["x" * (ALONE_BYTES + 1)]
    bench.loop.turn(1)
    assert bench.frames[1] == ["a", "b"]
    bench.answer(1)
    bench.loop.turn()
    assert (small.done(), large.done(), other.done()) == (True, False, True)
    bench.answer(0)
    bench.loop.turn()
    assert large.result() == {"count": ALONE_BYTES + 1}
    assert bench.stats()["reasons"] == {"bytes": 1, "turn": 1}


def test_a_large_call_that_cannot_travel_or_is_cancelled_harms_nobody(bench: Bench) -> None:
    torn, gone = bench.count("\ud800" * 100_000), bench.count("x" * 100_000)
    bench.loop.turn(2)
    gone.cancel()
    bench.loop.turn(2)
    assert isinstance(torn.exception(), LocalProtocolError)
    assert gone.cancelled() and bench.carrier.cancelled == [0]
    assert bench.multiplexer.is_idle


def test_a_cancelled_call_of_a_batch_gives_up_its_place_and_the_batch_goes_on(bench: Bench) -> None:
    gone, kept = bench.count("gone"), bench.count("kept")
    bench.loop.turn(2)
    gone.cancel()
    bench.loop.turn()
    assert gone.cancelled() and bench.carrier.cancelled == []
    bench.answer(0)
    bench.loop.turn()
    assert kept.result() == {"count": 4}


def test_a_batch_that_nobody_waits_for_is_cancelled_in_the_runtime_once(bench: Bench) -> None:
    calls = [bench.count("a"), bench.count("b")]
    bench.loop.turn(2)
    for call in calls:
        call.cancel()
        bench.loop.turn()
    assert all(call.cancelled() for call in calls) and bench.carrier.cancelled == [0]
    bench.carrier.pending[0].on_error(IsthmusError("cancelled"))
    bench.loop.turn()
    assert bench.multiplexer.is_idle


def test_a_lone_call_that_is_cancelled_is_cancelled_in_the_runtime(bench: Bench) -> None:
    call = bench.count("a")
    bench.loop.turn(2)
    call.cancel()
    bench.loop.turn()
    assert call.cancelled() and bench.carrier.cancelled == [0]
    bench.answer(0)
    assert bench.multiplexer.is_idle


def test_a_call_that_is_cancelled_in_its_own_turn_is_never_sent(bench: Bench) -> None:
    gone = bench.count("gone")
    bench.loop.call_soon(gone.cancel)
    bench.loop.turn(3)
    assert gone.cancelled() and bench.frames == [] and bench.multiplexer.is_idle


def test_a_cancel_that_comes_with_the_error_leaves_no_error_that_nobody_saw(bench: Bench) -> None:
    call = bench.count("a")
    bench.loop.turn(2)
    bench.carrier.pending[0].on_error(IsthmusError("late"))
    call.cancel()
    bench.loop.turn(2)
    assert call.cancelled() and bench.carrier.cancelled == []


def test_a_closed_connection_takes_no_call(bench: Bench) -> None:
    bench.carrier.refusal = Closing("closed")
    call = bench.count("a")
    bench.loop.turn(2)
    assert isinstance(call.exception(), Closing) and bench.multiplexer.is_idle


def test_many_keys_are_forgotten_when_they_are_idle_and_their_counters_are_not(
    bench: Bench,
) -> None:
    for number in range(300):
        bench.count("a", option=number)
        bench.loop.turn(2)
        if number != 5:
            bench.answer(number)
    bench.loop.turn()
    assert len(bench.multiplexer._lanes) < 70
    assert 'count_tokens m1 5 {"option":5}' not in bench.multiplexer.stats()
    assert len(bench.multiplexer.stats()) == 256
    bench.answer(5)
    assert bench.multiplexer.is_idle


def test_a_copy_of_an_error_shares_nothing_with_it() -> None:
    report: dict[str, Any] = {"exit_code": 3, "signal": None, "stderr_tail": "why"}
    error = RuntimeExited("gone", phase="start", retry_after_ms=5.0, **report)
    copied = own_copy(error)
    assert type(copied) is RuntimeExited and copied is not error
    assert copied.to_wire() == error.to_wire() and copied.details is not error.details


def error_of(call: asyncio.Task[Any]) -> IsthmusError:
    """Return the typed error of a call that has failed."""
    error = call.exception()
    assert isinstance(error, IsthmusError)
    return error
