"""Row 54: a model folder that is missing, empty, or holds what nobody can load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.peer import Peer
from tests.faults.small_models import write_chain
from tests.fixtures.bad_models import BAD_FOLDERS, BadFolder

FOLDERS = [
    bad
    for bad in BAD_FOLDERS
    if bad.code == "MODEL_LOAD_FAILED" and bad.cause not in ("corrupt_weights",)
]
CAUSES = {"missing_folder": "missing"}
"""A folder that is not there is noticed before anybody looks into it."""


@pytest.mark.parametrize("bad", FOLDERS, ids=lambda bad: bad.name)
def test_it_is_refused_with_its_own_cause_and_nothing_is_kept(
    peer: Peer, bad: BadFolder, tmp_path: Path
) -> None:
    before = peer.call("list_models")
    error = peer.refusal("load_model", {"source": str(bad.write(tmp_path / "model"))})
    assert (error["code"], error["phase"]) == ("MODEL_LOAD_FAILED", "load")
    assert error["details"]["cause"] == CAUSES.get(str(bad.cause), bad.cause)
    assert error["retryable"] is False
    assert peer.call("list_models") == before


def test_a_folder_that_was_mended_loads_at_the_next_try(peer: Peer, tmp_path: Path) -> None:
    folder = write_chain(tmp_path / "model", {})
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text("{")
    source = {"source": str(folder)}
    assert peer.refusal("load_model", source)["details"]["cause"] == "bad_config"
    (folder / "config.json").write_text(config)
    model = peer.call("load_model", source)["model"]
    assert peer.generate(model, "q", max_tokens=3)[0] == [ord("q")] * 3
    peer.call("unload_model", {"model": model})


def test_several_who_wait_for_the_same_bad_load_each_have_the_error(
    peer: Peer, tmp_path: Path
) -> None:
    folder = write_chain(tmp_path / "model", {})
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "no such model"}}))
    waiting = [peer.request("load_model", {"source": str(folder)}) for _ in range(5)]
    errors = [peer.settled(request)[2] for request in waiting]
    assert {error["code"] for error in errors} == {"MODEL_LOAD_FAILED"}
    assert {error["details"]["cause"] for error in errors} == {"bad_tokenizer"}


def test_five_bad_paths_shut_out_no_good_one(peer: Peer, chain_folder: Path) -> None:
    for number in range(5):
        peer.refusal("load_model", {"source": f"/no/such/folder/{number}"})
    assert peer.generate(peer.load(chain_folder), "r", max_tokens=2)[0] == [ord("r")] * 2
