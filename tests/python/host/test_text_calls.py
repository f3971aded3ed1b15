"""A model's text calls over a connection: order with unload and close, ends, and results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from isthmus import host
from isthmus.errors import (
    Closing,
    InvalidRequest,
    IsthmusError,
    RemoteProtocolError,
    RuntimeExited,
)
from isthmus.wire.codec import token_ids
from tests.python.host.fakes import RESULT, VirtualLoop, start_fake

PIECE = 11


class Bench:
    """A model of a runtime whose process is the test."""

    def __init__(self, multiplex: bool = True) -> None:
        self.loop = VirtualLoop()
        self.process, self.runtime, self.model_of = start_fake(self.loop, multiplex)
        self.model = self.model_of("m1")

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a call."""
        task = self.loop.create_task(coroutine)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def answer(self, value: object) -> None:
        """Answer the last request that arrived."""
        self.process.say((RESULT, self.process.requests[-1][0], value))
        self.loop.turn(3)

    def result(self, coroutine: Coroutine[Any, Any, Any], value: object) -> Any:
        """Make a call, answer it and return what it gives."""
        task = self.start(coroutine)
        self.loop.turn(4)
        self.answer(value)
        return task.result()

    @property
    def sent(self) -> list[Any]:
        """Methods and texts that arrived at the process."""
        return [
            (method, params.get("texts", params.get("text", params.get("ids"))))
            for _, method, params in self.process.requests
        ]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A multiplexing host."""
    yield from a_bench(Bench())


def a_bench(bench: Bench) -> Iterator[Bench]:
    """Yield it and check that nothing was reported to nobody."""
    try:
        yield bench
        assert bench.loop.defects == []
    finally:
        bench.loop.end()


def test_calls_of_one_turn_leave_in_one_write_one_turn_later(bench: Bench) -> None:
    calls = [bench.start(bench.model.tokenize(text)) for text in "ab"]
    bench.loop.turn(2)
    assert bench.sent == [("batch_tokenize", ["a", "b"])]
    results = [{"ids": token_ids([number])} for number in (1, 2)]
    bench.answer({"results": results})
    assert [call.result() for call in calls] == [[1], [2]]
    assert bench.runtime.in_flight == 0


def test_without_multiplexing_each_call_is_a_request(bench: Bench) -> None:
    off = Bench(multiplex=False)
    try:
        calls = [off.start(off.model.count_tokens(text, deadline_ms=5.0)) for text in "ab"]
        off.loop.turn(2)
        assert off.sent == [("count_tokens", "a"), ("count_tokens", "b")]
        assert [message[4] for message in off.process.messages[1:]] == [{"deadline_ms": 5.0}] * 2
        calls[0].cancel()
        off.loop.turn(2)
        assert off.process.messages[-1] == [6, off.process.requests[0][0]]
        assert off.runtime._connection.multiplexer.stats() == {}
    finally:
        off.loop.end()


def test_only_options_that_differ_from_the_runtime_s_defaults_travel(bench: Bench) -> None:
    model = bench.model
    bench.result(model.tokenize("a"), {"ids": b""})
    bench.result(model.tokenize("a", add_special_tokens=False), {"ids": b""})
    bench.result(model.detokenize([1], skip_special_tokens=True), {"text": ""})
    bench.result(model.count_tokens("a", add_special_tokens=False), {"count": 0})
    bench.result(model.tokenize("a", offsets=True, tokens=True), {"ids": b""})
    assert [params for _, _, params in bench.process.requests] == [
        {"model": "m1", "text": "a"},
        {"model": "m1", "add_special_tokens": False, "text": "a"},
        {"model": "m1", "skip_special_tokens": True, "ids": b"\1\0\0\0"},
        {"model": "m1", "add_special_tokens": False, "text": "a"},
        {"model": "m1", "offsets": True, "tokens": True, "text": "a"},
    ]


def test_offsets_and_tokens_come_with_the_ids(bench: Bench) -> None:
    ids, offsets = token_ids([7, 8]), token_ids([0, 1, 1, 3])
    wire = {"ids": ids, "offsets": offsets, "tokens": ["a", "bc"]}
    call = bench.model.tokenize("abc", offsets=True, tokens=True)
    assert bench.result(call, wire) == host.Encoding([7, 8], [(0, 1), (1, 3)], ["a", "bc"])
    call = bench.model.tokenize("abc", tokens=True)
    assert bench.result(call, {"ids": ids, "tokens": ["a", "bc"]}).offsets is None
    listed = bench.model.tokenize_batch(["abc"], offsets=True)
    assert bench.result(listed, {"results": [{"ids": ids, "offsets": offsets}]}) == [
        host.Encoding([7, 8], [(0, 1), (1, 3)], None)
    ]


@pytest.mark.parametrize(
    ("call", "wire"),
    [
        (lambda model: model.tokenize("a"), {}),
        (lambda model: model.tokenize("a"), {"ids": b"123"}),
        (lambda model: model.tokenize("a"), 7),
        (lambda model: model.tokenize("a", offsets=True), {"ids": b"", "offsets": b"1234"}),
        (lambda model: model.tokenize("a", tokens=True), {"ids": b"", "tokens": "x"}),
        (lambda model: model.tokenize("a", tokens=True), None),
        (lambda model: model.detokenize([1]), {"text": 7}),
        (lambda model: model.count_tokens("a"), {"count": "7"}),
    ],
)
def test_a_result_of_another_shape_is_the_runtime_s_fault(
    bench: Bench, call: Callable[[host.Model], Coroutine[Any, Any, Any]], wire: object
) -> None:
    with pytest.raises(RemoteProtocolError):
        bench.result(call(bench.model), wire)


@pytest.mark.parametrize("ids", [[-1], [2**32], [1.5], ["1"], None], ids=str)
def test_ids_that_cannot_travel_are_refused_where_they_are_given(bench: Bench, ids: Any) -> None:
    good, bad = bench.start(bench.model.detokenize([1])), bench.start(bench.model.detokenize(ids))
    bench.loop.turn(2)
    error = bad.exception()
    assert isinstance(error, InvalidRequest) and error.details == {"field": "ids"}
    bench.answer({"text": "x"})
    assert good.result() == "x"


def test_unload_does_not_overtake_the_calls_that_were_made_before_it(bench: Bench) -> None:
    busy = bench.start(bench.model.count_tokens("busy"))
    bench.loop.turn(2)
    before = bench.start(bench.model.count_tokens("before"))
    unload = bench.start(bench.model.unload())
    after = bench.start(bench.model.count_tokens("after"))
    other = bench.start(bench.model_of("m2").count_tokens("other"))
    bench.loop.turn(2)
    assert [(method, params["model"]) for _, method, params in bench.process.requests] == [
        ("count_tokens", "m1"),
        ("count_tokens", "m1"),
        ("unload_model", "m1"),
        ("count_tokens", "m2"),
    ]
    assert not any(task.done() for task in (busy, before, unload, after, other))


def test_unload_does_not_overtake_a_batch_that_travels_in_pieces(bench: Bench) -> None:
    bench.process.unread_bytes = 10**9
    calls = [bench.start(bench.model.count_tokens("x" * 50_000)) for _ in range(4)]
    unload = bench.start(bench.model.unload())
    bench.loop.turn(4)
    assert {message[0] for message in bench.process.messages[1:]} == {PIECE}
    bench.process.read_all()
    bench.loop.turn(3)
    kinds = [message[0] for message in bench.process.messages[1:]]
    assert set(kinds[:-1]) == {PIECE} and bench.sent == [("unload_model", None)]
    assert not unload.done() and not any(call.done() for call in calls)


def test_close_sends_what_collects_before_the_pipe_is_closed(bench: Bench) -> None:
    busy = bench.start(bench.model.count_tokens("busy"))
    bench.loop.turn(2)
    held = bench.start(bench.model.count_tokens("held"))
    bench.loop.turn(2)
    closing = bench.start(bench.runtime.close())
    late = bench.start(bench.model.count_tokens("late"))
    bench.loop.turn(4)
    assert bench.process.is_input_closed
    assert bench.sent == [("count_tokens", "busy"), ("count_tokens", "held")]
    assert isinstance(late.exception(), Closing)
    for request, _, _ in bench.process.requests:
        bench.process.say((RESULT, request, {"count": 4}))
    bench.loop.turn(2)
    assert (busy.result(), held.result()) == (4, 4) and not closing.done()
    bench.process.exit()
    bench.loop.turn(4)
    assert closing.done()


def test_close_lets_what_travels_in_pieces_arrive_for_as_long_as_it_may(bench: Bench) -> None:
    bench.process.unread_bytes = 10**9
    bench.start(bench.model.count_tokens("x" * 200_000))
    bench.loop.turn(2)
    closing = bench.start(bench.runtime.close())
    bench.loop.turn(4)
    assert not bench.process.is_input_closed
    bench.process.read_all()
    bench.loop.turn(4)
    assert bench.process.is_input_closed
    bench.process.exit()
    bench.loop.turn(4)
    assert closing.done()


def test_close_waits_no_longer_than_its_grace_for_a_runtime_that_does_not_read(
    bench: Bench,
) -> None:
    bench.process.unread_bytes = 10**9
    bench.start(bench.model.count_tokens("x" * 200_000))
    bench.loop.turn(2)
    closing = bench.start(bench.runtime.close())
    bench.loop.turn(4)
    bench.loop.advance(host.Graces().close_s * 1_000 + 1)
    bench.loop.turn(4)
    assert bench.process.is_input_closed
    bench.loop.advance(host.Graces().terminate_s * 1_000 + 1)
    bench.loop.turn(4)
    assert closing.done()


def test_the_end_of_the_process_settles_collecting_and_sent_calls_each_with_its_own_error(
    bench: Bench,
) -> None:
    sent = [bench.start(bench.model.count_tokens(text)) for text in "ab"]
    bench.loop.turn(2)
    held = [bench.start(bench.model.count_tokens(text)) for text in "cd"]
    bench.loop.turn(2)
    bench.process.exit("SIGKILL")
    later = bench.start(bench.model.count_tokens("later"))
    bench.loop.turn(2)
    errors = [call.exception() for call in (*sent, *held, later)]
    for error in errors:
        assert isinstance(error, RuntimeExited) and error.details["signal"] == "SIGKILL"
        assert error.details["stderr_tail"] == "its last words"
    assert len(set(map(id, errors))) == 5 and bench.runtime.in_flight == 0
    assert bench.runtime._connection.multiplexer.is_idle


def test_an_end_for_a_reason_that_this_version_does_not_know_settles_everything(
    bench: Bench,
) -> None:
    calls = [bench.start(bench.model.count_tokens(text)) for text in "ab"]
    bench.loop.turn(2)
    bench.process.say((3, None, {"code": "FROM_THE_FUTURE", "message": "no"}))
    bench.process.exit("SIGTERM")
    bench.loop.turn(2)
    for call in calls:
        error = call.exception()
        assert isinstance(error, IsthmusError) and error.code == "FROM_THE_FUTURE"


def test_stats_have_the_runtime_s_counters_and_the_host_s_calls(bench: Bench) -> None:
    calls = [bench.start(bench.model.count_tokens(text)) for text in "abc"]
    bench.loop.turn(2)
    bench.answer({"results": [{"count": 1}] * 3})
    stats = bench.result(bench.runtime.stats(), {"bytes_written": 5})
    assert stats["bytes_written"] == 5 and all(call.done() for call in calls)
    lane = stats["calls"]["count_tokens m1"]
    assert (lane["frames"], lane["calls"], lane["largest"], lane["sizes"]) == (1, 3, 3, {4: 1})
    assert lane["reasons"] == {
        "turn": 1,
        **dict.fromkeys(("reply", "count", "bytes", "time", "close"), 0),
    }
    stats["calls"].clear()
    assert bench.runtime._connection.multiplexer.stats()


def test_a_call_of_the_runtime_s_own_is_not_multiplexed(bench: Bench) -> None:
    params = {"model": "m1", "text": "a"}
    for _ in range(2):
        bench.start(bench.runtime.call("count_tokens", params))
    bench.loop.turn(2)
    assert bench.sent == [("count_tokens", "a")] * 2
