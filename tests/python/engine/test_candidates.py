"""The filters keep what mlx-lm's samplers keep, and know what rounding may change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from isthmus.engine.arrays import Floats, Ids
from isthmus.engine.candidates import Filters
from tests.python.engine.logits import FILTERS, LOGITS, kept_by_mlx_lm, normal


@pytest.fixture(autouse=True, scope="module")
def uncompiled() -> Iterator[None]:
    """mlx-lm compiles each filter for each parameter, which takes seconds."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def filters(options: dict[str, Any], vocab_size: int) -> Filters:
    """Return the filters of these options; a `top_k` of the whole vocabulary is off."""
    is_on = options.get("top_k", 0) < vocab_size
    return Filters(**(options if is_on else {**options, "top_k": 0}))


def kept_of(logits: Floats, options: dict[str, Any]) -> Ids:
    """Return the candidates that these options leave."""
    return filters(options, len(logits)).candidates(logits, float(logits.max()))


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize("name", LOGITS)
def test_the_candidates_are_those_that_mlx_lm_keeps(name: str, options: dict[str, Any]) -> None:
    logits = LOGITS[name]
    kept = kept_of(logits, options)
    assert (np.diff(kept) > 0).all(), "ids ascend, and each is there once"
    left = kept_by_mlx_lm(logits, options)
    # Which of several equals top_k keeps is nobody's promise: the values are compared.
    np.testing.assert_array_equal(np.sort(logits[kept]), np.sort(left[np.isfinite(left)]))


@pytest.mark.parametrize("name", ["flat", "spread", "ties", "all equal"])
@pytest.mark.parametrize("size", [5_000, 40_000])
def test_the_candidates_of_large_vocabularies_are_found_in_parts(name: str, size: int) -> None:
    rng = np.random.default_rng(size)
    logits = rng.choice(LOGITS[name], size) + np.float32(name in ("flat", "spread")) * rng.normal(
        0.0, 0.1, size
    ).astype(np.float32)
    for top_p in (0.05, 0.5, 0.9, 0.999):
        kept = kept_of(logits, {"top_p": top_p})
        masses = np.exp(logits.astype(np.float64) - logits.max())
        share = top_p * masses.sum()
        edge, inside = logits[kept].min(), masses[kept].sum()
        assert inside >= share * (1 - 1e-5) and len(kept) == (logits >= edge).sum()
        assert masses[logits > edge].sum() < share * (1 + 1e-5)


@pytest.mark.parametrize("kind", ["at random", "ascending", "best where it is looked"])
@pytest.mark.parametrize("top_k", [1, 40, 300, 3_000])
def test_the_best_few_are_found_wherever_they_lie(kind: str, top_k: int) -> None:
    logits = normal(10_000, 3.0, 21)
    if kind == "ascending":
        logits.sort()
    if kind == "best where it is looked":
        logits[::32] += 100.0
    kept = kept_of(logits, {"top_k": top_k})
    np.testing.assert_array_equal(np.sort(logits[kept]), np.sort(logits)[-top_k:])


@pytest.mark.parametrize("name", LOGITS)
def test_candidates_that_are_not_near_others_withstand_noise(name: str) -> None:
    logits, slack, rng = LOGITS[name], 1e-4, np.random.default_rng(8)
    noise = rng.uniform(-slack, slack, (20, len(logits))).astype(np.float32)
    for options in FILTERS:
        if not filters(options, len(logits)).is_near_others(logits, slack):
            kept = kept_of(logits, options).tolist()
            assert all(kept_of(logits + row, options).tolist() == kept for row in noise)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"top_k": 2}, [0.4, 0.3, 0.3 - 1e-6, 1e-6]),
        ({"min_p": 0.25}, [0.8, 0.2, 1e-9, 1e-9]),
        ({"top_p": 0.7}, [0.4, 0.3, 0.2, 0.1]),
    ],
    ids=str,
)
def test_candidates_at_the_edge_are_near_others(
    options: dict[str, Any], weights: list[float]
) -> None:
    logits = np.log(np.array(weights, dtype=np.float32))
    assert Filters(**options).is_near_others(logits, 1e-4)
    assert not Filters().is_near_others(logits, 1.0)
