"""A file with what a model's state layers hold after the last token of a piece.

Safetensors with a checksum, as `chunkfile`. Rotating windows have arrays of varying sizes, so that
here the header is read: after the checksum, with Python integers, and against the layout. What is
read is a dtype and a shape that the layout allows, or the file is bad.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .checked import NO_CHECKSUM, BadFile, Bytes, check, sign
from .layout import DTYPES, Array, Layout, StateLayer

_HEAD: Final = b'{"__metadata__":{"crc32":"'
_LENGTH_BYTES: Final = 8
_CHECKSUM_PLACE: Final = _LENGTH_BYTES + len(_HEAD)
_DIMENSION_LIMIT: Final = 2**31

STATE_DTYPES: Final[Mapping[str, tuple[str, str]]] = {
    **DTYPES,
    "int32": ("<i4", "I32"),
    "uint32": ("<u4", "U32"),
    "int64": ("<i8", "I64"),
    "bool": ("|b1", "BOOL"),
}
"""Of state layers: as `layout.DTYPES`."""


@dataclass(frozen=True, slots=True)
class State:
    """What one state layer holds: arrays, with their dtypes' names, None where there is none, and
    the integers that go with them."""

    arrays: tuple[tuple[str, Array] | None, ...]
    integers: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for _, array in filter(None, self.arrays))


def encode_states(key: bytes, states: Sequence[State]) -> Bytes:
    """Return the file of the states after the tokens that `key` stands for."""
    table: dict[str, object] = {}
    parts: list[bytes] = []
    offset = 0
    for number, state in enumerate(states):
        for place, entry in enumerate(state.arrays):
            if entry is None:
                continue
            dtype, array = entry
            data = np.ascontiguousarray(array).tobytes()
            table[f"{number}.{place}"] = {
                "dtype": STATE_DTYPES[dtype][1],
                "shape": list(array.shape),
                "data_offsets": [offset, offset + len(data)],
            }
            offset += len(data)
            parts.append(data)
    integers = json.dumps([list(state.integers) for state in states])
    metadata = {"format": "isthmus-kv-state", "key": key.hex(), "integers": integers}
    text = _HEAD + NO_CHECKSUM + b'",' + json.dumps(metadata)[1:].encode()
    text += b"," + json.dumps(table)[1:].encode() if table else b"}"
    raw = np.frombuffer(
        b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *parts]), np.uint8
    ).copy()
    sign(raw, _CHECKSUM_PLACE)
    return raw


def decode_states(key: bytes, layout: Layout, raw: Bytes) -> list[State]:
    """Return the states of a file.

    Raises:
        BadFile: It is damaged, of another key, or of another layout.
    """
    if len(raw) < _CHECKSUM_PLACE + len(NO_CHECKSUM):
        raise BadFile(f"it has only {len(raw)} bytes")
    check(raw, _CHECKSUM_PLACE)
    length = int.from_bytes(raw[:_LENGTH_BYTES].tobytes(), "little")
    try:
        header: dict[str, Any] = json.loads(raw[_LENGTH_BYTES : _LENGTH_BYTES + length].tobytes())
        metadata = header["__metadata__"]
        integers = json.loads(metadata["integers"])
        if metadata["key"] != key.hex():
            raise BadFile("it is that of another text")
        buffer = raw[_LENGTH_BYTES + length :]
        layers = [layer for layer in layout.layers if isinstance(layer, StateLayer)]
        if len(integers) != len(layers):
            raise BadFile("it has another number of layers")
        return [
            State(_arrays(header, buffer, number, layer), tuple(_integers(integers[number])))
            for number, layer in enumerate(layers)
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadFile(f"the header cannot be used: {type(error).__name__}: {error}") from None


def _arrays(
    header: dict[str, Any], buffer: Bytes, number: int, layer: StateLayer
) -> tuple[tuple[str, Array] | None, ...]:
    found: list[tuple[str, Array] | None] = []
    for place, (dtype, shape) in enumerate(layer.arrays):
        entry = header.get(f"{number}.{place}")
        found.append(None if entry is None else (dtype, _array(entry, buffer, dtype, shape)))
    return tuple(found)


def _array(
    entry: dict[str, Any], buffer: Bytes, dtype: str, wanted: tuple[int | None, ...]
) -> Array:
    kind, name = STATE_DTYPES[dtype]
    shape = _integers(entry["shape"])
    begin, end = _integers(entry["data_offsets"])
    fits = len(shape) == len(wanted) and all(
        0 < size < _DIMENSION_LIMIT and limit in (None, size)
        for size, limit in zip(shape, wanted, strict=True)
    )
    size_bytes = math.prod(shape) * np.dtype(kind).itemsize
    if entry["dtype"] != name or not fits:
        raise BadFile("an array has another dtype or shape than the model's")
    if not 0 <= begin <= end <= len(buffer) or end - begin != size_bytes:
        raise BadFile("an array lies outside of the file")
    array: Array = np.frombuffer(buffer[begin:end].tobytes(), kind).reshape(shape)
    return array


def _integers(values: Any) -> list[int]:
    """Return a list of integers; JSON knows numbers that are none, and much else."""
    if type(values) is not list or any(type(value) is not int for value in values):
        raise TypeError(f"{str(values)[:40]!r} instead of integers")
    return values
