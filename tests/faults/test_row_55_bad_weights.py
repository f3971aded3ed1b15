"""Row 55: weight files that lie, are cut short, or hold no numbers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.faults.peer import Peer
from tests.faults.small_models import write_chain
from tests.fixtures.bad_models import MALFORMED_HEADERS, ODD_HEADERS

FILES = MALFORMED_HEADERS | ODD_HEADERS


@pytest.mark.parametrize("name", FILES)
def test_it_is_refused_before_mlx_reads_it_and_the_runtime_lives(
    peer: Peer, name: str, tmp_path: Path
) -> None:
    folder = write_chain(tmp_path / "model", {})
    (folder / "model.safetensors").write_bytes(FILES[name])
    error = peer.refusal("load_model", {"source": str(folder)})
    assert (error["code"], error["details"]["cause"]) == ("MODEL_LOAD_FAILED", "corrupt_weights")


@pytest.mark.parametrize("kept", [0, 7, 100, 5_000, -1])
def test_a_sound_file_cut_anywhere_is_refused(peer: Peer, kept: int, tmp_path: Path) -> None:
    folder = write_chain(tmp_path / "model", {})
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    error = peer.refusal("load_model", {"source": str(folder)})
    assert (error["code"], error["details"]["cause"]) == ("MODEL_LOAD_FAILED", "corrupt_weights")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_weight_that_is_not_finite_is_found_at_load(
    peer: Peer, value: float, tmp_path: Path
) -> None:
    folder = write_chain(tmp_path / "model", {})
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", value))
    error = peer.refusal("load_model", {"source": str(folder)})
    assert error["code"] == "MODEL_LOAD_FAILED"
    assert error["details"]["cause"] == "not_finite"
    assert error["details"]["tensor"] == "model.norm.weight"


def test_gguf_is_refused_by_name_and_by_content(peer: Peer, tmp_path: Path) -> None:
    folder = write_chain(tmp_path / "model", {})
    gguf = b"GGUF" + bytes(60)
    (folder / "model.safetensors").write_bytes(gguf)
    error = peer.refusal("load_model", {"source": str(folder)})
    assert error["details"]["cause"] == "corrupt_weights"
    (folder / "model.safetensors").unlink()
    (folder / "model.gguf").write_bytes(gguf)
    error = peer.refusal("load_model", {"source": str(folder)})
    assert error["details"]["cause"] == "unsupported_format"
    error = peer.refusal("load_model", {"source": str(folder / "model.gguf")})
    assert error["code"] == "MODEL_LOAD_FAILED"


def test_weights_of_another_shape_are_refused(peer: Peer, tmp_path: Path) -> None:
    folder = write_chain(tmp_path / "model", {})
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"hidden_size": 320', '"hidden_size": 64'))
    error = peer.refusal("load_model", {"source": str(folder)})
    assert error["code"] == "MODEL_LOAD_FAILED"
