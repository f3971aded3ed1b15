"""Row 37: a stream is abandoned; the engine gives its place up within a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.peer import CANCEL, DELTA, END, Peer
from tests.faults.ways import WAYS, options_of


@pytest.mark.parametrize("way", WAYS)
def test_a_cancelled_generation_leaves_the_engine_and_nothing_follows_its_end(
    peer: Peer, chain_folder: Path, way: str
) -> None:
    model = peer.load(chain_folder)
    cancelled = peer.call("stats").get("cancelled", 0)
    params = {"model": model, "prompt": "a", "max_tokens": 100_000, **options_of(way, model)}
    request = peer.request("generate", params, {"credit": 10**6})
    for _ in range(3):
        assert peer.next_of(request)[0] == DELTA
    peer.send([CANCEL, request])
    kind, _, end = peer.settled(request)
    assert (kind, end["finish_reason"]) == (END, "cancelled")
    assert 3 <= end["usage"]["completion_tokens"] < 100_000
    peer.becomes_idle()
    assert peer.health()["in_flight"] == 0
    assert peer.is_echoing()
    assert peer.take_kept(request) == []
    assert peer.call("stats")["cancelled"] == cancelled + 1


def test_the_next_stream_with_the_same_id_sees_nothing_of_the_one_before(
    peer: Peer, chain_folder: Path
) -> None:
    model = peer.load(chain_folder)
    for letter in "abc":
        params = {"model": model, "prompt": letter, "max_tokens": 100_000}
        peer.request("generate", params, {"credit": 10**6}, request=3)
        for _ in range(3):
            kind, _, _, payload = peer.next_of(3)
            assert (kind, set(payload["text"])) == (DELTA, {letter})
        peer.send([CANCEL, 3])
        peer.settled(3)
