"""A runtime that hangs is found and ended; one that is slow, or whose host is, is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from isthmus.errors import (
    RuntimeExited,
    RuntimeUnresponsive,
)
from tests.python.host.fakes import ERROR, EVENT, PONG
from tests.python.host.kept import BACKOFF_MS, KeptBench, kept


@pytest.fixture
def bench() -> Iterator[KeptBench]:
    """A runtime that is kept as by default."""
    with kept() as one:
        yield one


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
