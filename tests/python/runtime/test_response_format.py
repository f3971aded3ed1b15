"""Every complete output validates: what cannot be enforced is refused before the first token."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from isthmus.engine.constraint import read_vocabulary
from isthmus.errors import ConstraintFailed, InvalidRequest
from isthmus.limits import CHOICES_LIMIT, RESPONSE_FORMAT_LIMIT_BYTES
from isthmus.models import BUILTIN_ROOT
from isthmus.models.load import load_tokenizer
from isthmus.runtime.params import Params
from isthmus.runtime.response_format import (
    Kind,
    ResponseFormat,
    check_output,
    compile_format,
    read_response_format,
)

COLUMNS, END = 768, 0
WRAPPER = load_tokenizer(BUILTIN_ROOT / "chat", None)
VOCABULARY = read_vocabulary(WRAPPER, COLUMNS, {END})

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/n"}, {}]}},
    "required": ["v"],
    "additionalProperties": False,
}
ENFORCED: list[dict[str, Any]] = [
    {},
    {"type": "number"},
    {"type": "integer"},
    {"type": ["boolean", "null"]},
    {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2},
    {"type": "object", "minProperties": 1, "additionalProperties": {"type": "null"}},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}},
    {"type": "object", "properties": {"a\nb": {"type": "null"}, "😀": {"const": 'é\n"😀'}}},
    {"type": "object", "required": ["z"]},
    {"type": "object", "propertyNames": {"type": "string"}},
    {"type": "array", "items": {"enum": [1, "a", None, {"b": [0.5]}]}, "uniqueItems": False},
    {"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 2, "maxItems": 3},
    {"$schema": DRAFT_7, "type": "array", "items": [{"type": "integer"}], "additionalItems": False},
    {"$defs": {"n": NODE}, "$ref": "#/$defs/n"},
    {"oneOf": [{"type": "integer"}, {"type": "boolean"}]},
    {"allOf": [{"type": "number", "minimum": 3}, {"multipleOf": 0.25}]},
    {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "exclusiveMaximum": 0}]},
    {"type": "integer", "minimum": 123456789012345},
    {"type": "integer", "multipleOf": 1999},
    {"type": "number", "minimum": -0.5, "exclusiveMaximum": 0.25},
    {"type": "integer", "minimum": -(2**53 - 1), "maximum": 2**53 - 1},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": r"^\d{3}-\w$"},
    {"type": "string", "pattern": r"^.\s\S[^\s]$"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "time"},
    {"type": ["string", "null"], "format": "date", "pattern": "^2.*-02-29$"},
    {"type": "string", "format": "email", "maxLength": 30},
    {"type": "string", "format": "hostname", "maxLength": 30},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "ipv6"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "duration"},
    {"type": "integer", "format": "int64"},
    {"type": "integer", "title": "t", "default": 1, "x-mine": 2, "deprecated": True},
]
REFUSED: list[dict[str, Any]] = [
    {"type": "string", "enum": []},
    {"type": "integer", "minimum": 5, "maximum": 1},
    {"type": "string", "minLength": 5, "maxLength": 1},
    {"type": "string", "pattern": "^a$", "minLength": 3},
    {"type": "object", "required": ["a"], "properties": {"a": False}},
    {"$ref": "#"},
    {"$ref": "https://example.invalid/schema.json"},
    {"$ref": "file:///etc/passwd"},
    {"$ref": "#/$defs/missing"},
    {"$schema": "https://example.invalid/schema", "type": "string"},
    {"type": "any"},
    {"minLength": "3"},
    {"type": "array", "uniqueItems": True},
    {"type": "array", "contains": {"const": 1}},
    {"type": "array", "prefixItems": [{"type": "integer"}], "additionalItems": False},
    {"not": {"type": "string"}},
    {"if": {"type": "string"}, "then": {"minLength": 2}},
    {"type": "object", "propertyNames": {"pattern": "^a"}},
    {"dependentRequired": {"a": ["b"]}},
    {"dependentSchemas": {"a": {"type": "object"}}},
    {"unevaluatedProperties": False},
    {"unevaluatedItems": False},
    {"type": "object", "minProperties": 2, "additionalProperties": {"type": "integer"}},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}, "y$": {"type": "null"}}},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"$schema": DRAFT_7, "type": "string", "contentMediaType": "application/json"},
    {"type": "string", "format": "json-pointer"},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "string", "pattern": r"(a)\1"},
    {"const": 12345678901234567890},
    {"enum": [{"a": [1e300]}]},
    {"type": "integer", "minimum": 10**15},
    {"type": "integer", "multipleOf": 86_400},
    {"type": "number", "multipleOf": 1e-12},
    {"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": True},
]


def read(raw: Any) -> ResponseFormat:
    """Read a format that is not plain text."""
    wanted = read_response_format(Params({"response_format": raw}))
    assert wanted is not None
    return wanted


def schema(value: dict[str, Any]) -> ResponseFormat:
    """Read a schema."""
    return read({"type": "json_schema", "schema": value})


def refused(raw: Any, compiled: bool = False) -> str:
    """Return the field that a format is refused for."""
    with pytest.raises(InvalidRequest) as caught:
        wanted = read(raw)
        if compiled:
            compile_format(wanted, VOCABULARY)
    return str(caught.value.details["field"])


def outputs(wanted: ResponseFormat, seed: int, count: int = 12) -> list[str]:
    """Return complete outputs of random logits."""
    grammar, rng = compile_format(wanted, VOCABULARY), np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        constraint, tokens = grammar.start(), []
        while not constraint.must_stop and len(tokens) < 80:
            logits = rng.standard_normal(COLUMNS).astype(np.float32)
            logits[END] += 4.0
            constraint.mask(logits)
            token = int(logits.argmax())
            if token == END:
                break
            constraint.advance(token)
            tokens.append(token)
        if constraint.is_complete:
            texts.append(str(WRAPPER.decode(tokens)))
    return texts


@pytest.mark.parametrize("value", ENFORCED, ids=json.dumps)
def test_every_complete_output_is_an_instance_of_the_schema(value: dict[str, Any]) -> None:
    wanted, validator = schema(value), jsonschema_rs.validator_for(value, validate_formats=True)
    texts = [text for seed in range(3) for text in outputs(wanted, seed)]
    assert texts
    for text in texts:
        validator.validate(json.loads(text))
        check_output(wanted, text)


@pytest.mark.parametrize("value", REFUSED, ids=json.dumps)
def test_a_schema_that_cannot_be_satisfied_or_enforced_is_refused(value: dict[str, Any]) -> None:
    raw = {"type": "json_schema", "schema": value}
    assert refused(raw, compiled=True) == "response_format.schema"


def test_a_part_that_is_refused_is_named() -> None:
    value = {"properties": {"when": {"items": {"type": "string", "format": "weekday"}}}}
    with pytest.raises(InvalidRequest, match=r"#/properties/when/items.*'weekday'.*date-time"):
        compile_format(schema(value), VOCABULARY)


@pytest.mark.parametrize(
    ("value", "text", "is_allowed"),
    [
        ({"exclusiveMaximum": 1}, "0.9", True),
        ({"exclusiveMaximum": 1}, "1", False),
        ({"exclusiveMaximum": 1, "maximum": 2}, "1.5", False),
        ({"exclusiveMinimum": 0}, "0.000000001", True),
        ({"exclusiveMinimum": 0, "type": "integer"}, "1", True),
        ({"exclusiveMinimum": 0, "type": "integer"}, "0", False),
        ({"maximum": 10**17}, "123456789012345", True),
        ({"maximum": 10**17}, "1234567890123456", False),
        ({"multipleOf": 0.25}, "12345678901.25", True),
        ({"multipleOf": 0.25}, "849346568423260.25", False),
    ],
)
def test_a_number_stays_within_its_bounds_and_those_of_a_float(
    value: dict[str, Any], text: str, is_allowed: bool
) -> None:
    constraint = compile_format(schema({"type": "number", **value}), VOCABULARY).start()
    tokens = [*WRAPPER.encode(text, add_special_tokens=False), END]
    assert (constraint.validate(tokens) == len(tokens)) is is_allowed


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    value = {"properties": {"format": {"type": "string"}, "not": {"const": "x"}}, "type": "object"}
    assert outputs(schema({**value, "additionalProperties": False}), 0)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "b":[true,"x y"]}', '{"a":-1.5e3}', '{"a":"😀 \\n \\u0000"}', "{}"]
)
def test_the_usual_ways_to_write_json_are_allowed(text: str) -> None:
    constraint = compile_format(read({"type": "json_object"}), VOCABULARY).start()
    for token in WRAPPER.encode(text, add_special_tokens=False):
        constraint.advance(token)
    assert constraint.must_stop


@pytest.mark.parametrize(
    "text", ["{ ", "{\n", '{"a":  1', '{"a" ', '{"a":1e999', '{"a":1234567890123456']
)
def test_spaces_without_end_and_numbers_without_bounds_are_not(text: str) -> None:
    constraint = compile_format(read({"type": "json_object"}), VOCABULARY).start()
    tokens = WRAPPER.encode(text, add_special_tokens=False)
    assert constraint.validate(tokens) < len(tokens)


@pytest.mark.parametrize(
    "raw",
    [
        {"type": "json_object"},
        {"type": "regex", "pattern": r"^(\d{2,4}|é😀*)-\w+$"},
        {"type": "regex", "pattern": r'["/\\]\s.'},
        {"type": "choice", "choices": ["yes", "no", "not yet"]},
        {"type": "choice", "choices": ['"q"\n', "\\", "/_", "😀é\x00", "a.c"]},
        {"type": "choice", "choices": ["", " a"]},
        {"type": "grammar", "grammar": 'start: "a" b*\nb: "(" b ")" | "x"'},
        {"type": "grammar", "grammar": 'start: "x=" %json {"type": "integer"}'},
    ],
    ids=json.dumps,
)
def test_every_complete_output_of_the_other_types_matches(raw: dict[str, Any]) -> None:
    wanted = read(raw)
    texts = [text for seed in range(3) for text in outputs(wanted, seed)]
    assert texts
    for text in texts:
        check_output(wanted, text)
        assert wanted.kind is not Kind.CHOICE or text in raw["choices"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"type": "json_object"}, "[1]"),
        ({"type": "json_object"}, '{"a":'),
        ({"type": "json_schema", "schema": {"maxLength": 2}}, '"abc"'),
        ({"type": "json_schema", "schema": {"format": "date"}}, '"2023-02-29"'),
        ({"type": "regex", "pattern": "a+"}, "aab"),
        ({"type": "regex", "pattern": r"\d"}, "٧"),
        ({"type": "choice", "choices": ["yes", "no"]}, "ye"),
        ({"type": "grammar", "grammar": 'start: "a" "b"'}, "a"),
    ],
)
def test_an_output_that_does_not_match_is_told(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(ConstraintFailed):
        check_output(read(raw), text)


def test_text_and_nothing_are_no_format() -> None:
    assert read_response_format(Params({})) is None
    assert read_response_format(Params({"response_format": None})) is None
    assert read_response_format(Params({"response_format": {"type": "text"}})) is None


def test_a_schema_may_lie_where_openai_puts_it() -> None:
    value = {"type": "object", "properties": {"b": {}, "a": {}}}
    nested = {"name": "n", "description": "d", "strict": True, "schema": value}
    assert read({"type": "json_schema", "json_schema": nested}) == schema(value)


def test_equal_formats_are_one_key_and_the_order_of_properties_counts() -> None:
    one, two = {"properties": {"a": {}, "b": {}}}, {"properties": {"b": {}, "a": {}}}
    assert {schema(one): 1}[schema(one)] == 1
    assert schema(one) != schema(two)
    assert outputs(schema({"type": "object", "required": ["b", "a"], **two}), 0)[0].startswith(
        '{"b"'
    )


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({}, "type"),
        ({"type": 1}, "type"),
        ({"type": "xml"}, "type"),
        ({"type": "text", "schema": {}}, "schema"),
        ({"type": "json_object", "strict": True}, "strict"),
        ({"type": "json_schema"}, "schema"),
        ({"type": "json_schema", "schema": "{}"}, "schema"),
        ({"type": "json_schema", "schema": {"const": b"x"}}, "schema"),
        ({"type": "json_schema", "schema": {1: 2}}, "schema"),
        ({"type": "json_schema", "schema": {"a": "x" * RESPONSE_FORMAT_LIMIT_BYTES}}, "schema"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}, "json_schema.x"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}, "json_schema.strict"),
        ({"type": "regex"}, "pattern"),
        ({"type": "regex", "pattern": ""}, "pattern"),
        ({"type": "regex", "pattern": "a", "flags": "i"}, "flags"),
        ({"type": "choice", "choices": []}, "choices"),
        ({"type": "choice", "choices": [""]}, "choices"),
        ({"type": "choice", "choices": ["a", 1]}, "choices[1]"),
        ({"type": "choice", "choices": ["a"] * (CHOICES_LIMIT + 1)}, "choices"),
        ({"type": "grammar", "grammar": 7}, "grammar"),
    ],
)
def test_what_is_unknown_or_of_the_wrong_type_is_named(raw: Any, field: str) -> None:
    assert refused(raw) == f"response_format.{field}"


def test_a_format_must_be_a_map() -> None:
    assert refused("json_object") == "response_format"


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"type": "regex", "pattern": "("}, "pattern"),
        ({"type": "regex", "pattern": "a(?=b)"}, "pattern"),
        ({"type": "regex", "pattern": r"(a)\1"}, "pattern"),
        ({"type": "regex", "pattern": "[^\\s\\S]"}, "pattern"),
        ({"type": "grammar", "grammar": "start: ("}, "grammar"),
        ({"type": "grammar", "grammar": 'start: start "a"'}, "grammar"),
        ({"type": "grammar", "grammar": "start: <|user|>"}, "grammar"),
        ({"type": "grammar", "grammar": "start: <[1-9]>"}, "grammar"),
        ({"type": "grammar", "grammar": 'start[stop="x"]: /.*/'}, "grammar"),
    ],
)
def test_what_does_not_compile_is_refused_under_its_name(raw: Any, field: str) -> None:
    assert refused(raw, compiled=True) == f"response_format.{field}"
