"""Noise is standard Gumbel noise, and a token's is the same however it is made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.engine.noise import Noise, pick, token_word

MANY = settings(max_examples=150, deadline=None, database=None)


def test_noise_is_finite_standard_gumbel_and_the_same_for_a_shorter_vocabulary() -> None:
    noise = Noise(7).whole(3, 400_000)
    assert np.isfinite(noise).all() and len(noise) == 400_000
    assert abs(float(noise.mean()) - 0.5772) < 0.01 and abs(float(noise.var()) - 1.6449) < 0.03
    assert (Noise(7).whole(3, 1_001) == noise[:1_001]).all()
    for seed, position in ((8, 3), (7, 4), (2**53 - 1, 0)):
        assert (Noise(seed).whole(position, 100) != noise[:100]).all()


def test_noise_of_neighbouring_positions_seeds_and_tokens_is_independent() -> None:
    rows = [Noise(seed).whole(position, 20_000) for seed in range(4) for position in range(8)]
    found = np.corrcoef(np.array(rows, dtype=np.float64))
    assert np.abs(found - np.eye(len(rows))).max() < 5 / 20_000**0.5
    flat = np.concatenate(rows)
    for lag in (1, 2, 3, 8, 64, 256, 4_096):
        assert abs(np.corrcoef(flat[:-lag], flat[lag:])[0, 1]) < 5 / len(flat) ** 0.5


@pytest.mark.parametrize("vocab_size", [1, 7, 8_000, 152_001])
@pytest.mark.parametrize("seed", [0, 2**53 - 1])
def test_a_few_tokens_have_the_noise_that_they_have_in_the_whole(
    seed: int, vocab_size: int
) -> None:
    rng, position = np.random.default_rng(4), 300_000
    whole = Noise(seed).whole(position, vocab_size)
    for count in (1, 5, 60, 3_000):
        ids = np.unique(rng.integers(0, vocab_size, count))
        noise = Noise(seed)
        assert (noise.of(ids, position) == whole[ids]).all()
        assert (noise.of(ids, 9) != whole[ids]).any()
        assert (noise.whole(position, vocab_size) == whole).all()
        assert (noise.of(ids, position) == whole[ids]).all()


def test_the_noise_of_the_last_positions_is_kept() -> None:
    noise = Noise(1)
    first, second = noise.whole(0, 50), noise.whole(1, 50)
    assert noise.whole(0, 50) is first and noise.whole(1, 50) is second
    noise.whole(2, 50)
    again = noise.whole(0, 50)
    assert again is not first and (again == first).all()


@MANY
@given(
    st.lists(st.sampled_from([0.0, 1e-30, 0.25, 1.0, 7.5]), min_size=1, max_size=40).filter(any),
    st.sampled_from([1, 3, 60, 700]),
    st.floats(0.0, 1.0, exclude_max=True),
)
def test_a_number_falls_on_its_weight_and_never_on_none(
    some: list[float], repeats: int, uniform: float
) -> None:
    weights = np.tile(np.array(some, dtype=np.float32), repeats)
    index = pick(weights, uniform)
    bounds = np.cumsum(weights, dtype=np.float64)
    start = bounds[index] - float(weights[index])
    assert weights[index] > 0
    assert start - 1e-6 * bounds[-1] <= uniform * bounds[-1] <= bounds[index] * (1 + 1e-6)


def test_the_bits_of_tokens_differ_by_seed_and_position() -> None:
    words = {token_word(seed, position) for seed in range(50) for position in range(50)}
    assert len(words) == 2_500 and all(0 <= word < 2**64 for word in words)
    assert token_word(2**53 - 1, 10**9) != token_word(0, 10**9)


def test_splitmix_gives_its_published_values() -> None:
    # The first output of the reference implementation from the state 0, mixed once more.
    assert token_word(0, 0) == 0xA706DD2F4D197E6F
