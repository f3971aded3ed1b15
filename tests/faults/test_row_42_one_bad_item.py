"""Row 42: one item of a batch is bad."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.peer import Peer, wire_ids

COUNT = 64
BAD = 17
GOOD_TEXTS = [f"text number {index}" for index in range(COUNT)]


def with_bad(items: list[Any], bad: object) -> list[Any]:
    """Return the items with one replaced."""
    return [bad if index == BAD else item for index, item in enumerate(items)]


@pytest.mark.parametrize("bad", [7, b"bytes", ["list"], {"map": 1}, True])
@pytest.mark.parametrize("method", ["tokenize", "count_tokens"])
def test_the_other_texts_have_their_results_in_order(
    peer: Peer, chat: str, method: str, bad: object
) -> None:
    results = peer.call(f"batch_{method}", {"model": chat, "texts": with_bad(GOOD_TEXTS, bad)})
    expected = [peer.call(method, {"model": chat, "text": text}) for text in GOOD_TEXTS]
    error = results["results"][BAD]["error"]
    assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", f"texts[{BAD}]")
    assert with_bad(results["results"], None) == with_bad(expected, None)


@pytest.mark.parametrize("bad", [[10**6], [-1], b"\x01", "ids", wire_ids([2**31])])
def test_the_other_ids_have_their_text_in_order(peer: Peer, chat: str, bad: object) -> None:
    ids = [peer.call("tokenize", {"model": chat, "text": text})["ids"] for text in GOOD_TEXTS]
    results = peer.call("batch_detokenize", {"model": chat, "ids": with_bad(ids, bad)})["results"]
    assert results[BAD]["error"]["code"] == "INVALID_REQUEST"
    assert with_bad(results, None) == with_bad([{"text": text} for text in GOOD_TEXTS], None)


@pytest.mark.parametrize("bad", [[], "hello", [{"content": "no role"}], [{"role": 1}]])
def test_the_other_conversations_are_rendered_in_order(peer: Peer, chat: str, bad: object) -> None:
    conversations = [[{"role": "user", "content": text}] for text in GOOD_TEXTS]
    results = peer.call(
        "batch_apply_chat_template",
        {"model": chat, "conversations": with_bad(conversations, bad)},
    )["results"]
    assert results[BAD]["error"]["code"] == "INVALID_REQUEST"
    rendered = [result.get("text", "") for result in results]
    assert all(
        text in shown
        for index, (text, shown) in enumerate(zip(GOOD_TEXTS, rendered, strict=True))
        if index != BAD
    )


@pytest.mark.parametrize(
    "bad", [{}, 5, {"ids": [1], "draft": [10**6]}, {"prompt": 1, "draft": [1]}]
)
def test_the_other_drafts_have_their_verdicts_in_order(peer: Peer, chat: str, bad: object) -> None:
    items = [{"prompt": text, "draft": [20, 21]} for text in GOOD_TEXTS]
    params = {"model": chat, "items": with_bad(items, bad)}
    results = peer.call("batch_check_draft", params)["results"]
    assert results[BAD]["error"]["code"] == "INVALID_REQUEST"
    assert results[BAD]["error"]["details"]["field"].startswith(f"items[{BAD}]")
    for index in (0, BAD - 1, BAD + 1, COUNT - 1):
        alone = peer.call("check_draft", {"model": chat, **items[index]})
        assert [results[index][key] for key in ("accepted", "token")] == [
            alone[key] for key in ("accepted", "token")
        ]


def test_single_requests_of_one_read_do_not_share_their_errors(peer: Peer, chat: str) -> None:
    texts = with_bad(GOOD_TEXTS, 7)
    requests = [peer.request("tokenize", {"model": chat, "text": text}) for text in texts]
    replies = [peer.settled(request) for request in requests]
    assert replies[BAD][2]["code"] == "INVALID_REQUEST"
    expected = [peer.call("tokenize", {"model": chat, "text": text}) for text in GOOD_TEXTS]
    assert with_bad([reply[2] for reply in replies], None) == with_bad(expected, None)


BAD_GENERATIONS: dict[str, dict[str, Any]] = {
    "a schema that nothing satisfies": {
        "response_format": {
            "type": "json_schema",
            "schema": {"type": "integer", "minimum": 3, "maximum": 2},
        }
    },
    "a schema with what cannot be enforced": {
        "response_format": {"type": "json_schema", "schema": {"not": {"type": "null"}}}
    },
    "a pattern that does not compile": {"response_format": {"type": "regex", "pattern": "a(?=b)"}},
    "a grammar that is none": {"response_format": {"type": "grammar", "grammar": "begin: ??"}},
    "a prompt over the context": {"ids": [20] * 5_000},
    "a draft of an unknown model": {"speculation": {"draft_model": "nobody"}},
}


@pytest.mark.parametrize("bad", BAD_GENERATIONS)
def test_the_other_generations_have_their_tokens(peer: Peer, chat: str, bad: str) -> None:
    params = {"model": chat, "ids": [20, 21, 22], "max_tokens": 12, "stream": False}
    alone = peer.call("generate", params)
    wrong = {**params, **BAD_GENERATIONS[bad]}
    requests = [peer.request("generate", each) for each in (params, params, wrong, params, params)]
    error = peer.settled(requests.pop(2))[2]
    is_known = "draft_model" not in wrong.get("speculation", {})
    assert error["code"] == ("INVALID_REQUEST" if is_known else "MODEL_NOT_LOADED")
    for request in requests:
        assert peer.settled(request)[2]["ids"] == alone["ids"]
