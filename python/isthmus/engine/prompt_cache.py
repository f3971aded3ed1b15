"""Evaluated beginnings of prompts, kept in memory for the requests that begin alike.

An entry is the KV cache of a generation that ended, with the tokens that it holds. A request takes
the entry that shares the most tokens with its prompt; its arrays are shared, not copied, until one
side writes. Comparing is a pass over numpy arrays (mlx-lm's trie takes seconds when long prompts
part early). The least recently used entries go first. Called on the engine thread only.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

from ..limits import PROMPT_CACHE_ENTRIES, PROMPT_REUSE_TOKENS


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    tokens: Any
    cache: list[Any]
    nbytes: int


class PromptCache:
    """The kept caches of one model.

    Args:
        limit_bytes: Of all of them together; 0 keeps none.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: list[_Entry] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.nbytes for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, prompt: Tokens[int]) -> tuple[list[Any], int]:
        """Return a cache of the longest known beginning of `prompt`, and how many tokens it holds:
        less than all, for the last one is needed for the first step. Zero when none is long enough.
        """
        wanted = np.asarray(prompt[:-1], dtype=np.int64)
        best, length = None, PROMPT_REUSE_TOKENS - 1
        for entry in self._entries:
            shared = _shared(entry.tokens, wanted)
            # A cache that cannot be cut back serves only what goes on where it ends.
            is_usable = shared == len(entry.tokens) or can_trim_prompt_cache(entry.cache)
            if is_usable and shared > length:
                best, length = entry, shared
        if best is None:
            return [], 0
        self._entries.remove(best)
        self._entries.append(best)
        cache = [copy.deepcopy(layer) for layer in best.cache]
        if length < len(best.tokens):
            trim_prompt_cache(cache, len(best.tokens) - length)
        return cache, length

    def keep(self, tokens: Tokens[int], cache: list[Any]) -> None:
        """Keep a cache that holds these tokens; those that it continues are dropped."""
        nbytes = sum(layer.nbytes for layer in cache)
        if len(tokens) < PROMPT_REUSE_TOKENS or nbytes > self._limit_bytes:
            return
        kept = np.asarray(tokens, dtype=np.int64)
        can_trim = can_trim_prompt_cache(cache)
        for entry in self._entries:
            if _shared(entry.tokens, kept) == len(kept) and can_trim_prompt_cache(entry.cache):
                return
        self._entries = [
            entry
            for entry in self._entries
            if not can_trim or _shared(entry.tokens, kept) < len(entry.tokens)
        ]
        self._entries.append(_Entry(kept, cache, nbytes))
        while len(self._entries) > PROMPT_CACHE_ENTRIES or self.nbytes > self._limit_bytes:
            self._entries.pop(0)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()


def _shared(first: Any, second: Any) -> int:
    """Return how many tokens two texts have in common from their first on."""
    length = min(len(first), len(second))
    differing = first[:length] != second[:length]
    return int(differing.argmax()) if differing.any() else length
