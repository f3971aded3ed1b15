"""A header that is accepted is one that mlx can load; any other is refused, never a crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import ModelLoadFailed
from isthmus.models.safetensors_header import DTYPES, HEADER_LIMIT_BYTES, parse_header, read_header
from tests.fixtures.bad_models import MALFORMED_HEADERS, ODD_HEADERS, SOUND_WEIGHTS, entry
from tests.fixtures.bad_models import safetensors as safetensors_file
from tests.python.models.strategies import JSON, QUICK

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)
NUMPY_TYPES = ["bool", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "c8"]


def parse(file: bytes) -> None:
    """Judge a whole file in memory, as `read_header` judges one on the disk."""
    length = int.from_bytes(file[:8], "little")
    parse_header(file[8 : 8 + length], max(len(file) - 8 - length, 0), file="model.safetensors")


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


@given(part=st.sampled_from(["dtype", "shape", "data_offsets", None]), value=JSON)
@QUICK
def test_any_json_in_a_header_is_accepted_or_refused(part: str | None, value: object) -> None:
    tensor = entry([1], 0, 4)
    header = {"a": value} if part is None else {"a": tensor | {part: value}}
    try:
        parse(safetensors_file(header, bytes(4)))
    except ModelLoadFailed as error:
        assert error.details["cause"] == "corrupt_weights"


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
