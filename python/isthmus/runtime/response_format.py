"""The `response_format` of a request: what its whole output must match.

Read on the event loop, where only its shape is looked at; compiled in a thread, where the rest is
found out; and the output checked once more when it is whole, by other means than those that made
it. What cannot be enforced to the letter is refused, so that every complete output validates.

Not known here: how tokens are chosen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import orjson

from ..errors import ConstraintFailed, InvalidRequest
from ..limits import CHOICES_LIMIT, RESPONSE_FORMAT_LIMIT_BYTES
from .json_schema import BOUNDED_NUMBERS, grammar_of, validator_of
from .params import Params

if TYPE_CHECKING:
    from ..engine.constraint import Grammar
    from ..engine.vocabulary import Vocabulary

_VALIDATORS: Final = 64
"""Schemas whose validators are kept; one of 1 MiB takes some 50 ms to make."""


_REMEDIES: Final = {
    "Unimplemented keys": "these keywords cannot be enforced, so remove them",
    "oneOf constraints": "its parts may overlap, so use `anyOf`, or tell them apart by a `const`",
    "Unsatisfiable schema": "no value is valid, so widen it",
    "invalid regex": "the syntax is that of Rust's regex crate, without look-around and `\\b`",
}
"""What to do about the compiler's most frequent errors."""


class Kind(Enum):
    """What an output is matched with; the value is the `type` on the wire."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What an output must match; equal ones share a compiled grammar.

    Attributes:
        kind: How `source` is to be read.
        source: The schema or the list of choices as JSON, the pattern, or the grammar.
    """

    kind: Kind
    source: str


def read_response_format(fields: Params) -> ResponseFormat | None:
    """Read `response_format`; None when any text will do.

    One of `{"type": "text"}`, `{"type": "json_object"}`, `{"type": "json_schema", "schema": {...}}`
    (or the schema within `json_schema`, as OpenAI's API has it), `{"type": "regex", "pattern":
    "..."}` (Rust's syntax, the whole output, `\\d` and `\\w` ASCII), `{"type": "choice", "choices":
    ["...", ...]}` and `{"type": "grammar", "grammar": "..."}` (llguidance's Lark syntax).

    Raises:
        InvalidRequest: A field is unknown, of the wrong type, empty or too large;
            `details.field` is `response_format` and its name.
    """
    raw = fields.typed("response_format", dict, None)
    if raw is None:
        return None
    try:
        return _read(Params(raw))
    except InvalidRequest as error:
        field = f"response_format.{error.details['field']}"
        raise InvalidRequest(f"in `response_format`, {error.message}", field=field) from None


def compile_format(wanted: ResponseFormat, vocabulary: Vocabulary) -> Grammar:
    """Compile a format for a model; off the event loop.

    Raises:
        InvalidRequest: It cannot be satisfied, compiled or enforced.
    """
    from ..engine.constraint import compile_grammar

    field = f"response_format.{_FIELDS[wanted.kind]}"
    try:
        return compile_grammar(vocabulary, *_GRAMMARS[wanted.kind](wanted.source))
    except InvalidRequest as error:
        remedies = [remedy for part, remedy in _REMEDIES.items() if part in error.message]
        raise InvalidRequest("; ".join([error.message, *remedies]), field=field) from error


def check_output(wanted: ResponseFormat, text: str) -> None:
    """Check a complete output.

    Raises:
        ConstraintFailed: It does not match.
    """
    from ..engine.grammar import matches

    if wanted.kind in (Kind.JSON_OBJECT, Kind.JSON_SCHEMA):
        reason = _find_json_problem(wanted.source, text)
    elif wanted.kind is Kind.CHOICE:
        reason = None if text in orjson.loads(wanted.source) else "it is none of the choices"
    else:
        (grammar,) = _GRAMMARS[wanted.kind](wanted.source)
        reason = None if matches(grammar, text) else f"the {wanted.kind.value} does not match it"
    if reason is not None:
        raise ConstraintFailed(
            f"the output is not what `response_format` demands: {reason}", phase="decode"
        )


def _read(fields: Params) -> ResponseFormat | None:
    name = fields.typed("type", str)
    if name == "text":
        fields.done()
        return None
    if name not in _READERS:
        known = ", ".join(["text", *_READERS])
        raise InvalidRequest(f"`type` must be one of {known}, not {name!r:.40}", field="type")
    source = _READERS[name](fields)
    fields.done()
    wanted = ResponseFormat(Kind(name), source)
    if len(source.encode()) > RESPONSE_FORMAT_LIMIT_BYTES:
        field = _FIELDS[wanted.kind]
        limit = f"{RESPONSE_FORMAT_LIMIT_BYTES} bytes"
        raise InvalidRequest(f"`{field}` is longer than {limit}", field=field)
    return wanted


def _read_schema(fields: Params) -> str:
    if "json_schema" not in fields:
        return _dump(fields.typed("schema", dict))
    nested = Params(fields.typed("json_schema", dict))
    try:
        for name in ("name", "description"):
            nested.typed(name, str, None)
        nested.typed("strict", bool, None)
        schema = nested.typed("schema", dict)
        nested.done()
    except InvalidRequest as error:
        field = f"json_schema.{error.details['field']}"
        raise InvalidRequest(error.message, field=field) from None
    return _dump(schema)


def _dump(schema: dict[str, Any]) -> str:
    try:
        return orjson.dumps(schema).decode()
    except TypeError as error:  # msgpack has bytes, keys of any type and larger numbers
        raise InvalidRequest(f"`schema` is not JSON: {error}", field="schema") from error


def _read_text(name: str) -> Callable[[Params], str]:
    def read(fields: Params) -> str:
        text: str = fields.typed(name, str)
        if not text:
            raise InvalidRequest(f"`{name}` must not be empty", field=name)
        return text

    return read


def _read_choices(fields: Params) -> str:
    choices: list[str] = fields.items("choices", str, CHOICES_LIMIT)
    if not any(choices):
        raise InvalidRequest("`choices` must have a text to choose", field="choices")
    return orjson.dumps(choices).decode()


def _json_grammars(source: str) -> list[str]:
    return [grammar_of(orjson.loads(source)), BOUNDED_NUMBERS]


def _regex_grammar(source: str) -> list[str]:
    from ..engine.grammar import lark_regex

    return [f"start: {lark_regex(source)}"]


def _choice_grammar(source: str) -> list[str]:
    # One regex is one lexeme: 10,000 rules take four times as long to compile.
    escaped = (re.sub(r"[^\w]|_", _escape, choice) for choice in orjson.loads(source))
    return [f"start: /(?:{'|'.join(escaped)})/"]


def _escape(match: re.Match[str]) -> str:
    return f"\\x{{{ord(match[0]):x}}}"


def _user_grammar(source: str) -> list[str]:
    from ..engine.grammar import names_tokens

    if names_tokens(source):
        raise InvalidRequest(
            "`response_format` cannot be used: the grammar names special tokens or token ids; "
            "write what the text is, which can be compared when it is whole"
        )
    return [source]


def _find_json_problem(source: str, text: str) -> str | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"it is not JSON: {error}"
    problem = next(_validator(source).iter_errors(value), None)
    return None if problem is None else str(problem).partition("\n")[0]


@lru_cache(maxsize=_VALIDATORS)
def _validator(source: str) -> Any:
    return validator_of(orjson.loads(source))


_READERS: Final[dict[str, Callable[[Params], str]]] = {
    "json_object": lambda _: '{"type":"object"}',
    "json_schema": _read_schema,
    "regex": _read_text("pattern"),
    "choice": _read_choices,
    "grammar": _read_text("grammar"),
}
_FIELDS: Final = {
    Kind.JSON_OBJECT: "type",
    Kind.JSON_SCHEMA: "schema",
    Kind.REGEX: "pattern",
    Kind.CHOICE: "choices",
    Kind.GRAMMAR: "grammar",
}
_GRAMMARS: Final[dict[Kind, Callable[[str], list[str]]]] = {
    Kind.JSON_OBJECT: _json_grammars,
    Kind.JSON_SCHEMA: _json_grammars,
    Kind.REGEX: _regex_grammar,
    Kind.CHOICE: _choice_grammar,
    Kind.GRAMMAR: _user_grammar,
}
