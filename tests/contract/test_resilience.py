"""Retries and circuits of the runtime, as a host sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.limits import BREAKER_CALLS
from tests.faults.circuits import FAILING, breaker_of, inject, next_event, one_token
from tests.faults.peer import CANCEL, DELTA, Peer, read_ids, wait_until, wire_ids
from tests.faults.small_models import write_chain


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Peer, str]]:
    """A runtime with faults, and a model in it."""
    with Peer("--faults") as peer:
        yield peer, peer.load("default-draft")


@pytest.fixture
def loaded(running: tuple[Peer, str]) -> tuple[Peer, str]:
    """The same, without faults and with a closed circuit."""
    peer, model = running
    peer.call("clear_faults")
    peer.call("set_circuit", {"model": model, "state": "closed"})
    return peer, model


def test_a_retried_generation_gives_the_tokens_that_it_would_have_given(
    loaded: tuple[Peer, str],
) -> None:
    peer, model = loaded
    options = {"max_tokens": 8, "ignore_eos": True, "temperature": 0.8, "seed": 3}
    for stream in (True, False):
        ids, end = peer.generate(model, "What is Isthmus?", stream=stream, **options)
        inject(peer, "engine.token:fail:times=2")
        again, end_again = peer.generate(model, "What is Isthmus?", stream=stream, **options)
        assert (again, end_again.get("ids")) == (ids, end.get("ids"))
        assert end_again["usage"]["completion_tokens"] == 8


def test_what_fails_again_and_again_is_told_with_its_own_error(loaded: tuple[Peer, str]) -> None:
    peer, model = loaded
    inject(peer, "engine.token:fail:code=UNAVAILABLE")
    error = peer.refusal("generate", one_token(model))
    assert (error["code"], error["retryable"]) == ("UNAVAILABLE", True)
    assert error["details"]["completion_tokens"] == 0
    wait_until(lambda: bool(breaker_of(peer, model)["failures"] == 3), "each attempt is counted")


def test_a_cancel_while_it_waits_to_be_tried_again_ends_it_at_once(
    loaded: tuple[Peer, str],
) -> None:
    peer, model = loaded
    inject(peer, "engine.token:fail")
    requests = [peer.request("generate", {"model": model, "prompt": "a"}) for _ in range(3)]
    peer.send(*([CANCEL, request] for request in requests))
    for request in requests:
        message = peer.settled(request)
        ending = message[2].get("finish_reason") or message[2]["code"]
        assert ending in ("cancelled", "UNAVAILABLE")
    peer.call("clear_faults")
    assert peer.answer_code("generate", one_token(model)) is None


def test_failures_open_the_circuit_of_generations_and_drafts_and_an_event_tells(
    loaded: tuple[Peer, str],
) -> None:
    peer, model = loaded
    inject(peer, FAILING)
    requests = [peer.request("generate", one_token(model)) for _ in range(BREAKER_CALLS)]
    event = next_event(peer, "breaker")
    for request in requests:
        assert peer.settled(request)[2]["code"] in ("NUMERIC_ERROR", "CIRCUIT_OPEN")
    draft = {"model": model, "ids": [1], "draft": [1]}
    error = peer.refusal("check_draft", draft)
    assert error["code"] == "CIRCUIT_OPEN" and error["retryable"]
    assert error["retry_after_ms"] > 0
    assert (event["model"], event["from"], event["to"]) == (model, "closed", "open")
    assert "calls failed" in event["reason"] and event["retry_after_ms"] > 0


def test_drafts_that_fail_open_it_too(loaded: tuple[Peer, str]) -> None:
    peer, model = loaded
    inject(peer, "draft:fail:code=NUMERIC_ERROR")
    draft = {"model": model, "ids": [1], "draft": [1]}
    codes = [peer.answer_code("check_draft", draft) for _ in range(BREAKER_CALLS + 1)]
    assert codes == ["NUMERIC_ERROR"] * BREAKER_CALLS + ["CIRCUIT_OPEN"]
    assert peer.refusal("generate", one_token(model))["code"] == "CIRCUIT_OPEN"


@pytest.mark.parametrize(
    ("broken", "failures"), [(0, 0), (1, 0), (2, 1), (4, 1)], ids=["none", "one", "half", "all"]
)
def test_a_batch_of_drafts_is_one_call_and_fails_when_half_of_it_does(
    running: tuple[Peer, str], tmp_path: Path, broken: int, failures: int
) -> None:
    peer, _ = running
    peer.call("clear_faults")
    model = peer.load(write_chain(tmp_path / "model", {}, overflow={ord("b"): "nan"}))
    letters = [ord("b")] * broken + [ord("a")] * (4 - broken)
    items = [{"ids": [letter], "draft": [letter]} for letter in letters]
    results = peer.call("batch_check_draft", {"model": model, "items": items})["results"]
    errors = [result["error"]["code"] for result in results if "error" in result]
    assert errors == ["NUMERIC_ERROR"] * broken
    snapshot = breaker_of(peer, model)
    assert (snapshot["calls"], snapshot["failures"]) == (1, failures)
    peer.call("unload_model", {"model": model, "evict": True})


def test_a_batch_of_drafts_that_nobody_waits_for_says_nothing(loaded: tuple[Peer, str]) -> None:
    peer, model = loaded
    inject(peer, "draft:stall:ms=300")
    request = peer.request("check_draft", {"model": model, "ids": [1], "draft": [1]})
    wait_until(
        lambda: bool(peer.health()["engine"]["state"] == "busy"), "the draft is being verified"
    )
    peer.send([CANCEL, request])
    assert peer.settled(request)[2]["code"] == "CANCELLED"
    peer.becomes_idle()
    assert breaker_of(peer, model)["calls"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": -1},
        {"ids": [10**6], "prompt": None},
        {"speculation": {"draft_model": "nobody"}},
    ],
)
def test_a_caller_s_mistakes_open_nothing(loaded: tuple[Peer, str], wrong: dict[str, Any]) -> None:
    peer, model = loaded
    params = {name: value for name, value in {**one_token(model), **wrong}.items() if value}
    for _ in range(2 * BREAKER_CALLS):
        assert peer.answer_code("generate", params) in ("INVALID_REQUEST", "MODEL_NOT_LOADED")
    snapshot = peer.call("set_circuit", {"model": model, "state": "closed"})
    assert (snapshot["calls"], snapshot["state"]) == (0, "closed")


def test_cancelled_generations_open_nothing(loaded: tuple[Peer, str]) -> None:
    peer, model = loaded
    before = peer.call("set_circuit", {"model": model, "state": "closed"})["calls"]
    params = {"model": model, "prompt": "a", "max_tokens": 500, "ignore_eos": True}
    for _ in range(2 * BREAKER_CALLS):
        request = peer.request("generate", params, {"credit": 4})
        assert peer.next_of(request)[0] == DELTA
        peer.send([CANCEL, request])
        assert peer.settled(request)[2]["finish_reason"] == "cancelled"
    assert breaker_of(peer, model)["calls"] == before == 0


def test_a_deadline_of_a_reader_who_does_not_read_says_nothing_of_the_model(
    loaded: tuple[Peer, str],
) -> None:
    peer, model = loaded
    params = {"model": model, "prompt": "a", "max_tokens": 500, "ignore_eos": True}
    options = {"credit": 1, "deadline_ms": 400}
    requests = [peer.request("generate", params, options) for _ in range(3)]
    for request in requests:
        assert len(read_ids(peer.next_of(request)[3]["ids"])) == 1
    for request in requests:
        assert peer.settled(request)[2]["code"] == "DEADLINE_EXCEEDED"
    assert breaker_of(peer, model)["calls"] == 0


@pytest.mark.parametrize(
    ("params", "field"),
    [({"state": "open"}, "state"), ({"state": 1}, "state"), ({}, "state")],
)
def test_a_circuit_is_set_to_isolated_or_closed_only(
    loaded: tuple[Peer, str], params: dict[str, Any], field: str
) -> None:
    peer, model = loaded
    error = peer.refusal("set_circuit", {"model": model, **params})
    assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", field)
    assert peer.refusal("set_circuit", {"model": "nobody", "state": "closed"})["code"] == (
        "MODEL_NOT_LOADED"
    )


def test_failures_before_a_restart_are_counted_in_the_new_breaker() -> None:
    with Peer() as peer:
        params = {"source": "default-draft", "handle": "kept-000000-1", "prior_failures": 4}
        model = peer.call("load_model", params)["model"]
        assert peer.answer_code("generate", one_token(model)) is None
        wait_until(lambda: bool(breaker_of(peer, model)["calls"] == 5), "the call is counted")
        assert breaker_of(peer, model)["failures"] == 4


def test_a_failure_after_the_output_is_complete_settles_the_call(tmp_path: Path) -> None:
    end = 256
    with Peer("--faults") as peer:
        model = peer.load(write_chain(tmp_path / "ends", {ord("A"): end}))
        anything = {"type": "regex", "pattern": "x*"}
        params = {"model": model, "ids": wire_ids([ord("A")]), "response_format": anything}
        assert peer.settled(peer.request("generate", params))[2]["is_complete"]
        inject(peer, "text:fail")
        assert peer.refusal("generate", params)["code"] == "UNAVAILABLE"
        assert peer.call("health")["in_flight"] == 0


def test_a_pair_of_models_that_could_not_be_compared_is_compared_again(tmp_path: Path) -> None:
    with Peer("--faults") as peer:
        model, draft = (peer.load(write_chain(tmp_path / name, {})) for name in "ab")
        drafted = {"model": model, "ids": wire_ids([65]), "max_tokens": 2}
        drafted["speculation"] = {"draft_model": draft}
        inject(peer, "text:fail:times=1")
        assert peer.refusal("generate", drafted)["code"] == "UNAVAILABLE"
        assert peer.settled(peer.request("generate", drafted))[2]["finish_reason"] == "length"
