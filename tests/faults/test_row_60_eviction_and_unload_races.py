"""Row 60: eviction of what is in use, unload during a load, a failed load that several wait for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.peer import DELTA, END, ERROR, EVENT, RESULT, Peer, read_ids
from tests.faults.small_models import put_nan, write_chain, write_deep

TOKENS = 40
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def alone() -> Iterator[Peer]:
    """A runtime of this file's own, so that nobody else's models come and go in it."""
    with Peer() as peer:
        yield peer
        assert peer.is_echoing()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that repeats itself."""
    return write_chain(tmp_path / "model", {})


def next_event(peer: Peer, name: str) -> dict[str, Any]:
    """Wait for an event; replies that come before it are kept."""
    while True:
        message = peer.receive()
        if message[0] == EVENT and message[1] == name:
            payload: dict[str, Any] = message[2]
            return payload
        if message[0] in (RESULT, ERROR, DELTA, END):
            peer.kept.append(message)


def test_what_is_unloaded_while_it_generates_ends_well_and_leaves_then(
    alone: Peer, folder: Path
) -> None:
    model = alone.load(folder)
    params = {"model": model, "prompt": "z", "max_tokens": TOKENS}
    request = alone.request("generate", params, {"credit": 1})
    ids = read_ids(alone.next_of(request)[3]["ids"])
    left = alone.call("unload_model", {"model": model, "evict": True})
    assert left == {"unloaded": True, "references": 0, "resident": False}
    assert alone.answer_code("model_info", {"model": model}) == "MODEL_NOT_LOADED"
    assert alone.call("stats")["models"]["used_bytes"] > 0
    alone.send([7, request, TOKENS])
    while (message := alone.next_of(request))[0] == DELTA:
        ids += read_ids(message[3]["ids"])
    assert message[0] == END and message[2]["finish_reason"] == "length"
    assert ids == [ord("z")] * TOKENS
    evicted = next_event(alone, "model_evicted")
    assert (evicted["model"], evicted["reason"]) == (model, "unloaded")
    assert alone.call("stats")["models"]["used_bytes"] == 0


def test_a_draft_model_that_is_unloaded_while_it_drafts_drafts_on(
    alone: Peer, folder: Path
) -> None:
    target, draft = alone.load(folder), alone.load("default-draft")
    del draft
    other = str(
        alone.call("load_model", {"source": str(folder), "local_files_only": True})["model"]
    )
    assert other != target
    params = {"model": target, "prompt": "z", "max_tokens": TOKENS}
    speculation = {"draft_model": other}
    request = alone.request("generate", {**params, "speculation": speculation}, {"credit": 1})
    ids = read_ids(alone.next_of(request)[3]["ids"])
    alone.call("unload_model", {"model": other, "evict": True})
    alone.send([7, request, TOKENS])
    while (message := alone.next_of(request))[0] == DELTA:
        ids += read_ids(message[3]["ids"])
    assert message[0] == END and ids == [ord("z")] * TOKENS
    assert next_event(alone, "model_evicted")["model"] == other
    alone.call("unload_model", {"model": target, "evict": True})


def test_a_load_is_shared_and_each_who_waits_has_a_deadline_and_a_cancel_of_its_own(
    alone: Peer, folder: Path
) -> None:
    # The engine makes room for a load: while it is held up nothing is loaded.
    holding = alone.request("fault_block_engine", {"seconds": 1})
    source = {"source": str(folder)}
    late = alone.request("load_model", source, {"deadline_ms": 50})
    left, stays, joins = (alone.request("load_model", source) for _ in range(3))
    alone.send([6, left])
    assert alone.settled(late)[2]["code"] == "DEADLINE_EXCEEDED"
    assert alone.settled(left)[2]["code"] == "CANCELLED"
    loads = alone.call("stats")["models"]["loads"]
    alone.settled(holding)
    first, second = alone.settled(stays)[2], alone.settled(joins)[2]
    assert first["model"] == second["model"]
    info = alone.call("model_info", {"model": first["model"]})
    assert info["references"] == 2
    assert alone.call("stats")["models"]["loads"] == loads + 1
    for _ in range(2):
        alone.call("unload_model", {"model": first["model"], "evict": True})


def test_a_load_that_everybody_left_leaves_nothing(alone: Peer, folder: Path) -> None:
    before = alone.call("stats")["models"]
    holding = alone.request("fault_block_engine", {"seconds": 1})
    asked = [alone.request("load_model", {"source": str(folder)}) for _ in range(2)]
    for request in asked:
        alone.send([6, request])
    assert {alone.settled(request)[2]["code"] for request in asked} == {"CANCELLED"}
    alone.settled(holding)
    after = alone.call("stats")["models"]
    assert (after["loads"], after["used_bytes"]) == (before["loads"], before["used_bytes"])
    assert after["reserved_bytes"] == 0


def test_options_that_make_another_model_share_no_load(alone: Peer, folder: Path) -> None:
    plain = alone.request("load_model", {"source": str(folder)})
    other = alone.request("load_model", {"source": str(folder), "local_files_only": True})
    handles = [alone.settled(request)[2]["model"] for request in (plain, other)]
    assert len(set(handles)) == 2
    for handle in handles:
        alone.call("unload_model", {"model": handle, "evict": True})


def test_a_load_that_fails_is_told_to_each_and_the_next_one_is_answered_from_memory(
    alone: Peer, folder: Path
) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 8)
    before = alone.call("stats")["models"]
    asked = [alone.request("load_model", {"source": str(folder)}) for _ in range(4)]
    errors = [alone.settled(request)[2] for request in asked]
    errors.append(alone.refusal("load_model", {"source": str(folder)}))
    assert {error["code"] for error in errors} == {"MODEL_LOAD_FAILED"}
    assert {error["details"]["cause"] for error in errors} == {"corrupt_weights"}
    after = alone.call("stats")["models"]
    assert after["load_failures"] == before["load_failures"] + 1
    assert after["known_failures"] == before["known_failures"] + 1


def test_others_generate_on_while_a_model_loads(alone: Peer, folder: Path, tmp_path: Path) -> None:
    large = write_deep(tmp_path / "large", layers=8, width=768)
    model = alone.load(folder)
    params = {"model": model, "prompt": "z", "max_tokens": 100_000}
    request = alone.request("generate", params, {"credit": 100_000})
    alone.next_of(request)
    loading = alone.request("load_model", {"source": str(large)})
    between: list[int] = []
    while (message := alone.receive())[:2] != [RESULT, loading]:
        if message[0] == EVENT and message[1] == "progress":
            between += [0] * (message[2]["stage"] == "load")
        elif message[0] == DELTA and between:
            between[-1] += 1
    assert len(between) > 8
    assert sum(1 for deltas in between if deltas) > len(between) / 2
    alone.send([6, request])
    alone.settled(request)
    for handle in (model, message[2]["model"]):
        alone.call("unload_model", {"model": handle, "evict": True})


def test_memory_goes_back_to_the_system_when_a_model_leaves(alone: Peer, tmp_path: Path) -> None:
    folder = write_deep(tmp_path / "large", layers=8, width=768)
    weights = (folder / "model.safetensors").stat().st_size
    assert weights > 150 * MIB
    alone.generate(alone.load("default"), "warm", max_tokens=2)
    before = alone.resident_bytes()
    model = alone.load(folder)
    alone.generate(model, "x" * 40, max_tokens=2)
    loaded = alone.resident_bytes()
    assert loaded - before > 0.8 * weights
    alone.call("unload_model", {"model": model})
    assert alone.resident_bytes() > loaded - 0.2 * weights
    again = alone.load(folder)
    alone.call("unload_model", {"model": again, "evict": True})
    assert alone.resident_bytes() - before < 0.25 * weights


def test_a_load_that_failed_leaves_nothing_in_memory(alone: Peer, tmp_path: Path) -> None:
    folder = write_deep(tmp_path / "broken", layers=8, width=768)
    put_nan(folder / "model.safetensors", "lm_head.weight")
    alone.generate(alone.load("default"), "warm", max_tokens=2)
    before = alone.resident_bytes()
    error = alone.refusal("load_model", {"source": str(folder)})
    assert (error["code"], error["details"]["cause"]) == ("MODEL_LOAD_FAILED", "not_finite")
    assert alone.resident_bytes() - before < 32 * MIB


def test_a_model_comes_and_goes_many_times_without_a_trace(alone: Peer, folder: Path) -> None:
    def round_trip() -> None:
        model = alone.load(folder)
        assert alone.generate(model, "k", max_tokens=2)[0] == [ord("k")] * 2
        alone.call("unload_model", {"model": model, "evict": True})

    for _ in range(5):
        round_trip()
    before = alone.resident_bytes()
    for _ in range(30):
        round_trip()
    assert alone.resident_bytes() - before < 16 * MIB
