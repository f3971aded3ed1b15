"""From logits to a token: mlx-lm's processors and filters, and one random number for each token.

A token is drawn by the inverse of the distribution function: one uniform number, made from the
request's seed and the token's position, falls on one of the weights, which lie in the order of the
ids. So the same seed gives the same tokens whoever else is served, in mlx and in numpy, and mlx's
random state is not used. `draw` is lazy, so that the next step can be dispatched before the token
is read; `choose` reads evaluated logits. The candidates of top_p, min_p and top_k are those of
`mlx_lm.make_sampler`, which sorts the whole vocabulary for each. Called on the engine thread only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import make_logits_processors

from ..errors import NumericError
from ..limits import PENALTY_CONTEXT_TOKENS

Processor = Callable[[mx.array, mx.array], mx.array]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Doubles = np.ndarray[Any, np.dtype[np.float64]]
Ids = np.ndarray[Any, np.dtype[np.int64]]

_WORD: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_LOWEST: Final = -3.4028234663852886e38
"""The lowest float 32; below it is minus infinity only, a masked token."""

_STRIDE: Final = 32
"""Of so many logits one is looked at to guess how far down the best few reach."""

_QUICKLY_SORTED: Final = 4_096
"""Candidates that top_p sorts; of more it first leaves out halves."""

_BLOCK: Final = 512
"""Weights that are summed up at once: in numpy a long cumulated sum is five times as slow, and in
float 32 it leaves out the many tokens that are unlikely."""

_LARGEST_INVERSE: Final = 1e30
"""Of the temperature: the difference 0 must stay 0 when it is multiplied by it in float 32."""

_ADDITION_ERROR: Final = 2.0**-24
"""Of a share of the whole mass, for each addition in float 32."""

_MASS_ERROR: Final = 2.0**-20
"""Of a share of the whole mass, whose exponentials are made in float 32."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are chosen; the protocol's section 4 gives ranges and meanings."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context_size: int = PENALTY_CONTEXT_TOKENS
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_context_size: int = PENALTY_CONTEXT_TOKENS
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = 0


class Sampler:
    """Draws one request's tokens.

    Args:
        options: The request's options.
        vocab_size: Columns of the logits.
    """

    def __init__(self, options: SamplingOptions, vocab_size: int) -> None:
        self._options = options
        self._top_k = options.top_k if 0 < options.top_k < vocab_size else vocab_size
        self._has_top_k = self._top_k < vocab_size
        has_filter = options.top_p < 1.0 or options.min_p > 0.0 or self._has_top_k
        self.is_greedy = options.temperature == 0
        self.is_lazy = self.is_greedy or not has_filter
        """Whether `draw` may be used; `choose` always may."""
        self._inverse = 0.0
        if not self.is_greedy:
            self._inverse = min(1.0 / options.temperature, _LARGEST_INVERSE)
        self.processors = _processors(options)

    def draw(self, logits: mx.array, position: int) -> mx.array:
        """Choose a token lazily; of logits that are not finite, any.

        Args:
            logits: Shape [1, vocabulary].
            position: Index of the token in its completion; picks the random number.

        Returns:
            Shape [1], the token id.
        """
        if self.is_greedy:
            return best_tokens(logits)
        values = logits.astype(mx.float32)[0]
        weights = mx.exp((values - values.max()) * self._inverse)
        return _pick_lazily(weights, token_uniform(self._options.seed, position))

    def choose(self, logits: Floats, position: int, slack: float = 0.0) -> int | None:
        """Return the token that `draw` gives but for rounding, whatever the options.

        Args:
            logits: Shape [vocabulary].
            position: Index of the token in its completion; picks the random number.
            slack: None is returned when logits that are each off by up to this may give another
                token.

        Raises:
            NumericError: The logits hold NaN or infinity, or nothing but minus infinity.
        """
        best = check_finite(logits, position)
        if self.is_greedy:
            is_contested = slack > 0.0 and np.count_nonzero(logits >= best - 2 * slack) > 1
            return None if is_contested else int(logits.argmax())
        kept = None if self.is_lazy else self.candidates(logits)
        weights = self._weights(logits if kept is None else logits[kept], best)
        uniform = token_uniform(self._options.seed, position)
        index, *ends = _locate(weights, uniform)
        if slack > 0.0:
            error = _ADDITION_ERROR * min(len(weights), 2 * _BLOCK + len(weights) // _BLOCK)
            for mass in ends:
                if abs(mass - uniform) <= self.reach(slack) * mass * (1.0 - mass) + error:
                    return None
            if self.is_near_other_candidates(logits, slack):
                return None
        return index if kept is None else int(kept[index])

    def weights(self, logits: Floats) -> tuple[Ids, Doubles]:
        """Return the tokens that may be drawn, ids ascending, and a weight for each: its
        probability but for one common factor. Not for temperature 0."""
        kept = np.arange(len(logits)) if self.is_lazy else self.candidates(logits)
        return kept, self._weights(logits[kept], float(logits.max())).astype(np.float64)

    def reach(self, slack: float) -> float:
        """Return by how much of `mass * (1 - mass)` a mass may change with logits that are each
        off by up to `slack`. Not for temperature 0."""
        return 2.0 * slack * self._inverse

    def candidates(self, logits: Floats) -> Ids:
        """Return the ids that top_p, min_p and top_k leave, ascending.

        The filters are those of mlx-lm: top_p keeps a token while the mass above it is below
        top_p, and its equals with it; min_p keeps what is at least min_p times the best; both
        before the temperature. Of equals at its edge top_k keeps those with the lowest ids.
        """
        best, floor, top_p = float(logits.max()), _LOWEST, self._options.top_p
        if self._options.min_p > 0.0:
            floor = max(floor, best + math.log(self._options.min_p))
        if self._has_top_k:
            floor = max(floor, _below_nth_largest(logits, self._top_k))
        total = _mass(logits, best) if top_p < 1.0 else 0.0
        if top_p < 1.0:
            # All that lie deeper than this together have less than the rest of the mass.
            floor = max(floor, best - math.log(len(logits) / ((1.0 - top_p) * total)))
        ids = np.flatnonzero(logits >= floor)
        values = logits[ids]
        if len(values) > self._top_k:
            floor = max(floor, _nth_largest(values, self._top_k))
        if top_p < 1.0:
            floor = max(floor, _top_p_edge(values, best, top_p * total))
        kept = np.compress(values >= floor, ids)
        if len(kept) > self._top_k:
            equals = np.flatnonzero(logits[kept] == floor)
            kept = np.delete(kept, equals[self._top_k - len(kept) :])
        return kept

    def is_near_other_candidates(self, logits: Floats, slack: float) -> bool:
        """Whether logits that are each off by up to `slack` may leave other candidates."""
        if self.is_lazy:
            return False
        best, kept = float(logits.max()), self.candidates(logits)
        others = logits.copy()
        others[kept] = -math.inf
        last, following = float(logits[kept].min()), float(others.max())
        is_near = last - following <= 2 * slack
        if self._options.min_p > 0.0:
            floor = best + math.log(self._options.min_p)
            is_near |= min(abs(last - floor), abs(following - floor)) <= 2 * slack
        if self._options.top_p < 1.0:
            masses = _exponentials(logits, best)
            total = float(masses.sum(dtype=np.float64))
            mass = float(masses[kept].sum(dtype=np.float64)) / total
            # The best is kept in any case; the last one kept may be there as an equal only.
            room = self._options.top_p - (mass - math.exp(last - best) / total)
            room = math.inf if len(kept) == 1 else room
            excess = math.inf if following == -math.inf else abs(mass - self._options.top_p)
            is_near |= min(room, excess) <= 2 * slack * self._options.top_p + _MASS_ERROR
        return is_near

    def _weights(self, values: Floats, best: float) -> Floats:
        return _exponentials(values, best, self._inverse)


def _top_p_edge(values: Floats, best: float, needed: float) -> float:
    """Return the first of the values, from the largest down, with which their mass is `needed`, or
    the last. Halves are left out until the rest is quickly sorted."""
    above = 0.0
    while len(values) > _QUICKLY_SORTED:
        middle = (float(values.min()) + float(values.max())) / 2
        upper = np.compress(values >= middle, values)
        if len(upper) == len(values):
            break
        mass = _mass(upper, best)
        if above + mass >= needed:
            values = upper
        else:
            values, above = np.compress(values < middle, values), above + mass
    values = np.sort(values)[::-1]
    masses = _exponentials(values, best)
    ends = above + np.cumsum(masses, dtype=np.float64)
    return float(values[min(int(np.searchsorted(ends, needed)), len(values) - 1)])


def _mass(values: Floats, best: float) -> float:
    return float(_exponentials(values, best).sum())


def _exponentials(values: Floats, best: float, scale: float = 1.0) -> Floats:
    # In place: fresh memory costs more than the arithmetic.
    exponentials: Floats = values - np.float32(best)
    if scale != 1.0:
        exponentials *= np.float32(scale)
    np.exp(exponentials, out=exponentials)
    return exponentials


def best_tokens(logits: mx.array) -> mx.array:
    """Return for each row of logits its best token, lazily: mlx-lm's greedy token.

    mlx-lm compares log-probabilities, and in 16 bits the subtraction makes equals of what was not.
    """
    return mx.argmax(logits - mx.logsumexp(logits, axis=-1, keepdims=True), axis=-1)


def check_finite(logits: Floats, position: int) -> float:
    """Return the largest logit.

    Raises:
        NumericError: The logits hold NaN or infinity, or nothing but minus infinity.
    """
    best = float(logits[logits.argmax()])  # the first NaN, if there is one
    if not math.isfinite(best):
        raise not_finite(position, phase="decode", completion_tokens=position)
    return best


def not_finite(position: int, phase: str, **details: Any) -> NumericError:
    """Return the error of logits that no token can be chosen from."""
    return NumericError(
        f"the model's logits are not finite at token {position}; its weights or its dtype are "
        "broken, or a logit bias masks every token",
        phase=phase,
        **details,
    )


def token_word(seed: int, position: int) -> int:
    """Return the 64 random bits of one token: SplitMix64 (Steele et al. 2014)."""
    return _mix((_mix(seed & _WORD) + position * _GOLDEN) & _WORD)


def token_uniform(seed: int, position: int) -> float:
    """Return a number from 0 to below 1 made of the token's random bits."""
    return (token_word(seed, position) >> 11) * 2.0**-53


def pick(weights: Floats | Doubles, uniform: float) -> int:
    """Return the index of the weight that a number from 0 to below 1 falls on; never of weight 0.

    Args:
        weights: Finite, from 0, at least one above 0.
    """
    return _locate(weights, uniform)[0]


def _pick_lazily(weights: mx.array, uniform: float) -> mx.array:
    """Do what `pick` does in mlx, of shape [1]; 0 if the weights are not finite."""
    if weights.size <= 2 * _BLOCK:
        bounds = mx.cumsum(weights)
        return _fall_lazily(weights, bounds, bounds[-1:] * uniform)
    blocks = mx.pad(weights, (0, -weights.size % _BLOCK)).reshape(-1, _BLOCK)
    sums = blocks.sum(axis=1)
    bounds = mx.cumsum(sums)
    place = bounds[-1:] * uniform
    block = _fall_lazily(sums, bounds, place)
    weights, place = blocks[block][0], place - (bounds[block] - sums[block])
    return block * _BLOCK + _fall_lazily(weights, mx.cumsum(weights), place)


def _fall_lazily(weights: mx.array, bounds: mx.array, place: mx.array) -> mx.array:
    # In float 32 the place may round up to the end of all, and a parallel sum may step up where
    # nothing is added.
    below_end = mx.minimum(place, bounds[-1:] * (1.0 - 2.0**-23))
    return mx.argmax((bounds > below_end) & (weights > 0), keepdims=True)


def _locate(weights: Floats | Doubles, uniform: float) -> tuple[int, float, float]:
    """Return what `pick` does, and the shares of the mass below that weight and with it."""
    first, below, total = 0, 0.0, 0.0
    if len(weights) > 2 * _BLOCK:
        whole = len(weights) - len(weights) % _BLOCK
        sums = weights[:whole].reshape(-1, _BLOCK).sum(axis=1)
        bounds = _bounds(np.append(sums, weights[whole:].sum()))
        block = _fall(bounds, uniform * bounds[-1])
        first, below, total = block * _BLOCK, float(bounds[block]), float(bounds[-1])
        weights = weights[first : first + _BLOCK]
    bounds = _bounds(weights)
    total = total or float(bounds[-1])
    index = _fall(bounds, uniform * total - below)
    start, end = (below + float(bounds[index])) / total, (below + float(bounds[index + 1])) / total
    return first + index, start, end


def _bounds(weights: Floats | Doubles) -> Doubles:
    """Return where each weight begins, and last where all end."""
    return np.append(0.0, np.cumsum(weights, dtype=np.float64))


def _fall(bounds: Doubles, place: float) -> int:
    """Return the weight that `place` is in; by rounding it may lie at the end of all."""
    below_end = min(place, float(np.nextafter(bounds[-1], 0.0)))
    return int(np.searchsorted(bounds, below_end, side="right")) - 1


def describe(logits: Floats, token: int, count: int) -> dict[str, Any]:
    """Return the log-probability of `token` and of the `count` best tokens.

    Args:
        logits: Shape [vocabulary], finite or minus infinity, at least one finite.
        token: The chosen id.
        count: How many alternatives, from 0.
    """
    best = logits.max()
    total = float(best) + math.log(float(np.exp(logits - best).sum(dtype=np.float64)))

    def logprob(index: int) -> float:
        # A masked token's minus infinity is sent as the lowest float 32, which every codec has.
        return max(float(logits[index]) - total, _LOWEST)

    top = [[index, logprob(index)] for index in _largest(logits, min(count, logits.size))]
    return {"id": token, "logprob": logprob(token), "top": top}


def _largest(values: Floats, count: int) -> list[int]:
    """Return the indices of the `count` largest values, the largest first, ties by index."""
    if not count:
        return []
    picked = np.flatnonzero(values >= _nth_largest(values, count))
    ids: list[int] = picked[np.argsort(-values[picked], kind="stable")][:count].tolist()
    return ids


def _below_nth_largest(values: Floats, n: int) -> float:
    """Return a number that at least `n` of the values reach, mostly few more."""
    sample, place = values[::_STRIDE], 2 * n // _STRIDE + 8
    if place <= len(sample):
        guess = _nth_largest(sample, place)
        if np.count_nonzero(values >= guess) >= n:
            return guess
    return _LOWEST


def _nth_largest(values: Floats, n: int) -> float:
    place = len(values) - n
    return float(np.partition(values, place)[place])


def _mix(word: int) -> int:
    word = (word + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def _processors(options: SamplingOptions) -> list[Processor]:
    repetition = options.repetition_penalty
    processors: list[Processor] = make_logits_processors(
        logit_bias=options.logit_bias or None,
        repetition_penalty=None if math.isclose(repetition, 1.0, abs_tol=0.0) else repetition,
        repetition_context_size=options.repetition_context_size,
        presence_penalty=options.presence_penalty or None,
        presence_context_size=options.penalty_context_size,
        frequency_penalty=options.frequency_penalty or None,
        frequency_context_size=options.penalty_context_size,
    )
    return processors
