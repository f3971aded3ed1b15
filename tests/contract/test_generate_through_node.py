"""What the engine can do, asked for and reported through the Node package."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.contract.node import run_node

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMATS: list[dict[str, Any]] = [
    {"type": "json_schema", "schema": SCHEMA},
    {"type": "regex", "pattern": "[0-9]{3}-[a-f]{2}"},
    {"type": "choice", "choices": ["yes", "no", "perhaps"]},
    {"type": "grammar", "grammar": 'start: "(" inner ")"\ninner: /[xyz]{2,4}/'},
    {"type": "text"},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"priority": 101}, "priority"),
    ({"priority": 0.5}, "priority"),
    ({"batch": "no"}, "batch"),
    ({"cachePrompt": 1}, "cache_prompt"),
    ({"speculation": {}}, "speculation.draft_model"),
    (
        {"speculation": {"promptLookup": True, "maxDraftTokens": 65}},
        "speculation.max_draft_tokens",
    ),
    ({"speculation": {"promptLookup": True, "depth": 1}}, "speculation.depth"),
    ({"responseFormat": {"type": "yaml"}}, "response_format.type"),
    ({"responseFormat": {"type": "regex", "pattern": "(?=a)b"}}, "response_format.pattern"),
    (
        {"responseFormat": {"type": "json_schema", "schema": {"contains": {"const": 1}}}},
        "response_format.schema",
    ),
]


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What Node says, by case."""
    refused = [options for options, _ in REFUSED]
    given: dict[str, Any] = run_node("generate_options.mjs", formats=FORMATS, refused=refused)
    return given


def test_what_was_not_asked_for_is_null(answers: dict[str, Any]) -> None:
    plain = answers["plain"]
    assert plain["isComplete"] is plain["toolCalls"] is plain["speculation"] is None
    assert plain["usage"]["cachedTokens"] == 0


def test_the_second_turn_of_a_conversation_reuses_the_first(answers: dict[str, Any]) -> None:
    (_, second), (_, anew) = answers["cached"], answers["uncached"]
    assert 16 <= second["usage"]["cachedTokens"] < second["usage"]["promptTokens"]
    assert anew["usage"]["cachedTokens"] == 0
    assert (second["ids"], second["text"]) == (anew["ids"], anew["text"])


def test_a_batch_says_who_shared_and_why_not(answers: dict[str, Any]) -> None:
    assert answers["alone"]["batching"] == {"state": "alone", "reason": "requested"}
    for result in answers["together"]:
        assert result["batching"]["state"] in ("batched", "alone")
        assert result["batching"]["reason"] in (None, "does_not_pay", "near_tie")


def test_priorities_and_company_change_no_token(answers: dict[str, Any]) -> None:
    for result in [answers["alone"], *answers["together"]]:
        assert result["ids"] == answers["plain"]["ids"]


def test_drafting_changes_no_token_and_is_reported(answers: dict[str, Any]) -> None:
    with_model, with_lookup, sampled, sampled_plainly = answers["drafted"]
    assert with_model["ids"] == with_lookup["ids"] == answers["plain"]["ids"]
    assert sampled["ids"] == sampled_plainly["ids"] != answers["plain"]["ids"]
    assert with_model["batching"]["state"] == "alone"
    assert with_model["batching"]["reason"] in ("speculation", "near_tie")
    assert with_lookup["speculation"]["kind"] == "prompt_lookup"
    report = with_model["speculation"]
    assert report["kind"] == "draft_model" and report["stopped"] in (None, "near_tie")
    assert report["rounds"] >= 1 and 0 <= report["accepted"] <= report["drafted"]
    assert report["drafted"] <= 3 * report["rounds"]
    assert report["acceptanceRate"] == report["accepted"] / report["drafted"]
    assert report["speedup"] > 0


def test_every_format_is_kept(answers: dict[str, Any]) -> None:
    record, code, choice, nested, free = (result["text"] for result in answers["formatted"])
    value = json.loads(record)
    assert set(value) == {"name", "age"} and len(value["name"]) <= 12
    assert type(value["age"]) is int
    assert re.fullmatch("[0-9]{3}-[a-f]{2}", code)
    assert choice in ("yes", "no", "perhaps")
    assert re.fullmatch(r"\([xyz]{2,4}\)", nested)
    complete = [result["isComplete"] for result in answers["formatted"]]
    assert complete == [True, True, True, True, None]
    assert [result["finishReason"] for result in answers["formatted"][:4]] == ["stop"] * 4
    assert free.startswith(answers["plain"]["text"])


def test_what_is_cut_short_is_not_complete(answers: dict[str, Any]) -> None:
    cut = answers["cut"]
    assert (cut["finishReason"], cut["isComplete"]) == ("length", False)
    assert re.fullmatch("[a-z]{3,60}", cut["text"])
    left = answers["left"]
    assert (left["finishReason"], left["isComplete"]) == ("cancelled", False)


def test_tools_for_a_model_that_has_no_calls_give_null(answers: dict[str, Any]) -> None:
    assert answers["tools"]["finishReason"] in ("stop", "length")
    assert answers["tools"]["toolCalls"] is None


def test_a_wrong_option_is_refused_by_its_name(answers: dict[str, Any]) -> None:
    fields = [field for _, field in REFUSED] + ["speculation.draft_model"] * 2
    expected = [
        {"name": "InvalidRequestError", "code": "INVALID_REQUEST", "field": field}
        for field in fields
    ]
    assert answers["refused"] == expected
