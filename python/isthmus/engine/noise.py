"""Random numbers of tokens: they follow from a request's seed, the position and the token alone.

`Noise` is what the Gumbel-max trick adds to logits. A token's bits are a hash of its id, keyed by
the seed and the position: the mixer triple32 of hash-prospector (Wellons 2018), whose bias is near
that of a random permutation. So those of a few tokens cost little, and are the same that they have
in the whole. `token_word` is SplitMix64 (Steele et al. 2014), one number for a position: the key,
and what speculation's rejection rule accepts and replaces by. Knows no logits and no options.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .arrays import Doubles, Floats, Ids, Words

_KEPT: Final = 2
"""Positions whose noise is kept: a step is dispatched before the one before it is read."""

_WORD: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


class Noise:
    """Standard Gumbel noise of one request's tokens.

    Args:
        seed: From 0, below 2^64.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._kept: dict[int, Floats] = {}

    def whole(self, position: int, vocab_size: int) -> Floats:
        """Return the noise of all tokens, shape [vocabulary]; a smaller vocabulary has the
        beginning of that of a larger one. The last positions' noise is kept."""
        noise = self._kept.get(position)
        if noise is None:
            ids = np.arange(vocab_size, dtype=np.uint32)
            noise = self._kept[position] = _gumbel(_mixed(ids, token_word(self._seed, position)))
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return noise

    def of(self, ids: Ids, position: int) -> Floats:
        """Return the noise of some tokens, as it is in the whole."""
        return _gumbel(_mixed(ids.astype(np.uint32), token_word(self._seed, position)))


def token_word(seed: int, position: int) -> int:
    """Return the 64 random bits of a position."""
    return _mix((_mix(seed & _WORD) + position * _GOLDEN) & _WORD)


def token_uniform(seed: int, position: int) -> float:
    """Return a number from 0 to below 1 made of the position's random bits."""
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


def _mixed(ids: Words, key: int) -> Words:
    """Return the bits of these ids, in their place."""
    ids ^= np.uint32(key >> 32)
    ids ^= ids >> np.uint32(17)
    ids *= np.uint32(0xED5AD4BB)
    # The other half of the key comes later: ids of two positions are no permutation of each other.
    ids ^= np.uint32(key & 0xFFFF_FFFF)
    ids ^= ids >> np.uint32(11)
    ids *= np.uint32(0xAC4C1B51)
    ids ^= ids >> np.uint32(15)
    ids *= np.uint32(0x31848BAB)
    ids ^= ids >> np.uint32(14)
    return ids


def _gumbel(bits: Words) -> Floats:
    """Return -log(-log(u)) for u from 23 bits and a half, which is neither 0 nor 1 in float 32; in
    the place of the bits."""
    bits >>= np.uint32(9)
    bits |= np.uint32(0x3F80_0000)  # a float 32 from 1 to below 2
    noise: Floats = bits.view(np.float32)
    noise -= np.float32(1.0 - 2.0**-24)
    for _ in range(2):
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
    return noise


def _mix(word: int) -> int:
    word = (word + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
