"""Which tokens top_p, min_p and top_k leave: those that `mlx_lm.make_sampler` keeps.

mlx-lm sorts the whole vocabulary for top_p and partitions it for top_k; here a threshold is found
first, and only what is near it is sorted. Also says which tokens would be left of logits that are
off by rounding. Knows no temperature, no randomness and no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from .arrays import LOWEST, Floats, Ids, Truths, exponentials, mass, nth_largest

_STRIDE: Final = 32
"""Of so many logits one is looked at to guess how far down the best few reach."""

_QUICKLY_SORTED: Final = 4_096
"""Candidates that top_p sorts; of more it first leaves out halves."""

_MASS_ERROR: Final = 2.0**-20
"""Of a share of the whole mass, whose exponentials are made in float 32."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What a token must reach to be drawn.

    Attributes:
        top_p: A token is kept while the mass above it is below this, and its equals with it;
            1 is off.
        top_k: So many of the best are kept; of equals at the edge those with the lowest ids. Below
            the size of the vocabulary; 0 is off.
        min_p: What is at least so many times the best is kept; 0 is off.
    """

    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    @property
    def is_off(self) -> bool:
        """Whether every token is kept."""
        return self.top_p >= 1.0 and self.min_p <= 0.0 and not self.top_k

    def candidates(self, logits: Floats, best: float) -> Ids:
        """Return the ids that are kept, ascending.

        Args:
            logits: Shape [vocabulary], before the temperature.
            best: The largest of them, finite.
        """
        floor, total = LOWEST, 0.0
        if self.min_p > 0.0:
            floor = max(floor, best + math.log(self.min_p))
        if self.top_k:
            floor = max(floor, _below_nth_largest(logits, self.top_k))
        if self.top_p < 1.0:
            total = mass(logits, best)
            # All that lie deeper than this together have less than the rest of the mass.
            floor = max(floor, best - math.log(len(logits) / ((1.0 - self.top_p) * total)))
        ids = np.flatnonzero(logits >= floor)
        values = logits[ids]
        if self.top_k and len(values) > self.top_k:
            floor = max(floor, nth_largest(values, self.top_k))
        if self.top_p < 1.0:
            floor = max(floor, _top_p_edge(values, best, self.top_p * total))
        kept = ids[values >= floor]
        if self.top_k and len(kept) > self.top_k:
            equals = np.flatnonzero(logits[kept] == floor)
            kept = np.delete(kept, equals[self.top_k - len(kept) :])
        return kept

    def candidates_within(self, logits: Floats, best: float, slack: float) -> tuple[Ids, Truths]:
        """Return the ids that may be candidates of logits that are each off by up to `slack`, and
        for each whether it surely is one."""
        off = 2.0 * slack
        low = high = LOWEST
        if self.min_p > 0.0:
            floor = best + math.log(self.min_p)
            low, high = floor - off, floor + off
        if self.top_k:
            following = np.float32(nth_largest(logits, self.top_k + 1) + off)
            low = max(low, nth_largest(logits, self.top_k) - off)
            high = max(high, float(np.nextafter(following, np.float32(math.inf))))
        if self.top_p < 1.0:
            total, error = mass(logits, best), off + _MASS_ERROR
            most, least = self.top_p + error, self.top_p - error
            if most < 1.0:
                low = max(low, _top_p_edge(logits, best, most * total) - off)
            edge = _top_p_edge(logits, best, least * total)
            # Nothing near it can take the place of the last one.
            is_clear = np.count_nonzero(np.abs(logits - np.float32(edge)) <= off) == 1
            high = max(high, edge if is_clear else edge + off)
        ids = np.flatnonzero(logits >= max(low, LOWEST))
        surely = logits[ids] >= high
        if np.count_nonzero(logits >= best - 2.0 * off) == 1:
            surely |= logits[ids] == best  # the best one is a candidate in any case
        return ids, surely

    def is_near_others(self, logits: Floats, slack: float) -> bool:
        """Whether logits that are each off by up to `slack` may leave other candidates."""
        if self.is_off:
            return False
        best = float(logits.max())
        kept = self.candidates(logits, best)
        others = logits.copy()
        others[kept] = -math.inf
        last, following = float(logits[kept].min()), float(others.max())
        is_near = last - following <= 2 * slack
        if self.min_p > 0.0:
            floor = best + math.log(self.min_p)
            is_near |= min(abs(last - floor), abs(following - floor)) <= 2 * slack
        if self.top_p < 1.0:
            masses = exponentials(logits, best)
            total = float(masses.sum(dtype=np.float64))
            share = float(masses[kept].sum(dtype=np.float64)) / total
            # The best is kept in any case; the last one kept may be there as an equal only.
            room = self.top_p - (share - math.exp(last - best) / total)
            room = math.inf if len(kept) == 1 else room
            excess = math.inf if following == -math.inf else abs(share - self.top_p)
            is_near |= min(room, excess) <= 2 * slack * self.top_p + _MASS_ERROR
        return is_near


def _top_p_edge(values: Floats, best: float, needed: float) -> float:
    """Return the first of the values, from the largest down, with which their mass is `needed`, or
    the last. Halves are left out until the rest is quickly sorted."""
    above = 0.0
    while len(values) > _QUICKLY_SORTED:
        middle = (float(values.min()) + float(values.max())) / 2
        upper = np.compress(values >= middle, values)
        if len(upper) == len(values):
            break
        found = mass(upper, best)
        if above + found >= needed:
            values = upper
        else:
            values, above = np.compress(values < middle, values), above + found
    values = np.sort(values)[::-1]
    ends = above + np.cumsum(exponentials(values, best), dtype=np.float64)
    return float(values[min(int(np.searchsorted(ends, needed)), len(values) - 1)])


def _below_nth_largest(values: Floats, n: int) -> float:
    """Return a number that at least `n` of the values reach, mostly few more."""
    sample, place = values[::_STRIDE], 2 * n // _STRIDE + 8
    if place <= len(sample):
        guess = nth_largest(sample, place)
        if np.count_nonzero(values >= guess) >= n:
            return guess
    return LOWEST
