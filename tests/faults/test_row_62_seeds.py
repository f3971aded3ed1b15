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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_however_it_is_generated_a_seed_gives_the_same(peer: Peer, chat: str, sampler: str) -> None:
    draft = peer.load("default-draft")
    params = {"model": chat, "prompt": PROMPT * 6, "max_tokens": 60, "seed": 11, "stream": False}
    params |= {"ignore_eos": True, **SAMPLERS[sampler]}
    ways: dict[str, dict[str, Any]] = {
        "alone": {"batch": False, "cache_prompt": False},
        "with a prompt to reuse": {},
        "with a reused prompt": {},
        "by look-up": {"speculation": {"prompt_lookup": True}},
        "by a draft": {"speculation": {"draft_model": draft}},
        "urgently": {"priority": 100},
        "with log-probabilities": {"logprobs": 3},
    }
    in_turn = {way: peer.call("generate", {**params, **ways[way]}) for way in ways}
    at_once = [peer.request("generate", {**params, **ways[way]}) for way in ways]
    together = [peer.settled(request)[2]["ids"] for request in at_once]
    assert {end["ids"] for end in in_turn.values()} == {in_turn["alone"]["ids"]}
    assert together == [in_turn["alone"]["ids"]] * len(ways)
    assert in_turn["alone"]["usage"]["cached_tokens"] == 0
    assert in_turn["with a reused prompt"]["usage"]["cached_tokens"] > 0
    assert in_turn["by a draft"]["speculation"]["rounds"] > 0
    peer.call("unload_model", {"model": draft})


def test_the_seed_that_was_drawn_is_told_and_repeats(peer: Peer, chat: str) -> None:
    params: dict[str, Any] = {"model": chat, "prompt": PROMPT, "max_tokens": 16}
    params["temperature"] = 1.0
    first, end = peer.generate(**params)
    assert peer.generate(**params, seed=end["seed"])[0] == first
