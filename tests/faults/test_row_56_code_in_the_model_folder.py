"""Row 56: a model folder asks for its own code to be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.peer import Peer
from tests.faults.small_models import write_chain
from tests.fixtures.bad_models import CANARY, CODE_FOLDERS, BadFolder, code_that_writes_canary


@pytest.mark.parametrize("bad", CODE_FOLDERS, ids=lambda bad: bad.name)
def test_it_is_refused_by_default_and_nothing_of_it_runs(
    peer: Peer, bad: BadFolder, tmp_path: Path
) -> None:
    source = str(bad.write(tmp_path / "model"))
    for params in ({"source": source}, {"source": source, "trust_remote_code": False}):
        error = peer.refusal("load_model", params)
        assert error["code"] == "CODE_REFUSED"
        assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize("bad", CODE_FOLDERS[:3], ids=lambda bad: bad.name)
def test_the_error_names_the_option_that_would_allow_it(
    peer: Peer, bad: BadFolder, tmp_path: Path
) -> None:
    error = peer.refusal("load_model", {"source": str(bad.write(tmp_path / "model"))})
    assert "trust_remote_code" in error["message"]


def test_code_and_pickles_that_nothing_refers_to_are_never_opened(
    peer: Peer, tmp_path: Path
) -> None:
    folder = write_chain(tmp_path / "model", {})
    for name in ("modeling_custom.py", "model.py", "llama.py", "__init__.py"):
        (folder / name).write_text(code_that_writes_canary(folder))
    script = code_that_writes_canary(folder).encode().rstrip()
    pickle = b"cbuiltins\nexec\n(V" + script + b"\ntR."
    for name in ("pytorch_model.bin", "model.pkl", "optimizer.pt", "training_args.bin"):
        (folder / name).write_bytes(pickle)
    model = peer.load(folder)
    assert peer.generate(model, "s", max_tokens=2)[0] == [ord("s")] * 2
    assert not (tmp_path / CANARY).exists()
    peer.call("unload_model", {"model": model})


@pytest.mark.parametrize("value", [1, "true", "yes", []])
def test_only_true_itself_is_trust(peer: Peer, value: object, chain_folder: Path) -> None:
    error = peer.refusal("load_model", {"source": str(chain_folder), "trust_remote_code": value})
    assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", "trust_remote_code")
