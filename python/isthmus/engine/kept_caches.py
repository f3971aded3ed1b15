"""KV caches of generations that ended, kept in memory for whoever begins alike.

An entry is a cache with the tokens that it holds. A request takes the entry that shares the most
tokens with its prompt: a session takes its own away and goes on with it, anybody else shares its
arrays, which are copied when one side writes. Nothing crosses scopes: those of tenants, and of
formats that are not exact. Comparing is a pass over numpy arrays (mlx-lm's trie takes seconds when
long prompts part early). The least recently used entries go first, those of all models together.
Called on the engine thread only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

from ..limits import PROMPT_CACHE_ENTRIES, PROMPT_REUSE_TOKENS
from ..sessions.chain import TokenIds, shared_tokens, token_array
from ..sessions.layout import Layout
from ..sessions.values import Evaluated
from .kv_layers import Checkpoint, evaluated, leaves, state_leaves, trim_to
from .kv_memory import NOBODY, KvMemory, Ownership


@dataclass(slots=True, eq=False)
class Entry:
    """A kept cache.

    Attributes:
        tokens: What it holds.
        checkpoints: Where it may be cut back to, besides its end, if it has state layers.
        used: When it was used last: a count of uses, not a time.
    """

    tokens: TokenIds
    cache: list[Any]
    whose: Ownership
    checkpoints: list[Checkpoint]
    nbytes: int
    used: int = 0

    def usable(self, shared: int) -> int:
        """Return up to where a cache can be used that shares so many tokens."""
        if shared == len(self.tokens) or can_trim_prompt_cache(self.cache):
            return shared
        return max((end for end, _ in self.checkpoints if end <= shared), default=0)

    def cut(self, cache: list[Any], length: int) -> list[Any]:
        """Return `cache`, which is this one or shares with it, cut back to a usable length."""
        if length == len(self.tokens):
            return cache
        if can_trim_prompt_cache(cache):
            trim_prompt_cache(cache, len(self.tokens) - length)
            return cache
        states = next(states for end, states in self.checkpoints if end == length)
        trim_to(cache, length)
        for leaf, state in zip(state_leaves(cache), states, strict=True):
            leaf.state = copy.deepcopy(state).state
        return cache


@dataclass(frozen=True, slots=True)
class Taken:
    """A cache of the first `tokens` tokens of a prompt; of none when there is none."""

    cache: list[Any]
    tokens: int


def _no_layout() -> None:
    """Nothing can be saved."""


@dataclass(eq=False)
class PromptCache:
    """The kept caches of one model.

    Args:
        limit_bytes: Of those that are nobody's, together; 0 keeps none of them.
        memory: Counts them with those of other models.
        layout: Returns what they look like; None when they cannot be saved.
    """

    limit_bytes: int
    memory: KvMemory = field(default_factory=KvMemory)
    layout: Callable[[], Layout | None] = _no_layout
    entries: list[Entry] = field(default_factory=list)
    """The least recently used first."""

    def __post_init__(self) -> None:
        self.memory.add(self)

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.nbytes for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def take(self, prompt: Tokens[int], whose: Ownership = NOBODY) -> Taken:
        """Return a cache of the longest known beginning of `prompt`: less than all of it, for the
        last token is needed for the first step."""
        wanted = token_array(prompt[:-1])
        best, length = None, PROMPT_REUSE_TOKENS - 1
        for entry in self.entries:
            if entry.whose.scope != whose.scope:
                continue
            shared = entry.usable(shared_tokens(entry.tokens, wanted))
            is_own = entry.whose.owner == whose.owner != ""
            if shared > length or (is_own and best is not None and shared == length):
                best, length = entry, shared
        if best is None:
            return Taken([], 0)
        self.entries.remove(best)
        if best.whose.owner == whose.owner != "":
            self.memory.count()
            return Taken(best.cut(best.cache, length), length)
        self.entries.append(best)
        self.memory.use(best)
        return Taken(best.cut([copy.deepcopy(layer) for layer in best.cache], length), length)

    def keep(
        self,
        tokens: Tokens[int] | TokenIds,
        cache: list[Any],
        whose: Ownership = NOBODY,
        checkpoints: list[Checkpoint] | None = None,
    ) -> int:
        """Keep a cache that holds these tokens; return its bytes, 0 if it is not kept."""
        nbytes = sum(layer.nbytes for layer in cache)
        nbytes += sum(leaf.nbytes for _, states in checkpoints or () for leaf in leaves(states))
        entry = Entry(token_array(tokens), cache, whose, checkpoints or [], nbytes)
        if whose.owner:
            self.memory.drop(whose.owner)
            is_kept = len(tokens) > 0 and (nbytes <= self.memory.limit_bytes or whose.is_pinned)
        else:
            is_kept = self._is_worth_it(entry)
        if not is_kept:
            return 0
        self.memory.use(entry)
        self.entries.append(entry)
        self._hold_to_limit()
        self.memory.fit()
        return nbytes if entry in self.entries else 0

    def owned(self, owner: str) -> Entry | None:
        """Return a session's entry."""
        return next((entry for entry in self.entries if entry.whose.owner == owner), None)

    def snapshot(self, owner: str) -> Evaluated | None:
        """Return the numbers of a session's cache; None when they cannot be saved."""
        entry, layout = self.owned(owner), self.layout()
        if entry is None or layout is None:
            return None
        return evaluated(entry.tokens, entry.cache, layout, entry.checkpoints)

    def truncate(self, owner: str, tokens: int) -> int:
        """Cut a session's cache back to `tokens` tokens, or to less where it must be; return how
        many it has then."""
        entry = self.owned(owner)
        if entry is None:
            return 0
        length = entry.usable(min(tokens, len(entry.tokens)))
        if length == 0:
            self.memory.drop(owner)
            return 0
        entry.cache = entry.cut(entry.cache, length)
        entry.tokens = entry.tokens[:length]
        entry.checkpoints = [mark for mark in entry.checkpoints if mark[0] < length]
        return length

    def fork(self, owner: str, to: str) -> int:
        """Let another session have a cache like this one's; return its bytes, 0 if it has none."""
        entry = self.owned(owner)
        if entry is None:
            return 0
        cache = [copy.deepcopy(layer) for layer in entry.cache]
        return self.keep(
            entry.tokens, cache, replace(entry.whose, owner=to), list(entry.checkpoints)
        )

    def clear(self) -> None:
        """Drop everything."""
        self.entries.clear()
        self.memory.count()

    def _is_worth_it(self, new: Entry) -> bool:
        """Whether nobody's cache is to be kept; those that it continues are dropped."""
        if len(new.tokens) < PROMPT_REUSE_TOKENS or new.nbytes > self.limit_bytes:
            return False
        can_trim = can_trim_prompt_cache(new.cache)
        alike = [entry for entry in self.entries if entry.whose.scope == new.whose.scope]
        for entry in alike:
            shared = shared_tokens(entry.tokens, new.tokens)
            if shared == len(new.tokens) and can_trim_prompt_cache(entry.cache):
                return False
            if shared == len(entry.tokens) and can_trim and not entry.whose.owner:
                self.entries.remove(entry)
        return True

    def _hold_to_limit(self) -> None:
        nobodys = [entry for entry in self.entries if not entry.whose.owner]
        size = sum(entry.nbytes for entry in nobodys)
        for number, entry in enumerate(nobodys):
            if len(nobodys) - number <= PROMPT_CACHE_ENTRIES and size <= self.limit_bytes:
                break
            self.entries.remove(entry)
            size -= entry.nbytes
