"""Random numbers of tokens: they follow from a request's seed, the position and the token alone.

`Noise` is what the Gumbel-max trick adds to logits. Its bits are Philox's (Salmon et al. 2011), a
generator that makes each block of them from its number: those of a few tokens cost little, and are
the same that they have in the whole. `token_word` is SplitMix64 (Steele et al. 2014), one number
for a position, from which speculation's rejection rule accepts and replaces. Knows no logits and no
options.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from .arrays import Doubles, Floats, Ids, Words

_KEPT: Final = 2
"""Positions whose noise is kept: a step is dispatched before the one before it is read."""

_BLOCK_TOKENS: Final = 8
"""A block is four words of 64 bits, a token has 32."""

_SINGLE_COST: Final = 600
"""A token's bits made alone cost as much as so many that are made together."""

_WORD: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


class Noise:
    """Standard Gumbel noise of one request's tokens; a position's is made in one go or in part.

    Args:
        seed: From 0, below 2^64.
    """

    def __init__(self, seed: int) -> None:
        self._kept: dict[int, Floats] = {}
        self._generator: Any = np.random.Philox(key=seed)
        self._counter = [0, 0, 0, 0]
        # Lists of numbers are read faster than arrays, and it is set for each block.
        inner = {"counter": self._counter, "key": [seed, 0]}
        self._state = {**self._generator.state, "state": inner, "buffer": [0, 0, 0, 0]}

    def whole(self, position: int, vocab_size: int) -> Floats:
        """Return the noise of all tokens, shape [vocabulary]; a smaller vocabulary has the
        beginning of that of a larger one. The last positions' noise is kept."""
        noise = self._kept.get(position)
        if noise is None:
            noise = self._kept[position] = _gumbel(self._bits(position, vocab_size))
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return noise

    def of(self, ids: Ids, position: int, vocab_size: int) -> Floats:
        """Return the noise of some tokens, at least one, as it is in the whole."""
        if len(ids) * _SINGLE_COST < vocab_size:
            return _gumbel(self._bits_of(ids, position))
        return _gumbel(self._bits(position, vocab_size)[ids])

    def _bits(self, position: int, vocab_size: int) -> Words:
        self._counter[0], self._counter[3] = 0, position
        self._generator.state = self._state
        words: Words = self._generator.random_raw((vocab_size + 1) // 2).view(np.uint32)
        return words[:vocab_size]

    def _bits_of(self, ids: Ids, position: int) -> Words:
        """Make the blocks of these tokens, one by one."""
        generator, counter, blocks = self._generator, self._counter, []
        counter[3] = position
        for block in (ids // _BLOCK_TOKENS).tolist():
            counter[0] = block
            generator.state = self._state
            blocks.append(generator.random_raw(_BLOCK_TOKENS // 2))
        words: Words = np.concatenate(blocks).view(np.uint32)
        bits: Words = words[np.arange(0, len(words), _BLOCK_TOKENS) + ids % _BLOCK_TOKENS]
        return bits


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
