"""When speculation pays: the arithmetic of Leviathan et al., on costs that are measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.engine.verify_cost import (
    CostMeasurement,
    Costs,
    break_even_acceptance,
    expected_speedup,
)
from tests.python.engine.networks import VOCAB_SIZE, Watched, network

MANY = settings(max_examples=200, deadline=None, database=None)
MS = st.floats(0.01, 100.0)
COSTS = st.builds(Costs, MS, MS, MS)
DRAFT_TOKENS = st.integers(1, 16)


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Compiling takes longer than these models run."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def test_the_speed_up_is_that_of_the_paper() -> None:
    costs = Costs(target_step_ms=10.0, verify_ms=12.0, draft_step_ms=1.0)
    # (1 - 0.8^5) / (1 - 0.8) = 3.3616 tokens for 4 + 12 ms.
    assert expected_speedup(0.8, 4, costs) == pytest.approx(3.3616 * 10 / 16)
    assert expected_speedup(0.0, 4, costs) == pytest.approx(10 / 16)
    assert expected_speedup(1.0, 4, costs) == pytest.approx(5 * 10 / 16)


@MANY
@given(COSTS, DRAFT_TOKENS)
def test_from_the_break_even_on_it_is_faster_and_before_it_slower(
    costs: Costs, draft_tokens: int
) -> None:
    even = break_even_acceptance(draft_tokens, costs)
    if even is None:
        assert expected_speedup(1.0, draft_tokens, costs) < 1.0
        return
    assert 0.0 <= even <= 1.0
    assert expected_speedup(even, draft_tokens, costs) >= 1.0
    if even > 1e-6:
        assert expected_speedup(even - 1e-6, draft_tokens, costs) < 1.0


def test_where_it_cannot_pay_there_is_no_break_even() -> None:
    # On a machine whose rows cost the same each, a perfect draft that is free only breaks even.
    assert break_even_acceptance(4, Costs(1.0, 5.0, 0.1)) is None
    assert break_even_acceptance(4, Costs(10.0, 1.0, 0.1)) == 0.0


def test_costs_are_medians_of_all_rounds_but_the_first() -> None:
    # Each pass reads the clock twice; passes take 1, 2, 3, ... seconds.
    durations = itertools.chain.from_iterable((0, step) for step in itertools.count(1))
    clock = itertools.accumulate(durations)
    measurement = CostMeasurement(
        network("tiny"), network("sliding"), VOCAB_SIZE, 3, repeats=3, clock=clock.__next__
    )
    while not measurement.step():
        pass
    # Rounds of three passes: target steps took 4, 7 and 10 s.
    assert measurement.costs == Costs(7_000.0, 8_000.0, 9_000.0)


def test_a_step_is_one_pass_and_contexts_stay_small() -> None:
    target, draft = Watched(network("tiny")), Watched(network("tiny"))
    measurement = CostMeasurement(target, draft, VOCAB_SIZE, 3, repeats=2)
    steps = 1
    while not measurement.step():
        assert len(target.calls) + len(draft.calls) == steps and measurement.costs is None
        steps += 1
    assert measurement.costs is not None and measurement.step()
    assert len(target.calls) + len(draft.calls) == steps == 3 + 3 * 3
    assert target.calls[2:] == [(1, 1), (1, 4)] * 3 and draft.calls[1:] == [(1, 1)] * 3
