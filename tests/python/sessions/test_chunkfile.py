"""A piece comes back bit for bit, or as near as its format says, or its file is bad."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from isthmus.sessions.checked import BadFile, Bytes
from isthmus.sessions.chunkfile import ChunkFormat, Piece
from isthmus.sessions.layout import DTYPES, Layout, StateLayer, TokenLayer
from isthmus.sessions.reference import FORMATS
from tests.python.sessions.rig import LAYOUT, arrays_of, room_for, text
from tests.python.sessions.strategies import QUICK

TINY = Layout((TokenLayer(1, 2, 2, "float16"),))
FORMAT = ChunkFormat(LAYOUT, "native")


def piece(start: int, end: int, name: bytes = b"k") -> Piece:
    return Piece(name * 32, b"p" * 32, start, end)


def written(form: ChunkFormat, what: Piece) -> Bytes:
    """Return the file of a piece of `text`."""
    raw = np.full(form.size(what), 0xAA, np.uint8)
    ids = text(what.end)
    form.encode(what, ids[what.start :], arrays_of(ids, form.layout), raw)
    return raw


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMATS)
@given(start=st.integers(0, 300), tokens=st.integers(1, 70), wanted=st.integers(1, 70))
@QUICK
def test_a_piece_comes_back(form: str, dtype: str, start: int, tokens: int, wanted: int) -> None:
    layout = Layout((TokenLayer(2, 8, 5, dtype), StateLayer("s", ()), TokenLayer(1, 3, 8, dtype)))
    what, how = piece(start, start + tokens), ChunkFormat(layout, form)
    wanted = min(wanted, tokens)
    raw = written(how, what)
    assert np.array_equal(how.check(what, raw), text(what.end)[start:])
    arrays, untouched = room_for(what.end + 2, layout), room_for(what.end + 2, layout)
    how.decode(what, raw, wanted, arrays)
    for array, before, expected in zip(
        arrays, untouched, arrays_of(text(what.end), layout), strict=True
    ):
        got, true = array[:, start : start + wanted], expected[:, start : start + wanted]
        if form == "native":
            assert np.array_equal(got, true)
        else:
            step = 251 / (255 if form == "q8" else 15)
            assert np.allclose(numbers(got, dtype), numbers(true, dtype), atol=step, rtol=0)
        array[:, start : start + wanted] = before[:, start : start + wanted]
        assert np.array_equal(array, before)


def numbers(values: np.ndarray, dtype: str) -> np.ndarray:  # type: ignore[type-arg]
    """Return what the bits of a cache stand for."""
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


@pytest.mark.parametrize("form", ["native", "q4"])
def test_every_flipped_bit_is_noticed(form: str) -> None:
    how, what = ChunkFormat(TINY, form), piece(5, 7)
    file = written(how, what)
    for place in range(len(file)):
        for bit in range(8):
            raw = file.copy()
            raw[place] ^= 1 << bit
            with pytest.raises(BadFile):
                how.check(what, raw)


def test_every_other_length_is_noticed() -> None:
    how, what = ChunkFormat(TINY, "native"), piece(5, 7)
    file = written(how, what)
    longer = np.concatenate([file, np.zeros(1, np.uint8)])
    for raw in [*(file[:length].copy() for length in range(len(file))), longer]:
        with pytest.raises(BadFile, match="bytes instead of"):
            how.check(what, raw)


@given(data=st.data())
@QUICK
def test_no_damage_of_any_kind_gives_other_tokens(data: st.DataObject) -> None:
    what = piece(0, 4)
    file = written(FORMAT, what)
    raw = file.copy()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=64))[: len(raw) - start]
        raw[start : start + len(patch)] = np.frombuffer(patch, np.uint8)
    if np.array_equal(raw, file):
        return
    with pytest.raises(BadFile):
        FORMAT.check(what, raw)


@pytest.mark.parametrize(
    "other",
    [piece(0, 4, b"x"), Piece(b"k" * 32, b"x" * 32, 0, 4), piece(1, 5), piece(2, 6)],
    ids=["key", "parent", "place", "other place"],
)
def test_the_file_of_another_piece_is_bad(other: Piece) -> None:
    raw = written(FORMAT, other)
    with pytest.raises(BadFile):
        FORMAT.check(piece(0, 4), raw)


@pytest.mark.parametrize(
    "other",
    [
        ChunkFormat(LAYOUT, "q8"),
        ChunkFormat(TINY, "native"),
        ChunkFormat(Layout((TokenLayer(4, 8, 8, "float32"),)), "native"),
        ChunkFormat(Layout((*LAYOUT.layers, *LAYOUT.layers)), "native"),
    ],
    ids=["format", "tiny", "other heads", "more layers"],
)
def test_the_file_of_another_layout_is_bad(other: ChunkFormat) -> None:
    raw = written(other, piece(0, 4))
    with pytest.raises(BadFile):
        FORMAT.check(piece(0, 4), raw)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_native_file_is_one_that_any_safetensors_reader_loads(dtype: str, tmp_path: Path) -> None:
    layout = Layout((TokenLayer(2, 8, 4, dtype),))
    file = tmp_path / "piece.safetensors"
    file.write_bytes(written(ChunkFormat(layout, "native"), piece(3, 9)).tobytes())
    loaded = mx.load(str(file))
    assert isinstance(loaded, dict)
    assert np.array_equal(np.array(loaded["tokens"]), text(9)[3:])
    keys, values = arrays_of(text(9), layout)
    for name, expected in (("0.keys", keys), ("0.values", values)):
        read = loaded[name]
        bits = read.view(mx.uint16) if dtype == "bfloat16" else read
        assert np.array_equal(np.array(bits), expected[:, 3:])


@pytest.mark.parametrize("form", FORMATS)
def test_the_header_says_what_a_file_is(form: str, tmp_path: Path) -> None:
    file = tmp_path / "piece.safetensors"
    file.write_bytes(written(ChunkFormat(LAYOUT, form), piece(3, 9)).tobytes())
    with safetensors.safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
        assert len(opened.keys()) == 5
    assert (metadata["format"], metadata["version"], metadata["kv"]) == ("isthmus-kv", "1", form)
    assert (metadata["key"], metadata["parent"]) == ((b"k" * 32).hex(), (b"p" * 32).hex())
    assert (metadata["start"], metadata["end"]) == ("3", "9")


def test_a_file_is_wholly_decided_by_what_it_holds() -> None:
    assert np.array_equal(written(FORMAT, piece(3, 90)), written(FORMAT, piece(3, 90)))
