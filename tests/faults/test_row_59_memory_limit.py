"""Row 59: models over the budget, all of them pinned, two loads at once, a draft model beside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.peer import ERROR, EVENT, RESULT, Peer
from tests.faults.small_models import write_chain

NAMES = ("one", "two", "three")
ROOM = 2.5
"""The budget, in models."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models of the same size."""
    root = tmp_path_factory.mktemp("sizes")
    return {name: write_chain(root / name, {}) for name in NAMES}


@pytest.fixture(scope="module")
def model_bytes(folders: dict[str, Path]) -> int:
    """What each of them takes, with room for one token."""
    with Peer() as peer:
        return int(peer.call("load_model", params(folders["one"]))["bytes"])


@pytest.fixture
def peer(model_bytes: int) -> Iterator[Peer]:
    """A runtime with room for two of them."""
    with limited(model_bytes) as started:
        yield started
        assert started.is_echoing()


def limited(model_bytes: int, *options: str) -> Peer:
    """Start a runtime with room for two."""
    command = [sys.executable, "-m", "isthmus", "runtime"]
    budget = ["--model-memory-bytes", str(int(ROOM * model_bytes))]
    return Peer(command=[*command, *budget, *options])


def params(folder: Path, **options: Any) -> dict[str, Any]:
    """Return a load with room for one token."""
    return {"source": str(folder), "kv_tokens": 1, **options}


def load(peer: Peer, folder: Path, **options: Any) -> str:
    """Load a model and return its handle."""
    return str(peer.call("load_model", params(folder, **options))["model"])


def sources(peer: Peer) -> set[str]:
    """Return the folders of the models in memory."""
    return {Path(info["source"]).name for info in peer.call("list_models")["models"]}


def give_back(peer: Peer, handle: str) -> None:
    """Unload a model, which stays in memory."""
    assert peer.call("unload_model", {"model": handle})["resident"] is True


def test_a_load_that_does_not_fit_is_refused_before_it_begins(
    peer: Peer, folders: dict[str, Path], model_bytes: int
) -> None:
    held = [load(peer, folders[name]) for name in ("one", "two")]
    for _ in range(3):
        error = peer.refusal("load_model", params(folders["three"]))
        assert (error["code"], error["phase"]) == ("MEMORY_LIMIT", "load")
        details = error["details"]
        assert details["needed_bytes"] == model_bytes
        assert details["budget_bytes"] == int(ROOM * model_bytes)
        assert {each["model"] for each in details["held"]} == set(held)
    stats = peer.call("stats")["models"]
    assert (stats["loads"], stats["refused"], stats["evictions"]) == (2, 3, 0)
    assert stats["used_bytes"] == 2 * model_bytes
    for handle in held:
        assert peer.generate(handle, "k", max_tokens=2)[0] == [ord("k")] * 2


def test_idle_models_leave_first_the_least_recently_used_one_of_them(
    peer: Peer, folders: dict[str, Path]
) -> None:
    first, second = (load(peer, folders[name]) for name in ("one", "two"))
    peer.generate(first, "k", max_tokens=1)
    for handle in (second, first):
        give_back(peer, handle)
    request = peer.request("load_model", params(folders["three"]))
    evicted = []
    while (message := peer.receive())[:2] != [RESULT, request]:
        if message[:2] == [EVENT, "model_evicted"]:
            evicted.append(message[2])
    assert [(event["model"], event["reason"]) for event in evicted] == [(second, "budget")]
    assert sources(peer) == {"one", "three"}


def test_when_all_are_pinned_nobody_leaves(peer: Peer, folders: dict[str, Path]) -> None:
    for name in ("one", "two"):
        give_back(peer, load(peer, folders[name], pin=True))
    error = peer.refusal("load_model", params(folders["three"]))
    assert error["code"] == "MEMORY_LIMIT"
    assert all(each["pinned"] and each["references"] == 0 for each in error["details"]["held"])
    give_back(peer, load(peer, folders["one"], pin=False))
    load(peer, folders["three"])
    assert sources(peer) == {"two", "three"}


def test_of_two_loads_at_once_that_do_not_fit_together_one_is_refused(
    peer: Peer, folders: dict[str, Path]
) -> None:
    load(peer, folders["one"])
    asked = [peer.request("load_model", params(folders[name])) for name in ("two", "three")]
    answers = [peer.settled(request) for request in asked]
    assert sorted(answer[0] for answer in answers) == [RESULT, ERROR]
    refused = next(answer[2] for answer in answers if answer[0] == ERROR)
    assert refused["code"] == "MEMORY_LIMIT"
    assert len(sources(peer)) == 2


def test_a_draft_model_counts_like_any_other(peer: Peer, folders: dict[str, Path]) -> None:
    target, draft = (load(peer, folders[name]) for name in ("one", "two"))
    speculation = {"draft_model": draft}
    ids, _ = peer.generate(target, "k", max_tokens=8, speculation=speculation)
    assert ids == [ord("k")] * 8
    assert peer.refusal("load_model", params(folders["three"]))["code"] == "MEMORY_LIMIT"
    give_back(peer, draft)
    load(peer, folders["three"])
    assert sources(peer) == {"one", "three"}


def test_a_model_is_replaced_where_both_do_not_fit(
    peer: Peer, folders: dict[str, Path], model_bytes: int
) -> None:
    load(peer, folders["one"])
    old = load(peer, folders["two"])
    new = load(peer, folders["three"], replace=old)
    assert peer.generate(new, "k", max_tokens=1)[0] == [ord("k")]
    assert peer.answer_code("model_info", {"model": old}) == "MODEL_NOT_LOADED"
    assert peer.call("stats")["models"]["used_bytes"] == 2 * model_bytes


def test_the_room_for_tokens_counts(peer: Peer, folders: dict[str, Path], model_bytes: int) -> None:
    error = peer.refusal("load_model", params(folders["one"], kv_tokens=100_000))
    assert error["code"] == "MEMORY_LIMIT"
    assert error["details"]["needed_bytes"] > 100_000 * 1_000
    load(peer, folders["one"])


def test_what_is_preloaded_stays_and_what_cannot_be_is_told(
    folders: dict[str, Path], model_bytes: int
) -> None:
    options = ("--preload", str(folders["one"]), "--preload", "/no/such/folder")
    with limited(int(model_bytes * 2e3), *options) as peer:
        told: dict[str, Any] = {}
        while len(told) < 2:
            message = peer.receive()
            if message[0] == EVENT:
                told[message[1]] = message[2]
        assert told["model_loaded"]["source"] == str(folders["one"])
        assert told["preload_failed"]["source"] == "/no/such/folder"
        assert told["preload_failed"]["error"]["code"] == "MODEL_LOAD_FAILED"
        (info,) = peer.call("list_models")["models"]
        assert (info["references"], info["pinned"]) == (0, True)
        assert load(peer, folders["one"]) == info["model"]
        assert peer.call("stats")["models"]["loads"] == 1
