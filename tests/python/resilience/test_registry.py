"""Each model has its own breaker and bulkhead; what is shared is bounded too."""

from __future__ import annotations

import pytest

from isthmus.errors import QueueFull
from isthmus.resilience import registry
from isthmus.resilience.admission import Bulkhead
from isthmus.resilience.breaker import State, Transition
from isthmus.resilience.registry import Resilience
from tests.python.resilience.clock import Clock


class Models:
    """Handles of models, and what happens to their breakers."""

    def __init__(self) -> None:
        self.loaded = {"a-1", "b-2"}
        self.changes: list[tuple[str, Transition]] = []
        self.clock = Clock()
        self.resilience = Resilience(
            self.loaded.__contains__,
            lambda: 500.0,
            lambda handle, change: self.changes.append((handle, change)),
            clock=self.clock,
        )

    def fail(self, handle: str, count: int = 10) -> None:
        """Make calls that fail."""
        for _ in range(count):
            self.resilience.of(handle).breaker.acquire().failure(0.1)


def test_one_model_s_failures_open_its_own_breaker_only() -> None:
    models = Models()
    models.fail("a-1")
    assert models.resilience.of("a-1").breaker.state is State.OPEN
    assert models.resilience.of("b-2").breaker.state is State.CLOSED
    assert [(handle, change.after) for handle, change in models.changes] == [("a-1", State.OPEN)]


def test_both_kinds_of_calls_of_a_model_share_its_breaker() -> None:
    guards = Models().resilience.of("a-1")
    assert guards.generate.breaker is guards.check_draft.breaker is guards.breaker


def test_a_breaker_goes_with_its_handle() -> None:
    models = Models()
    models.fail("a-1")
    models.loaded.remove("a-1")
    assert set(models.resilience.stats()["breakers"]) == set()
    models.resilience.of("b-2")
    models.loaded.add("a-1")
    assert models.resilience.of("a-1").breaker.state is State.CLOSED


def test_crashes_before_this_process_are_recorded_when_the_breaker_is_made() -> None:
    models = Models()
    assert models.resilience.of("a-1", 3).breaker.snapshot()["failures"] == 3
    assert models.resilience.of("a-1", 3).breaker.snapshot()["failures"] == 3


def test_stats_tell_of_each_breaker_and_of_retries() -> None:
    models = Models()
    models.fail("a-1", 2)
    stats = models.resilience.stats()
    assert stats["breakers"]["a-1"]["failures"] == 2
    assert stats["retries"]["budget_tokens"] == 100


def test_a_flood_of_one_model_leaves_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "GENERATE_QUEUE_LIMIT", 3)
    monkeypatch.setattr(registry, "GENERATIONS_LIMIT", 5)
    resilience = Models().resilience
    flooded, other = (resilience.of(handle).generate.bulkhead for handle in ("a-1", "b-2"))
    assert flooded is not None and other is not None
    for _ in range(3):
        flooded.enter()
    with pytest.raises(QueueFull, match="a-1") as caught:
        flooded.enter()
    assert caught.value.retry_after_ms == 500.0
    other.enter()
    other.enter()
    with pytest.raises(QueueFull, match="all models"):
        other.enter()
    flooded.leave()
    other.enter()
    assert (flooded.count, other.count) == (2, 3)


def test_who_is_refused_by_the_whole_takes_no_place() -> None:
    whole = Bulkhead(0, lambda: 1.0, "calls of all")
    part = Bulkhead(5, lambda: 1.0, "calls", whole)
    with pytest.raises(QueueFull):
        part.enter()
    assert (part.count, whole.count) == (0, 0)
