"""From logits to a token: mlx-lm's processors and filters, and noise for each token.

A token is drawn with the Gumbel-max trick (Maddison et al. 2014, arXiv 1411.0030): each token of
the vocabulary has noise that follows from the request's seed, the position and the token alone, and
the largest sum of scaled logit and noise wins. So the same seed gives the same tokens whoever else
is served, in mlx and in numpy, and mlx's random state is not used; the last bits of the logits,
which the company changes, seldom matter, as they would to a draw by cumulated probabilities; and a
draft model that has the same noise agrees often. `draw` is lazy, so that the next step can be
dispatched before the token is read: its noise is made while the model works on the step before.
`choose` reads evaluated logits; `prepare` makes its noise ahead. Called on the engine thread only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import make_logits_processors

from ..errors import NumericError
from ..limits import PENALTY_CONTEXT_TOKENS
from .arrays import LOWEST, Doubles, Floats, Ids, exponentials, nth_largest
from .candidates import Filters
from .noise import Noise

Processor = Callable[[mx.array, mx.array], mx.array]

_LARGEST_INVERSE: Final = 1e30
"""Of the temperature: the difference 0 must stay 0 when it is multiplied by it in float 32."""

_SCORE_ERROR: Final = 2.0**-20
"""Of a logit with its noise, in float 32."""


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
        self._vocab_size = vocab_size
        top_k = options.top_k if 0 < options.top_k < vocab_size else 0
        self._filters = Filters(options.top_p, top_k, options.min_p)
        self.is_greedy = options.temperature == 0
        self.is_lazy = self.is_greedy or self._filters.is_off
        """Whether `draw` may be used; `choose` always may."""
        self._inverse = 0.0
        if not self.is_greedy:
            self._inverse = min(1.0 / options.temperature, _LARGEST_INVERSE)
        self._noise = Noise(options.seed)
        self._history_tokens = max(options.repetition_context_size, options.penalty_context_size)
        self.processors = _processors(options)

    def process(
        self, logits: mx.array, tokens: Sequence[int], before: int, last: mx.array
    ) -> mx.array:
        """Apply penalties and biases.

        Args:
            logits: Shape [1, vocabulary].
            tokens: The text; so many of them as `before` says come before `last`.
            last: Shape [1], the token that the logits follow; it may not be evaluated yet.
        """
        if self.processors:
            # Copied in part: a text may be long, and this is done for each token.
            known = tokens[max(before - self._history_tokens, 0) : before]
            ids = mx.array(known, dtype=mx.uint32)
            history = mx.concatenate([ids, last.astype(mx.uint32)])
            for process in self.processors:
                logits = process(history, logits)
        return logits

    def process_rows(self, logits: mx.array, text: Sequence[int]) -> mx.array:
        """Apply penalties and biases to the logits of the last tokens of a text.

        Args:
            logits: Shape [tokens, vocabulary]; the last row follows the whole text, the one before
                it the text without its last token, and so on.
        """
        if not self.processors:
            return logits
        rows, first = [], len(text) - len(logits)
        for row in range(len(logits)):
            place = first + row
            last = mx.array(text[place : place + 1], dtype=mx.uint32)
            rows.append(self.process(logits[row : row + 1], text, place, last))
        return mx.concatenate(rows)

    def draw(self, logits: mx.array, position: int) -> mx.array:
        """Choose a token lazily; of logits that are not finite, any.

        Args:
            logits: Shape [1, vocabulary].
            position: Index of the token in its completion; picks the noise.

        Returns:
            Shape [1], the token id.
        """
        if self.is_greedy:
            return best_tokens(logits)
        noise = mx.array(self._noise.whole(position, logits.shape[-1]))
        values = logits.astype(mx.float32)
        scores = (values - values.max(axis=-1, keepdims=True)) * self._inverse
        return mx.argmax(scores + noise, axis=-1)

    def prepare(self, position: int) -> None:
        """Make the noise that `choose` will need, while the model is at work; with a filter that is
        known only then."""
        if self.is_lazy and not self.is_greedy:
            self._noise.whole(position, self._vocab_size)

    def choose(self, logits: Floats, position: int, slack: float = 0.0) -> int | None:
        """Return the token that `draw` gives but for rounding, whatever the options.

        Args:
            logits: Shape [vocabulary].
            position: Index of the token in its completion; picks the noise.
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
            ids, surely = self._filters.candidates_within(logits, best, slack)
        elif not self.is_lazy:
            ids = self._filters.candidates(logits, best)
        scores = self._scores(logits, best, ids, position)
        index = int(scores.argmax())
        if slack > 0.0:
            highest = float(scores[index])
            error = 2 * slack * self._inverse + _SCORE_ERROR * max(1.0, abs(highest))
            is_contested = np.count_nonzero(scores >= highest - error) > 1
            if is_contested or not (surely is None or surely[index]):
                return None
        return index if ids is None else int(ids[index])

    def weights(self, logits: Floats) -> tuple[Ids, Doubles]:
        """Return the tokens that may be drawn, ids ascending, and a weight for each: its
        probability but for one common factor. Not for temperature 0."""
        best = float(logits.max())
        kept = np.arange(len(logits))
        if not self.is_lazy:
            kept = self._filters.candidates(logits, best)
        return kept, exponentials(logits[kept], best, self._inverse).astype(np.float64)

    def reach(self, slack: float) -> float:
        """Return by how much of `mass * (1 - mass)` a mass may change with logits that are each
        off by up to `slack`. Not for temperature 0."""
        return 2.0 * slack * self._inverse

    def is_near_other_candidates(self, logits: Floats, slack: float) -> bool:
        """Whether logits that are each off by up to `slack` may leave other tokens to be drawn."""
        return not self.is_lazy and self._filters.is_near_others(logits, slack)

    def _scores(self, logits: Floats, best: float, ids: Ids | None, position: int) -> Floats:
        """Return what is compared: scaled logits with their noise, of these ids or of all."""
        scores: Floats = (logits if ids is None else logits[ids]) - np.float32(best)
        scores *= np.float32(self._inverse)
        if ids is None:
            scores += self._noise.whole(position, len(logits))
        else:
            scores += self._noise.of(ids, position)
        return scores


def best_tokens(logits: mx.array) -> mx.array:
    """Return for each row of logits its best token, lazily: mlx-lm's greedy token.

    mlx-lm compares log-probabilities, and in 16 bits the subtraction makes equals of what was not.
    """
    return mx.argmax(logits - mx.logsumexp(logits, axis=-1, keepdims=True), axis=-1)


class LogitRows:
    """The logits of a pass, dispatched: read them when there is nothing else to do.

    Args:
        logits: Shape [rows, vocabulary].
    """

    def __init__(self, logits: mx.array) -> None:
        self._values = logits.astype(mx.float32)
        # In 16 bits evaluated logits do not tell them.
        self._best = None if logits.dtype == mx.float32 else best_tokens(logits)
        mx.async_eval(self._values, *(() if self._best is None else (self._best,)))

    def read(self) -> tuple[Floats, list[int] | list[None]]:
        """Return the logits, and of each row the greedy token where they do not tell it."""
        values = np.array(self._values, copy=False)
        return values, [None] * len(values) if self._best is None else self._best.tolist()


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
        return max(float(logits[index]) - total, LOWEST)

    top = [[index, logprob(index)] for index in _largest(logits, min(count, logits.size))]
    return {"id": token, "logprob": logprob(token), "top": top}


def _largest(values: Floats, count: int) -> list[int]:
    """Return the indices of the `count` largest values, the largest first, ties by index."""
    if not count:
        return []
    picked = np.flatnonzero(values >= nth_largest(values, count))
    ids: list[int] = picked[np.argsort(-values[picked], kind="stable")][:count].tolist()
    return ids


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
