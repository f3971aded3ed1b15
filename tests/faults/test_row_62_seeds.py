"""Row 62: the same seed gives the same tokens, whoever else is served."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.peer import Peer

PROMPT = "Once upon a time"
SAMPLERS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 1.0},
    "filters": {"temperature": 1.2, "top_p": 0.95, "top_k": 50, "min_p": 0.01},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_twice_in_turn_and_twice_at_once_give_the_same(peer: Peer, chat: str, sampler: str) -> None:
    def start(seed: int | None) -> int:
        params = {"model": chat, "prompt": PROMPT, "max_tokens": 24, "stream": False}
        return peer.request("generate", {**params, **SAMPLERS[sampler], "seed": seed})

    def ids(request: int) -> bytes:
        end = peer.settled(request)[2]
        data: bytes = end["ids"]
        return data

    alone = [ids(start(7)), ids(start(7))]
    crowd = [start(seed) for seed in (1, 7, 2, None, 7, 3, None, 8)]
    together = [ids(request) for request in crowd]
    assert len({*alone, together[1], together[4]}) == 1
    assert len(set(together)) > 4, "other seeds give other tokens"


def test_the_seed_that_was_drawn_is_told_and_repeats(peer: Peer, chat: str) -> None:
    params = {"model": chat, "prompt": PROMPT, "max_tokens": 16, "temperature": 1.0}
    first, end = peer.generate(**params)
    assert peer.generate(**params, seed=end["seed"])[0] == first
