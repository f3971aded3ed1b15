"""What the model makes of a draft, by its logits: how many tokens it accepts, and which follows.

Greedy: the draft is accepted up to the first token that is not the best. Sampled, without a
proposal: each token is drawn with the key that `generate` would use for it, and accepted if it is
the drafted one; this is the rejection rule for a draft that was certain of its token, and the
tokens are those of `generate` with the same seed. With a proposal: the rejection rule of Leviathan
et al. 2023 (arXiv 2211.17192) and Chen et al. 2023 (arXiv 2302.01318), whose tokens have the
model's own distribution. Knows no forward pass. Called on the engine thread only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import mlx.core as mx
import numpy as np

from ..errors import NumericError
from .draft_item import DraftItem, Proposal, Verdict
from .sampling import (
    Doubles,
    Floats,
    Sampler,
    describe,
    is_drawn_by_inversion,
    key_uniforms,
    pick,
    token_uniform,
    token_word,
)

_ACCEPT: Final = 0x9FB21C651E98DF25
_REPLACE: Final = 0x56E8FEB86659FD93
"""Mixed into the seed, so that accepting and replacing a token have random bits of their own. They
differ above bit 53, where no seed reaches."""

_UNITS_FP32: Final = 64.0
_UNITS_16_BIT: Final = 1.0
"""By how many units of the last place a logit may change with the batch. Measured on the built-in
model with OpenBLAS: up to 30 in fp32; none in 16 bits, where sums are made in fp32 and rounded
once. Not measured on Metal."""

_SUM_ERROR: Final = 2.0**-24
"""Per token, of the masses that mlx adds up in fp32."""


def judge(
    items: Sequence[DraftItem], samplers: Sequence[Sampler], logits: mx.array, is_alone: bool
) -> list[Verdict | NumericError | None]:
    """Return each item's verdict; None where rounding may decide, if it is not alone.

    Args:
        logits: Shape [positions, vocabulary]: of each item's last prompt token and of its draft.
        is_alone: Whether the item had the passes for itself; then there is one item.
    """
    rows, first = _Rows(items, samplers, logits, is_alone), 0
    results: list[Verdict | NumericError | None] = []
    for item, sampler in zip(items, samplers, strict=True):
        try:
            results.append(_Judge(item, sampler, rows, first).verdict())
        except NumericError as error:
            results.append(error)
        except _TooClose:
            results.append(None)
        first += len(item.draft) + 1
    return results


class _TooClose(Exception):
    """Rounding may have decided it."""


class _Rows:
    """The model's distributions at all positions of a pass, read once.

    Attributes:
        logprobs: Shape [positions, vocabulary]: what `generate` draws from, in the model's dtype.
        values: The same for numpy; in a batch that is greedy only, logits, which order alike.
        scales: The log of the summed exponentials, or the best logit; not finite with the logits.
        best: The id of the largest value.
        slack: By how much a value may differ from that of the item alone; None if it is alone.
    """

    def __init__(
        self,
        items: Sequence[DraftItem],
        samplers: Sequence[Sampler],
        logits: mx.array,
        is_alone: bool,
    ) -> None:
        logits = _processed(items, samplers, logits)
        is_ordered_only = not is_alone and all(
            item.sampling.temperature == 0 and item.logprobs is None for item in items
        )
        if is_ordered_only:
            self.logprobs = logits
            self.values = _read(logits)
            self.scales = self.values.max(axis=-1)
        else:
            totals = mx.logsumexp(logits, axis=-1, keepdims=True)
            self.logprobs = logits - totals
            mx.eval(self.logprobs, totals)
            self.values, self.scales = _read(self.logprobs), _read(totals)[:, 0]
        self.best: list[int] = self.values.argmax(axis=-1).tolist()
        self.slack: Floats | None = None
        if not is_alone:
            units = _UNITS_FP32 if logits.dtype == mx.float32 else _UNITS_16_BIT
            unit = units * float(mx.finfo(logits.dtype).eps)
            self.slack = unit * np.maximum(1.0, np.abs(self.scales))
            self.gaps = self._gaps()
            self.uniforms = _uniforms(items, samplers)

    def _gaps(self) -> Floats:
        """Return how far each row's best value is ahead of the next."""
        places = np.arange(len(self.values)), np.array(self.best)
        others = self.values.copy()
        others[places] = -math.inf
        with np.errstate(invalid="ignore"):  # rows that are not finite are refused later
            gaps: Floats = self.values[places] - others.max(axis=-1)
        return gaps


class _Judge:
    """Decides one item.

    Args:
        rows: Of its pass.
        first: Its first row.
    """

    def __init__(self, item: DraftItem, sampler: Sampler, rows: _Rows, first: int) -> None:
        self._item = item
        self._sampler = sampler
        self._rows = rows
        self._first = first

    def verdict(self) -> Verdict:
        """Accept tokens while they are the model's.

        Raises:
            NumericError: The logits of a needed position are not finite.
            _TooClose: Only the item alone can tell.
        """
        item, emitted = self._item, list[int]()
        for offset, drafted in enumerate([*item.draft, None]):
            if not math.isfinite(self._rows.scales[self._first + offset]):
                raise NumericError(
                    f"the model's logits are not finite at token {item.position + offset}; its "
                    "weights or its dtype are broken, or a logit bias masks every token",
                    phase="verify",
                )
            emitted.append(self._token(offset))
            if emitted[-1] != drafted:
                break
        logprobs = None
        if item.logprobs is not None:
            logprobs = [
                describe(self._rows.values[self._first + offset], token, item.logprobs)
                for offset, token in enumerate(emitted)
            ]
        return Verdict(len(emitted) - 1, emitted[-1], logprobs)

    def _token(self, offset: int) -> int:
        rows, row = self._rows, self._first + offset
        if self._item.sampling.temperature == 0:
            if rows.slack is not None:
                _refuse(bool(rows.gaps[row] <= 2 * rows.slack[row]))
            return rows.best[row]
        if self._item.proposal is not None and offset < len(self._item.draft):
            return self._accept_or_replace(self._item.proposal, offset)
        return self._draw(offset)

    def _draw(self, offset: int) -> int:
        """Draw the token that `generate` would draw."""
        rows, row, sampler = self._rows, self._first + offset, self._sampler
        position = self._item.position + offset
        if rows.slack is None and sampler.is_lazy:
            return int(sampler.draw(rows.logprobs[row : row + 1], position).item())
        if rows.slack is None:
            return sampler.choose(rows.values[row], position)
        ids, weights = sampler.weights(rows.values[row])
        bounds = np.cumsum(weights)
        uniform = token_uniform(self._item.sampling.seed, position)
        if sampler.is_lazy:
            if rows.uniforms is None:
                raise _TooClose
            uniform = float(rows.uniforms[row])
        index = pick(bounds, uniform)
        masses = bounds[max(index - 1, 0) : index + 1] / bounds[-1]
        reach = self._reach(row) * masses * (1.0 - masses) + len(ids) * _SUM_ERROR
        _refuse(bool((np.abs(masses - uniform) <= reach).any()))
        if not sampler.is_lazy:
            # Candidates lie in the order of their values.
            around = rows.values[row][ids[max(index - 1, 0) : index + 2]]
            _refuse(bool((-np.diff(around) <= 2 * rows.slack[row]).any()))
            _refuse(sampler.is_near_other_candidates(rows.values[row], rows.slack[row]))
        return int(ids[index])

    def _accept_or_replace(self, proposal: Proposal, offset: int) -> int:
        """Accept the drafted token with probability min(1, p / q), or draw one from what p has
        more of than q."""
        rows, row, sampler = self._rows, self._first + offset, self._sampler
        seed, position = self._item.sampling.seed, self._item.position + offset
        token = self._item.draft[offset]
        ids, weights = sampler.weights(rows.values[row])
        order = np.argsort(ids, kind="stable")
        ids, wanted = ids[order], weights[order] / weights.sum()
        drafted = np.zeros(rows.values.shape[1])
        drafted[proposal.ids[offset]] = proposal.probabilities[offset]
        threshold = token_uniform(seed ^ _ACCEPT, position) * drafted[token]
        mass = float(wanted[ids == token].sum())
        excess = np.cumsum(np.maximum(wanted - drafted[ids], 0.0))
        uniform = token_uniform(seed ^ _REPLACE, position)
        is_accepted = threshold < mass or excess[-1] <= 0.0
        index = pick(excess, uniform)
        if rows.slack is not None:
            _refuse(sampler.is_near_other_candidates(rows.values[row], rows.slack[row]))
            reach = self._reach(row)
            _refuse(abs(threshold - mass) <= reach * mass * (1.0 - mass))
            bounds = excess[max(index - 1, 0) : index + 1]
            is_near = bool((np.abs(bounds - uniform * excess[-1]) <= reach).any())
            _refuse(is_near and not is_accepted)
        return token if is_accepted else int(ids[index])

    def _reach(self, row: int) -> float:
        """Return by how much of `mass * (1 - mass)` a mass may differ from that of the item
        alone; not for an item that is alone."""
        assert self._rows.slack is not None
        return float(2.0 * self._rows.slack[row] / self._item.sampling.temperature)


def _refuse(is_near: bool) -> None:
    if is_near:
        raise _TooClose


def _read(array: mx.array) -> Floats:
    return np.array(array.astype(mx.float32), copy=False)


def _processed(
    items: Sequence[DraftItem], samplers: Sequence[Sampler], logits: mx.array
) -> mx.array:
    """Return the logits after each item's penalties and biases, as `generate` applies them."""
    if not any(sampler.processors for sampler in samplers):
        return logits
    parts, first = list[mx.array](), 0
    for item, sampler in zip(items, samplers, strict=True):
        history = mx.array(item.prompt + item.draft)
        for offset in range(len(item.draft) + 1):
            row = logits[first + offset : first + offset + 1]
            for process in sampler.processors:
                row = process(history[: len(item.prompt) + offset], row)
            parts.append(row)
        first += len(item.draft) + 1
    return mx.concatenate(parts)


def _uniforms(items: Sequence[DraftItem], samplers: Sequence[Sampler]) -> Doubles | None:
    """Return for each row the number that `Sampler.draw` would draw by; None if no row needs one,
    or mlx draws in another way."""
    is_needed = any(
        item.sampling.temperature > 0 and sampler.is_lazy
        for item, sampler in zip(items, samplers, strict=True)
    )
    if not is_needed or not is_drawn_by_inversion():
        return None
    return key_uniforms(
        [
            token_word(item.sampling.seed, item.position + offset)
            for item in items
            for offset in range(len(item.draft) + 1)
        ]
    )
