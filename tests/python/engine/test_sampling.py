"""Tokens have the probabilities of mlx-lm's samplers; a seed fixes them whoever else is served."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.engine.arrays import Floats
from isthmus.engine.noise import Noise
from isthmus.engine.sampling import Sampler, SamplingOptions, describe
from isthmus.errors import NumericError
from tests.python.engine.logits import FILTERS, LOGITS, MASKED, normal, probabilities

MANY = settings(max_examples=150, deadline=None, database=None)
GREEDY = SamplingOptions()


@pytest.fixture(autouse=True, scope="module")
def uncompiled() -> Iterator[None]:
    """mlx-lm compiles each filter for each parameter, which takes seconds."""
    mx.disable_compile()
    yield
    mx.enable_compile()


VALUES = st.one_of(st.floats(-30.0, 30.0, width=32), st.integers(-2, 2).map(float), st.just(MASKED))
SOME_LOGITS = (
    st.lists(VALUES, min_size=1, max_size=60)
    .map(lambda values: np.array(values, dtype=np.float32))
    .filter(lambda logits: bool(np.isfinite(logits).any()))
)
SOME_FILTERS = st.fixed_dictionaries(
    {},
    optional={
        # Shares that a few equals do not add up to: rounding would decide.
        "top_p": st.sampled_from([0.0123, 0.3141, 0.6543, 0.9177, 0.9987]),
        "min_p": st.sampled_from([0.0177, 0.1233, 0.7131]),
        "top_k": st.integers(1, 70),
    },
)


@MANY
@given(SOME_LOGITS, SOME_FILTERS, st.sampled_from([0.3, 1.0, 2.5]))
def test_probabilities_are_mlx_lm_s_for_any_logits_and_filters(
    logits: Floats, options: dict[str, Any], temperature: float
) -> None:
    sampler = Sampler(SamplingOptions(temperature=temperature, **options), len(logits))
    kept, weights = sampler.weights(logits)
    ours = np.zeros(len(logits))
    ours[kept] = weights / weights.sum()
    theirs = probabilities(logits, temperature, options)
    # Equals may be kept for one another.
    np.testing.assert_allclose(np.sort(ours), np.sort(theirs), atol=1e-5)
    best = logits == logits.max()
    if int(best.sum()) == 1:
        np.testing.assert_allclose(ours[best], theirs[best], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "is_lazy", "is_greedy"),
    [
        ({}, True, True),
        ({"temperature": 1.0}, True, False),
        ({"top_p": 0.5}, True, True),
        ({"temperature": 1.0, "top_k": 10**6}, True, False),
        ({"temperature": 1.0, "top_p": 0.5}, False, False),
        ({"temperature": 1.0, "min_p": 0.5}, False, False),
        ({"temperature": 1.0, "top_k": 5}, False, False),
    ],
    ids=str,
)
def test_only_filters_need_the_candidates(
    options: dict[str, Any], is_lazy: bool, is_greedy: bool
) -> None:
    sampler = Sampler(SamplingOptions(**options), 768)
    assert (sampler.is_lazy, sampler.is_greedy) == (is_lazy, is_greedy)


def test_temperature_0_is_greedy_whatever_else_is_set() -> None:
    logits = LOGITS["spread"]
    sampler = Sampler(SamplingOptions(temperature=0.0, top_p=0.1, seed=3), 2_000)
    assert sampler.draw(mx.array(logits)[None], 0).item() == int(np.argmax(logits))
    assert sampler.choose(logits, 0) == int(np.argmax(logits))


def test_greedy_tokens_are_mlx_lm_s_where_rounding_makes_equals() -> None:
    logits = mx.array([[0.5, 0.50390625, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]).astype(mx.bfloat16)
    theirs = mx.argmax(logits - mx.logsumexp(logits, keepdims=True), axis=-1).item()
    assert (theirs, mx.argmax(logits).item()) == (0, 1), "a case in which it matters"
    assert Sampler(SamplingOptions(), 8).draw(logits, 0).item() == theirs


def drawn(sampler: Sampler, logits: Floats, positions: range, is_lazy: bool) -> list[int]:
    """Return tokens drawn in mlx or in numpy."""
    if is_lazy:
        lazy = mx.array(logits)[None]
        tokens = mx.concatenate([sampler.draw(lazy, position) for position in positions])
        return [int(token) for token in np.array(tokens)]
    chosen = [sampler.choose(logits, position) for position in positions]
    return [token for token in chosen if token is not None]


@pytest.mark.parametrize("options", [{}, {"top_p": 0.95}, {"top_k": 3}], ids=str)
def test_a_seed_fixes_the_tokens_and_another_gives_others(options: dict[str, Any]) -> None:
    logits = LOGITS["flat"]

    def tokens(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed, **options), len(logits))
        return drawn(sampler, logits, range(20), sampler.is_lazy)

    first = tokens(1)
    mx.random.seed(99)
    assert tokens(1) == first
    assert tokens(2) != first and len(set(first)) > 1


SAMPLED: list[dict[str, Any]] = [
    {},
    {"top_p": 0.8},
    {"min_p": 0.15},
    {"top_k": 4},
    {"top_p": 0.9, "top_k": 5},
    {"top_p": 0.95, "min_p": 0.05},
    {"min_p": 0.05, "top_k": 3},
    {"top_p": 0.9, "min_p": 0.05, "top_k": 5},
]
FEW_WORDS = np.log(np.array([0.05, 0.3, 1e-9, 0.2, 0.02, 0.15, 0.1, 0.18], dtype=np.float32)) + 4
BOUND = 24.4
"""The 99.9 % bound of seven degrees of freedom, the most that there are; the seeds are fixed."""


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("options", "is_lazy"),
    [(SAMPLED[0], True), *((options, False) for options in SAMPLED)],
    ids=str,
)
def test_tokens_are_drawn_with_mlx_lm_s_probabilities(
    temperature: float, options: dict[str, Any], is_lazy: bool
) -> None:
    draws, size = 4_000, len(FEW_WORDS)
    sampler = Sampler(SamplingOptions(temperature=temperature, seed=11, **options), size)
    observed = np.bincount(drawn(sampler, FEW_WORDS, range(draws), is_lazy), minlength=size)
    expected = draws * probabilities(FEW_WORDS, temperature, options)
    likely = expected > 1e-3
    assert observed.sum() == draws and observed[~likely].sum() <= 1
    assert ((observed - expected)[likely] ** 2 / expected[likely]).sum() < BOUND


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 3.0])
def test_draw_and_choose_give_the_same_token(temperature: float) -> None:
    differing = total = 0
    for seed, logits in enumerate(LOGITS.values()):
        sampler = Sampler(SamplingOptions(temperature=temperature, seed=seed), len(logits))
        positions = range(seed, 300_000, 2_999)
        lazy = drawn(sampler, logits, positions, is_lazy=True)
        chosen = drawn(sampler, logits, positions, is_lazy=False)
        differing += sum(ours != theirs for ours, theirs in zip(lazy, chosen, strict=True))
        total += len(positions)
        for token, position in zip(lazy, positions, strict=True):
            assert sampler.choose(logits, position, slack=1e-9) in (token, None)
    # Two sums may be so near each other that rounding decides.
    assert differing <= total / 500


@pytest.mark.parametrize("options", [{"top_k": 7}, {"top_p": 0.9}, {"min_p": 0.2}], ids=str)
def test_of_many_words_the_best_sum_of_a_candidate_and_its_noise_wins(
    options: dict[str, Any],
) -> None:
    logits, noise = normal(40_000, 3.0, 31), Noise(6)
    sampler = Sampler(SamplingOptions(temperature=1.5, seed=6, **options), len(logits))
    kept, weights = sampler.weights(logits)
    for position in range(20):
        sums = np.log(weights) + noise.whole(position, len(logits))[kept]
        assert sampler.choose(logits, position) == kept[sums.argmax()]


def test_a_masked_token_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (6, 5_000):
        logits = np.full(size, 1.0, dtype=np.float32)
        logits[:2] = logits[-2:] = MASKED
        noise = np.where(logits == 1.0, -5.0, 20.0).astype(np.float32)
        monkeypatch.setattr(Noise, "whole", lambda *_, noise=noise: noise)
        monkeypatch.setattr(Noise, "of", lambda _, ids, __, noise=noise: noise[ids])
        for options in ({}, {"top_p": 0.9999}, {"min_p": 0.5}):
            sampler = Sampler(SamplingOptions(temperature=1.0, **options), size)
            for is_lazy in (False, True)[: 1 + sampler.is_lazy]:
                assert logits[drawn(sampler, logits, range(1), is_lazy)[0]] == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, MASKED])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}])
def test_logits_that_are_not_finite_are_an_error_and_draw_some_token(
    bad: float, options: dict[str, Any]
) -> None:
    logits = np.full(50, bad if bad == MASKED else 0.0, dtype=np.float32)
    logits[17] = bad
    sampler = Sampler(SamplingOptions(**options), 50)
    with pytest.raises(NumericError, match="not finite at token 4;") as caught:
        sampler.choose(logits, 4)
    assert (caught.value.phase, caught.value.details) == ("decode", {"completion_tokens": 4})
    if sampler.is_lazy:
        assert 0 <= int(sampler.draw(mx.array(logits)[None], 4).item()) < 50


def test_log_probabilities_are_those_of_the_token_and_of_the_best() -> None:
    logits = LOGITS["spread"]
    values = logits.astype(np.float64)
    wanted = values - values.max() - np.log(np.exp(values - values.max()).sum())
    shown, best = describe(logits, 17, 3), np.argsort(-logits)[:3].tolist()
    assert (shown["id"], shown["logprob"]) == (17, pytest.approx(wanted[17], abs=1e-6))
    assert [token for token, _ in shown["top"]] == best
    assert [value for _, value in shown["top"]] == pytest.approx(wanted[best].tolist(), abs=1e-6)
    assert describe(logits, 17, 0)["top"] == []
    equals = describe(LOGITS["all equal"], 3, 4)
    assert equals["top"] == [[token, pytest.approx(-math.log(1_500))] for token in range(4)]


def test_a_masked_token_s_log_probability_is_finite_on_the_wire() -> None:
    shown = describe(np.array([0.0, MASKED, MASKED], dtype=np.float32), 1, 20)
    assert len(shown["top"]) == 3
    assert all(math.isfinite(value) for value in (shown["logprob"], *(p for _, p in shown["top"])))


def test_no_processor_is_made_for_options_that_are_off() -> None:
    assert Sampler(SamplingOptions(), 10).processors == []
    options = SamplingOptions(
        repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5, logit_bias={1: 2.0}
    )
    assert len(Sampler(options, 10).processors) == 4


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_that_is_told_withstands_noise(name: str, temperature: float) -> None:
    logits, slack, rng = LOGITS[name], 1e-4, np.random.default_rng(8)
    noise = rng.uniform(-slack, slack, (12, len(logits))).astype(np.float32)
    told = 0
    for options in ({}, *FILTERS):
        sampler = Sampler(SamplingOptions(temperature=temperature, **options), len(logits))
        for position in range(4):
            token = sampler.choose(logits, position, slack)
            told += token is not None
            if token is not None:
                assert {sampler.choose(logits + row, position) for row in noise} == {token}
    assert told > 0 or name in ("ties", "all equal")


def test_two_best_tokens_nearer_than_twice_the_slack_are_not_told_apart() -> None:
    logits, sampler = np.array([0.0, 1.0, 1.0 - 1e-3], dtype=np.float32), Sampler(GREEDY, 3)
    assert sampler.choose(logits, 0) == sampler.choose(logits, 0, 4e-4) == 1
    assert sampler.choose(logits, 0, 6e-4) is None
