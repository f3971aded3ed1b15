"""Whatever tokens a mask lets through match the grammar, and taking them back leaves no trace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.engine.constraint import (
    Constraint,
    Vocabulary,
    compile_grammar,
    read_vocabulary,
)
from isthmus.engine.grammar import lark_regex, matches, names_tokens
from isthmus.errors import ConstraintFailed, InvalidRequest
from isthmus.models import BUILTIN_ROOT
from isthmus.models.load import load_tokenizer

COLUMNS = 800
TOKENS = 768
END, OTHER_END = 0, 3
MANY = settings(max_examples=60, deadline=None, database=None)

WRAPPER = load_tokenizer(BUILTIN_ROOT / "chat", None)
VOCABULARY = read_vocabulary(WRAPPER, COLUMNS, {END, OTHER_END})
OBJECT = """start: %json {
  "type": "object",
  "properties": {"né😀": {"type": "string"}, "n": {"type": "integer"}},
  "additionalProperties": false
}"""
GRAMMARS = [
    "start: /[a-z]{2,5}|[0-9]+/",
    'start: "a" | "ab" | "é😀"',
    'start: "(" start ")" | "x"',
    OBJECT,
    "start: /(.|\\n){0,9}/",
]


def encode(text: str) -> list[int]:
    """Return the tokens of a text."""
    return list(WRAPPER.encode(text, add_special_tokens=False))


def decode(tokens: list[int]) -> str:
    """Return the text of tokens."""
    return str(WRAPPER.decode(tokens))


def after(source: str, text: str) -> Constraint:
    """Return a constraint that has taken a text."""
    constraint = compile_grammar(VOCABULARY, source).start()
    for token in encode(text):
        constraint.advance(token)
    return constraint


def draw(constraint: Constraint, rng: np.random.Generator, tokens: int) -> list[int]:
    """Take random tokens that the mask allows; return them, without the end token."""
    taken: list[int] = []
    while len(taken) < tokens and not constraint.must_stop:
        logits = rng.standard_normal(COLUMNS).astype(np.float32)
        constraint.mask(logits)
        token = int(logits.argmax())
        constraint.advance(token)
        if token in (END, OTHER_END):
            break
        taken.append(token)
    return taken


@pytest.mark.parametrize("source", GRAMMARS)
@pytest.mark.parametrize("seed", range(4))
def test_every_complete_output_of_random_logits_matches(source: str, seed: int) -> None:
    grammar, rng = compile_grammar(VOCABULARY, source), np.random.default_rng(seed)
    complete = 0
    for _ in range(12):
        constraint = grammar.start()
        text = decode(draw(constraint, rng, 60))
        assert matches(source, text) == constraint.is_complete
        complete += constraint.is_complete
    assert complete


def test_a_text_must_match_every_source() -> None:
    grammar = compile_grammar(VOCABULARY, "start: /[ab]+/", "start: /[bc]{1,3}/")
    constraint = grammar.start()
    assert {decode([token]) for token in constraint.allowed()} == {"b"}
    draw(constraint, np.random.default_rng(0), 9)
    assert constraint.is_complete


@MANY
@given(st.sampled_from(GRAMMARS), st.integers(0, 2**32), st.integers(0, 12), st.data())
def test_tokens_that_are_taken_back_leave_the_masks_as_they_were(
    source: str, seed: int, tokens: int, data: st.DataObject
) -> None:
    grammar, rng = compile_grammar(VOCABULARY, source), np.random.default_rng(seed)
    kept = draw(grammar.start(), rng, tokens)
    constraint, fresh = grammar.start(), grammar.start()
    for token in kept:
        constraint.advance(token)
    back = data.draw(st.integers(0, len(kept)))
    if constraint.is_complete and data.draw(st.booleans()):
        constraint.advance(END)
        constraint.rollback(1)
    constraint.rollback(back)
    for token in kept[: len(kept) - back]:
        fresh.advance(token)
    assert constraint.allowed() == fresh.allowed()
    assert (constraint.is_complete, constraint.must_stop) == (fresh.is_complete, fresh.must_stop)
    for token in kept[len(kept) - back :]:
        assert constraint.validate([token]) == 1
        constraint.advance(token)
        fresh.advance(token)
    assert constraint.allowed() == fresh.allowed()


@pytest.mark.parametrize("source", GRAMMARS)
def test_a_token_is_valid_where_the_mask_has_it_and_nowhere_else(source: str) -> None:
    constraint, rng = compile_grammar(VOCABULARY, source).start(), np.random.default_rng(1)
    for _ in range(6):
        allowed = set(constraint.allowed())
        assert {token for token in range(COLUMNS) if constraint.validate([token])} == allowed
        if not allowed - {END, OTHER_END}:
            break
        constraint.advance(int(rng.choice(sorted(allowed - {END, OTHER_END}))))


def test_validating_counts_tokens_in_a_row_and_changes_nothing() -> None:
    constraint = after("start: /[a-z]{2} [0-9]+/", "is")
    before, digits = constraint.allowed(), encode(" 12")
    assert constraint.validate([]) == 0
    assert constraint.validate([*digits, END, END]) == len(digits) + 1
    assert constraint.validate([*digits, *encode("x"), END]) == len(digits)
    assert constraint.validate([END]) == constraint.validate([-1]) == 0
    assert constraint.validate([*digits, COLUMNS]) == len(digits)
    assert constraint.allowed() == before


def test_the_end_is_allowed_where_the_text_is_complete() -> None:
    constraint = after("start: /a{2,3}/", "a")
    assert not {END, OTHER_END} & set(constraint.allowed())
    assert not constraint.is_complete
    constraint.advance(*encode("a"))
    assert {END, OTHER_END} < set(constraint.allowed())
    assert constraint.is_complete and not constraint.must_stop
    constraint.advance(*encode("a"))
    assert constraint.allowed() == [END, OTHER_END]
    assert constraint.must_stop


def test_after_the_end_nothing_may_follow_until_it_is_taken_back() -> None:
    constraint = after("start: /a+/", "a")
    before = constraint.allowed()
    constraint.advance(END)
    assert constraint.must_stop and constraint.validate(encode("a")) == 0
    for token in (END, *encode("a")):
        with pytest.raises(ConstraintFailed):
            constraint.advance(token)
    with pytest.raises(ConstraintFailed):
        constraint.prepare()
    constraint.rollback(1)
    assert constraint.allowed() == before


def test_the_mask_forbids_columns_without_a_token_and_leaves_the_rest() -> None:
    constraint = after("start: /(?s:.)*/", "")
    logits = np.arange(COLUMNS + 10, dtype=np.float32)
    constraint.prepare()
    constraint.mask(logits)
    allowed = constraint.allowed()
    assert np.flatnonzero(np.isfinite(logits)).tolist() == allowed
    assert max(allowed) < TOKENS
    assert logits[allowed].tolist() == allowed


def test_a_refused_token_leaves_the_state_as_it_was() -> None:
    constraint = after("start: /ab*/", "a")
    before = constraint.allowed()
    for token in (*encode("x"), -1, COLUMNS, TOKENS + 1):
        with pytest.raises(ConstraintFailed) as caught:
            constraint.advance(token)
        assert caught.value.details["completion_tokens"] == 1
    assert constraint.allowed() == before
    with pytest.raises(ValueError):
        constraint.rollback(2)


def test_constraints_of_one_grammar_know_nothing_of_each_other() -> None:
    grammar = compile_grammar(VOCABULARY, "start: /ab|cd/")
    one, two = grammar.start(), grammar.start()
    one.advance(*encode("a"))
    assert {decode([token]) for token in one.allowed()} == {"b"}
    assert {decode([token])[0] for token in two.allowed()} == {"a", "c"}


def test_characters_of_several_bytes_come_out_whole() -> None:
    constraint = after("start: /(é😀){3}/", "é😀é😀é😀")
    assert constraint.must_stop
    constraint.rollback(1)
    assert not constraint.is_complete
    assert set(constraint.allowed()) >= set(encode("😀")[-1:])


def test_special_tokens_are_no_text() -> None:
    allowed = after("start: /(?s:.)*/", "").allowed()
    assert not {1, 2, 4} & set(allowed)
    assert encode("<")[0] in allowed


def test_an_end_token_that_is_text_ends_the_text_and_is_no_part_of_it() -> None:
    (dot,) = encode(".")
    constraint = compile_grammar(
        read_vocabulary(WRAPPER, COLUMNS, {dot}), "start: /[a-z.]{2,4}/"
    ).start()
    assert dot not in constraint.allowed()
    for token in encode("is"):
        constraint.advance(token)
    assert dot in constraint.allowed()
    constraint.advance(dot)
    assert constraint.must_stop


@pytest.mark.parametrize(
    "source",
    [
        "start: (",
        "start: missing",
        "start: /(/",
        'start: start "a"',
        "start: %json false",
        'start: %json {"type":"string","minLength":3,"maxLength":1}',
        'start[stop="x"]: /.*/',
        "start[max_tokens=3]: /a*/",
        "start: " + "(" * 5000 + '"a"' + ")" * 5000,
    ],
)
def test_a_grammar_that_cannot_be_used_is_an_invalid_request(source: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compile_grammar(VOCABULARY, source)
    assert caught.value.details["field"] == "response_format"
    assert "\n" not in caught.value.message


def test_a_dead_end_fails_the_generation_and_says_so() -> None:
    grammar = compile_grammar(VOCABULARY, "start: /a[bc]/", "start: /a[de]/")
    constraint = grammar.start()
    constraint.advance(*encode("a"))
    with pytest.raises(ConstraintFailed) as caught:
        constraint.mask(np.zeros(COLUMNS, dtype=np.float32))
    assert caught.value.phase == "decode"


@pytest.mark.parametrize(
    ("backend", "ends"),
    [(None, {END}), (SimpleNamespace(get_vocab_size=lambda: 3, to_str=lambda: "{}"), {END})],
)
def test_a_tokenizer_that_cannot_be_read_is_an_invalid_request(
    backend: Any, ends: set[int]
) -> None:
    wrapper = SimpleNamespace(_tokenizer=SimpleNamespace(backend_tokenizer=backend))
    with pytest.raises(InvalidRequest):
        read_vocabulary(wrapper, COLUMNS, ends)


def test_a_model_without_an_end_token_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest):
        read_vocabulary(WRAPPER, COLUMNS, {COLUMNS})


def test_fewer_columns_than_tokens_are_no_obstacle() -> None:
    vocabulary: Vocabulary = read_vocabulary(WRAPPER, TOKENS - 68, {END})
    logits = np.zeros(TOKENS - 68, dtype=np.float32)
    compile_grammar(vocabulary, "start: /[a-z]+/").start().mask(logits)
    assert np.isfinite(logits).any()


def test_a_whole_text_is_compared_by_its_bytes() -> None:
    assert matches("start: /é😀+/", "é😀😀")
    assert not matches("start: /é😀+/", "é")
    assert not matches("start: /é😀+/", "é😀!")
    slash = "start: " + lark_regex(r"/\d")
    assert matches(slash, "/7") and not matches(slash, "/٧")


@pytest.mark.parametrize(
    ("source", "expected"),
    [("start: <|user|>", True), ("start: <[5]>", True), ('start: "<|user|>"', False)],
)
def test_a_grammar_that_speaks_of_tokens_is_told(source: str, expected: bool) -> None:
    assert names_tokens(source) is expected
