"""Drafts are as long as pays by what was measured, and the text so far drafts what came before."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.engine.speculation import (
    DraftLength,
    PromptLookup,
    SpeculationCosts,
    expected_tokens,
)

MANY = settings(max_examples=200, deadline=None, database=None)
LIMIT = 8


def simulate(
    acceptance: Callable[[int], float],
    row: float,
    draft_step: float,
    count: int = 200,
    seed: int = 0,
    costs: SpeculationCosts | None = None,
    noise: float = 0.0,
) -> tuple[float, DraftLength, list[int]]:
    """Generate, and return how much faster it was than plain steps, and the draft lengths.

    Args:
        acceptance: Chance that a drafted token is accepted, by its position.
        row: What each further row of a pass costs, in plain steps; the draft's alike, in its own.
        draft_step: What a drafted token costs, in plain steps.
        noise: Times are off by up to this share, and now and then by ten times as much.
    """
    rng = random.Random(seed)
    length = DraftLength(costs or SpeculationCosts(), LIMIT)
    seconds, lengths, done, behind = 0.0, list[int](), 0, 0

    def noisy(exact: float) -> float:
        return exact * (1 + noise * rng.random() * (10 if rng.random() < 0.03 else 1))

    while done < count:
        lengths.append(length.next(count - done - 1))
        if lengths[-1] == 0:
            step = noisy(1.0)
            length.plain(step)
            seconds, done, behind = seconds + step, done + 1, behind + 1
            continue
        drafting = noisy((lengths[-1] + behind * row) * draft_step)
        verifying, accepted = noisy(1 + row * lengths[-1]), 0
        while accepted < lengths[-1] and rng.random() < acceptance(done + accepted):
            accepted += 1
        length.round(lengths[-1], accepted, drafting, verifying)
        seconds, done, behind = seconds + drafting + verifying, done + accepted + 1, 0
    return done * (1 + noise / 2) / seconds, length, lengths


@MANY
@given(st.floats(0.0, 0.999), st.integers(0, 16))
def test_a_round_emits_the_tokens_of_the_paper(acceptance: float, draft_tokens: int) -> None:
    closed = (1 - acceptance ** (draft_tokens + 1)) / (1 - acceptance)
    assert expected_tokens(acceptance, draft_tokens) == pytest.approx(closed)
    assert expected_tokens(1.0, draft_tokens) == draft_tokens + 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("acceptance", [0.8, 0.9, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_where_rows_cost_nothing_and_drafts_are_good_it_pays(
    acceptance: float, noise: float, seed: int
) -> None:
    gain, length, lengths = simulate(lambda _: acceptance, 0.0, 0.1, seed=seed, noise=noise)
    assert gain > 1.5 and max(lengths) > 4
    assert length.acceptance_rate == length.accepted / length.drafted
    assert length.rounds == sum(drafted > 0 for drafted in lengths)
    if not noise:
        assert length.speedup == pytest.approx(gain)


@pytest.mark.parametrize("draft_step", [0.0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.7, 1.0])
def test_where_each_row_costs_a_step_little_is_lost(acceptance: float, draft_step: float) -> None:
    for seed in range(10):
        gain, _, lengths = simulate(lambda _: acceptance, 1.0, draft_step, seed=seed)
        assert gain >= 0.95
        if acceptance == 0.0:
            assert sum(drafted > 0 for drafted in lengths) <= 4


@MANY
@given(
    st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]),
    st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3, 0.5]),
    st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]),
    st.integers(0, 100),
)
def test_whatever_rows_and_drafts_cost_little_is_lost(
    row: float, draft_step: float, acceptance: float, seed: int
) -> None:
    assert simulate(lambda _: acceptance, row, draft_step, seed=seed)[0] >= 0.95


def test_it_adapts_when_the_text_changes() -> None:
    change = 200
    for first, then in ((0.05, 0.95), (0.95, 0.05)):
        chances = [first] * change + [then] * 1_000
        _, _, lengths = simulate(chances.__getitem__, 0.1, 0.1, count=1_000)
        beginning, end = lengths[15:40], lengths[-25:-8]
        low, high = (beginning, end) if first < then else (end, beginning)
        assert sum(low) <= 4
        assert sum(high) / len(high) > 3


def test_probing_rounds_come_at_doubling_distances() -> None:
    _, _, lengths = simulate(lambda _: 0.0, 0.1, 0.05, count=300)
    last_regular = next(i for i in range(len(lengths)) if not any(lengths[i + 1 : i + 17]))
    probes = [i for i in range(last_regular + 1, len(lengths)) if lengths[i] > 0]
    distances = [b - a - 1 for a, b in zip([last_regular, *probes], probes, strict=False)]
    assert distances == [16, 32, 64, 128]
    assert {lengths[place] for place in probes} == {1}


def test_a_probe_that_is_accepted_is_followed_by_another_at_once() -> None:
    _, _, lengths = simulate(lambda place: 1.0 if place > 20 else 0.0, 0.1, 0.05)
    probe = next(i for i in range(12, len(lengths)) if lengths[i] > 0)
    assert all(lengths[probe : probe + 8]) and max(lengths[probe:]) > 4


def test_the_first_round_comes_when_a_plain_step_is_known() -> None:
    _, _, lengths = simulate(lambda _: 1.0, 0.0, 0.1, count=60)
    assert lengths[:4] == [0, 0, 0, 2]
    assert lengths[4] <= 4, "at most twice what was measured"


def test_the_next_generation_knows_the_costs() -> None:
    good, bad = SpeculationCosts(), SpeculationCosts()
    simulate(lambda _: 1.0, 0.0, 0.1, costs=good)
    simulate(lambda _: 1.0, 1.0, 0.1, costs=bad)
    assert simulate(lambda _: 0.9, 0.0, 0.1, costs=good)[2][0] > 2
    assert simulate(lambda _: 0.9, 1.0, 0.1, costs=bad)[2][:30] == [0] * 30


def test_a_plain_step_is_measured_again_after_many_rounds() -> None:
    length = DraftLength(SpeculationCosts(), LIMIT)
    for _ in range(3):
        length.plain(10.0)
    asked = [length.next(100)]
    while asked[-1] > 0:
        length.round(asked[-1], asked[-1], 0.1, 10.0)
        asked.append(length.next(100))
    assert len(asked) == 33 and length.next(100) == 0
    length.plain(10.0)
    assert length.next(100) > 0


def test_an_outlier_changes_no_cost() -> None:
    costs = SpeculationCosts()
    for seconds in (1.0, 1.0, 90.0):
        costs.add_step(seconds)
    assert costs.step_s == 1.0
    for seconds in (1.5, 1.5, 70.0):
        costs.add_round(2, seconds / 5, seconds, has_caught_up=True)
    assert costs.round_s(2) == pytest.approx(2 * 0.15 + 1.5)
    # What was not measured lies on the line.
    assert costs.round_s(4) == pytest.approx(4 * 0.15 + 2.0)


def test_evaluating_the_prompt_is_no_cost_of_drafting() -> None:
    costs = SpeculationCosts()
    length = DraftLength(costs, LIMIT)
    for _ in range(3):
        length.plain(1.0)
    length.round(2, 2, 500.0, 1.0)
    assert costs.draft_step_s == 0.0 and length.next(100) > 0
    length.round(2, 2, 0.2, 1.0)
    assert costs.draft_step_s == pytest.approx(0.1)
    length.plain(1.0)
    length.round(2, 2, 30.0, 1.0)
    assert costs.draft_step_s == pytest.approx(0.1)


def test_a_round_without_a_draft_is_a_plain_token() -> None:
    length = DraftLength(SpeculationCosts(), LIMIT)
    for _ in range(3):
        length.plain(2.0)
    length.round(0, 0, 0.0, 2.0)
    assert (length.rounds, length.drafted, length.speedup) == (0, 0, pytest.approx(1.0))


def test_nothing_measured_is_nothing_told() -> None:
    length = DraftLength(SpeculationCosts(), LIMIT)
    assert (length.acceptance_rate, length.speedup) == (0.0, None)


@MANY
@given(
    st.lists(
        st.tuples(
            st.integers(0, 12), st.integers(0, 8), st.floats(0.0, 100.0), st.floats(0.0, 100.0)
        ),
        max_size=80,
    ),
    st.integers(1, 8),
)
def test_drafts_keep_to_the_room_and_the_limit_whatever_is_measured(
    steps: list[tuple[int, int, float, float]], limit: int
) -> None:
    length = DraftLength(SpeculationCosts(), limit)
    for room, agreed, draft_seconds, seconds in steps:
        drafted = length.next(room)
        assert 0 <= drafted <= min(room, limit)
        if drafted == 0:
            length.plain(seconds)
        else:
            length.round(drafted, min(agreed, drafted), draft_seconds, seconds)


TEXTS = st.lists(st.integers(0, 3), max_size=60)


def searched(tokens: list[int], count: int) -> list[int]:
    """Return what `propose` promises, by looking everywhere."""
    for size in (3, 2):
        for start in range(len(tokens) - 1, size - 1, -1):
            if len(tokens) > size and tokens[start - size : start] == tokens[-size:]:
                endless = list(tokens)
                for place in range(count):
                    endless.append(endless[start + place])
                return endless[len(tokens) :]
    return []


@MANY
@given(TEXTS, st.integers(0, 9))
def test_the_draft_is_what_followed_the_last_time(tokens: list[int], count: int) -> None:
    assert PromptLookup(tokens).propose(count) == searched(tokens, count)


@MANY
@given(TEXTS, TEXTS, TEXTS)
def test_it_makes_no_difference_in_which_pieces_the_text_comes(
    first: list[int], second: list[int], third: list[int]
) -> None:
    lookup = PromptLookup(first)
    lookup.propose(3)
    lookup.extend(second)
    lookup.extend(third)
    assert lookup.propose(5) == PromptLookup(first + second + third).propose(5)


def test_three_tokens_that_agree_count_more_than_two() -> None:
    # 8 9 was followed by 1 after 7, and by 2 after 6, which is the later one.
    assert PromptLookup([7, 8, 9, 1, 6, 8, 9, 2, 7, 8, 9]).propose(1) == [1]
    assert PromptLookup([7, 8, 9, 1, 6, 8, 9, 2, 5, 8, 9]).propose(1) == [2]


def test_a_text_that_repeats_itself_is_drafted_beyond_its_end() -> None:
    assert PromptLookup([1, 5, 6, 5, 6]).propose(6) == [5, 6, 5, 6, 5, 6]
    assert PromptLookup([4, 4, 4]).propose(4) == [4, 4, 4, 4]
