"""What a JSON schema must be like so that whatever its grammar lets through is valid.

The grammar's compiler enforces most keywords and refuses the rest, with a few gaps. They are closed
here: a schema that falls into one is refused, or the grammar gets a copy that allows less. Numbers
have at most 15 digits before the point and 2 in the exponent, which JavaScript holds; formats are
those that validators agree on; patterns mean the same in Rust and in JavaScript. The validator of
the whole output gets the schema as it was sent.

Not known here: requests, tokens, models.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson

from ..errors import InvalidRequest

if TYPE_CHECKING:
    from jsonschema_rs import Validator

Schema = dict[str, Any]

FIELD: Final = "response_format.schema"

_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLES: Final = ("items", "additionalItems", "additionalProperties")
_LOW: Final = ("minimum", "exclusiveMinimum")
_HIGH: Final = ("maximum", "exclusiveMaximum")
_LARGEST: Final = 10**15 - 1
_LARGEST_FACTOR: Final = 2_000
"""Largest `multipleOf`, read without its point: the grammar has a state for each remainder."""

_DECIMAL_PLACES: Final = 9

_NUMBER: Final = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"
_STRING: Final = r'"(?:[^"\\]|\\.)*"'
_OTHER: Final = r"[\[\]{},: ]|true|false|null"
BOUNDED_NUMBERS: Final = (
    f"start: /(?:(?:{_NUMBER})?(?:{_STRING}|{_OTHER}))*(?:{_NUMBER})?/"  # no two in a row
)
"""A grammar of JSON's words in any order, its numbers finite in JavaScript: `1e999` is not."""

_WHITESPACE: Final = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "lenient": False,
    "coerce_one_of": False,
}
"""One space after a comma or a colon: where any is allowed, a weak model writes nothing else."""

_DAY: Final = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_TIME: Final = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_LABEL: Final = r"[a-zA-Z](?:-?[a-zA-Z0-9]){0,30}"
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_MAILBOX: Final = r"[a-zA-Z0-9_+-]{1,20}(?:\.[a-zA-Z0-9_+-]{1,20}){0,2}"
_FORMATS: Final = {
    "date": f"^{_DAY}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DAY}T{_TIME}$",
    "hostname": f"^{_HOST}$",
    "email": rf"^{_MAILBOX}@{_LABEL}(?:\.{_LABEL}){{1,3}}$",
}
"""Formats whose grammar lets through what validators refuse: 29 February of any year, leap seconds
at any time, names and labels of any length."""

_EXACT_FORMATS: Final = frozenset({"duration", "ipv4", "ipv6", "uuid", "uri"})


def grammar_of(schema: Schema) -> str:
    """Return the grammar of a schema's instances in Lark syntax; `BOUNDED_NUMBERS` goes with it.

    Raises:
        InvalidRequest: The schema is not valid, or asks for what cannot be enforced.
    """
    check_schema(schema)
    narrowed = _narrow(schema, "#")
    return f"start: %json {orjson.dumps({**narrowed, 'x-guidance': _WHITESPACE}).decode()}"


def check_schema(schema: Schema) -> None:
    """Refuse a schema that is none by the rules of its draft.

    Raises:
        InvalidRequest: With the validator's words.
    """
    import jsonschema_rs

    if "x-guidance" in schema:
        raise _refused("#", "`x-guidance` is not taken", "remove it")
    try:
        validator_of(schema)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        reason = str(error).partition("\n")[0]
        raise _refused("#", f"it is not a valid JSON schema: {reason}", "mend it") from error
    if "/draft-0" in str(schema.get("$schema")) and _has_content(schema):
        raise _refused("#", "`contentMediaType` is not enforced", "remove it, or `$schema`")


def validator_of(schema: Schema) -> Validator:
    """Return what validates whole instances, formats included; it fetches nothing."""
    import jsonschema_rs

    # Patterns with look-around are refused by the grammar; without it none takes long.
    options = jsonschema_rs.RegexOptions()
    return jsonschema_rs.validator_for(
        schema, validate_formats=True, offline=True, pattern_options=options
    )


def _narrow(schema: Any, path: str) -> Any:
    """Return a copy for the grammar's compiler, and refuse what it would not enforce."""
    if not isinstance(schema, dict):
        return schema
    copy = {key: _narrow_below(key, value, f"{path}/{key}") for key, value in schema.items()}
    if copy.get("uniqueItems") is False:
        del copy["uniqueItems"]
    if copy.get("propertyNames") in (True, {}, {"type": "string"}):
        del copy["propertyNames"]
    _check_counts(copy, path)
    _bound_numbers(copy, path)
    _narrow_strings(copy, path)
    return copy


def _narrow_below(key: str, value: Any, path: str) -> Any:
    if key in _MAPS and isinstance(value, dict):
        return {name: _narrow(part, f"{path}/{name}") for name, part in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [_narrow(part, f"{path}/{index}") for index, part in enumerate(value)]
    return _narrow(value, path) if key in _SINGLES else value


def _check_counts(schema: Schema, path: str) -> None:
    required = schema.get("required", [])
    # A grammar cannot remember free keys, so that one may come twice and count once.
    if schema.get("minProperties", 0) > max(1, len(required)):
        raise _refused(
            path, "`minProperties` above 1 is not enforced", "list `required` properties instead"
        )
    if "additionalItems" in schema and "prefixItems" in schema:
        raise _refused(path, "`additionalItems` beside `prefixItems`", "use `items`")


def _bound_numbers(schema: Schema, path: str) -> None:
    """Refuse numbers beyond the bounds, and give ranges the bounds as ends.

    Where the schema says yes to longer numbers only, its grammar and `BOUNDED_NUMBERS` would
    together leave no way on; with ends on both sides the grammar knows. Multiples of a fraction
    have 15 digits in all: with more, a float is no longer the number that was written.
    """
    lows, highs = (
        [schema[key] for key in keys if _is_number(schema, key)] for keys in (_LOW, _HIGH)
    )
    factor = Decimal(str(schema.get("multipleOf", 1))).normalize()
    places = int(factor.as_tuple().exponent)
    fixed = _numbers_in([schema.get("const"), schema.get("enum")])
    beyond = [*lows, *(-high for high in highs), *map(abs, fixed)]
    if any(number > _LARGEST for number in beyond):
        raise _refused(path, "a number of more than 15 digits", "send it as a string")
    if factor * 10 ** max(-places, 0) > _LARGEST_FACTOR or places < -_DECIMAL_PLACES:
        limits = f"{_LARGEST_FACTOR} or {_DECIMAL_PLACES} decimal places"
        raise _refused(path, "`multipleOf` is too large or too fine", f"use up to {limits}")
    if lows or highs or "multipleOf" in schema:
        end = 10 ** (15 + min(places, 0)) - 1
        for bounds, plain, strictest in ((lows, "minimum", max), (highs, "maximum", min)):
            outermost = -end if strictest is max else end
            if _is_number(schema, plain) or strictest([*bounds, outermost]) == outermost:
                schema[plain] = strictest([schema.get(plain, outermost), outermost])


def _is_number(schema: Schema, key: str) -> bool:
    """Whether a keyword has a number; in draft 4 the exclusive ones are booleans."""
    return type(schema.get(key)) in (int, float)


def _numbers_in(value: Any) -> Iterator[int | float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers_in(part)
    elif type(value) in (int, float):
        yield value


def _narrow_strings(schema: Schema, path: str) -> None:
    """Put what a format or a pattern allows less than it seems into patterns of its own."""
    more: list[str] = []
    name = schema.get("format")
    if isinstance(name, str) and name in _FORMATS:
        more.append(_FORMATS[schema.pop("format")])
    elif (
        name is not None and name not in _EXACT_FORMATS and "string" in schema.get("type", "string")
    ):
        known = ", ".join(sorted({*_FORMATS, *_EXACT_FORMATS}))
        raise _refused(path, f"the format {name!r} is not enforced", f"use one of {known}")
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and any(part in pattern for part in (".", r"\s", r"\S")):
        # Rust and JavaScript differ in whether these end a line or are a space.
        line_end = "" if r"\r" in pattern or "\r" in pattern else "\r"
        more.append(f"^[^{line_end}\u2028\u2029\u0085\ufeff]*$")
    if more:
        schema["allOf"] = [*schema.get("allOf", []), *({"pattern": part} for part in more)]


def _has_content(value: Any) -> bool:
    """Whether `contentMediaType` or `contentEncoding` is anywhere, be it a property's name."""
    if isinstance(value, dict):
        has_it = "contentMediaType" in value or "contentEncoding" in value
        return has_it or any(map(_has_content, value.values()))
    return isinstance(value, list) and any(map(_has_content, value))


def _refused(path: str, reason: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"the schema at {path} cannot be used: {reason}; {remedy}", field=FIELD)
