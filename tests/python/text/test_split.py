"""Long texts are cut only where that changes no id, and only for tokenizers known to allow it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from isthmus.text import split as module
from isthmus.text.split import is_splittable, split
from isthmus.text.tokenizer import SPLIT_CHARS, TextTokenizer

PIECES = (
    *("word ", "The", " cat", "\n", "  ", " \n ", "\t", "it's", "'s ", "don't ", "42", "3 ", "é "),
    *(
        "中",
        "👩‍👩‍👧 ",
        "<|end|>",
        " <|user|> ",
        "a b",
        "x" * 50,
        "e\u0301 ",
        "\u00a0",
        "-",
        "_ ",
        "A ",
    ),
)


def byte_level(**options: Any) -> Tokenizer:
    """A byte-level BPE tokenizer without merges."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, **options)
    return tokenizer


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.integers(1, 40))
def test_the_parts_are_the_text_and_have_its_ids(
    tokenizer: TextTokenizer, text: str, part_chars: int
) -> None:
    backend = tokenizer._fast
    before = module.PART_CHARS
    module.PART_CHARS = part_chars
    try:
        parts = split(text)
    finally:
        module.PART_CHARS = before
    assert "".join(parts) == text
    together = backend.encode(text, add_special_tokens=False).ids
    apart = [backend.encode(part, add_special_tokens=False).ids for part in parts]
    assert [token for ids in apart for token in ids] == together


@pytest.mark.parametrize("kind", range(4))
def test_a_long_text_has_the_ids_of_the_whole(tokenizer: TextTokenizer, kind: int) -> None:
    rng = random.Random(kind)
    text = {
        0: "".join(rng.choices(PIECES, k=60_000)),
        1: "x" * (3 * SPLIT_CHARS),
        2: "word " * SPLIT_CHARS,
        3: "".join(chr(rng.randrange(32, 0x3000)) for _ in range(3 * SPLIT_CHARS)),
    }[kind]
    expected = tokenizer._fast.encode(text).ids
    assert len(text) > SPLIT_CHARS
    short, ids, last = tokenizer.encode_batch(["short", text, "last"])
    assert ids.tolist() == expected
    assert [short.tolist(), last.tolist()] == [tokenizer.encode("short"), tokenizer.encode("last")]
    assert tokenizer.count_batch([text, "short"]) == [len(expected), len(short)]


def test_the_parts_of_prose_are_short() -> None:
    parts = split("some words of prose, and more. " * 20_000)
    assert len(parts) > 20 and max(map(len, parts)) <= module.PART_CHARS + module._SEAM_WINDOW


def test_a_text_without_a_seam_is_whole() -> None:
    assert split("x" * 200_000) == ["x" * 200_000]
    assert split("1 2 " * 50_000) == ["1 2 " * 50_000]


LLAMA_3 = next(pattern for pattern in module._KNOWN_PATTERNS if "{1,3}" in pattern)


def with_steps(*steps: Any) -> Tokenizer:
    """A tokenizer with a sequence of pre-tokenizers."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    return tokenizer


def test_byte_level_tokenizers_with_a_known_pattern_may_be_cut() -> None:
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
    assert is_splittable(byte_level())
    assert is_splittable(with_steps(known, plain))
    assert is_splittable(with_steps(pre_tokenizers.Digits(), byte_level().pre_tokenizer))
    composed = byte_level()
    composed.normalizer = normalizers.NFC()
    assert is_splittable(composed)


def test_whatever_is_not_known_stays_whole() -> None:
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    prefixed = byte_level()
    prefixed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    lowered = byte_level()
    lowered.normalizer = normalizers.Lowercase()
    none = byte_level()
    none.pre_tokenizer = None
    words = Tokenizer(models.WordLevel({"a": 0}, "a"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spaced, greedy = byte_level(), byte_level()
    spaced.add_tokens([AddedToken("two words")])
    greedy.add_special_tokens([AddedToken("<x>", rstrip=True)])
    refused = [
        *(prefixed, lowered, none, words, spaced, greedy),
        byte_level(use_regex=False),
        with_steps(pre_tokenizers.Split(Regex(".{3}"), "isolated"), plain),
        with_steps(pre_tokenizers.Split(Regex(LLAMA_3), "removed"), plain),
        with_steps(pre_tokenizers.Metaspace(), plain),
        with_steps(plain),
    ]
    assert [is_splittable(tokenizer) for tokenizer in refused] == [False] * len(refused)


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@pytest.mark.parametrize("pattern", sorted(module._KNOWN_PATTERNS))
def test_no_token_of_a_known_pattern_lies_across_a_seam(pattern: str, text: str) -> None:
    cutter = pre_tokenizers.Split(Regex(pattern), "isolated")
    seams = {match.start() for match in module._SEAM.finditer(text)}
    whole = [place for _, place in cutter.pre_tokenize_str(text)] if text else []
    assert seams <= {start for start, _ in whole}
    for seam in seams:
        left = [place for _, place in cutter.pre_tokenize_str(text[:seam])]
        right = [(a + seam, b + seam) for _, (a, b) in cutter.pre_tokenize_str(text[seam:])]
        assert left + right == whole
