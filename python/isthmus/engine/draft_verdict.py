"""What the model makes of a draft, by its logits: how many tokens it accepts, and which follows.

Greedy: the draft is accepted up to the first token that is not the best. Sampled, without a
proposal: each token is drawn with the noise that `generate` would draw it with, and the drafted one
is accepted if it is that; so the tokens are those of `generate` with the same seed, whatever the
draft, and a draft that was drawn with the same noise is accepted often. With a proposal: the
rejection rule of Leviathan et al. 2023 (arXiv 2211.17192) and Chen et al. 2023 (arXiv 2302.01318),
whose tokens have the model's own distribution; it has random numbers of its own, not the noise.
Knows no forward pass. Called on the engine thread only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import mlx.core as mx
import numpy as np

from ..errors import NumericError
from .arrays import Floats
from .draft_item import DraftItem, Proposal, Verdict
from .noise import pick, token_uniform
from .sampling import Sampler, best_tokens, describe, not_finite

_ACCEPT: Final = 0x9FB21C651E98DF25
_REPLACE: Final = 0x56E8FEB86659FD93
"""Mixed into the seed, so that accepting and replacing a token have random bits of their own. They
differ above bit 53, where no seed reaches."""

_UNITS_FP32: Final = 64.0
_UNITS_16_BIT: Final = 1.0
"""By how many units of the last place a logit may change with the batch. Measured on the built-in
model with OpenBLAS: up to 30 in fp32; none in 16 bits, where sums are made in fp32 and rounded
once. Not measured on Metal."""


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
    """What the model says at all positions of a pass, read once.

    Attributes:
        logits: Shape [positions, vocabulary], in the model's dtype, with penalties and biases.
        values: The same for numpy.
        largest: The best logit of each row; not finite if the row cannot be drawn from.
        best: mlx-lm's greedy tokens of an item that is alone.
        slack: By how much a logit may differ from that of the item alone; None if it is alone.
    """

    def __init__(
        self,
        items: Sequence[DraftItem],
        samplers: Sequence[Sampler],
        logits: mx.array,
        is_alone: bool,
    ) -> None:
        self.logits = _processed(items, samplers, logits)
        self.values: Floats = np.array(self.logits.astype(mx.float32), copy=False)
        self.largest: Floats = self.values.max(axis=-1)
        self.best: list[int] = []
        self.slack: Floats | None = None
        if not is_alone:
            units = _UNITS_FP32 if logits.dtype == mx.float32 else _UNITS_16_BIT
            unit = units * float(mx.finfo(logits.dtype).eps)
            # The best log-probability is no lower than that of equals.
            equals = max(1.0, math.log(self.values.shape[1]))
            self.slack = unit * np.maximum(equals, np.abs(self.largest))
        elif samplers[0].is_greedy:
            self.best = best_tokens(self.logits).tolist()


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
            if not math.isfinite(self._rows.largest[self._first + offset]):
                raise not_finite(item.position + offset, phase="verify")
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
        """Return the token that `generate` would give, or that the rejection rule gives."""
        rows, row, sampler = self._rows, self._first + offset, self._sampler
        proposal, position = self._item.proposal, self._item.position + offset
        if proposal is not None and offset < len(self._item.draft) and not sampler.is_greedy:
            return self._accept_or_replace(proposal, offset)
        if rows.slack is None and sampler.is_greedy:
            return rows.best[row]
        if rows.slack is None and sampler.is_lazy:
            return int(sampler.draw(rows.logits[row : row + 1], position).item())
        slack = 0.0 if rows.slack is None else float(rows.slack[row])
        token = sampler.choose(rows.values[row], position, slack)
        if token is None:
            raise _TooClose
        return token

    def _accept_or_replace(self, proposal: Proposal, offset: int) -> int:
        """Accept the drafted token with probability min(1, p / q), or draw one from what p has
        more of than q."""
        rows, row, sampler = self._rows, self._first + offset, self._sampler
        seed, position = self._item.sampling.seed, self._item.position + offset
        token = self._item.draft[offset]
        ids, weights = sampler.weights(rows.values[row])
        wanted = weights / weights.sum()
        drafted = np.zeros(rows.values.shape[1])
        drafted[proposal.ids[offset]] = proposal.probabilities[offset]
        threshold = token_uniform(seed ^ _ACCEPT, position) * drafted[token]
        mass = float(wanted[ids == token].sum())
        excess = np.maximum(wanted - drafted[ids], 0.0)
        is_accepted = threshold < mass or not excess.any()
        uniform = token_uniform(seed ^ _REPLACE, position)
        index = 0 if is_accepted else pick(excess, uniform)
        if rows.slack is not None:
            slack = float(rows.slack[row])
            reach = sampler.reach(slack)
            bounds = np.cumsum(excess)
            ends = bounds[max(index - 1, 0) : index + 1]
            is_near = bool((np.abs(ends - uniform * bounds[-1]) <= reach).any())
            if (
                abs(threshold - mass) <= reach * mass * (1.0 - mass)
                or (is_near and not is_accepted)
                or sampler.is_near_other_candidates(rows.values[row], slack)
            ):
                raise _TooClose
        return token if is_accepted else int(ids[index])


def _processed(
    items: Sequence[DraftItem], samplers: Sequence[Sampler], logits: mx.array
) -> mx.array:
    """Return the logits after each item's penalties and biases, as `generate` applies them."""
    if not any(sampler.processors for sampler in samplers):
        return logits
    parts, first = list[mx.array](), 0
    for item, sampler in zip(items, samplers, strict=True):
        stop = first + len(item.draft) + 1
        parts.append(sampler.process_rows(logits[first:stop], item.prompt + item.draft))
        first = stop
    return mx.concatenate(parts)
