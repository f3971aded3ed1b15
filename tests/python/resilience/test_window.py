"""The rolling window counts what lies in it, and forgets the rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isthmus.resilience.window import RollingWindow

SECONDS, BUCKETS = 30.0, 10


def counts(window: RollingWindow) -> tuple[int, int, int]:
    """Return what it has counted."""
    return window.calls, window.failures, window.slow_calls


def test_it_counts_calls_failures_and_slow_calls() -> None:
    window = RollingWindow(SECONDS, BUCKETS)
    window.add(100.0, is_failure=False, is_slow=False)
    window.add(101.0, is_failure=True, is_slow=False)
    window.add(109.0, is_failure=True, is_slow=True, count=3)
    assert counts(window) == (5, 4, 3)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    window = RollingWindow(SECONDS, BUCKETS)
    window.add(100.0, is_failure=True, is_slow=True)
    window.add(120.0, is_failure=False, is_slow=False)
    window.forget(133.0)
    assert counts(window) == (1, 0, 0)
    window.forget(1_000.0)
    assert counts(window) == (0, 0, 0)


def test_clearing_it_forgets_everything() -> None:
    window = RollingWindow(SECONDS, BUCKETS)
    window.add(100.0, is_failure=True, is_slow=True)
    window.clear()
    assert counts(window) == (0, 0, 0)
    window.add(100.0, is_failure=False, is_slow=False)
    assert counts(window) == (1, 0, 0)


STEPS = st.lists(
    st.tuples(st.floats(0, 40), st.booleans(), st.booleans(), st.integers(1, 3)), max_size=60
)


@given(STEPS)
def test_it_agrees_with_a_list_of_all_that_was_counted(
    steps: list[tuple[float, bool, bool, int]],
) -> None:
    window, now = RollingWindow(SECONDS, BUCKETS), 50.0
    kept: list[tuple[int, bool, bool]] = []
    part = SECONDS / BUCKETS
    for passed, is_failure, is_slow, count in steps:
        now += passed
        window.add(now, is_failure, is_slow, count)
        kept += [(int(now / part), is_failure, is_slow)] * count
        kept = [one for one in kept if one[0] > int(now / part) - BUCKETS]
        assert counts(window) == (
            len(kept),
            sum(failed for _, failed, _ in kept),
            sum(slow for _, _, slow in kept),
        )
