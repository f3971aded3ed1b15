"""Each field is read once, with its type and range; the rest is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from isthmus.errors import InvalidRequest
from isthmus.runtime.params import Params, read_token_ids


def refused(read: Any) -> str:
    """Return the field that a read is refused for."""
    with pytest.raises(InvalidRequest) as caught:
        read()
    return str(caught.value.details["field"])


def test_a_field_that_nobody_reads_is_refused_by_name() -> None:
    fields = Params({"a": 1, "temprature": 0.5})
    fields.take("a")
    assert refused(fields.done) == "temprature"


def test_nil_counts_as_absent() -> None:
    fields = Params({"a": None, "unknown": None})
    assert "a" not in fields
    assert fields.typed("a", str, "default") == "default"
    fields.done()


def test_the_raw_params_are_left_alone() -> None:
    raw = {"a": 1}
    Params(raw).take("a")
    assert raw == {"a": 1}


def test_a_missing_field_without_default_is_named() -> None:
    assert refused(lambda: Params({}).take("text")) == "text"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (str, 1),
        (str, b"x"),
        (bool, 1),
        (bool, "true"),
        (int, True),
        (int, 1.0),
        (list, {}),
        (dict, []),
    ],
)
def test_a_type_must_be_exactly_the_one(kind: type[Any], value: object) -> None:
    assert refused(lambda: Params({"x": value}).typed("x", kind)) == "x"


@pytest.mark.parametrize("value", [0, 11, -1, 5.0, True, "5", [5]])
def test_an_integer_has_a_range_and_is_no_boolean(value: object) -> None:
    assert refused(lambda: Params({"x": value}).integer("x", 1, 10)) == "x"


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "0.5", math.nan, math.inf])
def test_a_number_has_a_range_and_is_finite(value: object) -> None:
    assert refused(lambda: Params({"x": value}).number("x", 0.0, 1.0, 0.5)) == "x"


def test_both_ends_of_a_range_belong_to_it_and_an_integer_is_a_number() -> None:
    assert Params({"x": 1}).integer("x", 1, 10) == 1
    assert Params({"x": 10}).integer("x", 1, 10) == 10
    assert Params({"x": 1}).number("x", 0.0, 1.0, 0.5) == 1.0
    assert Params({}).number("x", 0.0, 1.0, 0.5) == 0.5


def test_a_wrong_item_is_named_with_its_index() -> None:
    assert refused(lambda: Params({"x": ["a", 5]}).items("x", str, 9)) == "x[1]"
    assert refused(lambda: Params({"x": ["a", "b"]}).items("x", str, 1)) == "x"
    assert Params({}).items("x", str, 1, []) == []


def test_token_ids_are_bytes_or_an_array_of_integers() -> None:
    assert read_token_ids("ids", bytes([1, 0, 0, 0, 2, 1, 0, 0])) == [1, 258]
    assert read_token_ids("ids", [1, 258]) == [1, 258]
    assert read_token_ids("ids", b"") == []


@pytest.mark.parametrize("value", [b"12345", "1234", 7, [1.0], [True], ["1"], {"0": 1}], ids=repr)
def test_anything_else_is_no_token_ids(value: object) -> None:
    assert refused(lambda: read_token_ids("ids", value)) == "ids"


def test_a_long_value_is_not_shown_in_full() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Params({"x": "secret " * 100}).integer("x", 0, 1)
    assert len(caught.value.message) < 150
