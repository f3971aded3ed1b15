"""Model folders are judged before mlx sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fixtures.bad_models import (
    BAD_FOLDERS,
    CANARY,
    CODE_FOLDERS,
    MALFORMED_HEADERS,
    ODD_HEADERS,
    SOUND_WEIGHTS,
    BadFolder,
    code_that_writes_canary,
    entry,
    write_json,
    write_sound,
)
from tests.fixtures.bad_models import (
    safetensors as safetensors_file,
)

from isthmus.errors import CodeRefused, IsthmusError, ModelLoadFailed, PathRefused
from isthmus.models.safetensors_header import DTYPES, HEADER_LIMIT_BYTES, parse_header, read_header
from isthmus.models.verify import VerifiedModel, installed_architectures, verify

QUICK = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def parse(file: bytes) -> None:
    """Judge a whole file in memory, as `read_header` judges one on the disk."""
    length = int.from_bytes(file[:8], "little")
    parse_header(file[8 : 8 + length], max(len(file) - 8 - length, 0), file="model.safetensors")


@pytest.mark.parametrize("bad", BAD_FOLDERS, ids=lambda bad: bad.name)
def test_a_bad_folder_is_refused_with_its_own_cause(bad: BadFolder, tmp_path: Path) -> None:
    folder = bad.write(tmp_path / "model")
    with pytest.raises(IsthmusError) as caught:
        verify(folder, trust_remote_code=False)
    assert (caught.value.code, caught.value.details.get("cause")) == (bad.code, bad.cause)
    assert caught.value.phase == "load"
    str(caught.value).encode("utf-8")
    assert not (tmp_path / CANARY).exists()


def test_the_matrix_holds_at_least_20_malformed_and_14_odd_headers() -> None:
    assert len(MALFORMED_HEADERS) >= 20
    assert len(ODD_HEADERS) >= 14


def test_a_corrupt_tensor_is_named_with_its_file_and_reason(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(ODD_HEADERS["overlapping tensors"])
    with pytest.raises(ModelLoadFailed) as caught:
        read_header(file)
    assert caught.value.details == {
        "cause": "corrupt_weights",
        "file": "model.safetensors",
        "tensor": "b",
        "reason": "its data overlaps its neighbour",
    }


def test_a_header_over_the_cap_is_refused_without_being_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes((HEADER_LIMIT_BYTES + 1).to_bytes(8, "little"))
    os.truncate(file, 2 * HEADER_LIMIT_BYTES)
    with pytest.raises(ModelLoadFailed, match=f"over {HEADER_LIMIT_BYTES}"):
        read_header(file)


@pytest.mark.parametrize("bad", CODE_FOLDERS, ids=lambda bad: bad.name)
def test_refused_code_names_the_option_and_is_not_run(bad: BadFolder, tmp_path: Path) -> None:
    with pytest.raises(CodeRefused, match="trust_remote_code") as caught:
        verify(bad.write(tmp_path / "model"), trust_remote_code=False)
    assert caught.value.details["option"] == "trust_remote_code"
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


def test_what_a_model_does_not_state_is_none(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model")
    write_json(folder / "config.json", {"model_type": "llama"})
    found = verify(folder, trust_remote_code=False)
    assert (found.vocab_size, found.context_length, found.eos_token_ids) == (None, None, ())


def test_sizes_are_found_inside_text_config(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model")
    inner = {"vocab_size": 9, "max_position_embeddings": 99}
    write_json(folder / "config.json", {"model_type": "gemma3", "text_config": inner})
    found = verify(folder, trust_remote_code=False)
    assert (found.vocab_size, found.context_length) == (9, 99)


def test_all_shards_are_read_and_counted(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model")
    second = safetensors_file({"c": entry([3], 0, 6, "F16")}, bytes(6))
    (folder / "model-2.safetensors").write_bytes(second)
    shards = {"a": "model.safetensors", "c": "model-2.safetensors"}
    write_json(folder / "model.safetensors.index.json", {"weight_map": shards})
    found = verify(folder, trust_remote_code=False)
    assert [path.name for path in found.weight_files] == sorted(shards.values())
    assert found.dtype_bytes == (("float32", 24), ("float16", 6))


@pytest.mark.parametrize(
    ("model_type", "module"),
    [
        ("llama", "llama"),
        ("mistral", "llama"),
        ("phi-msft", "phixtral"),
        ("lfm2-vl", "lfm2-vl"),
        ("solar_open", "solar_open"),
        ("Llama", None),
        ("base", None),
        ("../utils", None),
    ],
)
def test_a_model_type_leads_to_the_module_that_mlx_lm_would_import(
    model_type: str, module: str | None
) -> None:
    assert installed_architectures().module_of({"model_type": model_type}) == module


def test_an_architecture_can_rename_a_model_type() -> None:
    config = {"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]}
    assert installed_architectures().module_of(config) == "bailing_moe_v3"


def test_the_tables_of_renamed_types_are_those_of_mlx_lm() -> None:
    from mlx_lm import utils

    installed = installed_architectures()
    assert installed.renamed == utils.MODEL_REMAPPING
    assert installed.renamed_by_class == utils.MODEL_ARCHITECTURE_REMAPPING


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


@given(data=st.data())
@QUICK
def test_a_mutated_file_is_accepted_or_refused_but_never_crashes(data: st.DataObject) -> None:
    file = bytearray(SOUND_WEIGHTS)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(file) - 1))
        file[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if len(file) < 2:
            break
    try:
        parse(bytes(file))
    except ModelLoadFailed as error:
        assert error.details["cause"] == "corrupt_weights"
        error.message.encode("utf-8")


TEXTS = st.text("aé\0/{", max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(part=st.sampled_from(["dtype", "shape", "data_offsets", None]), value=JSON)
@QUICK
def test_any_json_in_a_header_is_accepted_or_refused(part: str | None, value: object) -> None:
    tensor = entry([1], 0, 4)
    header = {"a": value} if part is None else {"a": tensor | {part: value}}
    try:
        parse(safetensors_file(header, bytes(4)))
    except ModelLoadFailed as error:
        assert error.details["cause"] == "corrupt_weights"


@given(
    value=JSON,
    field=st.sampled_from(
        ["quantization", "eos_token_id", "text_config", "architectures", "model_type", "vocab_size"]
    ),
)
@QUICK
def test_any_json_in_a_config_is_accepted_or_refused(
    value: object, field: str, tmp_path: Path
) -> None:
    folder = write_sound(tmp_path / "model", **{field: value})
    try:
        verify(folder, trust_remote_code=False)
    except (ModelLoadFailed, CodeRefused) as error:
        error.message.encode("utf-8")


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)
NUMPY_TYPES = ["bool", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "c8"]


@given(tensors=st.dictionaries(NAMES, st.tuples(st.sampled_from(NUMPY_TYPES), SHAPES), max_size=5))
@QUICK
def test_what_safetensors_writes_is_accepted(
    tensors: dict[str, tuple[str, tuple[int, ...]]],
) -> None:
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in tensors.items()}
    parse(safetensors.numpy.save(arrays, metadata={"by": "numpy"}))


@given(
    shapes=st.dictionaries(st.sampled_from("abcdef"), SHAPES),
    dtype=st.sampled_from(
        [
            "bool_",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "float16",
            "bfloat16",
            "uint32",
            "int32",
            "float32",
            "uint64",
            "int64",
            "complex64",
        ]
    ),
)
@QUICK
def test_what_mlx_writes_is_accepted(
    shapes: dict[str, tuple[int, ...]], dtype: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    arrays = {name: mx.zeros(shape, getattr(mx, dtype)) for name, shape in shapes.items()}
    mx.save_safetensors(str(path), arrays)
    header = read_header(path)
    assert {tensor.name: tensor.shape for tensor in header.tensors} == shapes


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_that_is_accepted_is_one_that_mlx_loads(name: str, tmp_path: Path) -> None:
    _, item_bytes = DTYPES[name]
    path = tmp_path / "model.safetensors"
    header = {"a": entry([2], 0, 2 * item_bytes, name)}
    path.write_bytes(safetensors_file(header, bytes(2 * item_bytes)))
    assert read_header(path).tensors[0].elements == 2
    loaded: Any = mx.load(str(path))
    mx.eval(loaded["a"])


def _saved_llama(folder: Path, *, quantized: bool) -> tuple[VerifiedModel, int]:
    from mlx.nn.layers.quantized import quantize
    from mlx.utils import tree_flatten
    from mlx_lm import utils
    from mlx_lm.models import llama

    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": 32,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-5,
    }
    model: Any = llama.Model(llama.ModelArgs(**config))
    model.set_dtype(mx.float16)
    leaves: Any = tree_flatten(model.parameters())
    parameters = sum(array.size for _, array in leaves)
    if quantized:
        quantize(model, group_size=64, bits=4)
        config |= {"quantization": {"group_size": 64, "bits": 4}}
    write_sound(folder)
    utils.save_model(folder, model)
    utils.save_config(dict(config), folder / "config.json")
    return verify(folder, trust_remote_code=False), parameters


def test_a_model_saved_by_mlx_lm_is_accepted(tmp_path: Path) -> None:
    found, parameters = _saved_llama(tmp_path / "model", quantized=False)
    assert (found.parameters, found.weight_bytes) == (parameters, 2 * parameters)
    assert (found.dtype, found.quantization) == ("float16", None)


def test_a_quantized_model_counts_its_weights_before_packing(tmp_path: Path) -> None:
    found, parameters = _saved_llama(tmp_path / "model", quantized=True)
    assert found.quantization == {"bits": 4, "group_size": 64}
    assert (found.parameters, found.dtype) == (parameters, "float16")
    assert found.weight_bytes < parameters
