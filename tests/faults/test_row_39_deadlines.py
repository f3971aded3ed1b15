"""Row 39: a deadline passes in the queue, or while the request runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.peer import DELTA, ERROR, RESULT, Peer
from tests.faults.ways import WAYS, options_of


def test_in_the_queue_it_says_so_and_the_request_never_runs(peer: Peer, chain_folder: Path) -> None:
    model = peer.load(chain_folder)
    blocker = peer.request("fault_block_engine", {"seconds": 1})
    request = peer.request(
        "generate", {"model": model, "prompt": "a", "max_tokens": 8}, {"deadline_ms": 50}
    )
    kind, _, error = peer.settled(request)
    assert (kind, error["code"], error["phase"]) == (ERROR, "DEADLINE_EXCEEDED", "queue")
    assert peer.take_kept(blocker) == []
    assert peer.settled(blocker)[0] == RESULT
    peer.becomes_idle()
    assert peer.take_kept(request) == []


@pytest.mark.parametrize("way", WAYS)
def test_while_it_decodes_the_error_carries_how_far_it_came(
    peer: Peer, chain_folder: Path, way: str
) -> None:
    model = peer.load(chain_folder)
    neighbour = peer.request("generate", {"model": model, "prompt": "b", "max_tokens": 30})
    request = peer.request(
        "generate",
        {"model": model, "prompt": "a", "max_tokens": 10**5, **options_of(way, model)},
        {"deadline_ms": 500, "credit": 10**6},
    )
    received = 0
    while (message := peer.next_of(request))[0] == DELTA:
        received += message[2]
    error = message[2]
    assert (error["code"], error["phase"]) == ("DEADLINE_EXCEEDED", "decode")
    assert error["details"]["completion_tokens"] == received > 0
    assert peer.settled(neighbour)[2]["usage"]["completion_tokens"] == 30
    peer.becomes_idle()


def test_in_prefill_it_says_so(peer: Peer, deep_folder: Path) -> None:
    model = peer.load(deep_folder)
    request = peer.request(
        "generate", {"model": model, "prompt": "x" * 60_000}, {"deadline_ms": 500}
    )
    error = peer.settled(request)[2]
    assert (error["code"], error["phase"]) == ("DEADLINE_EXCEEDED", "prefill")
    peer.becomes_idle()
    peer.call("unload_model", {"model": model})


def test_any_other_method_is_stopped_too(peer: Peer) -> None:
    bystander = peer.request("fault_sleep", {"seconds": 0.3})
    request = peer.request("fault_sleep", {"seconds": 60}, {"deadline_ms": 50})
    error = peer.settled(request)[2]
    assert (error["code"], error["phase"]) == ("DEADLINE_EXCEEDED", "running")
    assert peer.settled(bystander)[0] == RESULT


@pytest.mark.parametrize("deadline_ms", [0, -1, "50", True, float("inf"), float("nan")])
def test_what_is_no_deadline_is_refused(peer: Peer, deadline_ms: object) -> None:
    request = peer.request("echo", {"data": 1}, {"deadline_ms": deadline_ms})
    assert peer.settled(request)[2]["details"]["field"] == "options.deadline_ms"


def test_a_draft_whose_deadline_passes_in_the_queue_is_never_verified(
    peer: Peer, chain_folder: Path
) -> None:
    model = peer.load(chain_folder)
    blocker = peer.request("fault_block_engine", {"seconds": 1})
    params = {"model": model, "ids": [1], "draft": [1, 1]}
    late = [peer.request("check_draft", params, {"deadline_ms": 50}) for _ in range(3)]
    patient = peer.request("check_draft", params)
    for request in late:
        kind, _, error = peer.settled(request)
        assert (kind, error["code"], error["phase"]) == (ERROR, "DEADLINE_EXCEEDED", "queue")
    assert peer.settled(blocker)[0] == RESULT
    assert peer.settled(patient)[2]["accepted"] == 2


def test_a_text_whose_deadline_passes_behind_another_one_is_never_encoded(
    peer: Peer, chat: str
) -> None:
    params = {"model": chat, "text": "word " * 400_000}
    running = peer.request("tokenize", params)
    late = peer.request("tokenize", {**params, "text": "next " * 400_000}, {"deadline_ms": 20})
    error = peer.settled(late)[2]
    assert (error["code"], error["phase"]) == ("DEADLINE_EXCEEDED", "queue")
    assert peer.settled(running)[0] == RESULT
