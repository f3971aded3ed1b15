"""Row 41: ten times as many requests as a queue holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isthmus.limits import DRAFT_QUEUE_LIMIT, GENERATE_QUEUE_LIMIT
from tests.faults.peer import ERROR, Peer
from tests.faults.ways import WAYS, options_of

BURST = 10


def outcomes(peer: Peer, requests: list[int]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return what was answered and what was refused."""
    settled = [peer.settled(request, 120) for request in requests]
    answered = [message[2] for message in settled if message[0] != ERROR]
    return answered, [message[2] for message in settled if message[0] == ERROR]


def assert_queue_full(errors: list[dict[str, Any]]) -> None:
    """Check that each says when to come again."""
    for error in errors:
        assert (error["code"], error["retryable"]) == ("QUEUE_FULL", True)
        assert error["retry_after_ms"] > 0


def test_generations_over_the_limit_are_refused_at_once_and_the_others_finish(
    peer: Peer, chain_folder: Path
) -> None:
    model = peer.load(chain_folder)
    letters = {"model": model, "ids": [97], "max_tokens": 1}
    params = [{**letters, **options_of(way, model)} for way in WAYS]
    for each in params:
        # What is made once for a model is there then: all of them are queued in their order.
        peer.settled(peer.request("generate", each))
    blocker = peer.request("fault_block_engine", {"seconds": 3})

    def burst(count: int) -> list[int]:
        return [peer.request("generate", params[at % len(params)]) for at in range(count)]

    requests = burst(GENERATE_QUEUE_LIMIT + 10)
    assert peer.settled(requests.pop())[2]["code"] == "QUEUE_FULL"
    assert peer.take_kept(blocker) == []
    requests += burst((BURST - 1) * GENERATE_QUEUE_LIMIT)
    peer.settled(blocker)
    answered, refused = outcomes(peer, requests)
    assert len(answered) >= GENERATE_QUEUE_LIMIT
    assert all(end["usage"]["completion_tokens"] == 1 for end in answered)
    assert_queue_full(refused)
    peer.becomes_idle()


def test_a_flood_of_one_model_is_refused_there_and_not_with_another(
    peer: Peer, chain_folder: Path
) -> None:
    flooded, other = peer.load(chain_folder), peer.load("default")
    letters = {"ids": [97], "max_tokens": 1}
    blocker = peer.request("fault_block_engine", {"seconds": 3})
    requests = [
        peer.request("generate", {"model": flooded, **letters})
        for _ in range(GENERATE_QUEUE_LIMIT + 1)
    ]
    calm = peer.request("generate", {"model": other, **letters})
    assert_queue_full([peer.settled(requests.pop())[2]])
    assert peer.take_kept(blocker) == []
    answered, refused = outcomes(peer, [*requests, calm])
    assert (len(answered), refused) == (GENERATE_QUEUE_LIMIT + 1, [])
    peer.settled(blocker)
    peer.becomes_idle()


def test_drafts_over_the_limit_are_refused_at_once_and_the_others_finish(
    peer: Peer, chain_folder: Path
) -> None:
    model = peer.load(chain_folder)
    blocker = peer.request("fault_block_engine", {"seconds": 3})
    items = [{"ids": [1], "draft": [1]}] * (DRAFT_QUEUE_LIMIT // 4)
    params = {"model": model, "items": items}
    requests = [peer.request("batch_check_draft", params) for _ in range(10)]
    assert peer.settled(requests.pop())[2]["code"] == "QUEUE_FULL"
    assert peer.take_kept(blocker) == []
    requests += [peer.request("batch_check_draft", params) for _ in range(4 * (BURST - 1))]
    peer.settled(blocker)
    answered, refused = outcomes(peer, requests)
    assert len(answered) >= DRAFT_QUEUE_LIMIT // len(items)
    assert all(verdict["accepted"] == 1 for batch in answered for verdict in batch["results"])
    assert_queue_full(refused)
