"""Payloads to values and back: the strict msgpack subset of the protocol, and JSON lines.

What one language refuses the other refuses too (tests/vectors/codec.json). A value that passed
`decode` has string keys only, each once, nothing nested deeper than the limit, and plain Python
types. This module does not know which values are messages.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgpack
import orjson

from ..errors import DecodeError, DepthExceeded, LocalProtocolError
from ..limits import DEPTH_LIMIT, FORBIDDEN_KEYS, SAFE_INTEGER

_BIN_32: Final = b"\xc6"
_SHORT_PAYLOAD_BYTES: Final = 512
_SUSPECTS: Final = frozenset((0xCF, 0xD3, 0xFF, *range(0xDC, 0xE0)))
"""First bytes of 64-bit integers, of long containers, and the type of the timestamp extension."""
_HARMLESS: Final = bytes(set(range(256)) - set(range(0x80, 0xA0)) - _SUSPECTS)
_MARKS: Final = bytes(0x80 if byte in _SUSPECTS else 0x01 for byte in range(256))
_KNOWN_KEYS_LIMIT: Final = 1_024
_KNOWN_KEY_CHARS: Final = 64
_DECODE_FAILURES: Final = (ValueError, TypeError, OverflowError, RecursionError)
"""msgpack's exceptions come from these four families."""


Payload = bytes | memoryview
"""The bytes of one message, maybe a view of what was read."""


class Codec(Protocol):
    """Turns a value into the bytes of one message and back."""

    name: str

    def encode(self, value: object) -> bytes:
        """Return the payload of one message."""
        ...

    def encode_around(self, value: object) -> tuple[bytes, memoryview]:
        """Return the payload of a message that ends with a long binary value, in two parts."""
        ...

    def decode(self, payload: Payload) -> Any:
        """Return the value of one payload, or raise DecodeError or DepthExceeded."""
        ...


def token_ids(ids: list[int]) -> array[int]:
    """Return ids in the form that both codecs send as token ids (unsigned 32-bit)."""
    return array("I", ids)


class MsgpackCodec:
    """The protocol's own codec."""

    name = "msgpack"

    def __init__(self) -> None:
        self._renew()
        self._read_map = _map_reader()

    def encode(self, value: object) -> bytes:
        """Return the payload of `value`.

        Raises:
            LocalProtocolError: The value has a type, integer or text that the wire cannot carry.
        """
        try:
            payload: bytes = self._pack(value)
        except _DECODE_FAILURES as error:
            self._renew()
            raise LocalProtocolError(f"this value cannot travel: {error}") from error
        return payload

    def _renew(self) -> None:
        """A packer that failed half-way still holds what it had packed."""
        self._packer = msgpack.Packer(default=_pack_default, use_bin_type=True)
        self._pack = self._packer.pack

    def encode_around(self, value: object) -> tuple[bytes, memoryview]:
        """Encode an array or map that ends with a long binary value, without copying that.

        Returns:
            What goes before the binary value's bytes, and these bytes.
        """
        if isinstance(value, list):
            head = self._packer.pack_array_header(len(value))
            before, last = value[:-1], value[-1]
        elif isinstance(value, dict):
            head = self._packer.pack_map_header(len(value))
            *pairs, (key, last) = value.items()
            before = [item for pair in pairs for item in pair] + [key]
        else:
            tail = memoryview(value).cast("B")  # type: ignore[arg-type]
            return _BIN_32 + tail.nbytes.to_bytes(4, "big"), tail
        inner, tail = self.encode_around(last)
        return b"".join([head, *map(self.encode, before), inner]), tail

    def decode(self, payload: Payload) -> Any:
        """Return the value in `payload`.

        Raises:
            DecodeError: Not exactly one value of the protocol's subset.
            DepthExceeded: It nests deeper than the limit.
        """
        try:
            value = _unpack(payload, object_pairs_hook=self._read_map, ext_hook=_refuse_extension)
        except msgpack.StackError as error:
            raise DepthExceeded(_TOO_DEEP) from error
        except msgpack.ExtraData as error:
            raise DecodeError("bytes follow the message in its frame") from error
        except _DECODE_FAILURES as error:
            raise DecodeError(f"the payload is not valid msgpack of this protocol: {error}") from (
                error
            )
        # Most messages are short, with neither enough container headers to nest too deeply nor a
        # byte that begins what _check_value refuses: 0.2 microseconds instead of a walk.
        if len(payload) <= _SHORT_PAYLOAD_BYTES and type(payload) is bytes:
            marks = payload.translate(_MARKS, _HARMLESS)
            if len(marks) <= DEPTH_LIMIT and marks.isascii():
                return value
        _check_value(value, 0)
        return value


class JsonCodec:
    """Lines of JSON for debugging by hand and for hosts without msgpack."""

    name = "json"

    def encode(self, value: object) -> bytes:
        """Return `value` as one line without its newline.

        Raises:
            LocalProtocolError: The value has a type or text that JSON cannot carry.
        """
        try:
            return orjson.dumps(value, default=_json_default)
        except orjson.JSONEncodeError as error:
            raise LocalProtocolError(f"this value cannot travel: {error}") from error

    def encode_around(self, value: object) -> tuple[bytes, memoryview]:
        """Return `value` as one line; JSON has no binary values to leave out."""
        return self.encode(value), memoryview(b"")

    def decode(self, payload: Payload) -> Any:
        """Return the value of one line.

        Raises:
            DecodeError: Not JSON, or a forbidden key.
            DepthExceeded: It nests deeper than the limit.
        """
        try:
            value = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            if "depth" in str(error) or "ecursion" in str(error):  # orjson's own limit is 1024
                raise DepthExceeded(_TOO_DEEP) from error
            raise DecodeError(f"the line is not valid JSON: {error}") from error
        return _from_json(value, 1)


_unpack = msgpack.unpackb
_TOO_DEEP: Final = f"a message nests deeper than {DEPTH_LIMIT}"


def _map_reader() -> Callable[[list[tuple[Any, Any]]], dict[str, Any]]:
    """Return a strict maker of maps, with its own memory of keys that it found sound: looking a
    key up there is quicker than looking at it."""
    known: set[str] = set()

    def read(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a map has the same key twice")
        if not known.issuperset(value):
            _check_keys(value)
            if len(known) < _KNOWN_KEYS_LIMIT:
                known.update(key for key in value if len(key) <= _KNOWN_KEY_CHARS)
        return value

    return read


def _check_keys(value: dict[Any, Any]) -> None:
    for key in value:
        if type(key) is not str:
            raise ValueError("a map has a key that is not a string")
        if key in FORBIDDEN_KEYS:
            raise ValueError(f"the key {key} is forbidden")


def _refuse_extension(code: int, _data: bytes) -> object:
    raise ValueError(f"extension types are not part of this protocol (type {code})")


def _check_value(value: object, depth: int) -> None:
    """Refuse deep nesting, integers that JavaScript cannot hold, and the timestamp extension (its
    type is 0xff), which msgpack decodes without asking. `depth` is that of what is around it."""
    kind = type(value)
    if kind is list or kind is dict:
        if depth >= DEPTH_LIMIT:
            raise DepthExceeded(_TOO_DEEP)
        for item in value.values() if kind is dict else value:  # type: ignore[attr-defined,union-attr]
            kind = type(item)
            if kind is str or kind is bytes or (kind is int and 0 <= item <= SAFE_INTEGER):
                continue
            _check_value(item, depth + 1)
    elif kind is int:
        if not -SAFE_INTEGER <= value <= SAFE_INTEGER:  # type: ignore[operator]
            raise DecodeError("an integer is beyond 2^53 - 1")
    elif kind is msgpack.Timestamp:
        raise DecodeError("extension types are not part of this protocol (timestamp)")


def _pack_default(value: object) -> object:
    if isinstance(value, array) and value.typecode == "I":
        return value.tobytes()
    raise TypeError(f"{type(value).__name__} is not part of this protocol")


def _json_default(value: object) -> object:
    if isinstance(value, array):
        return value.tolist()
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bin": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} is not part of this protocol")


def _from_json(value: Any, depth: int) -> Any:
    if isinstance(value, dict | list):
        if depth > DEPTH_LIMIT:
            raise DepthExceeded(_TOO_DEEP)
        if isinstance(value, list):
            return [_from_json(item, depth + 1) for item in value]
        if value.keys() == {"$bin"}:
            return _from_base64(value["$bin"])
        if not FORBIDDEN_KEYS.isdisjoint(value):
            raise DecodeError("a map has a key that is forbidden")
        return {key: _from_json(item, depth + 1) for key, item in value.items()}
    _check_value(value, 0)
    return value


def _from_base64(text: object) -> bytes:
    try:
        if type(text) is not str:
            raise ValueError("it is not even a string")
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise DecodeError("a $bin value is not base64") from error
