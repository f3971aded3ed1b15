"""States come back as they were, or their file is bad, whoever wrote it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.sessions.checked import NO_CHECKSUM, BadFile, Bytes, sign
from isthmus.sessions.layout import Layout, StateLayer
from isthmus.sessions.statefile import STATE_DTYPES, State, decode_states, encode_states
from tests.python.models.strategies import JSON
from tests.python.sessions.rig import STATEFUL, same_states, states_of, text
from tests.python.sessions.strategies import MANY

KEY = b"k" * 32
HEAD = b'{"__metadata__":{"crc32":"'
FILE = encode_states(KEY, states_of(text(3)))
DEEP = "[" * 100_000


def file_of(header: object, buffer: bytes = bytes(36)) -> Bytes:
    """Return a file with a valid checksum; `header` is the JSON text behind the checksum, or what
    is written as JSON without its metadata."""
    if not isinstance(header, str):
        metadata = {"format": "isthmus-kv-state", "key": KEY.hex(), "integers": "[[1, 2]]"}
        header = json.dumps(metadata)[1:] + "," + json.dumps(header)[1:]
    content = HEAD + NO_CHECKSUM + b'",' + header.encode()
    return sealed(len(content).to_bytes(8, "little") + content + buffer)


def sealed(content: bytes) -> Bytes:
    """Return the content with a valid checksum."""
    raw = np.frombuffer(content, np.uint8).copy()
    sign(raw, 8 + len(HEAD))
    return raw


def entry(**changes: object) -> dict[str, object]:
    """Return how an array of two by three numbers is entered."""
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}


LENGTH = {"dtype": "I32", "shape": [3], "data_offsets": [24, 36]}


@given(data=st.data(), dtype=st.sampled_from(list(STATE_DTYPES)))
@MANY
def test_states_come_back_as_they_were(data: st.DataObject, dtype: str) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), max_size=3)))
    layout = Layout((StateLayer("one", ((dtype, shape), (dtype, (None,) * len(shape)))),) * 2)
    size = int(np.prod(shape, dtype=int)) * np.dtype(STATE_DTYPES[dtype][0]).itemsize
    states = []
    for _ in range(2):
        raw = data.draw(st.binary(min_size=size, max_size=size))
        raw = bytes(byte & 1 for byte in raw) if dtype == "bool" else raw
        array = np.frombuffer(raw, STATE_DTYPES[dtype][0]).reshape(shape)
        entries = data.draw(st.permutations([(dtype, array), None]))
        states.append(State(tuple(entries), tuple(data.draw(st.lists(st.integers())))))
    found = decode_states(KEY, layout, encode_states(KEY, states))
    for one, other in zip(found, states, strict=True):
        assert one.integers == other.integers
        for got, wanted in zip(one.arrays, other.arrays, strict=True):
            assert (got is None) == (wanted is None)
            if got is not None and wanted is not None:
                assert got[1].dtype == wanted[1].dtype and got[1].shape == wanted[1].shape
                assert got[1].tobytes() == wanted[1].tobytes()


def test_the_rig_writes_what_is_read() -> None:
    same_states(decode_states(KEY, STATEFUL, FILE.copy()), states_of(text(3)))
    header = {"0.0": entry(), "0.1": LENGTH}
    assert decode_states(KEY, STATEFUL, file_of(header))[0].integers == (1, 2)


def test_every_flipped_bit_is_noticed() -> None:
    for place in range(len(FILE)):
        for bit in range(8):
            raw = FILE.copy()
            raw[place] ^= 1 << bit
            with pytest.raises(BadFile):
                decode_states(KEY, STATEFUL, raw)


def test_every_other_length_is_noticed() -> None:
    longer = np.concatenate([FILE, np.zeros(1, np.uint8)])
    for raw in [*(FILE[:length].copy() for length in range(len(FILE))), longer]:
        with pytest.raises(BadFile):
            decode_states(KEY, STATEFUL, raw)


def test_the_states_of_another_text_are_bad() -> None:
    with pytest.raises(BadFile, match="another text"):
        decode_states(b"x" * 32, STATEFUL, FILE.copy())


@pytest.mark.parametrize(
    "arrays",
    [
        (("float32", (3, 2)), ("int32", (None,))),
        (("float32", (2, 3, 1)), ("int32", (None,))),
        (("uint32", (2, 3)), ("int32", (None,))),
        (("float32", (2, 3)), ("int32", (4,))),
    ],
    ids=["shape", "dimensions", "dtype", "fixed size"],
)
def test_the_states_of_another_layout_are_bad(arrays: tuple[tuple[str, tuple[int]], ...]) -> None:
    with pytest.raises(BadFile):
        decode_states(KEY, Layout((StateLayer("test", arrays),)), FILE.copy())


def test_another_number_of_layers_is_bad() -> None:
    for layers in ((), STATEFUL.layers * 2):
        with pytest.raises(BadFile, match="number of layers"):
            decode_states(KEY, Layout(layers), FILE.copy())


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [3, 2]},
        {"shape": [6]},
        {"shape": []},
        {"shape": [-2, -3]},
        {"shape": [0, 3], "data_offsets": [0, 0]},
        {"shape": [2**62, 2**62]},
        {"shape": [2, "3"]},
        {"shape": [2.0, 3.0]},
        {"shape": "23"},
        {"shape": {"2": 3}},
        {"shape": None},
        {"shape": 6},
        {"data_offsets": [0, 20]},
        {"data_offsets": [0, 28]},
        {"data_offsets": [24, 0]},
        {"data_offsets": [-24, 0]},
        {"data_offsets": [20, 44]},
        {"data_offsets": [-30, -6]},
        {"data_offsets": [2**63, 2**63 + 24]},
        {"data_offsets": [10**30, 10**30 + 24]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 24, 48]},
        {"data_offsets": [0, 1e400]},
        {"data_offsets": [False, 24]},
        {"data_offsets": None},
        {"dtype": "F16"},
        {"dtype": None},
        {"dtype": ["F32"]},
    ],
    ids=repr,
)
def test_an_entry_that_lies_is_bad_whatever_its_checksum_says(changes: dict[str, object]) -> None:
    with pytest.raises(BadFile):
        decode_states(KEY, STATEFUL, file_of({"0.0": entry(**changes), "0.1": LENGTH}))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "}",
        '"key":"","integers":"[]"}}',
        '"integers":"[]"}}',
        f'"key":"{KEY.hex()}"}}}}',
        f'"key":"{KEY.hex()}","integers":"[[1,2"}}}}',
        f'"key":"{KEY.hex()}","integers":"{{}}"}}}}',
        f'"key":"{KEY.hex()}","integers":"[3]"}}}}',
        f'"key":"{KEY.hex()}","integers":"[[1e999]]"}}}}',
        f'"key":"{KEY.hex()}","integers":"[[Infinity]]"}}}}',
        f'"key":"{KEY.hex()}","integers":"[[true]]"}}}}',
        f'"key":"{KEY.hex()}","integers":"[[\\"1\\"]]"}}}}',
        f'"key":"{KEY.hex()}","integers":"[[{"9" * 5_000}]]"}}}}',
        f'"key":"{KEY.hex()}","integers":"{DEEP}"}}}}',
        f'"key":"{KEY.hex()}","integers":[[1]]}}}}',
        f'"key":"{KEY.hex()}","integers":"[[1]]"}},"0.0":{DEEP}',
        f'"key":"{KEY.hex()}","integers":"[[1]]"}},"0.0":[1]}}',
        f'"key":"{KEY.hex()}","integers":"[[1]]"}},"0.0":"text"}}',
        f'"key":"{KEY.hex()}","integers":"[[1]]"}},"__metadata__":[]}}',
        f'"key":"{KEY.hex()}","integers":"[[1]]"}},"__metadata__":null}}',
    ],
    ids=lambda header: header.replace(KEY.hex(), "KEY")[:60],
)
def test_a_header_that_cannot_be_used_is_bad(header: str) -> None:
    with pytest.raises(BadFile):
        decode_states(KEY, STATEFUL, file_of(header))


@pytest.mark.parametrize("length", [0, 1, 33, 2**31, 2**63 - 8, 2**63, 2**64 - 1])
def test_a_length_of_the_header_that_lies_is_bad(length: int) -> None:
    with pytest.raises(BadFile):
        decode_states(KEY, STATEFUL, sealed(length.to_bytes(8, "little") + FILE[8:].tobytes()))


@pytest.mark.parametrize("content", [b"[]", b"3", b'"text"', b"null", b"\xff\xfe"])
def test_a_header_that_is_no_map_is_bad(content: bytes) -> None:
    padded = content.ljust(len(HEAD) + 8)
    raw = np.frombuffer(len(content).to_bytes(8, "little") + padded, np.uint8).copy()
    raw[8 + len(HEAD) :] = np.frombuffer(NO_CHECKSUM, np.uint8)
    sign(raw, 8 + len(HEAD))
    with pytest.raises(BadFile):
        decode_states(KEY, STATEFUL, raw)


@given(part=st.sampled_from(["dtype", "shape", "data_offsets", None]), value=JSON)
@MANY
def test_any_json_in_a_header_is_taken_or_bad(part: str | None, value: object) -> None:
    changed = value if part is None else entry(**{part: value})
    try:
        states = decode_states(KEY, STATEFUL, file_of({"0.0": changed, "0.1": LENGTH}))
    except BadFile:
        return
    first = states[0].arrays[0]
    assert first is None or first[1].shape == (2, 3)
