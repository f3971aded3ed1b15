"""Model folders are judged before mlx sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.errors import IsthmusError, PathRefused
from isthmus.models.verify import verify
from tests.fixtures.bad_models import (
    BAD_FOLDERS,
    CANARY,
    BadFolder,
    code_that_writes_canary,
    write_json,
    write_sound,
)


@pytest.mark.parametrize("bad", BAD_FOLDERS, ids=lambda bad: bad.name)
def test_a_bad_folder_is_refused_with_its_own_cause(bad: BadFolder, tmp_path: Path) -> None:
    folder = bad.write(tmp_path / "model")
    with pytest.raises(IsthmusError) as caught:
        verify(folder, trust_remote_code=False)
    assert (caught.value.code, caught.value.details.get("cause")) == (bad.code, bad.cause)
    assert caught.value.phase == "load"
    str(caught.value).encode("utf-8")
    assert not (tmp_path / CANARY).exists()


def test_trusted_code_is_still_not_run_by_verification(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model", model_file="custom.py", model_type="own")
    (folder / "custom.py").write_text(code_that_writes_canary(folder))
    assert verify(folder, trust_remote_code=True).architecture == "own"
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize("model_file", ["../evil.py", "/tmp/evil.py", "sub/evil.py"])
def test_trusted_code_from_outside_the_folder_is_refused(model_file: str, tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model", model_file=model_file)
    with pytest.raises(PathRefused):
        verify(folder, trust_remote_code=True)


def test_a_stray_python_file_or_pickle_beside_safetensors_does_no_harm(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model")
    (folder / "modeling.py").write_text(code_that_writes_canary(folder))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "model.gguf").write_bytes(b"GGUF")
    assert verify(folder, trust_remote_code=False).tensor_count == 2
    assert not (tmp_path / CANARY).exists()


def test_links_into_an_allowed_root_are_followed(tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--o--n"
    blobs = write_sound(cache / "blobs")
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in os.listdir(blobs):
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    with pytest.raises(PathRefused):
        verify(snapshot, trust_remote_code=False)
    found = verify(snapshot, trust_remote_code=False, allowed_roots=(tmp_path / "hub",))
    assert found.weight_files == (snapshot / "model.safetensors",)


def test_a_folder_whose_name_is_a_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PathRefused, match="pattern"):
        verify(write_sound(tmp_path / "a[b]"), trust_remote_code=False)


def test_a_model_is_described_from_its_files(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model")
    write_json(folder / "generation_config.json", {"eos_token_id": [2, 3]})
    found = verify(folder, trust_remote_code=False)
    assert (found.architecture, found.vocab_size, found.context_length) == ("llama", 8, 64)
    assert (found.parameters, found.tensor_count, found.weight_bytes) == (6, 2, 24)
    assert (found.dtype, found.dtype_bytes) == ("float32", (("float32", 24),))
    assert (found.quantization, found.eos_token_ids) == (None, (2, 3))


def test_verification_imports_neither_mlx_nor_mlx_lm(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model")
    code = (
        "import sys, pathlib; from isthmus.models.verify import verify;"
        "verify(pathlib.Path(sys.argv[1]), trust_remote_code=False);"
        "sys.exit(any(m.split('.')[0] in ('mlx', 'mlx_lm', 'transformers') for m in sys.modules))"
    )
    python_path = os.pathsep.join(sys.path)
    process = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=os.environ | {"PYTHONPATH": python_path},
        check=False,
        timeout=60,
    )
    assert process.returncode == 0
