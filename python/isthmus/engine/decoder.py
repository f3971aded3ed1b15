"""All generations of one model: who shares a pass, on which stream the others run, what is kept.

Where a pass of many rows costs little more than one of a single row (`spread.batching_pays`), those
that decode at the same time share a batch, joining and leaving between steps, and short prompts are
evaluated together. Elsewhere, and for what mlx-lm cannot batch, each runs alone, on streams that
keep all processors busy. Each call does one unit of work. Called on the engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence as Some
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generation_stream

from ..limits import PREFILL_SLICE_S, PREFILL_SLICE_TOKENS
from ..sessions.chain import TokenIds, token_array
from ..sessions.layout import Layout
from ..sessions.values import Evaluated
from .batch import Result, RowBatch, can_batch
from .generate import Sequence
from .kept_caches import PromptCache
from .kv_layers import evaluated, layout_of, trim_to
from .kv_memory import KvMemory
from .plan import Plan, Restored
from .speculate import Speculation, SpeculativeSequence
from .spread import batching_pays, processor_streams

_RATE_MEMORY = 0.7
"""Weight of the past in the measured speed of prompts."""

_SIMILAR_LENGTHS = 4
"""Rows whose contexts differ by more than this factor share no batch, above _SHORT_CONTEXT."""

_SHORT_CONTEXT = 512

_TOGETHER_TOKENS = 128
"""Prompt tokens of several prompts that may be evaluated in a pass, even if that takes longer than
a chunk of one should: it costs much less than a pass for each."""

_PREFILLED_TOGETHER = 8
"""Most prompts of a pass: more of them gain little and all wait for it."""

Joining = dict[RowBatch, list[Sequence]]
"""Who is about to join which batch."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a generation of a session left behind.

    Attributes:
        ids: The tokens of its cache; of what it had begun with, if it failed.
        kept_bytes: What is kept of it in memory; 0 for nothing.
        evaluated: Its numbers, to be saved; None when they cannot be.
        problem: Why not, if that was a failure.
    """

    ids: TokenIds
    kept_bytes: int
    evaluated: Evaluated | None
    problem: str | None = None


class Decoder:
    """Runs the generations of one model.

    Args:
        network: The mlx-lm model.
        vocab_size: Columns of its logits.
        is_fp32: Whether its weights are neither quantised nor of 16 bits.
        chunk_tokens: Most prompt tokens of a chunk.
        cache_bytes: Of the prompts that are kept.
        memory: Counts what all models keep.
    """

    def __init__(
        self,
        network: Any,
        vocab_size: int,
        is_fp32: bool,
        chunk_tokens: int,
        cache_bytes: int,
        memory: KvMemory | None = None,
    ) -> None:
        self._network = network
        self._vocab_size = vocab_size
        self._chunk_tokens = chunk_tokens
        self._batches: list[RowBatch] = []
        self._numbers = count()
        self._turns: dict[object, int] = {}
        self._tokens_per_s = 0.0
        self.prompts = PromptCache(cache_bytes, memory or KvMemory(), lambda: self.layout)
        self.alone_reason: str | None = None
        if not can_batch(network):
            self.alone_reason = "cache_kind"
        elif not batching_pays(is_fp32):
            self.alone_reason = "does_not_pay"
        self._streams: tuple[Any, ...] = (generation_stream,)
        if self.alone_reason is not None and mx.default_device() == mx.Device(mx.cpu):
            self._streams = processor_streams()
        self._loads = [0] * len(self._streams)
        # Only the shape of the computation is made for this, nothing is evaluated.
        self._is_rounded = network(mx.array([[0]])).dtype == mx.float32

    def open(self, plan: Plan, speculation: Speculation | None = None) -> Sequence:
        """Start a generation, from the longest beginning of its prompt that is kept."""
        place = self._loads.index(min(self._loads))
        self._loads[place] += 1
        arguments = (
            self._network,
            self._vocab_size,
            plan,
            self._chunk_tokens,
            self._streams[place],
            self._is_rounded,
        )
        if speculation is not None:
            sequence: Sequence = SpeculativeSequence(*arguments, speculation)
        else:
            sequence = Sequence(*arguments)
            sequence.alone_reason = sequence.alone_reason or self.alone_reason
        sequence.layout = self.layout
        if plan.may_reuse:
            taken = self.prompts.take(plan.prompt, plan.whose)
            if taken.tokens:
                sequence.reuse(taken.cache, taken.tokens)
            if plan.restored is not None and plan.restored.tokens > taken.tokens:
                _go_on_with(sequence, plan.restored)
        return sequence

    @cached_property
    def layout(self) -> Layout | None:
        """What the model's caches look like; None when they cannot be saved."""
        return layout_of(self._network)

    def limit_tokens(self, is_anybody_decoding: bool) -> int:
        """Return how many prompt tokens may be evaluated at once: those that take about
        PREFILL_SLICE_S when others wait for tokens."""
        if not is_anybody_decoding:
            return self._chunk_tokens
        tokens = int(self._tokens_per_s * PREFILL_SLICE_S)
        return min(max(tokens, PREFILL_SLICE_TOKENS), self._chunk_tokens)

    def took(self, tokens: int, seconds: float) -> None:
        """Learn how fast prompts are evaluated."""
        if tokens > 0 and seconds > 0:
            rate, past = tokens / seconds, self._tokens_per_s
            self._tokens_per_s = rate if past == 0 else past + (1 - _RATE_MEMORY) * (rate - past)

    def prefill(self, waiting: Some[Sequence], limit: int) -> list[tuple[Sequence, Exception]]:
        """Evaluate up to about `limit` prompt tokens of those that come first; return failures."""
        first = waiting[0]
        if self._can_share(first):
            alike = [row for row in waiting if self._can_share(row) and _are_alike(row, first)]
            together = _that_fit(alike, max(limit, _TOGETHER_TOKENS))
            if len(together) > 1:
                return self._prefill_together(together)
        if len(self._streams) == 1:
            return self._prefill_each([first], limit)
        return self._prefill_each(_on_different_streams(waiting), limit)

    def decode(self, ready: Some[Sequence]) -> list[Result]:
        """Decode one token of one sequence, or of one batch; who waited longest goes first."""
        rows = [sequence for sequence in ready if self._can_share(sequence)]
        rows = rows if len(rows) > 1 else []
        pending = [row for row in rows if row.has_pending]
        if pending:
            return [_decode(row, keeps_going=False) for row in pending]
        self._arrange(rows)
        units: list[Sequence | RowBatch] = [sequence for sequence in ready if sequence not in rows]
        units += [batch for batch in self._batches if batch.rows]
        unit = min(units, key=lambda unit: self._turns.get(unit, -1))
        self._turns = {other: self._turns.get(other, -1) for other in units}
        self._turns[unit] = next(self._numbers)
        return self._step(unit) if isinstance(unit, RowBatch) else [_decode(unit)]

    def close(self, sequence: Sequence, is_sound: bool = True) -> Left | None:
        """End a sequence; what it evaluated is kept for prompts that begin alike, if sound.

        Returns:
            What a session's generation leaves behind; None for others.
        """
        self._loads[self._streams.index(sequence.stream)] -= 1
        keeps = is_sound and sequence.plan.may_reuse
        for batch in self._batches:
            if sequence in batch.rows:
                batch.leave([sequence], keeps)
        self._batches = [batch for batch in self._batches if batch.rows]
        left = None
        if sequence.plan.whose.owner:
            left = self._leave_behind(sequence, is_sound)
        elif keeps and sequence.cache is not None:
            self.prompts.keep(sequence.tokens[: sequence.evaluated], sequence.cache)
        sequence.end()
        return left

    def _leave_behind(self, sequence: Sequence, is_sound: bool) -> Left:
        """Keep a session's cache: of all that was evaluated, or of what a failed generation had
        begun with."""
        end, cache = sequence.evaluated, sequence.cache
        if not is_sound:
            end = 0 if sequence.is_replaying else min(sequence.cached, end)
        ids = token_array(sequence.tokens[:end])
        whose = sequence.plan.whose
        try:
            if cache is None or end == 0:
                return Left(ids[:0], 0, None)
            if not is_sound:
                if self.layout is None or self.layout.has_states:
                    return Left(ids[:0], 0, None)
                trim_to(cache, end)
                return Left(ids, self.prompts.keep(ids, cache, whose), None)
            marks = sequence.checkpoints
            kept_bytes = self.prompts.keep(ids, cache, whose, marks)
            if self.layout is None:
                return Left(ids, kept_bytes, None)
            return Left(ids, kept_bytes, evaluated(ids, cache, self.layout, marks))
        except Exception as error:  # what cannot be kept is evaluated again
            return Left(ids[:0], 0, None, f"{type(error).__name__}: {error}")

    def _can_share(self, sequence: Sequence) -> bool:
        return sequence.alone_reason is None and self.alone_reason is None

    def _arrange(self, rows: Some[Sequence]) -> None:
        """Let these be the rows of the batches, each with those of a similar length."""
        for batch in self._batches:
            batch.leave([row for row in batch.rows if row not in rows])
        self._batches = [batch for batch in self._batches if batch.rows]
        placed = {row for batch in self._batches for row in batch.rows}
        joining: Joining = {}
        for row in sorted((row for row in rows if row not in placed), key=_length):
            joining.setdefault(self._batch_for(row, joining), []).append(row)
        for batch, members in joining.items():
            # All at once: each time everything is copied.
            batch.join(members)

    def _batch_for(self, row: Sequence, joining: Joining | None = None) -> RowBatch:
        """Return a batch of rows like this one, those that are about to join it among them."""
        for batch in self._batches:
            others = [*batch.rows, *(joining or {}).get(batch, ())]
            if not others or _are_alike(row, max(others, key=_length)):
                return batch
        self._batches.append(RowBatch(self._network))
        return self._batches[-1]

    def _prefill_together(self, rows: list[Sequence]) -> list[tuple[Sequence, Exception]]:
        batch = self._batch_for(max(rows, key=_length))
        try:
            batch.prefill(rows)
        except Exception:
            self._give_up_batching()
            for row in rows:
                row.replay("failed")
        return []

    def _prefill_each(
        self, sequences: list[Sequence], limit: int
    ) -> list[tuple[Sequence, Exception]]:
        """Evaluate a chunk of each, on its own stream."""
        states: list[tuple[Sequence, Any]] = []
        failures: list[tuple[Sequence, Exception]] = []
        for sequence in sequences:
            try:
                state = sequence.begin_prefill(max(1, limit // len(sequences)))
                mx.async_eval(state)
            except Exception as error:
                failures.append((sequence, error))
            else:
                states.append((sequence, state))
        for sequence, state in states:
            try:
                mx.eval(state)
            except Exception as error:
                failures.append((sequence, error))
        mx.clear_cache()
        return failures

    def _step(self, batch: RowBatch) -> list[Result]:
        rows = list(batch.rows)
        try:
            return batch.step()
        except Exception:
            self._give_up_batching()
            return [(row, []) for row in rows]

    def _give_up_batching(self) -> None:
        """What fails together may work alone; whatever is wrong with one row hits that one then."""
        self.alone_reason = "failed"
        for batch in self._batches:
            for row in batch.rows:
                row.replay("failed")
        self._batches = []


def _go_on_with(sequence: Sequence, restored: Restored) -> None:
    tokens = restored.tokens
    # A state that is not what it should be: the prompt is evaluated instead.
    with suppress(ValueError):
        sequence.reuse(restored.take(), tokens, "warm")


def _decode(sequence: Sequence, keeps_going: bool = True) -> Result:
    try:
        return sequence, sequence.decode(keeps_going)
    except Exception as error:
        return sequence, error


def _length(sequence: Sequence) -> int:
    return len(sequence.tokens)


def _are_alike(first: Sequence, second: Sequence) -> bool:
    """Whether little of a batch of both would be padding."""
    lengths = [max(_length(sequence), _SHORT_CONTEXT) for sequence in (first, second)]
    return max(lengths) <= _SIMILAR_LENGTHS * min(lengths)


def _that_fit(rows: Some[Sequence], limit: int) -> list[Sequence]:
    """Return the first rows whose prompts, padded to the longest, have no more tokens than that."""
    fitting: list[Sequence] = []
    longest = 0
    for row in rows:
        longest = max(longest, row.remaining)
        if longest * (len(fitting) + 1) > limit or len(fitting) == _PREFILLED_TOGETHER:
            break
        fitting.append(row)
    return fitting


def _on_different_streams(waiting: Some[Sequence]) -> list[Sequence]:
    """Return the first of each stream."""
    chosen: dict[Any, Sequence] = {}
    for sequence in waiting:
        chosen.setdefault(id(sequence.stream), sequence)
    return list(chosen.values())
