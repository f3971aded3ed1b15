"""Row 58: token ids that the model has no row for; inside mlx one could kill the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.peer import Peer, wire_ids
from tests.faults.small_models import CONTEXT, VOCABULARY

WRONG_IDS: dict[str, Any] = {
    "one too high": [1, VOCABULARY],
    "far too high": [1, 2**20],
    "the highest": wire_ids([2**32 - 1]),
    "one too high in bytes": wire_ids([1, VOCABULARY]),
    "negative": [1, -1],
    "beyond 32 bits": [2**40],
    "a float": [1.0],
    "a boolean": [True],
    "a string": ["1"],
    "nested": [[1]],
    "three bytes": b"\x01\x00\x00",
    "a text": "123",
    "a map": {"0": 1},
}


@pytest.fixture(scope="module")
def chain(shared_peer: Peer, chain_folder: Path) -> str:
    """The model that repeats itself."""
    return shared_peer.load(chain_folder)


def assert_refused(peer: Peer, method: str, params: dict[str, Any], field: str) -> None:
    error = peer.refusal(method, params)
    assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", field), error


@pytest.mark.parametrize("name", WRONG_IDS)
def test_a_prompt_of_wrong_ids_is_refused(peer: Peer, chain: str, name: str) -> None:
    assert_refused(peer, "generate", {"model": chain, "ids": WRONG_IDS[name]}, "ids")


@pytest.mark.parametrize("name", WRONG_IDS)
def test_wrong_ids_have_no_text(peer: Peer, chain: str, name: str) -> None:
    assert_refused(peer, "detokenize", {"model": chain, "ids": WRONG_IDS[name]}, "ids")


@pytest.mark.parametrize("token", [VOCABULARY, -1, 2**31, 2**53 - 1])
def test_wrong_ids_in_options_are_refused(peer: Peer, chain: str, token: int) -> None:
    base = {"model": chain, "prompt": "x"}
    assert_refused(peer, "generate", {**base, "stop_token_ids": [token]}, "stop_token_ids")
    assert_refused(peer, "generate", {**base, "logit_bias": [[token, 1.0]]}, "logit_bias")


@pytest.mark.parametrize("ids", [[], b""])
def test_an_empty_prompt_is_refused(peer: Peer, chain: str, ids: object) -> None:
    assert_refused(peer, "generate", {"model": chain, "ids": ids}, "ids")
    assert_refused(peer, "generate", {"model": chain, "prompt": ""}, "prompt")


@pytest.mark.parametrize("count", [CONTEXT, CONTEXT + 1])
def test_a_prompt_that_fills_the_context_is_refused(peer: Peer, chain: str, count: int) -> None:
    error = peer.refusal("generate", {"model": chain, "ids": wire_ids([1] * count)})
    assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", "ids")
    assert error["details"]["context_length"] == CONTEXT


@pytest.mark.parametrize("max_tokens", [0, -1, 1.5, "10", 2**53 - 1])
def test_a_number_of_tokens_that_is_none_is_refused(
    peer: Peer, chain: str, max_tokens: object
) -> None:
    params = {"model": chain, "prompt": "x", "max_tokens": max_tokens}
    assert_refused(peer, "generate", params, "max_tokens")


def test_the_highest_and_the_lowest_id_are_fine(peer: Peer, chain: str) -> None:
    for token in (0, VOCABULARY - 1):
        end = peer.call(
            "generate",
            {"model": chain, "ids": [token], "max_tokens": 1, "ignore_eos": True, "stream": False},
        )
        assert end["ids"] == wire_ids([token])


@pytest.mark.parametrize("name", WRONG_IDS)
@pytest.mark.parametrize("field", ["draft", "ids"])
def test_a_draft_of_wrong_ids_is_refused(peer: Peer, chain: str, field: str, name: str) -> None:
    params = {"model": chain, "ids": [1], "draft": [1], field: WRONG_IDS[name]}
    assert_refused(peer, "check_draft", params, field)


@pytest.mark.parametrize("draft", [[], b"", [1] * 257])
def test_a_draft_that_is_empty_or_too_long_is_refused(peer: Peer, chain: str, draft: Any) -> None:
    assert_refused(peer, "check_draft", {"model": chain, "ids": [1], "draft": draft}, "draft")


def test_a_draft_that_leaves_the_context_is_refused(peer: Peer, chain: str) -> None:
    params = {"model": chain, "ids": [1] * (CONTEXT - 1), "draft": [1, 1]}
    assert_refused(peer, "check_draft", params, "ids")
