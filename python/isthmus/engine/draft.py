"""Verifies drafts in batches, in steps that a scheduler can interleave with generations.

Who shares a pass changes no verdict: rounding differs with the batch, so what rounding may have
decided is decided again by verifying that draft alone. The rules are draft_verdict's, the passes
draft_passes'. Called on the engine thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import make_prompt_cache

from ..errors import IsthmusError
from .draft_item import DraftItem, Proposal, Verdict, read_proposal
from .draft_passes import HeadCache, fits_one_pass, groups, has_plain_caches, padded_logits, plan
from .draft_verdict import judge
from .sampling import Sampler

__all__ = ["DraftBatch", "DraftItem", "Proposal", "Verdict", "read_proposal"]


class DraftBatch:
    """Verifies drafts in steps that a scheduler can interleave with generations.

    Args:
        network: The mlx-lm model.
        vocab_size: Columns of its logits.
        items: The drafts.
        chunk_tokens: About how many tokens a step evaluates.
        is_wanted: Whether an item's verdict is still waited for; once not, never again.
    """

    def __init__(
        self,
        network: Any,
        vocab_size: int,
        items: Sequence[DraftItem],
        chunk_tokens: int,
        is_wanted: Callable[[int], bool] = lambda index: True,
    ) -> None:
        self._network = network
        self._vocab_size = vocab_size
        self._items = items
        self._samplers = [Sampler(item.sampling, vocab_size) for item in items]
        self._chunk_tokens = chunk_tokens
        self._is_wanted = is_wanted
        self._work = self._verify()
        self.results: list[Verdict | IsthmusError | None] = [None] * len(items)
        """Per item its verdict or its error; None while there is none, or when it is unwanted."""

    def step(self) -> bool:
        """Do one unit of model work, unless nobody waits; return whether all is done."""
        if self._open(range(len(self._items))):
            with mx.stream(generation_stream):
                next(self._work, None)
        return not self._open(range(len(self._items)))

    def _open(self, group: Sequence[int]) -> list[int]:
        return [index for index in group if self.results[index] is None and self._is_wanted(index)]

    def _verify(self) -> Iterator[None]:
        """Do all the work; each yield ends a step."""
        everything = range(len(self._items))
        self._is_plain = has_plain_caches(self._network)
        if self._is_plain and len(self._items) > 1:
            prompts = [item.prompt for item in self._items]
            drafts = [item.draft for item in self._items]
            made = plan(prompts, drafts, self._vocab_size, self._chunk_tokens)
            for group in made.padded:
                yield from self._padded(group)
            for group in made.cached:
                yield from self._cached(group)
        # Those planned to be alone, and those that rounding may have decided.
        for index in everything:
            yield from self._alone(index)

    def _padded(self, group: list[int]) -> Iterator[None]:
        group = self._open(group)
        if group:
            items = [self._items[index] for index in group]
            rows = [item.prompt + item.draft for item in items]
            starts = [len(item.prompt) - 1 for item in items]
            self._judge(group, padded_logits(self._network, rows, starts), is_alone=False)
            yield

    def _cached(self, group: list[int]) -> Iterator[None]:
        heads = {index: tuple(self._items[index].prompt[:-1]) for index in self._open(group)}
        if not heads:
            return
        cache = HeadCache(self._network, list(dict.fromkeys(heads.values())))
        while not cache.is_filled:
            wanted = self._open(group)
            if not wanted:
                return
            cache.keep({heads[index] for index in wanted})
            cache.fill(self._chunk_tokens)
            yield
        tails = {index: self._tail(index) for index in heads}
        sizes = [len(tail) for tail in tails.values()]
        order, most_rows = list(tails), cache.rows_that_fit(max(sizes))
        for members in groups(sizes, self._chunk_tokens, most_rows):
            wanted = self._open([order[member] for member in members])
            if wanted:
                logits = cache.logits(
                    [heads[index] for index in wanted], [tails[index] for index in wanted]
                )
                self._judge(wanted, logits, is_alone=False)
                yield

    def _alone(self, index: int) -> Iterator[None]:
        item, chunk = self._items[index], self._chunk_tokens
        if not self._open([index]):
            return
        row, last = item.prompt + item.draft, len(item.prompt) - 1
        if self._is_plain and fits_one_pass(len(row), self._vocab_size, chunk):
            logits = padded_logits(self._network, [row], [last])
        else:
            cache = make_prompt_cache(self._network)
            for start in range(0, last, chunk):
                self._network(mx.array(row[start : min(start + chunk, last)])[None], cache=cache)
                mx.eval([entry.state for entry in cache])
                mx.clear_cache()
                yield
                if not self._open([index]):
                    return
            logits = self._network(mx.array(self._tail(index))[None], cache=cache)[0]
        self._judge([index], logits, is_alone=True)
        yield

    def _tail(self, index: int) -> list[int]:
        item = self._items[index]
        return [item.prompt[-1], *item.draft]

    def _judge(self, group: list[int], logits: mx.array, is_alone: bool) -> None:
        """Settle items whose rows follow one another; what rounding may decide stays open."""
        items = [self._items[index] for index in group]
        samplers = [self._samplers[index] for index in group]
        results = judge(items, samplers, logits, is_alone)
        for index, result in zip(group, results, strict=True):
            self.results[index] = result
