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
import itertools
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakSet

from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

from ..limits import PROMPT_CACHE_ENTRIES, PROMPT_REUSE_TOKENS
from ..sessions.chain import TokenIds, shared_tokens, token_array
from .kv_layers import Checkpoint, leaves, state_leaves, trim_to

UNLIMITED: Final = 2**62


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose a cache is.

    Attributes:
        scope: Who may share it: equal scopes do.
        owner: The session's name; empty when it is nobody's.
        is_pinned: Whether it makes no room for others.
    """

    scope: str = ""
    owner: str = ""
    is_pinned: bool = False


NOBODY: Final = Ownership()


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


class KvMemory:
    """What the kept caches of all models may take together.

    Attributes:
        limit_bytes: Of them; written by the event loop.
        in_use: Names of sessions whose caches must stay, because a turn of theirs is about to
            begin; written by the event loop.
        held_bytes: What they take; read by the event loop.

    Args:
        on_evicted: Told the name of a session whose cache made room for others.
    """

    def __init__(
        self,
        limit_bytes: int = UNLIMITED,
        on_evicted: Callable[[str], None] | None = None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.in_use: set[str] = set()
        self.held_bytes = 0
        self._on_evicted = on_evicted
        self._caches: WeakSet[PromptCache] = WeakSet()
        self._uses = itertools.count(1)

    def add(self, cache: PromptCache) -> None:
        """Count a model's caches from now on."""
        self._caches.add(cache)

    def use(self, entry: Entry) -> None:
        """Take note that an entry was used."""
        entry.used = next(self._uses)

    def find(self, owner: str) -> tuple[PromptCache, Entry] | None:
        """Return a session's cache, and the model's caches that it is among."""
        for cache in self._caches:
            for entry in cache.entries:
                if entry.whose.owner == owner:
                    return cache, entry
        return None

    def drop(self, owner: str) -> int:
        """Let a session's cache leave; return its bytes."""
        found = self.find(owner)
        if found is None:
            return 0
        found[0].entries.remove(found[1])
        self.count()
        return found[1].nbytes

    def count(self) -> None:
        """Add up what is held."""
        self.held_bytes = sum(cache.nbytes for cache in self._caches)

    def fit(self, limit_bytes: int | None = None) -> int:
        """Hold to a limit, the own one by default; return what is held in the end."""
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        self.count()
        for cache, entry in self._evictable() if self.held_bytes > limit else ():
            cache.entries.remove(entry)
            self.held_bytes -= entry.nbytes
            if entry.whose.owner and self._on_evicted is not None:
                self._on_evicted(entry.whose.owner)
            if self.held_bytes <= limit:
                break
        return self.held_bytes

    def _evictable(self) -> Iterator[tuple[PromptCache, Entry]]:
        """Yield the entries that may leave, the least recently used first."""
        found = [
            (entry.used, number, cache, entry)
            for number, cache in enumerate(self._caches)
            for entry in cache.entries
            if not entry.whose.is_pinned and entry.whose.owner not in self.in_use
        ]
        for _, _, cache, entry in sorted(found, key=lambda each: each[:2]):
            yield cache, entry


@dataclass(eq=False)
class PromptCache:
    """The kept caches of one model.

    Args:
        limit_bytes: Of those that are nobody's, together; 0 keeps none of them.
        memory: Counts them with those of other models.
    """

    limit_bytes: int
    memory: KvMemory = field(default_factory=KvMemory)
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
