"""From logits to a token: mlx-lm's processors, its filters' probabilities, a key per request.

mlx-lm draws from a random state that the thread shares; here each token of each request has its own
key, made from the request's seed and the token's position, so that the same seed gives the same
tokens whoever else is served. Greedy and plain temperature stay lazy, so that the next step can be
dispatched before the token is read. With top_p, top_k or min_p the few candidates are picked first,
in numpy: the kept sets are those of `mlx_lm.make_sampler`, which sorts the whole vocabulary several
times. Called on the engine thread only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import make_logits_processors

from ..limits import PENALTY_CONTEXT_TOKENS

Processor = Callable[[mx.array, mx.array], mx.array]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Doubles = np.ndarray[Any, np.dtype[np.float64]]
Ids = np.ndarray[Any, np.dtype[np.int64]]

_WORD: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_FIRST_CANDIDATES: Final = 64
"""Candidates looked at first for top_p; eight times as many whenever their mass is too small."""


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
        has_filter = options.top_p < 1.0 or options.min_p > 0.0 or self._top_k < vocab_size
        self.is_lazy = options.temperature == 0 or not has_filter
        """Whether `draw` is used; `choose` otherwise."""
        self.processors = _processors(options)

    def draw(self, logprobs: mx.array, position: int) -> mx.array:
        """Choose a token lazily.

        Args:
            logprobs: Shape [1, vocabulary], log-probabilities.
            position: Index of the token in its completion; picks the key.

        Returns:
            Shape [1], the token id.
        """
        if self._options.temperature == 0:
            return mx.argmax(logprobs, axis=-1)
        key = mx.array(_key(token_word(self._options.seed, position)), dtype=mx.uint32)
        return mx.random.categorical(logprobs * (1.0 / self._options.temperature), key=key)

    def choose(self, logprobs: Floats, position: int) -> int:
        """Choose a token among the candidates that the filters leave.

        Args:
            logprobs: Shape [vocabulary], finite or minus infinity, at least one finite.
            position: Index of the token in its completion; picks the key.
        """
        kept, weights = self.weights(logprobs)
        return int(kept[pick(np.cumsum(weights), token_uniform(self._options.seed, position))])

    def weights(self, logprobs: Floats) -> tuple[Ids, Doubles]:
        """Return the tokens that may be drawn, in the order of the draw, and a weight for each:
        its probability but for one common factor. Not for temperature 0."""
        kept = np.arange(len(logprobs)) if self.is_lazy else self.candidates(logprobs)
        values = logprobs[kept].astype(np.float64)
        return kept, np.exp((values - values.max()) / self._options.temperature)

    def is_near_other_candidates(self, logprobs: Floats, slack: float) -> bool:
        """Whether log-probabilities that are off by up to `slack` may leave other candidates."""
        if self.is_lazy:
            return False
        kept = len(self.candidates(logprobs))
        edge = logprobs[_largest(logprobs, kept + 1)].astype(np.float64)
        is_near = kept < len(edge) and bool(edge[-2] - edge[-1] <= 2 * slack)
        if self._options.min_p > 0.0:
            floor = edge[0] + math.log(self._options.min_p)
            is_near |= bool((np.abs(edge[-2:] - floor) <= 2 * slack).any())
        if self._options.top_p < 1.0:
            above = np.cumsum(np.exp(edge)) - np.exp(edge)
            above[0] = -math.inf  # the best is kept in any case
            # The last one kept may be there as an equal only.
            room, excess = self._options.top_p - above[kept - 1], above[-1] - self._options.top_p
            is_near |= bool(min(room, abs(excess)) <= 2 * slack * self._options.top_p)
        return is_near

    def candidates(self, logprobs: Floats) -> Ids:
        """Return the ids that top_p, min_p and top_k leave, the most likely first.

        The filters are those of mlx-lm: top_p keeps a token while the mass above it is below
        top_p, and its equals with it; min_p keeps what is at least min_p times the best; both
        before the temperature.
        """
        best = _largest(logprobs, self._first_count(len(logprobs)))
        count = self._kept_count(logprobs[best])
        while count == len(best) < self._top_k:
            # The cut may lie further down.
            best = _largest(logprobs, min(len(best) * 8, self._top_k))
            count = self._kept_count(logprobs[best])
        return best[:count]

    def _kept_count(self, best: Floats) -> int:
        """Return how many of the largest log-probabilities pass top_p and min_p."""
        values = best.astype(np.float64)
        count = int(np.isfinite(values).sum())
        if self._options.top_p < 1.0:
            mass_above = np.cumsum(np.exp(values)) - np.exp(values)
            last = max(int((mass_above < self._options.top_p).sum()), 1) - 1
            count = min(count, int((values >= values[last]).sum()))
        if self._options.min_p > 0.0:
            count = min(count, int((values >= values[0] + math.log(self._options.min_p)).sum()))
        return count

    def _first_count(self, vocab_size: int) -> int:
        if self._options.top_p < 1.0:
            return min(_FIRST_CANDIDATES, self._top_k)
        return min(self._top_k, vocab_size)


def token_word(seed: int, position: int) -> int:
    """Return the 64 random bits of one token: SplitMix64 (Steele et al. 2014)."""
    return _mix((_mix(seed & _WORD) + position * _GOLDEN) & _WORD)


def token_uniform(seed: int, position: int) -> float:
    """Return a number from 0 to below 1 made of the token's random bits."""
    return (token_word(seed, position) >> 11) * 2.0**-53


def key_uniforms(words: Sequence[int]) -> Doubles:
    """Return the numbers that `Sampler.draw` compares with the cumulated probabilities, for
    tokens with these random bits."""
    keys = mx.array([_key(word) for word in words], dtype=mx.uint32)
    drawn = mx.vmap(lambda key: mx.random.uniform(shape=(1,), key=key))(keys)
    return np.array(drawn).astype(np.float64)[:, 0]


def pick(bounds: Doubles, uniform: float) -> int:
    """Return the index that a number from 0 to below 1 falls on, by cumulated weights."""
    index = int(np.searchsorted(bounds, uniform * bounds[-1], side="right"))
    return min(index, len(bounds) - 1)


@cache
def is_drawn_by_inversion() -> bool:
    """Whether `mx.random.categorical` does what `key_uniforms` and `pick` do, as in mlx 0.32;
    earlier ones added Gumbel noise."""
    weights, sampler = np.arange(1.0, 33.0), Sampler(SamplingOptions(temperature=1.0), 32)
    drawn = [sampler.draw(mx.log(mx.array(weights))[None], place).item() for place in range(32)]
    uniforms = key_uniforms([token_word(0, place) for place in range(32)])
    return drawn == [pick(np.cumsum(weights), uniform) for uniform in uniforms]


def _key(word: int) -> list[int]:
    return [word >> 32, word & 0xFFFFFFFF]


def _largest(values: Floats, count: int) -> Ids:
    """Return the indices of the `count` largest values, the largest first, ties by index."""
    if count < len(values):
        picked = np.argpartition(-values, count - 1)[:count]
    else:
        picked = np.arange(len(values))
    return picked[np.lexsort((picked, -values[picked]))]


def top_logprobs(logprobs: mx.array, token: int, count: int) -> dict[str, Any]:
    """Return the log-probability of `token` and of the `count` best tokens.

    Args:
        logprobs: Shape [vocabulary], evaluated.
        token: The chosen id.
        count: How many alternatives, from 0.
    """
    return describe(np.array(logprobs.astype(mx.float32), copy=False), token, count)


def describe(values: Floats, token: int, count: int) -> dict[str, Any]:
    """Return what `top_logprobs` does, of values that are already numpy's."""
    best = _largest(values, min(count, values.size)).tolist() if count else []
    return {
        "id": token,
        "logprob": _finite(values[token]),
        "top": [[index, _finite(values[index])] for index in best],
    }


def _finite(value: np.floating[Any]) -> float:
    """Send a masked token's minus infinity as the lowest float 32, which every codec has."""
    return max(float(value), -3.4028234663852886e38)


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
