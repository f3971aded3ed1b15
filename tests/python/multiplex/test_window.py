"""When collected calls leave: the shared cases, and a plain model of the rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.multiplex.window import Flush, Window, WindowLimits

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "window.json").read_text())


class Clock:
    """Milliseconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_shared_case(case: dict[str, Any]) -> None:
    clock = Clock()
    window = Window(clock, WindowLimits(**case.get("limits", {})))
    for name, *rest in case["steps"]:
        if name == "advance":
            clock.now += rest[0]
        elif name in ("sent", "leave", "settled"):
            getattr(window, name)(*rest)
        elif name in ("join", "before"):
            assert getattr(window, name)(rest[0]) == rest[1], (name, rest)
        elif name == "end_turn":
            assert window.end_turn() == rest[0]
        elif name == "idle":
            assert window.is_idle is rest[0]
        elif name == "due_in":
            assert window.due_at - clock.now == pytest.approx(rest[0])
        else:
            assert name == "held" and window.held_ms == pytest.approx(rest[0])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 12)),
        st.tuples(st.just("give_up"), st.integers(0, 5)),
        st.tuples(st.just("advance"), st.floats(0, 3, allow_nan=False)),
        st.tuples(st.just("answer"), st.booleans()),
        st.tuples(st.just("turn")),
    ),
    max_size=80,
)


class Model:
    """The rules, kept as lists of calls: what a user of the window does, and what must hold."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.limits = WindowLimits(calls=4, size_bytes=20)
        self.window = Window(self.clock, self.limits)
        self.collecting: list[tuple[int, float]] = []
        self.in_flight: list[float] = []

    def call(self, size: int) -> None:
        """Make a call."""
        if self.window.before(size) is not None:
            assert sum(size for size, _ in self.collecting) + size > self.limits.size_bytes
            self.send(Flush.BYTES)
        self.collecting.append((size, self.clock.now))
        reason = self.window.join(size)
        if reason is not None:
            self.send(reason)

    def give_up(self, index: int) -> None:
        """Let a collecting call go."""
        if index < len(self.collecting):
            size, _ = self.collecting.pop(index)
            self.window.leave(size)

    def advance(self, ms: float) -> None:
        """Let time pass, with the timer that a user of the window sets."""
        self.clock.now += ms
        self.turn()

    def answer(self, is_answered: bool) -> None:
        """Settle the oldest batch."""
        if self.in_flight:
            took = self.clock.now - self.in_flight.pop(0)
            self.window.settled(took if is_answered else None)
            self.turn()

    def turn(self) -> None:
        """End the turn."""
        reason = self.window.end_turn()
        if reason is not None:
            self.send(reason)
        if self.collecting:
            assert self.in_flight, "a call is held although nothing is in flight"
            oldest = min(made for _, made in self.collecting)
            assert self.clock.now - oldest <= self.limits.hold_limit_ms or self.window.due_at > (
                self.clock.now
            )

    def send(self, reason: Flush) -> None:
        """Check what leaves, and count it as in flight."""
        sizes = [size for size, _ in self.collecting]
        assert 0 < len(sizes) <= self.limits.calls
        assert len(sizes) == 1 or sum(sizes) <= self.limits.size_bytes
        assert (reason is Flush.COUNT) <= (len(sizes) == self.limits.calls)
        assert (reason in (Flush.TURN, Flush.REPLY)) <= (not self.in_flight)
        assert (reason is Flush.TIME) <= bool(self.in_flight)
        self.collecting.clear()
        self.in_flight.append(self.clock.now)
        self.window.sent()


@settings(max_examples=500, deadline=None, database=None)
@given(STEPS)
def test_the_window_keeps_its_rules_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    for name, *arguments in steps:
        getattr(model, name)(*arguments)
        assert model.window.calls == len(model.collecting)
        assert model.window.in_flight == len(model.in_flight)
        assert model.window.size_bytes == sum(size for size, _ in model.collecting)
    while model.in_flight:
        model.answer(True)
    model.turn()
    assert model.window.is_idle or model.in_flight
