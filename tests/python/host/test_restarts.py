"""The restart policy decides as both languages are told to, and a life has no other steps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.host.life import TRANSITIONS, Life, RuntimeState, StateChange
from isthmus.host.restarts import RestartOptions, RestartPolicy
from tests.fixtures.vectors import load_vectors

VECTORS = load_vectors("restarts")
State = RuntimeState


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_it_decides_as_the_vectors_say(vector: dict[str, Any]) -> None:
    drawn = 0.0
    policy = RestartPolicy(RestartOptions(**vector.get("options", {})), lambda: drawn)
    for step in vector["steps"]:
        if step.get("clear"):
            policy.clear()
            continue
        drawn = step["random"]
        delay_ms = policy.next(step["now_ms"], step["healthy_for_ms"])
        assert delay_ms == (None if step["delay_ms"] is None else pytest.approx(step["delay_ms"]))


@given(
    ends=st.lists(st.tuples(st.floats(0, 30_000), st.floats(0, 20_000)), max_size=60),
    limit=st.integers(0, 5),
)
def test_no_window_has_more_restarts_than_the_limit(
    ends: list[tuple[float, float]], limit: int
) -> None:
    options = RestartOptions(limit=limit)
    policy, now_ms, begun = RestartPolicy(options, lambda: 1.0), 0.0, []
    for passed_ms, healthy_ms in ends:
        now_ms += passed_ms
        delay_ms = policy.next(now_ms, healthy_ms)
        if delay_ms is not None:
            assert 0 <= delay_ms <= options.max_backoff_ms
            begun.append(now_ms)
    assert all(
        later - earlier >= options.window_ms
        for earlier, later in zip(begun, begun[limit:], strict=False)
    )


def test_a_backoff_that_would_be_beyond_all_numbers_is_the_longest() -> None:
    policy = RestartPolicy(RestartOptions(limit=5_000, window_ms=1.0), lambda: 1.0)
    delays = [policy.next(10.0 * number, 0.0) for number in range(4_000)]
    assert delays[0] == 250.0 and set(delays[6:]) == {8_000.0}


def test_a_life_takes_the_steps_of_its_table_and_no_others() -> None:
    for before, after in itertools.product(State, State):
        told: list[StateChange] = []
        life = Life(told.append)
        life.state = before
        if after in TRANSITIONS[before]:
            life.to(after, reason="because", attempt=2, delay_ms=3.0)
            assert told == [StateChange(before, after, "because", None, 2, 3.0)]
            assert life.state is after
        else:
            with pytest.raises(ValueError, match=f"{before} cannot be {after}"):
                life.to(after)
            assert told == [] and life.state is before


def test_every_state_but_the_last_leads_to_it() -> None:
    reached = {State.CLOSED}
    while grown := {s for s, to in TRANSITIONS.items() if to & reached} - reached:
        reached |= grown
    assert reached == set(State)
    assert Life(lambda _: None).is_over is False
