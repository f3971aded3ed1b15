"""Row 38: a cancel arrives at any point of a request's life, and touches no other request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.peer import (
    CANCEL,
    CREDIT,
    DELTA,
    END,
    ERROR,
    RESULT,
    Peer,
    read_ids,
    wait_until,
)
from tests.faults.small_models import write_chain
from tests.faults.ways import WAYS, assert_batched, options_of

LONG = 100_000


@pytest.fixture
def chain(peer: Peer, chain_folder: Path) -> Iterator[str]:
    """The model that repeats itself; afterwards another generation must be whole."""
    model = peer.load(chain_folder)
    yield model
    ids, end = peer.generate(model, "z", max_tokens=20)
    assert ids == [ord("z")] * 20 and end["finish_reason"] == "length"


def assert_cancelled(message: list[object], tokens: int) -> None:
    kind, _, end = message
    assert isinstance(end, dict)
    assert (kind, end["finish_reason"]) == (END, "cancelled")
    assert end["usage"]["completion_tokens"] == tokens


def test_in_the_queue_it_settles_at_once_and_the_one_behind_it_runs(peer: Peer, chain: str) -> None:
    blocker = peer.request("fault_block_engine", {"seconds": 1})
    params = {"model": chain, "prompt": "a", "max_tokens": 8}
    first, second = (peer.request("generate", params) for _ in range(2))
    peer.send([CANCEL, first])
    assert_cancelled(peer.settled(first), 0)
    assert peer.take_kept(blocker) == [], "it settled while the engine was still busy"
    assert peer.settled(second)[2]["usage"]["completion_tokens"] == 8
    assert peer.settled(blocker)[0] == RESULT


def test_in_prefill_it_stops_at_the_next_chunk(peer: Peer, chain: str, deep_folder: Path) -> None:
    deep = peer.load(deep_folder)
    request = peer.request("generate", {"model": deep, "prompt": "x" * 60_000, "max_tokens": 1})
    other = peer.request("generate", {"model": chain, "prompt": "b", "max_tokens": 3})
    assert peer.settled(other)[2]["finish_reason"] == "length"
    wait_until(peer.is_in_prefill, "the prompt is evaluated")
    peer.send([CANCEL, request])
    assert_cancelled(peer.settled(request), 0)
    peer.becomes_idle()
    peer.call("unload_model", {"model": deep})


@pytest.mark.parametrize("way", WAYS)
def test_in_decode_it_ends_with_what_was_delivered(peer: Peer, chain: str, way: str) -> None:
    params = {"model": chain, "prompt": "a", "max_tokens": LONG, **options_of(way, chain)}
    request = peer.request("generate", params, {"credit": 40})
    received = 0
    while received < 40:
        message = peer.next_of(request)
        assert message[0] == DELTA and set(read_ids(message[3]["ids"])) == {ord("a")}
        received += message[2]
    peer.send([CANCEL, request], [CANCEL, request])
    message = peer.settled(request)
    assert_cancelled(message, 40)
    if "speculation" in params:
        assert message[2]["speculation"]["rounds"] > 0
    if "response_format" in params:
        assert message[2]["is_complete"] is False


def test_in_a_batch_its_neighbours_keep_their_tokens(peer: Peer, chain: str) -> None:
    requests = {
        letter: peer.request(
            "generate",
            {"model": chain, "prompt": letter, "max_tokens": 60},
            {"credit": 3 if letter in "ce" else 30},
        )
        for letter in "abcdefgh"
    }
    leaving = [requests.pop(letter) for letter in "ce"]
    for request in leaving:
        received = 0
        while received < 3:
            received += peer.next_of(request)[2]
    peer.send(*([CANCEL, request] for request in leaving))
    for request in leaving:
        assert_cancelled(peer.settled(request), 3)
    peer.send(*([CREDIT, request, 30] for request in requests.values()))
    for letter, request in requests.items():
        ids: list[int] = []
        while (message := peer.next_of(request))[0] == DELTA:
            ids += read_ids(message[3]["ids"])
        assert ids == [ord(letter)] * 60
        assert_batched(peer, message[2])


def test_after_the_end_and_for_an_unknown_id_it_is_ignored(peer: Peer, chain: str) -> None:
    request = peer.request("generate", {"model": chain, "prompt": "a", "max_tokens": 2})
    assert peer.settled(request)[2]["finish_reason"] == "length"
    bystander = peer.request("fault_sleep", {"seconds": 0.05})
    peer.send([CANCEL, request], [CANCEL, 4_000_000_000], [CANCEL, request])
    assert peer.settled(bystander)[0] == RESULT
    assert peer.take_kept(request) == []


def test_in_the_same_write_as_the_request_it_is_never_begun(peer: Peer, chain: str) -> None:
    peer.send([1, 1, "generate", {"model": chain, "prompt": "a", "max_tokens": LONG}], [CANCEL, 1])
    message = peer.settled(1)
    assert message[2].get("finish_reason") == "cancelled", message
    peer.send([1, 2, "fault_sleep", {"seconds": 60}], [CANCEL, 2])
    assert peer.settled(2)[2]["code"] == "CANCELLED"


def test_while_texts_gather_for_the_tokenizer_the_others_are_answered(
    peer: Peer, chain: str
) -> None:
    texts = ["a" * 200_000, "b" * 100_000, "c" * 50_000, "d" * 50_000]
    pending = [peer.request("tokenize", {"model": chain, "text": text}) for text in texts]
    peer.send([CANCEL, pending[2]])
    assert peer.settled(pending[2])[2]["code"] == "CANCELLED"
    for index in (0, 1, 3):
        kind, _, value = peer.settled(pending[index])
        assert (kind, len(value["ids"])) == (RESULT, 4 * len(texts[index]))


def test_one_of_two_who_wait_for_the_same_load_may_leave(peer: Peer, tmp_path: Path) -> None:
    source = {"source": str(write_chain(tmp_path / "model", {}))}
    leaving, staying = 1, 2
    asked = [[1, request, "load_model", source] for request in (leaving, staying)]
    peer.send(*asked, [CANCEL, leaving])
    assert peer.settled(leaving)[:1] == [ERROR]
    kind, _, info = peer.settled(staying)
    assert (kind, info["references"]) == (RESULT, 1)
    peer.call("unload_model", {"model": info["model"]})
