"""The shapes of messages: their kinds, what the runtime accepts and what it builds.

A message is an array whose first element is its kind (docs/protocol.md, section 2). Parsing says
whose fault a bad message is and, where it can be seen, which request it belongs to. Elements after
those listed are ignored, so that later versions can add some.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from ..errors import InvalidRequest, IsthmusError, RemoteProtocolError
from ..limits import CREDIT_LIMIT, REQUEST_ID_LIMIT, STREAM_CREDIT


class Kind(IntEnum):
    """The first element of every message."""

    HELLO = 0
    REQUEST = 1
    RESULT = 2
    ERROR = 3
    DELTA = 4
    END = 5
    CANCEL = 6
    CREDIT = 7
    EVENT = 8
    PING = 9
    PONG = 10
    PIECE = 11


class PieceFlag(IntEnum):
    """What a piece says about those that follow it."""

    MORE = 0
    LAST = 1
    ABANDONED = 2


HELLO: Final = int(Kind.HELLO)
REQUEST: Final = int(Kind.REQUEST)
CANCEL: Final = int(Kind.CANCEL)
CREDIT: Final = int(Kind.CREDIT)
PING: Final = int(Kind.PING)
PIECE: Final = int(Kind.PIECE)
"""Plain integers for the hot path: comparing enum members costs 30 ns each."""

_SHAPES: Final[dict[int, tuple[str, ...]]] = {
    0: ("map",),
    1: ("id", "str", "map"),
    2: ("id", "any"),
    3: ("id or nil", "map"),
    4: ("id", "count", "any"),
    5: ("id", "any"),
    6: ("id",),
    7: ("id", "count"),
    8: ("str", "any"),
    9: ("any",),
    10: ("any", "map"),
    11: ("id", "flag", "bin"),
}


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The envelope of a request: what concerns its life, not its meaning."""

    deadline_ms: float | None = None
    credit: int = STREAM_CREDIT


NO_OPTIONS: Final = RequestOptions()


def is_request_id(value: object) -> bool:
    """Whether `value` may be a request id: an integer from 0 to 2^32 - 1."""
    return type(value) is int and 0 <= value < REQUEST_ID_LIMIT


def check_message(message: object) -> list[Any]:
    """Return `message` when its kind is known and its elements have that kind's types.

    Raises:
        InvalidRequest: It has not; `details.request` is its request id where it shows one.
    """
    if not isinstance(message, list) or not message or type(message[0]) is not int:
        raise InvalidRequest("a message is an array that begins with its kind", field="kind")
    shape = _SHAPES.get(message[0])
    request = message[1] if len(message) > 1 and is_request_id(message[1]) else None
    if shape is None:
        raise InvalidRequest(f"unknown message kind {message[0]}", field="kind", request=request)
    if len(message) <= len(shape):
        raise InvalidRequest(
            f"a message of kind {message[0]} has {len(shape)} elements after its kind, "
            f"this one {len(message) - 1}",
            field="message",
            request=request,
        )
    for position, (name, value) in enumerate(zip(shape, message[1:], strict=False), start=1):
        if not _matches(name, value):
            raise InvalidRequest(
                f"element {position} of a message of kind {message[0]} is not of type {name}",
                field=f"message[{position}]",
                request=request,
            )
    return message


def _matches(name: str, value: object) -> bool:
    match name:
        case "id":
            return is_request_id(value)
        case "id or nil":
            return value is None or is_request_id(value)
        case "count":
            return type(value) is int and 0 < value < CREDIT_LIMIT
        case "flag":
            return type(value) is int and 0 <= value <= PieceFlag.ABANDONED
        case "str":
            return isinstance(value, str)
        case "map":
            return isinstance(value, dict)
        case "bin":
            return isinstance(value, bytes)
    return True


def parse_options(options: object) -> RequestOptions:
    """Read a request's fifth element; unknown keys are ignored.

    Raises:
        InvalidRequest: `deadline_ms` or `credit` has a wrong type or range.
    """
    if not isinstance(options, dict):
        raise InvalidRequest("options must be a map", field="options")
    deadline_ms = options.get("deadline_ms")
    if deadline_ms is not None and (
        type(deadline_ms) not in (int, float) or not 0 < deadline_ms < 2**53
    ):
        raise InvalidRequest(
            "deadline_ms must be a number of milliseconds above 0", field="options.deadline_ms"
        )
    credit = options.get("credit", STREAM_CREDIT)
    if type(credit) is not int or not 0 <= credit < CREDIT_LIMIT:
        raise InvalidRequest("credit must be an integer from 0", field="options.credit")
    return RequestOptions(deadline_ms, credit)


def peek_request_id(payload: bytes | memoryview) -> int | None:
    """Find the request id in a payload that could not be decoded, so that one bad string fails
    one request: an array header, kind 1, and an id in any msgpack form."""
    if len(payload) < 3 or not 0x93 <= payload[0] <= 0x9F or payload[1] != Kind.REQUEST:
        return None
    head = payload[2]
    if head < 0x80:
        return head
    width = {0xCC: 1, 0xCD: 2, 0xCE: 4}.get(head)
    if width is None or len(payload) < 3 + width:
        return None
    return int.from_bytes(payload[3 : 3 + width], "big")


def error_message(request: int | None, error: IsthmusError) -> list[Any]:
    """Return the error message for `request`, or for the connection when it is None."""
    return [int(Kind.ERROR), request, error.to_wire()]


class PieceAssembler:
    """Puts messages that travel in pieces together, within limits."""

    def __init__(self, limit_bytes: int, open_limit: int) -> None:
        self._limit_bytes = limit_bytes
        self._open_limit = open_limit
        self._open: dict[int, bytearray] = {}

    def add(self, channel: int, flag: int, data: bytes) -> memoryview | None:
        """Take one piece; return the whole payload when it was the last.

        Raises:
            RemoteProtocolError: Too many channels are open, or one grows over the limit.
        """
        if flag == PieceFlag.ABANDONED:
            self._open.pop(channel, None)
            return None
        # A bytearray grows in place: joining 16 MiB at the end would stall the loop for 4 ms.
        whole = self._open.setdefault(channel, bytearray())
        whole += data
        if len(whole) > self._limit_bytes or len(self._open) > self._open_limit:
            del self._open[channel]
            raise RemoteProtocolError(
                f"a message in pieces is over {self._limit_bytes} bytes, or more than "
                f"{self._open_limit} are open; send shorter messages",
                kind="pieces",
            )
        if flag == PieceFlag.MORE:
            return None
        del self._open[channel]
        return memoryview(whole)
