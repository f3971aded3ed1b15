"""When another process is started, when a runtime is given up, and how it is closed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from isthmus.errors import (
    Closing,
    RuntimeExited,
    RuntimeFailed,
    StartFailed,
)
from isthmus.host.restarts import RestartOptions
from tests.python.host.kept import BACKOFF_MS, KeptBench, kept


@pytest.fixture
def bench() -> Iterator[KeptBench]:
    """A runtime that is kept as by default."""
    with kept() as one:
        yield one


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


def test_a_restart_by_hand_during_a_start_does_not_shorten_a_later_backoff(
    bench: KeptBench,
) -> None:
    bench.launcher.greets = False
    bench.die()
    bench.advance(BACKOFF_MS)
    restarting = bench.start(bench.runtime.restart())
    bench.launcher.greets = True
    bench.loop.call_soon(bench.process.hello)
    bench.turn()
    assert restarting.done() and bench.count == 2
    bench.die()
    bench.advance(BACKOFF_MS - 1)
    assert bench.count == 2
    bench.advance(1)
    assert bench.count == 3 and bench.runtime.state == "running"


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
