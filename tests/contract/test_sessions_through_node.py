"""Sessions through the Node package, as a user of it sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.node import run_node
from tests.faults.conversations import KEPT, TOKENS, prompt

LONGER = [*prompt(1), *prompt(2, 50)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Node says, by case."""
    folder: Path = tmp_path_factory.mktemp("sessions") / "new"
    given: dict[str, Any] = run_node(
        "sessions.mjs", folder=str(folder), prompt=prompt(1), longer=LONGER
    )
    return given


def test_a_session_is_opened_with_its_options(answers: dict[str, Any]) -> None:
    opened = answers["opened"]
    assert (opened["id"], opened["state"], opened["tokens"]) == ("chat", "cold", 0)
    assert (opened["kv"], opened["pin"], opened["busy"]) == ("q8", True, False)
    assert {type(opened[name]) for name in ("savedTokens", "memoryBytes", "diskBytes")} == {int}


def test_turns_reuse_what_was_kept_and_say_so(answers: dict[str, Any]) -> None:
    first, second, third = (answers[name]["cache"] for name in ("first", "second", "third"))
    assert (first["state"], first["reusedTokens"]) == ("cold", 0)
    assert (second["state"], second["reusedTokens"]) == ("hot", TOKENS)
    assert second["prefilledTokens"] == len(LONGER) - TOKENS
    assert (third["state"], third["reusedTokens"]) == ("warm", len(LONGER) - 1)
    assert third["loadMs"] > 0


def test_the_tokens_are_those_without_a_session(answers: dict[str, Any]) -> None:
    for name in ("second", "third"):
        assert answers[name]["ids"] == answers["plain"]["ids"]
    assert answers["drafted"]["ids"] == answers["plainDrafted"]["ids"]
    assert answers["drafted"]["cache"]["reusedTokens"] > TOKENS


def test_it_is_saved_evicted_forked_and_truncated(answers: dict[str, Any]) -> None:
    assert answers["saved"]["saved"] and answers["saved"]["reason"] is None
    assert answers["saved"]["tokens"] == KEPT + len(LONGER) - TOKENS
    assert answers["evicted"]["evicted"] and answers["evicted"]["freedBytes"] > 0
    assert answers["evictedAgain"] == {"evicted": False, "freedBytes": 0}
    assert answers["warm"] == answers["forked"]["state"] == "warm"
    assert (answers["forked"]["id"], answers["forked"]["kv"]) == ("other", "q8")
    assert answers["forked"]["pin"] is True
    assert (answers["truncated"]["state"], answers["truncated"]["tokens"]) == ("hot", 100)


def test_it_is_listed_and_deleted_by_its_tenant_alone(answers: dict[str, Any]) -> None:
    assert sorted(answers["listed"]) == ["chat", "other"] and answers["others"] == []
    assert answers["deleted"] == [True, False]
    assert answers["deletedByName"] == [False, True]


def test_a_busy_one_says_so_to_who_does_not_wait(answers: dict[str, Any]) -> None:
    expected = {"name": "IsthmusError", "code": "SESSION_BUSY", "retryable": True}
    assert answers["busy"] == [expected] * 3


def test_what_is_wrong_is_refused_by_its_name(answers: dict[str, Any]) -> None:
    found = [(refused["code"], refused["field"]) for refused in answers["refused"]]
    assert found == [
        ("PATH_REFUSED", "session.id"),
        ("INVALID_REQUEST", "session.kv"),
        ("INVALID_REQUEST", "session.tenant"),
        ("INVALID_REQUEST", "session.when_busy"),
        ("INVALID_REQUEST", "session.ttl"),
        ("INVALID_REQUEST", "tokens"),
        ("INVALID_REQUEST", "tokens"),
        ("INVALID_REQUEST", "to"),
        ("PATH_REFUSED", "to"),
        ("INVALID_REQUEST", "cache_prompt"),
        ("INVALID_REQUEST", "tenant"),
    ]


def test_the_counters_have_the_names_of_the_api(answers: dict[str, Any]) -> None:
    stats = answers["stats"]
    assert stats["mode"] == "writer" and Path(stats["directory"]).name == "new"
    assert stats["saves"] > 0 and stats["restores"] > 0
    assert (stats["saveFailures"], stats["restoreFailures"], stats["corruptFiles"]) == (0, 0, 0)
    assert (stats["sessions"], stats["hotBytes"], stats["diskBytes"]) == (0, 0, 0)
