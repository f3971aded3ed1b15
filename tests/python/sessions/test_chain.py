"""Texts that begin alike have the same keys as far as they do, and no key stands for two texts."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isthmus.sessions.chain import (
    CHUNK_TOKENS,
    Chain,
    boundary_before,
    root_key,
    shared_tokens,
    token_array,
)
from tests.python.sessions.rig import join, text
from tests.python.sessions.strategies import MANY

ROOT = root_key([b"model"])
LENGTHS = st.integers(0, 3 * CHUNK_TOKENS)
PARTS = st.lists(st.binary(max_size=6), max_size=4)


def naive_key(root: bytes, ids: list[int]) -> bytes:
    """Return a key as the definition has it: a hash over the hash of what came before."""
    key = root
    for start in range(0, len(ids), CHUNK_TOKENS):
        chunk = ids[start : start + CHUNK_TOKENS]
        key = hashlib.sha256(key + b"".join(each.to_bytes(4, "little") for each in chunk)).digest()
    return key


@given(length=LENGTHS, end=LENGTHS, seed=st.integers(0, 3))
@MANY
def test_a_key_is_what_the_definition_says(length: int, end: int, seed: int) -> None:
    ids = text(length, seed)
    end = min(end, length)
    assert Chain(ROOT, ids).key(end) == naive_key(ROOT, ids[:end].tolist())


@given(shared=LENGTHS, one=LENGTHS, other=LENGTHS, end=LENGTHS)
@MANY
def test_two_texts_have_the_same_keys_up_to_where_they_part(
    shared: int, one: int, other: int, end: int
) -> None:
    first, second = (
        join(text(shared), text(length, seed)) for length, seed in ((one, 1), (other, 2))
    )
    end = min(end, len(first), len(second))
    is_same = Chain(ROOT, first).key(end) == Chain(ROOT, second).key(end)
    assert is_same == (first[:end].tolist() == second[:end].tolist())


def test_keys_do_not_depend_on_the_order_in_which_they_are_asked_for() -> None:
    ends = [700, 0, 256, 511, 512, 1, 700]
    ids = text(700)
    asked = Chain(ROOT, ids)
    assert [asked.key(end) for end in ends] == [Chain(ROOT, ids).key(end) for end in ends]


def test_no_two_beginnings_of_a_text_have_the_same_key() -> None:
    chain = Chain(ROOT, token_array([0] * 600))
    assert len({chain.key(end) for end in range(601)}) == 601


@given(one=PARTS, other=PARTS)
@MANY
def test_other_roots_share_no_key(one: list[bytes], other: list[bytes]) -> None:
    first, second = Chain(root_key(one), text(300)), Chain(root_key(other), text(300))
    for end in (0, 1, 256, 300):
        assert (first.key(end) == second.key(end)) == (one == other)


@given(one=st.lists(st.integers(0, 2), max_size=8), other=st.lists(st.integers(0, 2), max_size=8))
@MANY
def test_shared_tokens_are_counted_from_the_first_on(one: list[int], other: list[int]) -> None:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    assert shared_tokens(token_array(one), token_array(other)) == length


def test_tokens_are_hashed_as_little_endian_integers_of_32_bits() -> None:
    assert token_array([1, 2**32 - 1]).tobytes() == b"\1\0\0\0\xff\xff\xff\xff"
    assert token_array(np.array([7], dtype=">u8")).tobytes() == b"\7\0\0\0"


def test_a_chunk_begins_at_a_multiple_of_its_size() -> None:
    assert [boundary_before(place) for place in (0, 255, 256, 700)] == [0, 0, 256, 512]
