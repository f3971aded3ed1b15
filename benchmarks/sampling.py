"""What choosing a token costs, against mlx-lm's samplers for the same options.

Both sides are given the same evaluated logits: mlx-lm's already as log-probabilities, ours as they
leave the model, so that the check for NaN is in the time of ours. So is the noise, a new position's
for each token, though a generation makes that of `draw` while the model is at work. The logits are
random and normal, `flat` with a standard deviation of 1, so that top_p leaves most of the
vocabulary, else of 3. `draw` is the lazy way of plain temperature, computed in mlx as mlx-lm's own:
no more is asked of it than to be as fast. On the processor, temperature 0.7.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import make_sampler

from isthmus.engine.sampling import Sampler, SamplingOptions

from .harness import Figure, Options, Spread, read_options, report, show

TEMPERATURE: Final = 0.7
SIZES: Final = {"32k": 32_000, "152k": 152_000}
FILTERS: Final[dict[str, dict[str, Any]]] = {
    "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 40},
    "min_p": {"min_p": 0.05},
    "temperature": {},
}
TARGETS: Final = {"filter": 10.0, "temperature": 3.0, "draw": 1.0}
"""How many times as fast as mlx-lm each is to be."""

DEVIATIONS: Final = {"": 3.0, "_flat": 1.0}
TOKENS: Final = 5
"""Drawn by each side in a round, each from logits of its own."""

Side = Callable[[int], object]


def sides(size: int, deviation: float, filters: dict[str, Any]) -> dict[str, Side]:
    """Return what draws the n-th token: mlx-lm, ours, and ours lazily where that can be."""
    rng = np.random.default_rng(size)
    rows = rng.normal(0.0, deviation, (TOKENS, 1, size)).astype(np.float32)
    logits = [mx.array(row) for row in rows]
    logprobs = [row - mx.logsumexp(row, axis=-1, keepdims=True) for row in logits]
    mx.eval(logits, logprobs)
    theirs = make_sampler(temp=TEMPERATURE, **filters)
    ours = Sampler(SamplingOptions(TEMPERATURE, **filters), size)

    def choose(place: int) -> int | None:
        row = np.array(logits[place % TOKENS], copy=False)[0]
        return ours.choose(row, place)

    drawn: dict[str, Side] = {
        "mlx_lm": lambda place: theirs(logprobs[place % TOKENS]).item(),
        "choose": choose,
    }
    if ours.is_lazy:
        drawn["draw"] = lambda place: ours.draw(logits[place % TOKENS], place).item()
    return drawn


def measure(drawn: dict[str, Side], rounds: int) -> dict[str, Spread]:
    """Return microseconds a token of each side, taking turns; the first round is dropped."""
    times: dict[str, list[float]] = {name: [] for name in drawn}
    for number in range(rounds + 1):
        for name, draw in drawn.items():
            started = time.perf_counter()
            for place in range(TOKENS):
                draw(number * TOKENS + place)
            times[name].append((time.perf_counter() - started) / TOKENS * 1e6)
    return {name: Spread.of(values[1:]) for name, values in times.items()}


def speedups(key: str, kind: str, spreads: dict[str, Spread]) -> list[Figure]:
    """Return how many times as fast as mlx-lm each way of ours is."""
    theirs, figures = spreads["mlx_lm"].median, list[Figure]()
    for side, name, target in (("choose", key, kind), ("draw", f"{key}_draw", "draw")):
        if side in spreads:
            speedup = theirs / spreads[side].median
            bound = TARGETS[target]
            figures.append(
                Figure(f"sampler_speedup_{name}", speedup, bound, "times", is_least=True)
            )
    return figures


def run(options: Options) -> None:
    """Measure everything and report it."""
    figures, detail = list[Figure](), dict[str, Any]()
    for size_name, size in SIZES.items():
        for name, filters in FILTERS.items():
            for suffix, deviation in DEVIATIONS.items():
                spreads = measure(sides(size, deviation, filters), 8 if options.is_quick else 24)
                key = f"{size_name}_{name}{suffix}"
                for side, spread in spreads.items():
                    detail[f"{key}/{side}_us"] = spread.to_json()
                if not suffix:
                    figures += speedups(key, "filter" if filters else name, spreads)
    show("a token, us", detail)
    report(options, "sampling", figures, detail)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    run(read_options(__doc__ or ""))
