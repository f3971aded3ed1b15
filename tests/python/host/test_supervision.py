"""A process that ends is followed by another, and no caller notices who need not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from isthmus.errors import (
    Cancelled,
    Closing,
    DeadlineExceeded,
    FrameTooLarge,
    LocalProtocolError,
    QueueFull,
    RuntimeExited,
    RuntimeFailed,
    RuntimeUnresponsive,
    StartFailed,
)
from isthmus.host.restarts import RestartOptions
from tests.python.host.fakes import CANCEL, DELTA, ERROR, EVENT, HELLO, PIECE, PONG, RESULT
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


def test_who_has_given_up_is_not_sent_again(bench: KeptBench) -> None:
    stream = bench.stream()
    call = bench.call("echo", data=1)
    bench.turn()
    stream.cancel()
    call.cancel()
    bench.turn()
    bench.follow()
    assert bench.process.requests == [] and bench.runtime.in_flight == 0
    assert isinstance(stream.error, RuntimeExited)


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


def test_one_that_ends_again_and_again_is_given_up_with_a_report(bench: KeptBench) -> None:
    waiting = bench.call("load_model", source="x")
    bench.die()
    assert isinstance(bench.error(waiting), RuntimeExited)
    kept_call = bench.call("echo", data=1)
    for delay_ms in (BACKOFF_MS, 2 * BACKOFF_MS, 4 * BACKOFF_MS):
        assert not kept_call.done()
        bench.launcher.greets = False
        bench.advance(delay_ms)
        bench.die()
    assert bench.runtime.state == "failed" and bench.count == 4
    error = bench.error(kept_call)
    assert isinstance(error, RuntimeFailed) and not error.retryable
    for part in ("4 times in 1.8 s", "signal SIGKILL", "its last words", "doctor", "restart()"):
        assert part in error.message
    assert [end["signal"] for end in error.details["ends"]] == ["SIGKILL"] * 4
    refused = bench.call("echo", data=2)
    assert isinstance(bench.error(refused), RuntimeFailed)
    bench.advance(3_600_000)
    assert bench.count == 4 and not bench.runtime.closed.done()
    assert bench.states == ["restarting", "failed"]


def test_a_hello_alone_resets_nothing(bench: KeptBench) -> None:
    for delay_ms in (BACKOFF_MS, 2 * BACKOFF_MS, 4 * BACKOFF_MS):
        bench.die()
        bench.advance(delay_ms)
        assert bench.runtime.state == "running"
    bench.die()
    assert bench.runtime.state == "failed"


def test_one_that_was_given_up_runs_again_when_it_is_told_to(bench: KeptBench) -> None:
    test_a_hello_alone_resets_nothing(bench)
    model_call = bench.call("echo", data=0)
    assert isinstance(bench.error(model_call), RuntimeFailed)
    first, second = bench.begin(bench.runtime.restart()), bench.begin(bench.runtime.restart())
    bench.turn()
    assert first.done() and second.done() and bench.count == 5
    call = bench.call("echo", data=1)
    bench.answer("fine")
    assert call.result() == "fine"
    bench.follow()


def test_a_restart_by_hand_lets_what_is_in_flight_finish_and_keeps_the_rest(
    bench: KeptBench,
) -> None:
    old, finishes = bench.process, bench.call("load_model", source="x")
    restarting = bench.start(bench.runtime.restart())
    again = bench.start(bench.runtime.restart())
    meanwhile = bench.call("echo", data=1)
    assert old.is_input_closed and bench.runtime.state == "restarting" and bench.count == 1
    bench.answer({"model": "m"})
    assert finishes.result() == {"model": "m"}
    bench.die(None)
    assert restarting.done() and again.done() and bench.count == 2
    bench.answer("new")
    assert meanwhile.result() == "new" and bench.states == ["restarting", "running"]


def test_one_that_does_not_go_when_it_is_restarted_is_made_to(bench: KeptBench) -> None:
    call = bench.call("echo", data=1)
    restarting = bench.start(bench.runtime.restart())
    bench.pass_by(10_000)
    assert restarting.done() and bench.count == 2 and bench.process.methods == ["echo"]
    bench.answer(1)
    assert call.result() == 1


def test_a_restart_by_hand_does_not_wait_for_the_backoff(bench: KeptBench) -> None:
    bench.die()
    restarting = bench.start(bench.runtime.restart())
    assert restarting.done() and bench.count == 2
    bench.advance(10 * BACKOFF_MS)
    assert bench.count == 2


def test_a_start_that_fails_for_good_fails_the_restart(bench: KeptBench) -> None:
    bench.launcher.refusal = StartFailed("no such file", phase="start", cause="spawn")
    bench.die()
    restarting = bench.start(bench.runtime.restart())
    for _ in range(4):
        bench.advance(8_000)
    error = bench.error(restarting)
    assert isinstance(error, RuntimeFailed) and "no such file" in error.message
    bench.launcher.refusal = None


def test_closing_during_the_backoff_starts_nothing(bench: KeptBench) -> None:
    bench.die()
    call, restarting = bench.call("echo", data=1), None
    closing = [bench.start(bench.runtime.close()) for _ in range(2)]
    assert all(one.done() for one in closing) and bench.runtime.state == "closed"
    assert isinstance(bench.error(call), Closing)
    bench.advance(60_000)
    assert bench.count == 1 and bench.runtime.closed.result().signal == "SIGKILL"
    restarting = bench.start(bench.runtime.restart())
    assert isinstance(bench.error(restarting), Closing)
    assert isinstance(bench.error(bench.call("echo", data=1)), Closing)


def test_closing_during_a_start_ends_what_was_begun(bench: KeptBench) -> None:
    bench.launcher.greets = False
    bench.die()
    bench.advance(BACKOFF_MS)
    call = bench.call("echo", data=1)
    restarting = bench.start(bench.runtime.restart())
    closing = bench.start(bench.runtime.close())
    assert bench.count == 2 and bench.process.is_killed and bench.process.ended.done()
    assert closing.done() and isinstance(bench.error(call), Closing)
    assert isinstance(bench.error(restarting), Closing)


def test_closing_during_a_restart_by_hand_ends_both(bench: KeptBench) -> None:
    restarting = bench.start(bench.runtime.restart())
    closing = bench.start(bench.runtime.close())
    assert isinstance(bench.error(restarting), Closing)
    bench.die(None)
    assert closing.done() and bench.count == 1 and bench.runtime.state == "closed"


def test_closing_one_that_was_given_up_is_the_end_of_it(bench: KeptBench) -> None:
    test_a_hello_alone_resets_nothing(bench)
    closing = bench.start(bench.runtime.close())
    assert closing.done() and bench.runtime.closed.result().signal == "SIGKILL"
    assert isinstance(bench.error(bench.call("echo", data=1)), Closing)


def test_one_that_says_no_hello_in_time_is_ended_and_counted(bench: KeptBench) -> None:
    bench.launcher.greets = False
    bench.die()
    bench.advance(BACKOFF_MS)
    stuck = bench.process
    bench.advance(30_000)
    assert stuck.is_killed and stuck.ended.done() and bench.runtime.state == "restarting"
    bench.launcher.greets = True
    bench.advance(2 * BACKOFF_MS)
    assert bench.runtime.state == "running" and bench.count == 3


def test_without_restarts_the_end_of_the_process_is_the_end_of_all() -> None:
    with kept(restart=None) as bench:
        calls = [bench.call(method, data=1) for method in ("echo", "load_model")]
        bench.die()
        for call in (*calls, bench.call("echo", data=2)):
            assert isinstance(bench.error(call), RuntimeExited)
        assert bench.runtime.closed.result().signal == "SIGKILL"
        assert bench.states == ["closing", "closed"]
        assert isinstance(bench.error(bench.start(bench.runtime.restart())), Closing)


def test_without_restarts_it_can_be_restarted_by_hand_while_it_runs() -> None:
    with kept(restart=None) as bench:
        restarting = bench.start(bench.runtime.restart())
        bench.die(None)
        assert restarting.done() and bench.count == 2 and not bench.runtime.closed.done()
        bench.launcher.refusal = StartFailed("no such file", phase="start", cause="spawn")
        again = bench.start(bench.runtime.restart())
        bench.die(None)
        assert isinstance(bench.error(again), RuntimeFailed) and bench.runtime.state == "failed"
        bench.launcher.refusal = None


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


def test_one_that_is_silent_is_ended_and_followed(bench: KeptBench) -> None:
    lost, again = bench.call("load_model", source="x"), bench.call("echo", data=1)
    silent = bench.process
    bench.pass_by(9_000)
    assert not lost.done() and len(silent.pings) == 1
    bench.pass_by(1_000)
    error = bench.error(lost)
    assert isinstance(error, RuntimeUnresponsive) and error.retryable and silent.is_killed
    assert error.details["cause"] == "silent" and error.details["signal"] == "SIGKILL"
    bench.advance(BACKOFF_MS)
    assert bench.process.methods == ["echo"]
    bench.answer("yes")
    assert again.result() == "yes" and bench.count == 2


def test_one_that_answers_pings_may_take_its_time(bench: KeptBench) -> None:
    call, process = bench.call("load_model", source="x"), bench.process
    for _ in range(600):
        bench.pass_by(1_000)
        engine = {"state": "busy", "progress_age_ms": 5_000.0}
        process.say((PONG, process.pings[-1], {"engine": engine}))
    assert not call.done() and bench.count == 1
    bench.answer({"model": "m"})
    assert call.done()


def test_a_host_that_was_blocked_ends_nobody(bench: KeptBench) -> None:
    call = bench.call("echo", data=1)
    for _ in range(5):
        bench.advance(60_000)
    assert not call.done() and not bench.process.is_killed
    bench.answer(1)


def test_nobody_is_watched_of_whom_nothing_is_asked(bench: KeptBench) -> None:
    bench.call("echo", data=1)
    bench.answer(1)
    bench.pass_by(600_000)
    assert bench.process.pings == [] and not bench.connection.is_watched
    assert not bench.process.is_killed
    call, process = bench.call("echo", data=2), bench.process
    bench.pass_by(10_000)
    assert process.is_killed and not call.done()
    bench.advance(BACKOFF_MS)
    bench.answer(2)


def test_an_engine_that_stands_still_is_ended(bench: KeptBench) -> None:
    call = bench.call("load_model", source="x")
    bench.pass_by(1_000)
    engine = {"state": "busy", "progress_age_ms": 120_000.0}
    bench.process.say((PONG, bench.process.pings[-1], {"engine": engine}))
    bench.turn()
    error = bench.error(call)
    assert isinstance(error, RuntimeUnresponsive) and error.details["cause"] == "engine_stuck"


@pytest.mark.parametrize("way", ["event", "pong"])
def test_a_dead_engine_s_answers_arrive_before_it_is_ended(bench: KeptBench, way: str) -> None:
    told, untold = bench.call("generate", stream=False), bench.call("load_model", source="x")
    process = bench.process
    if way == "event":
        process.say((EVENT, "engine_dead", {"message": "a step went wrong"}))
    else:
        bench.pass_by(1_000)
        process.say((PONG, process.pings[-1], {"engine": {"state": "dead"}}))
    bench.turn()
    later = bench.call("echo", data=1)
    assert process.methods == ["generate", "load_model"]
    process.say((ERROR, process.requests[0][0], {"code": "ENGINE_DEAD", "message": "dead"}))
    bench.turn()
    assert bench.error(told).code == "ENGINE_DEAD" and not process.is_killed
    bench.advance(100)
    error = bench.error(untold)
    assert isinstance(error, RuntimeUnresponsive) and error.details["cause"] == "engine_dead"
    assert process.is_killed and not later.done()
    bench.advance(BACKOFF_MS)
    bench.answer("new")
    assert later.result() == "new"


def test_without_a_heartbeat_nobody_is_ended() -> None:
    with kept(heartbeat=None) as bench:
        call = bench.call("echo", data=1)
        bench.process.say((EVENT, "engine_dead", {"message": "a step went wrong"}))
        bench.pass_by(100_000)
        assert not call.done() and bench.process.pings == []
        bench.answer(1)


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


def test_health_is_told_in_every_state(bench: KeptBench) -> None:
    def ask() -> dict[str, Any]:
        asking = bench.start(bench.runtime.health())
        if not asking.done():
            bench.advance(1_000)
        result: dict[str, Any] = asking.result()
        return result

    asking = bench.start(bench.runtime.health())
    own = {"engine": {"state": "idle"}}
    bench.process.say((PONG, bench.process.pings[-1], own))
    bench.turn()
    assert asking.result() == {
        "state": "running",
        "is_ready": True,
        "reason": None,
        "restarts": 0,
        "last_exit": None,
        "silent_ms": 0.0,
        "runtime": own,
    }
    deaf = ask()
    assert deaf["runtime"] is None and not deaf["is_ready"] and "1000 ms" in deaf["reason"]
    bench.die()
    away = ask()
    assert (away["state"], away["last_exit"].signal) == ("restarting", "SIGKILL")
    assert "SIGKILL" in away["reason"]
    bench.advance(BACKOFF_MS)
    assert ask()["restarts"] == 1
    for delay_ms in (0, 2 * BACKOFF_MS, 4 * BACKOFF_MS):
        bench.advance(delay_ms)
        bench.die()
    failed = ask()
    assert failed["state"] == "failed" and not failed["is_ready"] and failed["runtime"] is None


def test_a_ping_waits_for_no_restart(bench: KeptBench) -> None:
    lost = bench.start(bench.runtime.ping())
    bench.die()
    assert isinstance(bench.error(lost), RuntimeExited)
    assert isinstance(bench.error(bench.start(bench.runtime.ping())), RuntimeExited)
    bench.advance(BACKOFF_MS)
    ping = bench.start(bench.runtime.ping())
    bench.process.say((PONG, bench.process.pings[-1], {"fine": True}))
    bench.turn()
    assert ping.result() == {"fine": True}


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


def test_the_steps_say_why_and_how_long(bench: KeptBench) -> None:
    bench.follow()
    ran, lost, again = bench.steps
    assert (str(ran.from_state), str(ran.to_state)) == ("starting", "running")
    assert (lost.reason, lost.attempt, lost.delay_ms) == ("signal SIGKILL", 1, BACKOFF_MS)
    assert isinstance(lost.error, RuntimeExited) and again.attempt == 1
    assert bench.runtime.pid == bench.process.pid


def test_restarts_of_which_there_may_be_none(bench: KeptBench) -> None:
    with kept(restart=RestartOptions(limit=0)) as other:
        call = other.call("echo", data=1)
        other.die()
        assert isinstance(other.error(call), RuntimeFailed)
        assert "has ended once" in other.error(call).message
