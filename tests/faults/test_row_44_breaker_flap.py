"""Row 44: calls that succeed and fail by turns do not make a circuit flap."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from isthmus.limits import BREAKER_CALLS, BREAKER_OPEN_LIMIT_S, BREAKER_OPEN_S, BREAKER_WINDOW_S
from isthmus.resilience.breaker import State
from tests.faults.circuits import FAILING, TimedBreaker, breaker_of, inject, one_token
from tests.faults.peer import Peer


def test_it_is_not_judged_by_fewer_calls_than_it_takes(chain_folder: Path) -> None:
    with Peer("--faults") as peer:
        model = peer.load(chain_folder)
        inject(peer, FAILING)
        codes = [peer.answer_code("generate", one_token(model)) for _ in range(BREAKER_CALLS + 1)]
        assert codes == ["NUMERIC_ERROR"] * BREAKER_CALLS + ["CIRCUIT_OPEN"]
        assert breaker_of(peer, model)["opened_times"] == 1


def test_failures_under_the_rate_open_nothing(chain_folder: Path) -> None:
    with Peer("--faults") as peer:
        model = peer.load(chain_folder)
        for _ in range(2 * BREAKER_CALLS):
            inject(peer, f"{FAILING},times=1")
            assert peer.answer_code("generate", one_token(model)) == "NUMERIC_ERROR"
            peer.call("clear_faults")
            for _ in range(2):
                assert peer.answer_code("generate", one_token(model)) is None
        snapshot = breaker_of(peer, model)
        assert (snapshot["state"], snapshot["opened_times"]) == ("closed", 0)


@pytest.mark.parametrize("between_s", [0.01, 0.2, 1.0, 2.0])
def test_calls_that_alternate_at_the_threshold_open_it_at_most_once_a_window(
    between_s: float,
) -> None:
    timed, is_failing = TimedBreaker(), False
    ends = timed.now + 40 * BREAKER_WINDOW_S
    while timed.now < ends:
        permit = timed.begin()
        if permit is not None:
            (permit.failure if is_failing else permit.success)(0.1)
            is_failing = not is_failing
        timed.now += between_s
    opened = [at for at, change in timed.changes if change.before is State.CLOSED]
    assert opened
    assert all(later - earlier >= BREAKER_WINDOW_S for earlier, later in pairwise(opened))


def test_the_time_it_stays_open_grows_each_time_up_to_a_limit() -> None:
    timed, waits = TimedBreaker(), list[float]()
    for _ in range(BREAKER_CALLS):
        timed.breaker.acquire().failure(0.1)
    for _ in range(6):
        began = timed.now
        while (permit := timed.begin()) is None:
            timed.now += 0.5
        waits.append(timed.now - began)
        permit.failure(0.1)
    assert waits[0] == BREAKER_OPEN_S
    assert waits == [min(BREAKER_OPEN_S * 2**turn, BREAKER_OPEN_LIMIT_S) for turn in range(6)]
