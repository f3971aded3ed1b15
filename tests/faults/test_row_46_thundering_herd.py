"""Row 46: a thousand callers wait for a circuit to close."""

from __future__ import annotations

from pathlib import Path

from isthmus.limits import BREAKER_LEASE_S, BREAKER_OPEN_S
from isthmus.resilience.breaker import Permit, State
from tests.faults.circuits import (
    OPTIONS,
    TimedBreaker,
    breaker_of,
    next_event,
    one_token,
    open_circuit,
)
from tests.faults.peer import ERROR, Peer

HERD = 1_000


def herd(timed: TimedBreaker) -> list[Permit]:
    """Have a thousand calls ask at once; return those that may begin."""
    return [permit for _ in range(HERD) if (permit := timed.begin()) is not None]


def test_a_thousand_calls_of_an_open_circuit_fail_at_once_and_say_when_to_come_back(
    chain_folder: Path,
) -> None:
    with Peer("--faults") as peer:
        model, other = peer.load(chain_folder), peer.load("default")
        open_circuit(peer, model)
        before = peer.call("stats")["retries"]["attempts"]
        requests = [peer.request("generate", one_token(model)) for _ in range(HERD)]
        errors = [peer.settled(request) for request in requests]
        assert {message[0] for message in errors} == {ERROR}
        assert {message[2]["code"] for message in errors} == {"CIRCUIT_OPEN"}
        waits = [message[2]["retry_after_ms"] for message in errors]
        assert all(0 <= wait <= BREAKER_OPEN_S * 1_000 for wait in waits)
        assert peer.call("stats")["retries"]["attempts"] == before
        assert peer.answer_code("generate", one_token(other)) is None
        assert breaker_of(peer, other)["state"] == "closed"


def test_it_is_told_when_a_circuit_opens_and_closes(chain_folder: Path) -> None:
    with Peer("--faults") as peer:
        model = peer.load(chain_folder)
        open_circuit(peer, model)
        peer.call("set_circuit", {"model": model, "state": "isolated"})
        error = peer.refusal("generate", one_token(model))
        assert error["code"] == "CIRCUIT_OPEN" and "retry_after_ms" not in error
        draft = {"model": model, "ids": [97], "draft": [97]}
        assert peer.refusal("check_draft", draft)["code"] == "CIRCUIT_OPEN"
        peer.call("set_circuit", {"model": model, "state": "closed"})
        assert peer.answer_code("check_draft", draft) is None
        # Calls pass over events: these two come again, in order.
        peer.request("set_circuit", {"model": model, "state": "isolated"})
        peer.request("set_circuit", {"model": model, "state": "closed"})
        told = [next_event(peer, "breaker") for _ in range(2)]
        assert [(event["from"], event["to"]) for event in told] == [
            ("closed", "isolated"),
            ("isolated", "closed"),
        ]
        assert all(event["model"] == model and event["reason"] == "by hand" for event in told)


def test_one_of_a_thousand_is_the_probe_and_the_others_fail_fast() -> None:
    timed = TimedBreaker()
    probe = timed.half_open()
    assert herd(timed) == []
    timed.now += BREAKER_LEASE_S / 2
    assert herd(timed) == []
    probe.neutral()
    assert len(herd(timed)) == 1


def test_after_a_success_they_are_let_through_step_by_step() -> None:
    timed = TimedBreaker()
    timed.half_open().success(0.1)
    for allowed in (2, 4):
        begun = herd(timed)
        assert len(begun) == allowed
        for permit in begun:
            permit.success(0.1)
    begun = herd(timed)
    assert len(begun) == HERD
    timed.now += OPTIONS.window_s
    for permit in begun:
        permit.success(0.1)
    assert timed.breaker.state is State.CLOSED


def test_one_failure_on_the_way_sends_all_of_them_back() -> None:
    timed = TimedBreaker()
    timed.half_open().success(0.1)
    first, second = herd(timed)
    first.success(0.1)
    second.failure(0.1)
    assert timed.breaker.state is State.OPEN
    assert herd(timed) == []
