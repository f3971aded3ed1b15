"""One generation on one model: a prefill chunk or a decode step at a time.

The arithmetic is that of `mlx_lm.generate.generate_step`, cut into steps that a scheduler can
interleave, cancel and pause: prompt chunks, then one token a step with the next one already
dispatched while this one is read. Greedy tokens are identical to mlx-lm's. Called on the engine
thread only; knows nothing of requests, text or the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import make_prompt_cache

from ..errors import NumericError
from .sampling import Sampler, SamplingOptions

_CLEAR_CACHE_EVERY = 256
"""Steps between two returns of unused buffers, as in mlx-lm."""


def open_sequence(
    network: Any,
    vocab_size: int,
    prompt: list[int],
    options: SamplingOptions,
    max_tokens: int,
    chunk_tokens: int,
) -> Sequence:
    """Start a generation on a model that mlx-lm has loaded."""
    sampler = Sampler(options, vocab_size)
    return Sequence(network, prompt, sampler, max_tokens, chunk_tokens)


@dataclass(frozen=True, slots=True)
class _Step:
    """A dispatched step: `chosen` [1] when it was drawn lazily, `logprobs` [vocabulary], `total`
    the log of the summed exponentials."""

    chosen: mx.array | None
    logprobs: mx.array
    total: mx.array


class Sequence:
    """The state of one generation.

    Args:
        model: The mlx-lm model.
        prompt: Token ids, at least one, each below the vocabulary size.
        sampler: Chooses tokens.
        max_tokens: After this many, no further step is dispatched.
        chunk_tokens: Prompt tokens of one prefill step.
    """

    def __init__(
        self, model: Any, prompt: list[int], sampler: Sampler, max_tokens: int, chunk_tokens: int
    ) -> None:
        self._model = model
        self._prompt = prompt
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._chunk_tokens = chunk_tokens
        self._cache: list[Any] = make_prompt_cache(model)
        self._history: mx.array | None = None
        self._next: _Step | None = None
        self.logprobs: mx.array | None = None
        self.prefilled = 0
        self.decoded = 0

    @property
    def is_prefilling(self) -> bool:
        """Whether prompt tokens are left before the first token can be sampled."""
        return self.prefilled < len(self._prompt)

    def prefill(self) -> None:
        """Evaluate the next chunk of the prompt; the last token dispatches the first sample."""
        with mx.stream(generation_stream):
            last = len(self._prompt) - 1
            if self.prefilled < last:
                stop = min(self.prefilled + self._chunk_tokens, last)
                chunk = mx.array(self._prompt[self.prefilled : stop])
                self._model(chunk[None], cache=self._cache)
                mx.eval([entry.state for entry in self._cache])
                self._remember(chunk)
                self.prefilled = stop
                mx.clear_cache()
            if self.prefilled == last:
                self._dispatch(mx.array(self._prompt[last:]), 0)
                self.prefilled = last + 1

    def decode(self) -> int:
        """Return the next token, with the one after it already dispatched.

        `logprobs` then holds the distribution it was drawn from, shape [vocabulary].

        Raises:
            NumericError: The logits were NaN, or all minus infinity.
        """
        step, self._next = self._next, None
        assert step is not None
        has_next = self.decoded + 1 < self._max_tokens
        with mx.stream(generation_stream):
            if has_next and step.chosen is not None:
                self._dispatch(step.chosen, self.decoded + 1)
            self._check_finite(step)
            token = self._read(step)
            if has_next and step.chosen is None:
                self._dispatch(mx.array([token]), self.decoded + 1)
            if self.decoded % _CLEAR_CACHE_EVERY == 0:
                mx.clear_cache()
        self.logprobs = step.logprobs
        self.decoded += 1
        return token

    def _dispatch(self, tokens: mx.array, position: int) -> None:
        logits = self._model(tokens[None], cache=self._cache)[:, -1, :]
        if self._sampler.processors:
            self._remember(tokens)
            for process in self._sampler.processors:
                logits = process(self._history, logits)
        total = mx.logsumexp(logits, keepdims=True)
        logprobs = logits - total
        chosen = self._sampler.draw(logprobs, position) if self._sampler.is_lazy else None
        self._next = _Step(chosen, logprobs.squeeze(0), total)
        mx.async_eval(self._next.logprobs, total, *(() if chosen is None else (chosen,)))

    def _read(self, step: _Step) -> int:
        if step.chosen is not None:
            return int(step.chosen.item())
        values = np.array(step.logprobs.astype(mx.float32), copy=False)
        return self._sampler.choose(values, self.decoded)

    def _check_finite(self, step: _Step) -> None:
        """NaN anywhere, or nothing but minus infinity, shows in the sum."""
        total = float(step.total.item())
        if total - total != 0.0:
            raise NumericError(
                f"the model's logits are not finite at token {self.decoded}; its weights or "
                "its dtype are broken, or a logit bias masks every token",
                phase="decode",
                completion_tokens=self.decoded,
            )

    def _remember(self, tokens: mx.array) -> None:
        if self._sampler.processors:
            history = self._history
            self._history = tokens if history is None else mx.concatenate([history, tokens])
