"""Generations of one model that share its passes: one row each, on mlx-lm's batch caches.

Prompts are evaluated together as in mlx-lm's `PromptProcessingBatch`, padded on the right; then
each row takes part in every step, whatever its sampler, until it leaves with a cache of its own.
Who shares a pass changes a row's logits by rounding only; `Sequence.take` notices where that may
matter. Called on the engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence as Some
from contextlib import suppress
from typing import Any

import mlx.core as mx
from mlx_lm.generate import PromptProcessingBatch, generation_stream
from mlx_lm.models.cache import make_prompt_cache

from .generate import CLEAR_CACHE_EVERY, Sequence
from .plan import Token
from .sampling import LogitRows

Result = tuple[Sequence, list[Token] | Exception]
"""What a step gave a sequence: tokens, or why it failed."""


def can_batch(network: Any) -> bool:
    """Whether mlx-lm can join caches of this model."""
    return all(hasattr(entry, "merge") for entry in make_prompt_cache(network))


class RowBatch:
    """The rows that decode together.

    Args:
        network: The mlx-lm model.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._cache: list[Any] = []
        self._places: list[Sequence] = []
        self._steps = 0
        self.rows: list[Sequence] = []

    def prefill(self, sequences: Some[Sequence]) -> None:
        """Evaluate the rest of these prompts in one pass, and make rows of them."""
        with mx.stream(generation_stream):
            batch = PromptProcessingBatch(
                self._network,
                list(range(len(sequences))),
                [sequence.cache for sequence in sequences],
            )
            batch.prompt([sequence.tokens[sequence.prefilled : -1] for sequence in sequences])
            self._extend(sequences, batch.prompt_cache)
        for sequence in sequences:
            sequence.prefilled_by_others()

    def join(self, sequences: Some[Sequence]) -> None:
        """Make rows of sequences with caches of their own, whose prompts are evaluated."""
        with mx.stream(generation_stream):
            caches = [sequence.cache or [] for sequence in sequences]
            merged = [column[0].merge(list(column)) for column in zip(*caches, strict=True)]
            self._extend(sequences, merged)

    def leave(self, sequences: Some[Sequence], keeps_cache: bool = True) -> None:
        """End rows; each gets its cache back if that is kept."""
        if keeps_cache:
            with mx.stream(generation_stream):
                for sequence in sequences:
                    place = self._places.index(sequence)
                    sequence.cache = [entry.extract(place) for entry in self._cache]
        self.rows = [row for row in self.rows if row not in sequences]

    def step(self) -> list[Result]:
        """Decode a token for every row; rows that rounding may have decided get none and leave.

        Raises:
            Exception: The pass failed; no row's cache can be used.
        """
        with mx.stream(generation_stream):
            self._compact()
            last = mx.array([row.tokens[-1] for row in self.rows], dtype=mx.uint32)
            logits = self._network(last[:, None], cache=self._cache)[:, -1, :]
            dispatched = LogitRows(self._processed(logits))
            for row in self.rows:
                _prepare(row)
            logits_of, best = dispatched.read()
        self._steps += 1
        if self._steps % CLEAR_CACHE_EVERY == 0:
            mx.clear_cache()
        results = [
            (row, _take(row, logits_of[index], best[index])) for index, row in enumerate(self.rows)
        ]
        close = [row for row, taken in results if taken == []]
        self.leave(close, keeps_cache=False)
        for row in close:
            row.replay("near_tie")
        return results

    def _processed(self, logits: mx.array) -> mx.array:
        """Apply each row's penalties and biases."""
        if not any(row.sampler.processors for row in self.rows):
            return logits
        parts = [
            row.sampler.process_rows(logits[index : index + 1], row.tokens)
            for index, row in enumerate(self.rows)
        ]
        return mx.concatenate(parts)

    def _compact(self) -> None:
        """Cut out of the caches what belongs to no row any more; once for all that have left, for
        everything is copied."""
        kept = [place for place, row in enumerate(self._places) if row in self.rows]
        if len(kept) < len(self._places):
            self._places = list(self.rows)
            for entry in self._cache if kept else ():
                entry.filter(kept)

    def _extend(self, sequences: Some[Sequence], cache: list[Any]) -> None:
        self._compact()
        if not self.rows:
            self._cache = cache
        else:
            for mine, other in zip(self._cache, cache, strict=True):
                mine.extend(other)
        mx.eval([entry.state for entry in self._cache])
        self.rows += sequences
        self._places = list(self.rows)
        for sequence in sequences:
            sequence.joined()


def _prepare(row: Sequence) -> None:
    """Prepare a row; should it fail, `take` will fail likewise."""
    with suppress(Exception):
        row.prepare()


def _take(row: Sequence, logits: Any, best: int | None) -> list[Token] | Exception:
    """Choose a row's token, so that its failure is its own."""
    try:
        return row.take(logits, best)
    except Exception as error:
        return error
