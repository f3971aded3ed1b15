"""One tree of errors with stable codes, the same on both sides of the wire."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus import errors
from isthmus.errors import (
    BY_CODE,
    InternalError,
    InvalidRequest,
    IsthmusError,
    QueueFull,
    from_wire,
)
from tests.fixtures.vectors import load_vectors

VECTORS = {vector["code"]: vector for vector in load_vectors("errors")}
WIRE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.none(), max_size=2)
)


def test_the_codes_are_those_of_the_vectors() -> None:
    assert set(BY_CODE) == set(VECTORS)


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_a_code_is_retryable_as_its_vector_says(code: str) -> None:
    assert BY_CODE[code].retryable is VECTORS[code]["retryable"]
    assert BY_CODE[code].__doc__


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_an_error_survives_the_wire(code: str) -> None:
    error = BY_CODE[code]("what and how", phase="queue", retry_after_ms=5.0, field="x", count=3)
    back = from_wire(json.loads(json.dumps(error.to_wire())))
    assert type(back) is BY_CODE[code]
    assert (back.message, back.phase, back.retry_after_ms) == ("what and how", "queue", 5.0)
    assert (back.details, back.retryable) == ({"field": "x", "count": 3}, error.retryable)


def test_what_is_not_known_is_left_out() -> None:
    assert InvalidRequest("no").to_wire() == {
        "code": "INVALID_REQUEST",
        "message": "no",
        "retryable": False,
    }


def test_an_unknown_code_keeps_its_name() -> None:
    error = from_wire({"code": "FROM_A_LATER_VERSION", "message": "x", "retryable": True})
    assert (error.code, error.retryable) == ("FROM_A_LATER_VERSION", True)
    assert isinstance(error, IsthmusError) and type(error) not in BY_CODE.values()


def test_an_empty_error_is_still_an_error() -> None:
    assert isinstance(from_wire({}), InternalError)


def test_every_class_of_the_module_is_in_the_tree_once() -> None:
    leaves = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, IsthmusError)
    }
    assert leaves - {IsthmusError, errors.UnknownError} == set(BY_CODE.values())
    assert isinstance(QueueFull("x"), IsthmusError)


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "code": WIRE | st.sampled_from(sorted(BY_CODE)),
            "message": WIRE,
            "retryable": WIRE,
            "phase": WIRE,
            "retry_after_ms": WIRE,
            "details": WIRE | st.dictionaries(st.sampled_from(["field", "cause", "kind"]), WIRE),
        },
    )
)
def test_any_error_map_becomes_an_error(wire: dict[str, object]) -> None:
    error = from_wire(wire)
    assert isinstance(error, IsthmusError) and isinstance(error.message, str)
