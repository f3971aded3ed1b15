"""The kept candidates are mlx-lm's, and a seed fixes the tokens whoever else is served."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from isthmus.engine.sampling import (
    Sampler,
    SamplingOptions,
    is_drawn_by_inversion,
    key_uniforms,
    pick,
    token_word,
    top_logprobs,
)

Floats = np.ndarray[Any, np.dtype[np.float32]]
MASKED = -math.inf
FILTERS: list[dict[str, Any]] = [
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 10_000},
    {"top_p": 0.8, "top_k": 5},
    {"top_p": 0.9, "min_p": 0.05, "top_k": 50},
]


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """mlx-lm compiles each filter for each parameter, which takes seconds."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def normal(size: int, scale: float, seed: int) -> Floats:
    """Return random log-probabilities."""
    logits = np.random.default_rng(seed).normal(0.0, scale, size).astype(np.float32)
    return logits - np.float32(np.log(np.exp(logits, dtype=np.float64).sum()))


def with_ties(size: int, seed: int) -> Floats:
    """Return log-probabilities of which many are equal."""
    logits = np.random.default_rng(seed).integers(-3, 3, size).astype(np.float32)
    return logits - np.float32(np.log(np.exp(logits, dtype=np.float64).sum()))


def masked(size: int, kept: int, seed: int) -> Floats:
    """Return log-probabilities of which all but a few are minus infinity."""
    logprobs = np.full(size, MASKED, dtype=np.float32)
    places = np.random.default_rng(seed).choice(size, kept, replace=False)
    logprobs[places] = normal(kept, 2.0, seed)
    return logprobs


LOGPROBS: dict[str, Floats] = {
    "flat": normal(2_000, 0.5, 1),
    "spread": normal(2_000, 3.0, 2),
    "peaked": normal(768, 12.0, 3),
    "small": normal(5, 1.0, 4),
    "one word": np.zeros(1, dtype=np.float32),
    "ties": with_ties(1_000, 5),
    "all equal": np.full(256, -math.log(256), dtype=np.float32),
    "masked": masked(1_000, 30, 6),
    "one left": masked(1_000, 1, 7),
}


def kept_by_mlx_lm(logprobs: Floats, options: dict[str, Any]) -> Floats:
    """Return what mlx-lm's filters leave, in the order of `make_sampler`; the rest is masked."""
    left = mx.array(logprobs)[None]
    if options.get("top_p", 1.0) < 1.0:
        left = apply_top_p(left, options["top_p"])
    if options.get("min_p", 0.0) > 0.0:
        left = apply_min_p(left, options["min_p"], 1)
    if 0 < options.get("top_k", 0) < len(logprobs):
        left = apply_top_k(left, options["top_k"])
    return np.array(left[0])


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize("name", LOGPROBS)
def test_the_candidates_are_those_that_mlx_lm_keeps(name: str, options: dict[str, Any]) -> None:
    logprobs = LOGPROBS[name]
    sampler = Sampler(SamplingOptions(temperature=1.0, **options), len(logprobs))
    ours = logprobs[sampler.candidates(logprobs)]
    left = kept_by_mlx_lm(logprobs, options)
    # Which of several equals top_k keeps is nobody's promise: the values are compared.
    theirs = np.sort(left[np.isfinite(left)])[::-1]
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", LOGPROBS)
def test_candidates_are_in_order_and_each_is_there_once(name: str) -> None:
    logprobs = LOGPROBS[name]
    kept = Sampler(SamplingOptions(temperature=1.0, top_p=0.95), len(logprobs)).candidates(logprobs)
    assert len(set(kept.tolist())) == len(kept) >= 1
    assert (np.diff(logprobs[kept]) <= 0).all()


@pytest.mark.parametrize(
    ("options", "is_lazy"),
    [
        ({}, True),
        ({"temperature": 1.0}, True),
        ({"top_p": 0.5}, True),
        ({"temperature": 1.0, "top_k": 10**6}, True),
        ({"temperature": 1.0, "top_p": 0.5}, False),
        ({"temperature": 1.0, "min_p": 0.5}, False),
        ({"temperature": 1.0, "top_k": 5}, False),
    ],
    ids=str,
)
def test_only_filters_need_the_candidates(options: dict[str, Any], is_lazy: bool) -> None:
    assert Sampler(SamplingOptions(**options), 768).is_lazy is is_lazy


def test_temperature_0_is_greedy_whatever_else_is_set() -> None:
    logprobs = mx.array(LOGPROBS["spread"])[None]
    sampler = Sampler(SamplingOptions(temperature=0.0, top_p=0.1, seed=3), 2_000)
    assert sampler.draw(logprobs, 0).item() == int(np.argmax(LOGPROBS["spread"]))


@pytest.mark.parametrize("options", [{}, {"top_p": 0.95}, {"top_k": 3}], ids=str)
def test_a_seed_fixes_the_tokens_and_another_gives_others(options: dict[str, Any]) -> None:
    logprobs = LOGPROBS["flat"]

    def tokens(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed, **options), len(logprobs))
        if sampler.is_lazy:
            lazy = mx.array(logprobs)[None]
            return [int(sampler.draw(lazy, position).item()) for position in range(20)]
        return [sampler.choose(logprobs, position) for position in range(20)]

    first = tokens(1)
    mx.random.seed(99)
    assert tokens(1) == first
    assert tokens(2) != first and len(set(first)) > 1


def chi_squared(observed: Floats, expected: Floats) -> float:
    """Return Pearson's statistic."""
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("options", [{}, {"min_p": 1e-9}], ids=["lazy", "candidates"])
def test_tokens_are_drawn_with_their_probabilities(
    temperature: float, options: dict[str, Any]
) -> None:
    logprobs, draws = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05], dtype=np.float32)), 4_000
    sampler = Sampler(SamplingOptions(temperature=temperature, seed=11, **options), 5)
    if sampler.is_lazy:
        lazy = mx.array(logprobs)[None]
        drawn = mx.concatenate([sampler.draw(lazy, position) for position in range(draws)])
        tokens = np.array(drawn)
    else:
        tokens = np.array([sampler.choose(logprobs, position) for position in range(draws)])
    weights = np.exp(logprobs.astype(np.float64) / temperature)
    observed = np.bincount(tokens, minlength=5).astype(np.float64)
    # The seed is fixed; 18.5 is the 99.9 % bound of four degrees of freedom.
    assert chi_squared(observed, draws * weights / weights.sum()) < 18.5  # type: ignore[arg-type]


def test_the_bits_of_tokens_differ_by_seed_and_position() -> None:
    words = {token_word(seed, position) for seed in range(50) for position in range(50)}
    assert len(words) == 2_500 and all(0 <= word < 2**64 for word in words)
    assert token_word(2**53 - 1, 10**9) != token_word(0, 10**9)


def test_splitmix_gives_its_published_values() -> None:
    # The first output of the reference implementation from the state 0, mixed once more.
    assert token_word(0, 0) == 0xA706DD2F4D197E6F


def test_log_probabilities_are_those_of_the_token_and_of_the_best() -> None:
    logprobs = LOGPROBS["spread"]
    shown = top_logprobs(mx.array(logprobs), 17, 3)
    best = np.argsort(-logprobs)[:3].tolist()
    assert (shown["id"], shown["logprob"]) == (17, float(logprobs[17]))
    assert shown["top"] == [[token, float(logprobs[token])] for token in best]
    assert top_logprobs(mx.array(logprobs), 17, 0)["top"] == []


def test_a_masked_token_s_log_probability_is_finite_on_the_wire() -> None:
    logprobs = mx.array(np.array([0.0, MASKED, MASKED], dtype=np.float32))
    shown = top_logprobs(logprobs, 1, 20)
    assert len(shown["top"]) == 3
    assert all(math.isfinite(value) for value in (shown["logprob"], *(p for _, p in shown["top"])))


def test_no_processor_is_made_for_options_that_are_off() -> None:
    assert Sampler(SamplingOptions(), 10).processors == []
    options = SamplingOptions(
        repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5, logit_bias={1: 2.0}
    )
    assert len(Sampler(options, 10).processors) == 4


def test_this_mlx_draws_by_inversion() -> None:
    # Otherwise batches of sampled drafts are verified one by one.
    assert is_drawn_by_inversion()


@pytest.mark.parametrize("name", ["flat", "spread", "peaked", "ties", "masked"])
def test_lazy_draws_are_picks_by_the_uniforms_of_their_keys(name: str) -> None:
    logprobs = LOGPROBS[name]
    sampler = Sampler(SamplingOptions(temperature=0.8, seed=5), len(logprobs))
    ids, weights = sampler.weights(logprobs)
    uniforms = key_uniforms([token_word(5, position) for position in range(60)])
    picked = [int(ids[pick(np.cumsum(weights), uniform)]) for uniform in uniforms]
    lazy = mx.array(logprobs)[None]
    assert picked == [int(sampler.draw(lazy, position).item()) for position in range(60)]


@pytest.mark.parametrize("name", LOGPROBS)
def test_candidates_that_are_not_near_others_withstand_noise(name: str) -> None:
    logprobs, slack, rng = LOGPROBS[name], 1e-4, np.random.default_rng(8)
    noise = rng.uniform(-slack, slack, (20, len(logprobs))).astype(np.float32)
    for options in FILTERS:
        sampler = Sampler(SamplingOptions(temperature=1.0, **options), len(logprobs))
        if not sampler.is_near_other_candidates(logprobs, slack):
            kept = set(sampler.candidates(logprobs).tolist())
            assert all(set(sampler.candidates(logprobs + row).tolist()) == kept for row in noise)


@pytest.mark.parametrize(
    "options",
    [{"top_k": 2}, {"min_p": 0.25}, {"top_p": 0.7}],
    ids=str,
)
def test_candidates_at_the_edge_are_near_others(options: dict[str, Any]) -> None:
    logprobs = np.log(np.array([0.4, 0.3, 0.3 - 1e-6, 1e-6], dtype=np.float32))
    if "min_p" in options:
        logprobs = np.log(np.array([0.8, 0.2, 0.0 + 1e-9, 1e-9], dtype=np.float32))
    sampler = Sampler(SamplingOptions(temperature=1.0, **options), 4)
    assert sampler.is_near_other_candidates(logprobs, 1e-4)
    assert not Sampler(SamplingOptions(temperature=1.0), 4).is_near_other_candidates(logprobs, 1.0)
