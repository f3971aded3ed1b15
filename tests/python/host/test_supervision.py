"""A process that ends is followed by another, and no caller notices who need not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from isthmus.errors import (
    Cancelled,
    DeadlineExceeded,
    FrameTooLarge,
    LocalProtocolError,
    QueueFull,
    RuntimeExited,
)
from isthmus.host.streams import Reply
from tests.python.host.fakes import CANCEL, DELTA, END, ERROR, EVENT, HELLO, PIECE, RESULT
from tests.python.host.kept import BACKOFF_MS, KeptBench, kept

DELTA_A = {"text": "a", "ids": b"\x61\0\0\0"}


@pytest.fixture
def bench() -> Iterator[KeptBench]:
    """A runtime that is kept as by default."""
    with kept() as one:
        yield one


def test_calls_that_come_while_it_restarts_wait_and_leave_in_order(bench: KeptBench) -> None:
    bench.die()
    calls = [bench.start(bench.runtime.echo(number)) for number in range(3)]
    assert bench.runtime.state == "restarting" and bench.count == 1
    bench.advance(BACKOFF_MS)
    assert bench.runtime.state == "running" and bench.count == 2
    assert [params["data"] for _, _, params in bench.process.requests] == [0, 1, 2]
    for index, call in enumerate(calls):
        bench.answer(f"answer {index}", index)
        assert call.result() == f"answer {index}"
    assert bench.states == ["restarting", "running"]


def test_what_was_never_written_is_sent_to_the_next_process_whatever_it_is(
    bench: KeptBench,
) -> None:
    first = bench.process
    call = bench.begin(bench.runtime.call("load_model", {"source": "x"}))
    bench.loop.call_soon(first.exit, "SIGKILL")
    bench.turn()
    assert first.requests == [] and not call.done()
    bench.advance(BACKOFF_MS)
    assert bench.process.methods == ["load_model"]
    bench.answer({"model": "m"})
    assert call.result() == {"model": "m"}
    assert bench.connection.replays.replayed == 0


def test_a_message_in_pieces_of_which_the_last_has_not_left_was_never_read(
    bench: KeptBench,
) -> None:
    bench.process.unread_bytes = 10**9
    call = bench.call("load_model", source="x" * 300_000)
    assert [message[0] for message in bench.process.messages] == [HELLO, PIECE]
    pieces = [message[2] for message in bench.follow().messages if message[0] == PIECE]
    assert pieces == [0, 0, 0, 0, 1] and bench.connection.replays.replayed == 0
    bench.process.say((RESULT, 1, {"model": "m"}))
    bench.turn()
    assert call.result() == {"model": "m"}


@pytest.mark.parametrize("method", ["tokenize", "batch_check_draft", "echo", "stats"])
def test_what_changes_nothing_is_sent_again_once_and_not_twice(
    bench: KeptBench, method: str
) -> None:
    call = bench.call(method, data=1)
    number = bench.process.requests[0][0]
    bench.follow()
    assert bench.process.requests == [[number, method, {"data": 1}]]
    bench.die()
    error = bench.error(call)
    assert isinstance(error, RuntimeExited) and error.details["signal"] == "SIGKILL"
    assert error.retryable and "out of memory" in error.message
    assert bench.connection.replays.replayed == 1


@pytest.mark.parametrize("method", ["load_model", "unload_model", "set_circuit", "fault_kill"])
def test_what_may_have_changed_something_fails_at_once(bench: KeptBench, method: str) -> None:
    call = bench.call(method, model="m1")
    bench.process.exit("SIGKILL")
    bench.turn(2)
    error = bench.error(call)
    assert isinstance(error, RuntimeExited) and error.details["stderr_tail"] == "its last words"


def test_a_generation_of_which_a_token_was_delivered_is_never_repeated(bench: KeptBench) -> None:
    model = bench.load("m1")

    async def whole(prompt: str) -> Any:
        return await model.generate(prompt)

    delivered, silent = bench.start(whole("one")), bench.start(whole("two"))
    bench.process.say((DELTA, bench.process.requests[1][0], 1, DELTA_A))
    bench.turn()
    bench.die()
    error = bench.error(delivered)
    assert isinstance(error, RuntimeExited) and not error.retryable
    assert error.details["partial"] == {"text": "a", "ids": [97], "completion_tokens": 1}
    bench.advance(BACKOFF_MS)
    assert bench.process.methods == ["load_model"]
    bench.answer({})
    assert [params.get("prompt") for _, _, params in bench.process.requests] == [None, "two"]
    bench.end()
    assert silent.result().text == ""


def test_a_request_that_waits_can_be_cancelled(bench: KeptBench) -> None:
    bench.die()
    stream = bench.stream()
    call, other = bench.call("echo", data=1), bench.call("echo", data=2)
    call.cancel()
    stream.cancel()
    bench.turn()
    assert call.cancelled() and isinstance(stream.error, Cancelled)
    bench.advance(BACKOFF_MS)
    assert [params for _, _, params in bench.process.requests] == [{"data": 2}]
    assert not [message for message in bench.process.messages if message[0] == CANCEL]
    bench.answer(2)
    assert other.result() == 2


def test_a_generation_that_is_cancelled_while_it_waits_ends_as_any_other(
    bench: KeptBench,
) -> None:
    model = bench.load("m1")
    bench.die()

    async def begin() -> Any:
        generation = model.generate("x")
        generation.cancel()
        return await generation

    result = bench.start(begin()).result()
    assert (result.finish_reason, result.text, result.ids) == ("cancelled", "", [])
    assert result.usage.completion_tokens == 0
    bench.advance(BACKOFF_MS)
    assert bench.process.requests == []


def test_a_generation_that_is_cancelled_unwritten_as_the_process_ends_is_cancelled(
    bench: KeptBench,
) -> None:
    model = bench.load("m1")

    async def begin() -> Any:
        generation = model.generate("x")
        generation.cancel()
        bench.process.exit("SIGKILL")
        return await generation

    assert bench.start(begin()).result().finish_reason == "cancelled"


@pytest.mark.parametrize("kind", [RESULT, END, ERROR])
def test_a_reply_to_a_request_that_waits_is_ignored(bench: KeptBench, kind: int) -> None:
    model = bench.load("m1")
    bench.follow()
    call = bench.start(model.apply_chat_template([]))
    (loading, _, _), ignored = bench.process.requests[0], bench.runtime.ignored
    value = {"code": "INTERNAL", "message": "no"} if kind == ERROR else {"text": "early"}
    for number in (loading - 1, loading):
        if number in bench.connection.gate.kept:
            bench.process.say((DELTA, number, 1, DELTA_A))
            bench.process.say((kind, number, value))
    bench.turn()
    assert not call.done() and bench.runtime.ignored == ignored + 2
    bench.answer({}, 0)
    bench.answer({"text": "in turn"})
    assert call.result() == "in turn"


def test_a_deadline_holds_while_a_request_waits_and_what_is_left_travels(bench: KeptBench) -> None:
    bench.die()
    short = bench.start(bench.runtime.echo(1, deadline_ms=100))
    long = bench.start(bench.runtime.echo(2, deadline_ms=1_000))
    bench.advance(100)
    error = bench.error(short)
    assert isinstance(error, DeadlineExceeded) and error.phase == "queue"
    bench.advance(BACKOFF_MS - 100)
    assert bench.process.messages[-1][4] == {"deadline_ms": pytest.approx(750.0)}
    assert len(bench.process.requests) == 1
    bench.answer("in time")
    assert long.result() == "in time"


def test_a_deadline_that_passes_before_a_repeat_ends_it(bench: KeptBench) -> None:
    call = bench.start(bench.runtime.echo(1, deadline_ms=100))
    bench.die()
    bench.advance(100)
    assert isinstance(bench.error(call), DeadlineExceeded)
    bench.advance(BACKOFF_MS)
    assert bench.process.requests == []


def test_what_cannot_travel_fails_though_nothing_can_be_sent(bench: KeptBench) -> None:
    bench.die()
    call = bench.call("echo", data=object())
    assert isinstance(bench.error(call), LocalProtocolError)


def test_no_more_than_so_much_waits(bench: KeptBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.host.kept.KEPT_REQUESTS_BYTES", 100)
    bench.die()
    calls = [bench.call("echo", data="x" * 40) for _ in range(3)]
    error = bench.error(calls[2])
    assert isinstance(error, QueueFull) and error.retry_after_ms
    bench.advance(BACKOFF_MS)
    assert len(bench.process.requests) == 2 and bench.connection.gate.kept._size == 0
    for index in range(2):
        bench.answer(None, index)


def test_repeats_cannot_become_a_storm(bench: KeptBench) -> None:
    calls = [bench.call("echo", data=number) for number in range(60)]
    bench.follow()
    refused = [call for call in calls if call.done()]
    assert len(bench.process.requests) == 49 and len(refused) == 11
    assert all(isinstance(bench.error(call), RuntimeExited) for call in refused)
    for index in range(49):
        bench.answer(None, index)
    stats = bench.start(bench.runtime.stats())
    bench.answer({"uptime_ms": 1})
    supervision = stats.result()["supervision"]
    assert (supervision["replayed"], supervision["refused_by_budget"]) == (49, 11)
    assert supervision["restarts"] == 1 and supervision["budget_tokens"] < 50


def test_successes_fill_the_budget_again(bench: KeptBench) -> None:
    for _ in range(51):
        bench.connection.replays._budget.failure()
    for number in range(200):
        bench.call("echo", data=number)
        bench.answer(number)
    lucky = bench.call("echo", data=1)
    bench.follow()
    assert bench.process.methods == ["echo"]
    bench.answer("again")
    assert lucky.result() == "again"


def test_a_process_that_breaks_the_protocol_is_ended_and_followed(bench: KeptBench) -> None:
    call, again = bench.call("load_model", source="x"), bench.call("echo", data=1)
    broken = bench.process
    broken.link.on_output(b"\xff" * 100)
    bench.turn(2)
    assert isinstance(bench.error(call), FrameTooLarge) and broken.is_killed
    bench.advance(BACKOFF_MS)
    broken.link.on_output(b"\0\0\0\1\x00")
    assert bench.count == 2 and bench.process.methods == ["echo"]
    bench.answer("yes")
    assert again.result() == "yes"


def test_an_answer_that_nobody_foresaw_leaves_its_caller_not_waiting(
    bench: KeptBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = bench.call("load_model", source="x")

    def stumble(reply: Reply, value: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(Reply, "on_value", stumble)
    bench.answer(1)
    error = bench.error(call)
    assert error.code == "REMOTE_PROTOCOL_ERROR" and "a defect" in error.message
    monkeypatch.undo()
    bench.advance(BACKOFF_MS)


def test_a_runtime_that_says_that_it_closes_gets_no_more_requests(bench: KeptBench) -> None:
    before = bench.call("echo", data=1)
    bench.process.say((EVENT, "closing", {"reason": "SIGTERM"}))
    after = bench.call("echo", data=2)
    assert len(bench.process.requests) == 1
    bench.answer(1)
    bench.die(None)
    bench.advance(BACKOFF_MS)
    bench.answer(2)
    assert (before.result(), after.result()) == (1, 2)


def test_calls_that_collect_leave_with_the_next_process(bench: KeptBench) -> None:
    model = bench.load("m1")
    calls = [bench.start(model.count_tokens("a"))]
    calls += [bench.start(model.count_tokens(text)) for text in "bc"]
    assert bench.process.methods == ["load_model", "count_tokens"]
    bench.follow()
    bench.answer({})
    methods = bench.process.methods
    assert methods == ["load_model", "count_tokens", "batch_count_tokens"]
    bench.answer({"count": 1}, 1)
    bench.answer({"results": [{"count": 2}, {"count": 3}]}, 2)
    assert [call.result() for call in calls] == [1, 2, 3]
