"""Row 45: the probe of a half-open circuit hangs, is cancelled, is wrong itself, or ends late."""

from __future__ import annotations

from pathlib import Path

from isthmus.limits import BREAKER_CALLS, BREAKER_LEASE_S, BREAKER_OPEN_S
from isthmus.resilience.breaker import State
from tests.faults.circuits import (
    OPTIONS,
    TimedBreaker,
    breaker_of,
    inject,
    one_token,
    open_circuit,
)
from tests.faults.peer import CANCEL, ERROR, Peer, wait_until

OPEN_DEADLINE_S = BREAKER_OPEN_S + 15.0
"""How long a test waits for an open circuit to try again."""


def probe(peer: Peer, model: str, params: dict[str, object]) -> int:
    """Wait until the circuit may be tried, and begin the call that tries it."""
    wait_until(
        lambda: bool(breaker_of(peer, model)["retry_after_ms"] == 0),
        "the time of the open circuit is over",
        OPEN_DEADLINE_S,
    )
    request = peer.request("generate", {"model": model, **params})
    wait_until(
        lambda: bool(breaker_of(peer, model)["state"] == "half_open"), "the circuit is half open"
    )
    return request


def test_a_probe_that_hangs_gives_its_place_back_when_its_lease_is_over() -> None:
    timed = TimedBreaker()
    hanging = timed.half_open()
    timed.now += BREAKER_LEASE_S - 0.1
    assert timed.begin() is None
    timed.now += 0.1
    second = timed.begin()
    assert second is not None
    assert timed.begin() is None
    second.success(0.1)
    assert timed.breaker.state is State.HALF_OPEN
    del hanging


def test_a_cancelled_probe_decides_nothing_and_the_next_call_is_one(chain_folder: Path) -> None:
    with Peer("--faults") as peer:
        model = peer.load(chain_folder)
        open_circuit(peer, model)
        inject(peer, "engine.token:slow:ms=20")
        endless = {"prompt": "a", "max_tokens": 10**5}
        cancelled = probe(peer, model, endless)
        assert peer.answer_code("generate", one_token(model)) == "CIRCUIT_OPEN"
        peer.send([CANCEL, cancelled])
        assert peer.settled(cancelled)[2]["finish_reason"] == "cancelled"
        assert breaker_of(peer, model)["state"] == "half_open"
        assert peer.answer_code("generate", one_token(model)) is None
        assert breaker_of(peer, model)["state"] == "half_open"


def test_a_caller_s_own_mistake_decides_nothing(chain_folder: Path) -> None:
    with Peer("--faults") as peer:
        model = peer.load(chain_folder)
        open_circuit(peer, model)
        inject(peer, "engine.token:fail:code=INVALID_REQUEST,times=1")
        wrong = probe(peer, model, {"prompt": "a", "max_tokens": 1})
        message = peer.settled(wrong)
        assert (message[0], message[2]["code"]) == (ERROR, "INVALID_REQUEST")
        assert breaker_of(peer, model)["state"] == "half_open"
        assert peer.answer_code("generate", one_token(model)) is None


def test_a_call_that_began_before_it_opened_moves_no_newer_state() -> None:
    timed = TimedBreaker()
    old = [timed.breaker.acquire() for _ in range(2 * BREAKER_CALLS)]
    first = timed.half_open()
    generation = timed.breaker.generation
    for permit in old[:BREAKER_CALLS]:
        permit.success(0.1)
    for permit in old[BREAKER_CALLS:]:
        permit.failure(0.1)
    assert (timed.breaker.state, timed.breaker.generation) == (State.HALF_OPEN, generation)
    assert timed.begin() is None
    first.success(0.1)
    second, third = timed.begin(), timed.begin()
    assert second is not None and third is not None
    assert timed.begin() is None


def test_a_probe_that_fails_after_another_one_reopened_it_is_not_heard() -> None:
    timed = TimedBreaker()
    timed.half_open().success(0.1)
    second, third = timed.begin(), timed.begin()
    assert second is not None and third is not None
    second.failure(0.1)
    third.failure(0.1)
    opened = [change for _, change in timed.changes if change.after is State.OPEN]
    assert [change.retry_after_ms for change in opened] == [
        OPTIONS.open_s * 1_000,
        2 * OPTIONS.open_s * 1_000,
    ]


def test_failures_in_a_circuit_closed_by_hand_are_counted_anew(chain_folder: Path) -> None:
    with Peer("--faults") as peer:
        model = peer.load(chain_folder)
        open_circuit(peer, model)
        closed = peer.call("set_circuit", {"model": model, "state": "closed"})
        assert (closed["state"], closed["failures"]) == ("closed", 0)
        inject(peer, "engine.token:fail:code=NUMERIC_ERROR,times=1")
        assert peer.answer_code("generate", one_token(model)) == "NUMERIC_ERROR"
        assert peer.answer_code("generate", one_token(model)) is None
