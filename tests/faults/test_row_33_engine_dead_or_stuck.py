"""Row 33: the engine thread is dead or stuck while the event loop lives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.peer import DELTA, ERROR, RESULT, Peer, wait_until


@pytest.fixture
def own_peer(chain_folder: Path) -> Iterator[tuple[Peer, str]]:
    """A runtime of the test's own, and a model in it that generates for ever."""
    with Peer("--faults") as peer:
        yield peer, peer.load(chain_folder)


def inject(peer: Peer, spec: str) -> None:
    """Have the engine's next step go wrong."""
    peer.call("inject_fault", {"spec": spec})


def generation(peer: Peer, model: str, **params: object) -> int:
    """Begin a generation that has enough credit not to wait for us."""
    params = {"model": model, "prompt": "a", "max_tokens": 10**5, **params}
    return peer.request("generate", params, {"credit": 10**6})


def test_when_a_step_fails_everybody_who_waits_for_the_engine_is_told(
    own_peer: tuple[Peer, str], chain_folder: Path
) -> None:
    peer, model = own_peer
    running = [generation(peer, model), generation(peer, model, stream=False)]
    assert peer.next_of(running[0])[0] == DELTA
    peer.call("fault_break_step", {})
    queued = [
        generation(peer, model),
        peer.request("check_draft", {"model": model, "ids": [1], "draft": [1]}),
        peer.request("load_model", {"source": "default"}),
    ]
    for request in [*running, *queued]:
        kind, _, error = peer.settled(request)
        assert (kind, error["code"], error["retryable"]) == (ERROR, "ENGINE_DEAD", True)
    assert peer.health()["engine"]["state"] == "dead"
    assert b"ValueError: a step went wrong" in peer.stderr


def test_a_dead_engine_refuses_at_once_and_what_needs_none_goes_on(
    own_peer: tuple[Peer, str], chain_folder: Path
) -> None:
    peer, model = own_peer
    inject(peer, "engine.step:fail:code=INTERNAL")
    assert peer.settled(generation(peer, model))[2]["code"] == "ENGINE_DEAD"
    for method, params in (
        ("generate", {"model": model, "prompt": "a"}),
        ("check_draft", {"model": model, "ids": [1], "draft": [1]}),
        ("load_model", {"source": "default"}),
    ):
        error = peer.refusal(method, params)
        assert (error["code"], error["retryable"]) == ("ENGINE_DEAD", True)
        assert "restart the runtime" in error["message"]
    assert peer.call("count_tokens", {"model": model, "text": "abc"})["count"] == 3
    assert peer.is_echoing()


def test_the_progress_age_of_a_stuck_engine_grows_while_the_loop_answers(
    own_peer: tuple[Peer, str],
) -> None:
    peer, model = own_peer
    request = generation(peer, model)
    assert peer.next_of(request)[0] == DELTA
    inject(peer, "engine.step:hang")
    ages: list[float] = []

    def has_grown() -> bool:
        engine = peer.health()["engine"]
        assert engine["state"] == "busy"
        ages.append(engine["progress_age_ms"])
        return ages[-1] > 300

    wait_until(has_grown, "the progress age is that of an engine that does nothing")
    tail = ages[-10:]
    assert tail == sorted(tail) and len(set(tail)) == len(tail)
    assert peer.is_echoing()


def test_deadlines_and_cancels_need_no_engine(own_peer: tuple[Peer, str]) -> None:
    peer, model = own_peer
    inject(peer, "engine.step:hang")
    request = {"model": model, "prompt": "a"}
    late = peer.request("generate", request, {"deadline_ms": 50})
    cancelled = peer.request("generate", request)
    assert peer.settled(late)[2]["code"] == "DEADLINE_EXCEEDED"
    peer.send([6, cancelled])
    assert peer.settled(cancelled)[2]["finish_reason"] == "cancelled"


def test_a_runtime_whose_engine_is_stuck_still_ends_when_its_host_leaves(
    own_peer: tuple[Peer, str],
) -> None:
    peer, model = own_peer
    inject(peer, "engine.step:hang")
    generation(peer, model)
    assert peer.settled(peer.request("echo", {"data": 1}))[0] == RESULT
    peer.close_input()
    peer.exit_code()
