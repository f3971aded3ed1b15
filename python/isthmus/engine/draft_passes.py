"""Forward passes over drafts: which drafts share one, and how their tokens are laid out.

A short group is one pass without a cache, padded on the right: attention is causal, so no token
sees the padding behind it. A longer group, or one whose prompts are the same, evaluates each
different prompt once, padded on the left into a cache and without logits, and then the drafts on
rows of that cache. Models whose caches are not plain go one draft at a time. Knows no sampling.
Called on the engine thread only.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import BatchKVCache, KVCache, make_prompt_cache

from ..limits import (
    DRAFT_CACHE_TOKENS,
    DRAFT_PADDING_RATIO,
    DRAFT_PASS_LOGITS,
    DRAFT_PASS_TOKENS,
)
from .spread import spread

Head = tuple[int, ...]
"""A prompt without its last token."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How drafts, by their index, are verified: `padded` groups in a pass each, `cached` groups on
    a cache of their prompts each, and the rest `alone`."""

    padded: list[list[int]] = field(default_factory=list)
    cached: list[list[int]] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)


def has_plain_caches(network: Any) -> bool:
    """Whether the rows of a batch can be padded, joined and copied."""
    return all(type(entry) is KVCache for entry in make_prompt_cache(network))


def fits_one_pass(tokens: int, vocab_size: int, chunk_tokens: int) -> bool:
    """Whether so many tokens are evaluated at once, with all their logits."""
    return tokens <= chunk_tokens and tokens * vocab_size <= DRAFT_PASS_LOGITS


def plan(
    prompts: Sequence[list[int]], drafts: Sequence[list[int]], vocab_size: int, chunk_tokens: int
) -> Plan:
    """Group drafts so that padding and repeated prompts cost little; for plain caches."""
    heads = [tuple(prompt[:-1]) for prompt in prompts]
    repeated = _repeated(heads)
    sizes = [len(head) + 1 + len(draft) for head, draft in zip(heads, drafts, strict=True)]
    made, left = Plan(), [index for index, head in enumerate(heads) if head in repeated]
    short = [index for index, head in enumerate(heads) if head not in repeated]
    for members in groups([sizes[index] for index in short], chunk_tokens):
        group = [short[member] for member in members]
        if fits_one_pass(len(group) * sizes[group[0]], vocab_size, chunk_tokens):
            made.padded.append(group)
        else:
            left += group
    by_head: dict[Head, list[int]] = {}
    for index in left:
        by_head.setdefault(heads[index], []).append(index)
    sharing = list(by_head.values())
    for members in groups([len(head) for head in by_head], DRAFT_CACHE_TOKENS):
        made.cached.append([index for member in members for index in sharing[member]])
    for kind in (made.padded, made.cached):
        made.alone.extend(group[0] for group in kind if len(group) == 1)
        kind[:] = [group for group in kind if len(group) > 1]
    return made


def _repeated(heads: list[Head]) -> set[Head]:
    """Return the heads that are there several times, if to share them saves more than a pass."""
    times: dict[Head, int] = {}
    for head in heads:
        times[head] = times.get(head, 0) + 1
    saved = sum((count - 1) * len(head) for head, count in times.items())
    return {head for head, count in times.items() if count > 1 and saved > DRAFT_PASS_TOKENS}


def groups(sizes: Sequence[int], limit_tokens: int, limit_rows: int = 2**31) -> list[list[int]]:
    """Return the indices of `sizes` in groups of similar sizes, the largest first.

    A group is padded to its first member; padded, it stays within `limit_tokens` (unless it is one
    member) and within DRAFT_PADDING_RATIO times its tokens.
    """
    made: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        if made:
            group, total = made[-1], tokens + sizes[index]
            padded = (len(group) + 1) * sizes[group[0]]
            is_dense = padded <= min(limit_tokens, DRAFT_PADDING_RATIO * total)
            if is_dense and len(group) < limit_rows:
                group.append(index)
                tokens = total
                continue
        made.append([index])
        tokens = sizes[index]
    return made


def padded_logits(network: Any, rows: Sequence[list[int]], starts: Sequence[int]) -> mx.array:
    """Return the logits of each row from its start to its end, one row after the other.

    Args:
        rows: Token ids.
        starts: Per row, the first position whose logits are needed.

    Returns:
        Shape [needed positions, vocabulary].
    """

    def part(first: int, stop: int) -> mx.array:
        some = rows[first:stop]
        return _needed(network(_matrix(some)), some, starts[first:stop])

    return spread(len(rows), sum(map(len, rows)), part)


class HeadCache:
    """Different prompts without their last tokens, in one cache with a row each.

    Args:
        network: The mlx-lm model, with plain caches.
        heads: The prompts.
    """

    def __init__(self, network: Any, heads: Sequence[Head]) -> None:
        self._network = network
        self._heads = list(heads)
        self._width = max(len(head) for head in heads)
        self._tokens = np.zeros((len(heads), self._width), dtype=np.int32)
        padding = [self._width - len(head) for head in heads]
        for row, head in enumerate(heads):
            self._tokens[row, padding[row] :] = head
        self._cache = [BatchKVCache(padding) for _ in make_prompt_cache(network)]
        _grow_by(self._cache, self._width)
        self._filled = 0

    @property
    def is_filled(self) -> bool:
        """Whether every prompt is evaluated."""
        return self._filled == self._width

    def rows_that_fit(self, tail_tokens: int) -> int:
        """Return how many rows `logits` may copy at once."""
        return max(1, DRAFT_CACHE_TOKENS // (self._width + tail_tokens))

    def fill(self, chunk_tokens: int) -> None:
        """Evaluate some columns, about so many tokens."""
        stop = min(self._width, self._filled + max(1, chunk_tokens // len(self._heads)))
        chunk = mx.array(self._tokens[:, self._filled : stop])
        self._network(chunk, cache=self._cache)
        mx.eval([entry.state for entry in self._cache])
        mx.clear_cache()
        self._filled = stop
        if self.is_filled:
            for entry in self._cache:
                entry.keys, entry.values = entry.keys_and_values()

    def keep(self, heads: set[Head]) -> None:
        """Go on with these prompts alone."""
        rows = [row for row, head in enumerate(self._heads) if head in heads]
        if len(rows) < len(self._heads):
            for entry in self._cache:
                entry.filter(mx.array(rows))
            self._heads = [self._heads[row] for row in rows]
            self._tokens = self._tokens[rows]

    def logits(self, heads: Sequence[Head], tails: Sequence[list[int]]) -> mx.array:
        """Return the logits of each tail behind its head, one after the other.

        Returns:
            Shape [tokens of all tails, vocabulary], not evaluated.
        """
        rows = mx.array([self._heads.index(head) for head in heads])
        cache = [_take_rows(entry, rows) for entry in self._cache]
        _grow_by(cache, max(len(tail) for tail in tails))
        return _needed(self._network(_matrix(tails), cache=cache), tails, [0] * len(tails))


def _take_rows(entry: BatchKVCache, rows: mx.array) -> BatchKVCache:
    """Return these rows as a cache of their own; its `filter` would wait for each layer."""
    taken = copy.copy(entry)
    taken.keys, taken.values = entry.keys[rows], entry.values[rows]
    taken.offset, taken.left_padding = entry.offset[rows], entry.left_padding[rows]
    return taken


def _grow_by(cache: list[Any], tokens: int) -> None:
    """Make room for no more than is needed: mlx-lm's steps of 256 tokens would be copied, too."""
    for entry in cache:
        entry.step = min(BatchKVCache.step, max(tokens, 1))


def _matrix(rows: Sequence[list[int]]) -> mx.array:
    """Return rows of token ids, padded on the right."""
    width = max(len(row) for row in rows)
    return mx.array([row + [0] * (width - len(row)) for row in rows])


def _needed(logits: mx.array, rows: Sequence[list[int]], starts: Sequence[int]) -> mx.array:
    """Take the logits of each row's tokens from its start on out of a padded pass."""
    _, width, vocab_size = logits.shape
    places = [
        row * width + column
        for row, (tokens, start) in enumerate(zip(rows, starts, strict=True))
        for column in range(start, len(tokens))
    ]
    return logits.reshape(-1, vocab_size)[mx.array(places)]
