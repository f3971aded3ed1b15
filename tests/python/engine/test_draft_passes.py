"""Drafts that share a pass: everyone is in one group, and padding stays bounded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.engine.draft_passes import fits_one_pass, groups, has_plain_caches, plan
from isthmus.limits import DRAFT_CACHE_TOKENS, DRAFT_PADDING_RATIO, DRAFT_PASS_LOGITS
from tests.python.engine.networks import network

MANY = settings(max_examples=200, deadline=None, database=None)
SIZES = st.lists(st.integers(0, 60), max_size=40)
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)
DRAFTS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=30)


@MANY
@given(SIZES, st.integers(1, 200), st.integers(1, 10))
def test_a_group_is_bounded_in_rows_tokens_and_padding(
    sizes: list[int], limit: int, rows: int
) -> None:
    made = groups(sizes, limit, rows)
    assert sorted(index for group in made for index in group) == list(range(len(sizes)))
    for group in made:
        largest, padded = sizes[group[0]], len(group) * sizes[group[0]]
        assert largest == max(sizes[index] for index in group)
        assert len(group) <= rows
        if len(group) > 1:
            assert padded <= limit
            assert padded <= DRAFT_PADDING_RATIO * sum(sizes[index] for index in group)


@MANY
@given(DRAFTS, st.integers(1, 60), st.sampled_from([3, 100_000, 10**7]))
def test_every_draft_is_planned_once(
    drafts: list[tuple[list[int], list[int]]], chunk: int, vocab: int
) -> None:
    prompts = [prompt for prompt, _ in drafts]
    made = plan(prompts, [draft for _, draft in drafts], vocab, chunk)
    members = [index for group in (*made.padded, *made.cached) for index in group]
    assert sorted(members + made.alone) == list(range(len(drafts)))
    for group in made.padded:
        widest = max(len(drafts[index][0]) + len(drafts[index][1]) for index in group)
        assert len(group) > 1 and fits_one_pass(len(group) * widest, vocab, chunk)


def test_distinct_short_drafts_share_passes_without_a_cache() -> None:
    prompts = [[index] * (12 + index % 5) for index in range(40)]
    made = plan(prompts, [[1, 2, 3]] * 40, 768, 512)
    assert not made.cached and not made.alone and len(made.padded) == 2


def test_drafts_of_one_long_prompt_share_a_cache() -> None:
    made = plan([[1] * 50] * 8, [[2]] * 8, 768, 512)
    assert (made.cached, made.padded, made.alone) == ([list(range(8))], [], [])


def test_prompts_that_are_hardly_worth_it_are_not_shared() -> None:
    made = plan([[1] * 9] * 4, [[2]] * 4, 768, 512)
    assert not made.cached and [len(group) for group in made.padded] == [4]


def test_a_large_vocabulary_keeps_prompts_from_the_logits() -> None:
    vocab = DRAFT_PASS_LOGITS // 100
    made = plan([[index] * 20 for index in range(10)], [[1]] * 10, vocab, 512)
    assert not made.padded and [sorted(group) for group in made.cached] == [list(range(10))]


def test_very_long_prompts_do_not_share_a_cache() -> None:
    prompts = [[index] * (DRAFT_CACHE_TOKENS // 2 + 10) for index in range(3)]
    assert sorted(plan(prompts, [[1]] * 3, 768, 512).alone) == [0, 1, 2]


def test_only_caches_that_rows_can_be_copied_of_are_plain() -> None:
    assert has_plain_caches(network("tiny")) and not has_plain_caches(network("sliding"))
