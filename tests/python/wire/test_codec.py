"""What one language refuses the other refuses too."""

from __future__ import annotations

import contextlib
import json
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import DecodeError, DepthExceeded, IsthmusError, LocalProtocolError
from isthmus.limits import DEPTH_LIMIT, FORBIDDEN_KEYS
from isthmus.wire.codec import JsonCodec, MsgpackCodec, token_ids
from tests.fixtures.vectors import is_same, load_vectors

VECTORS = load_vectors("codec")
GOOD = [vector for vector in VECTORS if "error" not in vector]
BAD = [vector for vector in VECTORS if "error" in vector]
SENT = [vector for vector in GOOD if vector.get("encode", True)]

SAFE = 2**53 - 1
TEXT = st.text(max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=12)
)
KEYS = TEXT.filter(lambda key: key not in FORBIDDEN_KEYS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=30,
)
MANY = settings(max_examples=300, deadline=None, database=None)


def name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize("vector", GOOD, ids=name)
def test_a_good_vector_decodes_to_its_value(vector: dict[str, Any]) -> None:
    assert is_same(MsgpackCodec().decode(bytes.fromhex(vector["hex"])), vector["value"])


@pytest.mark.parametrize("vector", SENT, ids=name)
def test_a_value_is_encoded_as_in_its_vector(vector: dict[str, Any]) -> None:
    assert MsgpackCodec().encode(vector["value"]).hex() == vector["hex"]


@pytest.mark.parametrize("vector", BAD, ids=name)
def test_a_bad_vector_is_refused_with_its_code(vector: dict[str, Any]) -> None:
    with pytest.raises(IsthmusError) as caught:
        MsgpackCodec().decode(bytes.fromhex(vector["hex"]))
    assert caught.value.code == vector["error"]


@MANY
@given(VALUES)
def test_a_value_survives_encoding_and_decoding(value: object) -> None:
    codec = MsgpackCodec()
    assert is_same(codec.decode(codec.encode(value)), value)


@MANY
@given(st.binary(max_size=700))
def test_random_bytes_are_a_value_or_a_typed_refusal(payload: bytes) -> None:
    with contextlib.suppress(DecodeError, DepthExceeded):
        MsgpackCodec().decode(payload)


@MANY
@given(VALUES, st.data())
def test_a_damaged_payload_is_a_value_or_a_typed_refusal(value: object, data: Any) -> None:
    codec = MsgpackCodec()
    damaged = bytearray(codec.encode(value))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError, DepthExceeded):
        codec.decode(bytes(damaged))


@MANY
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_a_random_line_is_a_value_or_a_typed_refusal(text: str) -> None:
    with contextlib.suppress(DecodeError, DepthExceeded):
        JsonCodec().decode(text.encode("utf-8", errors="surrogatepass"))


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec()], ids=["msgpack", "json"])
def test_the_depth_limit_is_exact(codec: MsgpackCodec | JsonCodec) -> None:
    assert codec.decode(codec.encode(nested(DEPTH_LIMIT))) == nested(DEPTH_LIMIT)
    with pytest.raises(DepthExceeded):
        codec.decode(codec.encode(nested(DEPTH_LIMIT + 1)))


@pytest.mark.parametrize(
    "payload", [b"[" * 200 + b"]" * 200, b"[" * 5_000 + b"]" * 5_000], ids=["200", "5000"]
)
def test_deeply_nested_json_is_refused_as_too_deep(payload: bytes) -> None:
    with pytest.raises(DepthExceeded):
        JsonCodec().decode(payload)


@pytest.mark.parametrize("filler", [0, 600], ids=["short", "long"])
@pytest.mark.parametrize("length", [16, 65_536], ids=["array 16", "array 32"])
def test_depth_is_counted_through_long_containers(length: int, filler: int) -> None:
    value: list[Any] = []
    for _ in range(DEPTH_LIMIT):
        value = [value]
    with pytest.raises(DepthExceeded):
        MsgpackCodec().decode(MsgpackCodec().encode([0] * (length + filler) + [value]))


@pytest.mark.parametrize(
    "value",
    [2**64, -(2**63) - 1, "\ud800", {"a": "x\udfff"}, object(), {1, 2}, 1j],
    ids=["uint 65", "int 65", "surrogate", "surrogate inside", "object", "set", "complex"],
)
@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec()], ids=["msgpack", "json"])
def test_a_value_that_cannot_travel_is_refused_here(codec: MsgpackCodec, value: object) -> None:
    with pytest.raises(LocalProtocolError):
        codec.encode(value)
    assert codec.decode(codec.encode([1])) == [1]


def test_a_failed_encode_leaves_nothing_of_itself_in_the_next() -> None:
    codec = MsgpackCodec()
    with pytest.raises(LocalProtocolError):
        codec.encode(["begun", object()])
    assert codec.decode(codec.encode(1)) == 1


def test_token_ids_are_four_bytes_each_in_msgpack() -> None:
    codec = MsgpackCodec()
    assert codec.decode(codec.encode(token_ids([1, 258]))) == bytes([1, 0, 0, 0, 2, 1, 0, 0])


def test_token_ids_are_an_array_in_json() -> None:
    assert json.loads(JsonCodec().encode({"ids": token_ids([1, 258])})) == {"ids": [1, 258]}


def test_an_array_of_another_type_is_not_sent_as_token_ids() -> None:
    with pytest.raises(LocalProtocolError):
        MsgpackCodec().encode(array("d", [1.0]))


@MANY
@given(st.binary(max_size=50))
def test_binary_survives_json(data: bytes) -> None:
    codec = JsonCodec()
    assert codec.decode(codec.encode({"x": [data]})) == {"x": [data]}


@pytest.mark.parametrize(
    "line",
    [
        b'{"__proto__": 1}',
        b'[{"constructor": 1}]',
        b'{"$bin": "not base64!"}',
        b'{"$bin": 7}',
        b'{"$bin": 1234}',
        b'{"$bin": true}',
        b"[9007199254740992]",
        b"[1, 2",
        b"",
        b'"\xff"',
        b"NaN",
    ],
)
def test_json_that_is_not_of_the_protocol_is_refused(line: bytes) -> None:
    with pytest.raises(DecodeError):
        JsonCodec().decode(line)
