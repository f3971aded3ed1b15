"""Turns go to who has used the least time, by weight, and nobody saves them up."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from isthmus.engine.fair_share import FairShare


def run(shares: FairShare[str], keys: str, costs: dict[str, float], turns: int) -> Counter[str]:
    """Give turns; return how many each had."""
    had: Counter[str] = Counter()
    for _ in range(turns):
        key = shares.pick(keys)
        shares.charge(key, costs.get(key, 1.0))
        had[key] += 1
    return had


def test_equals_take_turns() -> None:
    assert run(FairShare(), "abc", {}, 30) == {"a": 10, "b": 10, "c": 10}


def test_time_is_shared_and_not_turns() -> None:
    assert run(FairShare(), "ab", {"a": 9.0}, 100) == {"a": 10, "b": 90}


def test_turns_too_short_for_the_clock_are_shared_too() -> None:
    assert run(FairShare(), "ab", {"a": 0.0, "b": 0.0}, 10) == {"a": 5, "b": 5}


def test_a_weight_multiplies_the_time_that_one_gets() -> None:
    shares: FairShare[str] = FairShare()
    had: Counter[str] = Counter()
    for _ in range(100):
        key = shares.pick("ab")
        shares.charge(key, 1.0, 3.0 if key == "a" else 1.0)
        had[key] += 1
    assert had == {"a": 75, "b": 25}


def test_who_was_away_starts_where_the_others_are() -> None:
    shares: FairShare[str] = FairShare()
    run(shares, "ab", {}, 10)
    run(shares, "a", {}, 1_000)
    assert run(shares, "ab", {}, 10) == {"a": 5, "b": 5}


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.floats(0.001, 5.0)),
        min_size=1,
        max_size=200,
    )
)
def test_of_those_who_always_can_none_falls_behind_by_more_than_one_turn(
    events: list[tuple[set[str], float]],
) -> None:
    shares: FairShare[str] = FairShare()
    used = {"always": 0.0, "too": 0.0}
    for others, cost in events:
        key = shares.pick([*used, *sorted(others)])
        shares.charge(key, cost)
        if key in used:
            used[key] += cost
    assert abs(used["always"] - used["too"]) <= 5.0
