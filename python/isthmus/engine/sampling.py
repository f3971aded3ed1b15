"""From logits to a token: mlx-lm's processors and filters, and random numbers for each token.

A token is drawn with the Gumbel-max trick (Maddison et al. 2014, arXiv 1411.0030): each token of
the vocabulary has noise that follows from the request's seed, the position and the token alone, and
the largest sum of logit and noise wins. So the same seed gives the same tokens whoever else is
served, in mlx and in numpy, and mlx's random state is not used; the last bits of the logits, which
the company changes, seldom matter, as they would to a draw by cumulated probabilities; and a draft
model that has the same noise agrees often. The noise is Philox's (Salmon et al. 2011), made while
the model is at work. `draw` is lazy, so that the next step can be dispatched before the token is
read; `choose` reads evaluated logits. The candidates of top_p, min_p and top_k are those of
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

_KEPT_NOISE: Final = 2
"""Positions whose noise is kept: a step is dispatched before the one before it is read."""

_LARGEST_INVERSE: Final = 1e30
"""Of the temperature: the difference 0 must stay 0 when it is multiplied by it in float 32."""

_SCORE_ERROR: Final = 2.0**-20
"""Of a logit with its noise, in float 32."""

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
        self._noise: dict[int, Floats] = {}
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
        values = logits.astype(mx.float32)
        scores = (values - values.max(axis=-1, keepdims=True)) * self._inverse
        return mx.argmax(scores + mx.array(self.noise(position, logits.shape[-1])), axis=-1)

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
        ids, surely = None, None
        if not self.is_lazy and slack > 0.0:
            ids, surely = self._candidates_within(logits, slack)
        elif not self.is_lazy:
            ids = self.candidates(logits)
        noise = self.noise(position, len(logits))
        scores = (logits if ids is None else logits[ids]) - np.float32(best)
        scores *= np.float32(self._inverse)
        scores += noise if ids is None else noise[ids]
        index = int(scores.argmax())
        if slack > 0.0:
            highest = float(scores[index])
            error = 2 * slack * self._inverse + _SCORE_ERROR * max(1.0, abs(highest))
            is_contested = np.count_nonzero(scores >= highest - error) > 1
            if is_contested or not (surely is None or surely[index]):
                return None
        return index if ids is None else int(ids[index])

    def noise(self, position: int, vocab_size: int) -> Floats:
        """Return the noise of a position, shape [vocabulary]; made ahead of its use, it is kept."""
        noise = self._noise.get(position)
        if noise is None:
            noise = self._noise[position] = gumbel_noise(self._options.seed, position, vocab_size)
            while len(self._noise) > _KEPT_NOISE:
                del self._noise[next(iter(self._noise))]
        return noise

    def weights(self, logits: Floats) -> tuple[Ids, Doubles]:
        """Return the tokens that may be drawn, ids ascending, and a weight for each: its
        probability but for one common factor. Not for temperature 0."""
        kept = np.arange(len(logits)) if self.is_lazy else self.candidates(logits)
        return kept, _exponentials(logits[kept], float(logits.max()), self._inverse).astype(
            np.float64
        )

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

    def _candidates_within(self, logits: Floats, slack: float) -> tuple[Ids, Any]:
        """Return the ids that may be candidates of logits that are each off by up to `slack`, and
        for each whether it surely is one."""
        best, off = float(logits.max()), 2.0 * slack
        low = high = _LOWEST
        if self._options.min_p > 0.0:
            floor = best + math.log(self._options.min_p)
            low, high = floor - off, floor + off
        if self._has_top_k:
            following = np.float32(_nth_largest(logits, self._top_k + 1) + off)
            low = max(low, _nth_largest(logits, self._top_k) - off)
            high = max(high, float(np.nextafter(following, np.float32(math.inf))))
        if self._options.top_p < 1.0:
            total, error = _mass(logits, best), off + _MASS_ERROR
            most, least = self._options.top_p + error, self._options.top_p - error
            if most < 1.0:
                low = max(low, _top_p_edge(logits, best, most * total) - off)
            edge = _top_p_edge(logits, best, least * total)
            # Nothing near it can take the place of the last one.
            is_clear = np.count_nonzero(np.abs(logits - np.float32(edge)) <= off) == 1
            high = max(high, edge if is_clear else edge + off)
        ids = np.flatnonzero(logits >= max(low, _LOWEST))
        surely = logits[ids] >= high
        if np.count_nonzero(logits >= best - 2.0 * off) == 1:
            surely |= logits[ids] == best  # the best one is a candidate in any case
        return ids, surely


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


def gumbel_noise(seed: int, position: int, vocab_size: int) -> Floats:
    """Return standard Gumbel noise, shape [vocabulary]; a smaller vocabulary has the beginning of
    that of a larger one."""
    generator = np.random.Philox(key=seed, counter=[0, 0, 0, position])
    bits = generator.random_raw((vocab_size + 1) // 2).view(np.uint32)[:vocab_size]
    # 23 bits and a half: neither 0 nor 1 in float 32.
    noise: Floats = (bits >> np.uint32(9)).astype(np.float32)
    noise += np.float32(0.5)
    noise *= np.float32(2.0**-23)
    for _ in range(2):
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
    return noise


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
    bounds = np.cumsum(weights, dtype=np.float64)
    # By rounding the place may lie at the end of all.
    place = min(uniform * bounds[-1], np.nextafter(bounds[-1], 0.0))
    return int(np.searchsorted(bounds, place, side="right"))


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
