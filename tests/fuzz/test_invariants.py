"""The fuzzers' invariants hold for their seeds and for what hypothesis makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.invariants import CHECKS, check
from tests.fuzz.seeds import DICTIONARY, seeds

SEEDS = sorted(set(seeds()))
PARTS = st.binary(max_size=20) | st.sampled_from(DICTIONARY) | st.sampled_from(SEEDS)


def test_every_seed_keeps_them() -> None:
    for seed in SEEDS:
        check(seed)


@pytest.mark.parametrize("place", range(len(CHECKS)), ids=[name for name, _ in CHECKS])
def test_any_mixture_of_seeds_and_bytes_keeps_them(place: int) -> None:
    @settings(max_examples=100, deadline=None, database=None)
    @given(st.lists(PARTS, max_size=6).map(b"".join))
    def mixture(data: bytes) -> None:
        check(bytes([place]) + data)

    mixture()
