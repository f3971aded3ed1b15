"""Logits of many shapes, filters, and what mlx-lm makes of both."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from isthmus.engine.arrays import Doubles, Floats

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


def normal(size: int, scale: float, seed: int) -> Floats:
    """Return random logits."""
    return np.random.default_rng(seed).normal(3.0, scale, size).astype(np.float32)


def masked(size: int, kept: int, seed: int) -> Floats:
    """Return logits of which all but a few are minus infinity."""
    logits = np.full(size, MASKED, dtype=np.float32)
    places = np.random.default_rng(seed).choice(size, kept, replace=False)
    logits[places] = normal(kept, 2.0, seed)
    return logits


LOGITS: dict[str, Floats] = {
    "flat": normal(2_000, 0.5, 1),
    "spread": normal(2_000, 3.0, 12),
    "peaked": normal(768, 12.0, 3),
    "small": normal(5, 1.0, 4),
    "one word": np.full(1, -7.0, dtype=np.float32),
    "ties": np.random.default_rng(5).integers(-3, 3, 1_000).astype(np.float32),
    "all equal": np.full(1_500, 2.0, dtype=np.float32),
    "masked": masked(1_000, 30, 6),
    "one left": masked(1_000, 1, 7),
}


def kept_by_mlx_lm(logits: Floats, options: dict[str, Any]) -> Floats:
    """Return what mlx-lm's filters leave, in the order of `make_sampler`; the rest is masked."""
    left = mx.array(logits)[None]
    if options.get("top_p", 1.0) < 1.0:
        left = apply_top_p(left, options["top_p"])
    if options.get("min_p", 0.0) > 0.0:
        left = apply_min_p(left, options["min_p"], 1)
    if 0 < options.get("top_k", 0) < len(logits):
        left = apply_top_k(left, options["top_k"])
    return np.array(left[0])


def probabilities(logits: Floats, temperature: float, options: dict[str, Any]) -> Doubles:
    """Return the distribution that mlx-lm's samplers draw from."""
    left = kept_by_mlx_lm(logits, options).astype(np.float64)
    weights = np.exp((left - left.max()) / temperature)
    return np.asarray(weights / weights.sum())
