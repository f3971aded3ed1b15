"""What must hold for any bytes that reach the wire's code: the fuzzers' and the tests' one truth.

The first byte of an input picks the check, the rest is for it. A check raises only when something
is wrong: errors of the protocol are caught here, and every other exception is a finding.
"""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from isthmus.errors import (
    DecodeError,
    DepthExceeded,
    FrameTooLarge,
    InvalidRequest,
    IsthmusError,
    RemoteProtocolError,
)
from isthmus.wire.codec import Codec, JsonCodec, MsgpackCodec
from isthmus.wire.frames import FrameDecoder, pack_header
from isthmus.wire.lines import LineDecoder, encode_line
from isthmus.wire.messages import (
    PIECE,
    REQUEST,
    PieceAssembler,
    PieceFlag,
    check_message,
    parse_options,
    peek_request_id,
)
from tests.fixtures.vectors import is_same

LIMIT_BYTES: Final = 600
"""Of frames and lines here: small, so that inputs of a fuzzer's size go over it."""
PIECES_LIMIT_BYTES: Final = 200
OPEN_LIMIT: Final = 4

ALLOCATION_BASE_BYTES: Final = 64 * 1024
ALLOCATION_RATIO: Final = 600
"""Bytes that one byte of input may take while it is read: a map of one entry takes 3, and its
dictionary, its pair and the list of pairs some 500 together."""
MEASURED_ONE_IN: Final = 32
"""Inputs of which one is measured: tracing memory takes several times as long as the check."""

REFUSALS: Final = (DecodeError, DepthExceeded)
FINAL_ERRORS: Final = (FrameTooLarge, RemoteProtocolError)

_LASTING: Final = MsgpackCodec()
"""Has seen all inputs so far; must not be told from a new one."""
_new = MsgpackCodec()
"""Has seen nothing; made before memory is measured, for its packer has a buffer of its own."""


def check(data: bytes) -> None:
    """Hold one input against what its first byte picks.

    Raises:
        Exception: Something that must hold does not.
    """
    if not data:
        return
    global _new
    _new = MsgpackCodec()
    name, run = CHECKS[data[0] % len(CHECKS)]
    payload = data[1:]
    if zlib.crc32(data) % MEASURED_ONE_IN:
        run(payload)
        return
    tracemalloc.start()
    try:
        run(payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    allowed = ALLOCATION_BASE_BYTES + ALLOCATION_RATIO * len(payload)
    assert peak <= allowed, f"{name}: {peak} bytes for an input of {len(payload)}"


def check_msgpack(payload: bytes) -> None:
    """A payload is a value that survives, or is refused; the codec's past changes nothing."""
    outcome = outcome_of(_new, payload)
    assert _are_same(outcome, outcome_of(_LASTING, payload)), "the codec remembers"
    assert _are_same(outcome, outcome_of(_LASTING, memoryview(payload))), "a view is read otherwise"
    shown = peek_request_id(payload)
    if outcome[0] is not None:
        return
    value = outcome[1]
    assert shown is None or value[1] == shown, "the id that was seen is another"
    _survives(_LASTING, value)
    _take_message(value)
    if _ends_in_binary(value):
        head, tail = _LASTING.encode_around(value)
        assert is_same(_LASTING.decode(head + tail), value)


def check_json(line: bytes) -> None:
    """A line is a value that survives, or is refused."""
    codec = JsonCodec()
    code, value = outcome_of(codec, line)
    if code is None:
        _survives(codec, value)
        assert b"\n" not in codec.encode(value)
        _take_message(value)


def check_frames(data: bytes) -> None:
    """The same frames come wherever the bytes are cut, and frames give the same bytes again."""
    payloads, _ = _same_however_cut(lambda: FrameDecoder(LIMIT_BYTES), data)
    again = b"".join(pack_header(len(payload)) + payload for payload in payloads)
    assert data[4:].startswith(again)


def check_lines(data: bytes) -> None:
    """The same lines come wherever the bytes are cut."""
    lines, _ = _same_however_cut(lambda: LineDecoder(LIMIT_BYTES), data)
    again = LineDecoder(LIMIT_BYTES)
    assert list(again.feed(b"".join(map(encode_line, lines)))) == lines
    again.eof()


def check_pieces(data: bytes) -> None:
    """Pieces give the message that they were cut from; no channel and no total goes over."""
    assembler = PieceAssembler(PIECES_LIMIT_BYTES, OPEN_LIMIT)
    expected: dict[int, bytes] = {}
    while len(data) >= 3:
        channel, flag, length = data[0] % (OPEN_LIMIT + 2), data[1] % 3, data[2]
        part, data = data[3 : 3 + length], data[3 + length :]
        grown = expected.pop(channel, b"") + part
        is_over = len(grown) > PIECES_LIMIT_BYTES or len(expected) >= OPEN_LIMIT
        try:
            whole = assembler.add(channel, flag, part)
        except RemoteProtocolError:
            assert is_over and flag != PieceFlag.ABANDONED
            continue
        assert flag == PieceFlag.ABANDONED or not is_over
        assert (whole is not None) == (flag == PieceFlag.LAST)
        assert whole is None or whole == grown
        if flag == PieceFlag.MORE:
            expected[channel] = grown


def check_connection(data: bytes) -> None:
    """Bytes go the whole way that a runtime's input goes."""
    decoder = FrameDecoder(LIMIT_BYTES)
    assembler = PieceAssembler(PIECES_LIMIT_BYTES, OPEN_LIMIT)
    try:
        for payload in decoder.feed(data):
            message = _take_payload(payload)
            if message is not None and message[0] == PIECE:
                whole = assembler.add(message[1], message[2], message[3])
                if whole is not None:
                    _take_payload(whole)
        decoder.eof()
    except FINAL_ERRORS:
        pass


CHECKS: Final[tuple[tuple[str, Callable[[bytes], None]], ...]] = (
    ("msgpack", check_msgpack),
    ("json", check_json),
    ("frames", check_frames),
    ("lines", check_lines),
    ("pieces", check_pieces),
    ("connection", check_connection),
)


def outcome_of(codec: Codec, payload: bytes | memoryview) -> tuple[str | None, Any]:
    """Return the code of a payload's refusal, or None and its value."""
    try:
        return None, codec.decode(payload)
    except REFUSALS as error:
        return error.code, None


def _are_same(left: tuple[str | None, Any], right: tuple[str | None, Any]) -> bool:
    return left[0] == right[0] and is_same(left[1], right[1])


def _survives(codec: Codec, value: object) -> None:
    assert is_same(codec.decode(codec.encode(value)), value), "it comes back as another value"


def _take_payload(payload: bytes | memoryview) -> list[Any] | None:
    try:
        return _take_message(_LASTING.decode(payload))
    except REFUSALS:
        peek_request_id(payload)
        return None


def _take_message(value: object) -> list[Any] | None:
    try:
        message = check_message(value)
        if message[0] == REQUEST and len(message) > 4:
            parse_options(message[4])
    except InvalidRequest as error:
        assert error.details["field"]
        return None
    return message


def _ends_in_binary(value: object) -> bool:
    while isinstance(value, list | dict) and value:
        value = value[-1] if isinstance(value, list) else list(value.values())[-1]
    return isinstance(value, bytes)


def _same_however_cut(
    new: Callable[[], FrameDecoder | LineDecoder], data: bytes
) -> tuple[list[bytes], str | None]:
    """Return what a decoder makes of `data[4:]`; the bytes before say where it is cut as well."""
    seed, data = data[:4], data[4:]
    whole = _feed(new(), [data])
    assert _feed(new(), _cut(data, random.Random(seed))) == whole, "a cut changes what is read"
    return whole


def _cut(data: bytes, rng: random.Random) -> Iterator[bytes]:
    most = rng.choice((1, 5, 40))
    while data:
        size = rng.randint(0 if most > 1 else 1, most)
        yield data[:size]
        data = data[size:]


def _feed(decoder: FrameDecoder | LineDecoder, parts: Any) -> tuple[list[bytes], str | None]:
    """Return what came out, and the code of what ended it."""
    found: list[bytes] = []
    try:
        for part in parts:
            for payload in decoder.feed(part):
                found.append(bytes(payload))  # noqa: PERF401 -- kept when the next one raises
        decoder.eof()
    except FINAL_ERRORS as error:
        return found, error.code
    return found, None


def verdict(payload: bytes) -> str:
    """Return a text that both languages make of one payload: its refusal's code or its value."""
    code, value = outcome_of(MsgpackCodec(), payload)
    return code or _canonical(value)


def _canonical(value: object) -> str:
    match value:
        case bool() | None:
            return {None: "nil", True: "true", False: "false"}[value]
        case int() | float():
            return "nan" if value != value else struct.pack(">d", value).hex()
        case str():
            return f"s{value.encode().hex()}"
        case bytes():
            return f"b{value.hex()}"
        case list():
            return f"[{','.join(map(_canonical, value))}]"
        case dict():
            pairs = sorted(
                f"{key.encode().hex()}:{_canonical(item)}" for key, item in value.items()
            )
            return f"{{{','.join(pairs)}}}"
    raise IsthmusError(f"{type(value).__name__} is no value of the wire")
