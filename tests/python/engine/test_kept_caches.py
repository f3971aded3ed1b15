"""A kept cache serves the prompts that begin like it, and no other."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, KVCache

from isthmus.engine.kept_caches import PromptCache
from isthmus.limits import PROMPT_CACHE_ENTRIES, PROMPT_REUSE_TOKENS

LONG = list(range(100, 100 + 3 * PROMPT_REUSE_TOKENS))
LIMIT = 2**30


def kv_cache(tokens: list[int]) -> list[Any]:
    """Return a cache whose keys are the tokens."""
    cache = KVCache()
    keys = mx.array(tokens, dtype=mx.float32)[None, None, :, None]
    cache.update_and_fetch(keys, keys)
    return [cache]


def held(cache: list[Any]) -> list[int]:
    """Return the tokens that such a cache holds."""
    keys, _ = cache[0].keys_and_values()
    return [int(token) for token in keys.flatten().tolist()]


def test_a_longer_prompt_gets_the_whole_cache() -> None:
    prompts = PromptCache(LIMIT)
    prompts.keep(LONG, kv_cache(LONG))
    taken = prompts.take([*LONG, 1, 2])
    cache, length = taken.cache, taken.tokens
    assert (held(cache), length) == (LONG, len(LONG))


def test_the_same_prompt_leaves_its_last_token_for_the_first_step() -> None:
    prompts = PromptCache(LIMIT)
    prompts.keep(LONG, kv_cache(LONG))
    taken = prompts.take(LONG)
    cache, length = taken.cache, taken.tokens
    assert (held(cache), length) == (LONG[:-1], len(LONG) - 1)


def test_a_prompt_that_parts_gets_what_they_share() -> None:
    prompts = PromptCache(LIMIT)
    prompts.keep(LONG, kv_cache(LONG))
    shared = LONG[: PROMPT_REUSE_TOKENS + 3]
    taken = prompts.take([*shared, 1, *LONG])
    cache, length = taken.cache, taken.tokens
    assert (held(cache), length) == (shared, len(shared))


def test_what_one_takes_is_not_changed_by_what_it_adds() -> None:
    prompts = PromptCache(LIMIT)
    prompts.keep(LONG, kv_cache(LONG))
    more = mx.array([[[[7.0]]]])
    for _ in range(2):
        cache = prompts.take([*LONG[:-5], 1, 2]).cache
        cache[0].update_and_fetch(more, more)
        assert held(cache) == [*LONG[:-5], 7]
    assert held(prompts.take([*LONG, 1]).cache) == LONG


def test_few_shared_tokens_are_not_worth_it() -> None:
    prompts = PromptCache(LIMIT)
    prompts.keep(LONG, kv_cache(LONG))
    prompts.keep([1, 2], kv_cache([1, 2]))
    assert len(prompts) == 1
    assert prompts.take([*LONG[: PROMPT_REUSE_TOKENS - 1], 1, 1]).tokens == 0


def test_a_cache_that_cannot_be_cut_back_serves_only_what_goes_on_after_it() -> None:
    prompts = PromptCache(LIMIT)
    state = ArraysCache(1)
    state[0] = mx.ones((1, 4))
    prompts.keep(LONG, [state])
    assert prompts.take([*LONG, 1]).tokens == len(LONG)
    assert prompts.take(LONG).tokens == 0


def test_a_continuation_replaces_what_it_continues() -> None:
    prompts = PromptCache(LIMIT)
    prompts.keep(LONG, kv_cache(LONG))
    prompts.keep([*LONG, 1], kv_cache([*LONG, 1]))
    prompts.keep(LONG, kv_cache(LONG))
    assert len(prompts) == 1
    assert prompts.take([*LONG, 1, 2]).tokens == len(LONG) + 1


def test_the_least_recently_used_goes_first() -> None:
    prompts = PromptCache(LIMIT)
    texts = [[number, *LONG] for number in range(PROMPT_CACHE_ENTRIES)]
    for text in texts:
        prompts.keep(text, kv_cache(text))
    prompts.take([*texts[0], 1])
    prompts.keep([9_999, *LONG], kv_cache([9_999, *LONG]))
    assert len(prompts) == PROMPT_CACHE_ENTRIES
    assert prompts.take([*texts[0], 1]).tokens > 0
    assert prompts.take([*texts[1], 1]).tokens == 0


def test_bytes_are_limited() -> None:
    one = kv_cache(LONG)[0].nbytes
    prompts = PromptCache(2 * one)
    for number in range(5):
        prompts.keep([number, *LONG], kv_cache([number, *LONG]))
        assert prompts.nbytes <= 2 * one
    assert len(prompts) == 2
    none = PromptCache(0)
    none.keep(LONG, kv_cache(LONG))
    assert len(none) == 0


TEXT = st.lists(st.integers(0, 2), max_size=4 * PROMPT_REUSE_TOKENS)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, max_size=6), TEXT.filter(bool))
def test_what_is_taken_is_always_a_beginning_of_the_prompt(
    kept: list[list[int]], prompt: list[int]
) -> None:
    prompts = PromptCache(LIMIT)
    for text in kept:
        prompts.keep(text, kv_cache(text) if text else [KVCache()])
    taken = prompts.take(prompt)
    cache, length = taken.cache, taken.tokens
    if length:
        assert PROMPT_REUSE_TOKENS <= length < len(prompt)
        assert held(cache) == prompt[:length]
