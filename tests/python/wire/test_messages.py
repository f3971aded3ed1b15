"""The shapes of messages, whose fault a bad one is, and messages in pieces."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from isthmus.errors import InvalidRequest, IsthmusError, RemoteProtocolError
from isthmus.limits import STREAM_CREDIT
from isthmus.wire.messages import (
    PieceAssembler,
    PieceFlag,
    RequestOptions,
    check_message,
    is_request_id,
    parse_options,
    peek_request_id,
)
from tests.fixtures.vectors import load_vectors

MANY = settings(max_examples=300, deadline=None, database=None)
VECTORS = load_vectors("messages")
JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_vectors_are_taken_or_refused(vector: dict[str, Any]) -> None:
    try:
        code = None
        assert check_message(vector["value"]) == vector["value"]
    except IsthmusError as error:
        code = error.code
    assert code == vector.get("error")


@MANY
@given(JSON_LIKE)
def test_any_value_is_a_message_or_an_invalid_request(value: object) -> None:
    try:
        message = check_message(value)
    except InvalidRequest:
        return
    assert 0 <= message[0] <= 11


@pytest.mark.parametrize(
    ("message", "request_id"),
    [
        ([1, 7, "echo"], 7),
        ([1, 7, "echo", []], 7),
        ([99, 7], 7),
        ([1, "7", "echo", {}], None),
        ([6], None),
    ],
)
def test_a_refusal_names_the_request_where_one_shows(
    message: list[Any], request_id: int | None
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_message(message)
    assert caught.value.details["request"] == request_id


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, True),
        (2**32 - 1, True),
        (2**32, False),
        (-1, False),
        (True, False),
        (1.0, False),
        ("1", False),
        (None, False),
    ],
)
def test_an_id_is_an_integer_of_32_bits(value: object, expected: bool) -> None:
    assert is_request_id(value) is expected


def test_options_have_defaults_and_ignore_unknown_keys() -> None:
    assert parse_options({"later": 1}) == RequestOptions(None, STREAM_CREDIT)


@pytest.mark.parametrize("deadline", [1, 0.5, 86_400_000])
def test_a_deadline_is_any_positive_number(deadline: float) -> None:
    assert parse_options({"deadline_ms": deadline}).deadline_ms == deadline


@pytest.mark.parametrize(
    "options",
    [
        *({"deadline_ms": bad} for bad in (0, -1, "5", True, float("nan"), float("inf"), [])),
        *({"credit": bad} for bad in (-1, 1.5, "1", True, None, 2**31)),
        [],
        None,
        7,
    ],
    ids=repr,
)
def test_options_of_a_wrong_type_or_range_are_refused(options: object) -> None:
    with pytest.raises(InvalidRequest):
        parse_options(options)


@MANY
@given(st.integers(0, 2**32 - 1))
def test_the_id_of_an_undecodable_request_is_found(request_id: int) -> None:
    payload = msgpack.packb([1, request_id, "echo", {}])
    assert peek_request_id(payload + b"\xc1") == request_id
    assert peek_request_id(payload[:-1] + b"\xc1") == request_id


@MANY
@given(st.binary(max_size=30))
def test_looking_for_an_id_never_raises(payload: bytes) -> None:
    found = peek_request_id(payload)
    assert found is None or is_request_id(found)


@pytest.mark.parametrize(
    "message",
    [
        [6, 7],
        [7, 7, 1],
        [1, "7", "echo", {}],
        [1, 2**32, "echo", {}],
        [1, -1, "echo", {}],
        {"a": 1},
    ],
)
def test_no_id_is_found_where_there_is_none(message: object) -> None:
    assert peek_request_id(msgpack.packb(message)) is None


class Pieces(RuleBasedStateMachine):
    """The assembler against a model of it: a dictionary of bytes."""

    LIMIT, OPEN = 40, 3

    def __init__(self) -> None:
        super().__init__()
        self.assembler = PieceAssembler(self.LIMIT, self.OPEN)
        self.model: dict[int, bytes] = {}

    @rule(channel=st.integers(0, 5), flag=st.integers(0, 1), data=st.binary(max_size=25))
    def add(self, channel: int, flag: int, data: bytes) -> None:
        """Send a piece on a channel that may be new."""
        whole = self.model.get(channel, b"") + data
        is_new_over = channel not in self.model and len(self.model) >= self.OPEN
        if len(whole) > self.LIMIT or is_new_over:
            with pytest.raises(RemoteProtocolError):
                self.assembler.add(channel, flag, data)
            self.model.pop(channel, None)
        elif flag == PieceFlag.MORE:
            assert self.assembler.add(channel, flag, data) is None
            self.model[channel] = whole
        else:
            assert self.assembler.add(channel, flag, data) == whole
            self.model.pop(channel, None)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def abandon(self, data: Any) -> None:
        """Give an open channel up."""
        channel = data.draw(st.sampled_from(sorted(self.model)))
        assert self.assembler.add(channel, int(PieceFlag.ABANDONED), b"") is None
        del self.model[channel]

    @rule(channel=st.integers(6, 9))
    def abandon_unknown(self, channel: int) -> None:
        """Give a channel up that was never opened."""
        assert self.assembler.add(channel, int(PieceFlag.ABANDONED), b"") is None


Pieces.TestCase.settings = settings(max_examples=80, deadline=None, database=None)
TestPiecesAgainstTheirModel = Pieces.TestCase
