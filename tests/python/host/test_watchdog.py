"""The watchdog judges by what was received: who is silent, whose engine stands still."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.host.watchdog import Cause, HeartbeatOptions, Watchdog

INTERVAL_MS = 1_000.0
SILENCE_MS = 10_000.0
STUCK_MS = 120_000.0


class Clock:
    """A watchdog that is looked after once an interval."""

    def __init__(self) -> None:
        self.dog = Watchdog(HeartbeatOptions(INTERVAL_MS, SILENCE_MS, STUCK_MS))
        self.now_ms = 5_000.0
        self.receipts = 7
        self.dog.begin(self.now_ms, self.receipts)

    def look(self, after_ms: float = INTERVAL_MS) -> Any:
        """Let time pass, look, and ping if that is due."""
        self.now_ms += after_ms
        verdict = self.dog.look(self.now_ms, self.receipts)
        if verdict is None and not self.dog.is_pinged:
            self.dog.pinged()
        return verdict and verdict.cause

    def looks(self, count: int) -> list[Any]:
        """Look several times."""
        return [self.look() for _ in range(count)]


@pytest.fixture
def clock() -> Clock:
    """One that has just begun."""
    return Clock()


def health(state: str, age_ms: float | None = None) -> dict[str, Any]:
    """Return what a runtime says of its engine."""
    return {"loop_lag_ms": 0.1, "engine": {"state": state, "progress_age_ms": age_ms}}


def test_a_runtime_that_was_pinged_and_sends_nothing_is_silent_after_its_time(
    clock: Clock,
) -> None:
    assert clock.looks(9) == [None] * 9
    assert clock.dog.silent_ms(clock.now_ms, clock.receipts) == 9_000.0
    assert clock.look() is Cause.SILENT


def test_any_byte_is_a_sign_of_life_and_no_answer_to_the_ping_is_needed(clock: Clock) -> None:
    for _ in range(50):
        clock.receipts += 1
        assert clock.look() is None and clock.dog.is_pinged
        assert clock.dog.silent_ms(clock.now_ms, clock.receipts) == 0.0
    assert clock.looks(9) == [None] * 9
    assert clock.look() is Cause.SILENT


def test_silence_without_a_ping_proves_nothing(clock: Clock) -> None:
    for _ in range(50):
        clock.now_ms += INTERVAL_MS
        assert clock.dog.look(clock.now_ms, clock.receipts) is None


def test_a_host_that_was_blocked_itself_forgets_the_silence(clock: Clock) -> None:
    clock.looks(9)
    assert clock.look(60_000.0) is None
    assert clock.looks(9) == [None] * 9
    assert clock.look() is Cause.SILENT


def test_a_look_that_is_a_little_late_forgets_nothing(clock: Clock) -> None:
    assert [clock.look(1.5 * INTERVAL_MS) for _ in range(6)] == [None] * 6
    assert clock.look(1.5 * INTERVAL_MS) is Cause.SILENT


def test_beginning_again_forgets_what_was_before(clock: Clock) -> None:
    clock.looks(9)
    clock.now_ms += 3_600_000.0
    clock.dog.begin(clock.now_ms, clock.receipts)
    assert clock.looks(9) == [None] * 9


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (health("idle"), None),
        (health("starting"), None),
        (health("busy", 0.0), None),
        (health("busy", STUCK_MS - 1), None),
        (health("busy", STUCK_MS), Cause.ENGINE_STUCK),
        (health("idle", STUCK_MS), None),
        (health("dead"), Cause.ENGINE_DEAD),
        (health("busy", None), None),
        ({"engine": {"state": "busy", "progress_age_ms": "long"}}, None),
        ({"engine": "fine"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_answer_to_a_ping_says_whether_the_engine_gets_on(
    clock: Clock, answer: Any, cause: Cause | None
) -> None:
    clock.look()
    assert clock.dog.is_pinged
    verdict = clock.dog.answered(answer)
    assert (verdict and verdict.cause) == cause and not clock.dog.is_pinged


def test_a_long_prompt_is_progress(clock: Clock) -> None:
    for _ in range(600):
        clock.look()
        clock.receipts += 1
        assert clock.dog.answered(health("busy", 30_000.0)) is None


def test_another_process_owes_no_answer(clock: Clock) -> None:
    clock.look()
    clock.dog.forget()
    assert not clock.dog.is_pinged


@given(
    st.lists(
        st.tuples(st.floats(1, 100_000), st.booleans(), st.booleans()), min_size=1, max_size=80
    )
)
def test_nobody_is_called_silent_who_was_heard_in_time_by_a_host_that_could_listen(
    history: list[tuple[float, bool, bool]],
) -> None:
    clock, since_ms = Clock(), 0.0
    for passed_ms, is_heard, is_answered in history:
        clock.receipts += is_heard
        was_able = passed_ms <= 1.5 * INTERVAL_MS
        since_ms = 0.0 if is_heard or not was_able else since_ms + passed_ms
        cause = clock.look(passed_ms)
        assert cause is None or since_ms >= SILENCE_MS - 1e-6
        if is_heard and is_answered and clock.dog.is_pinged:
            clock.dog.answered(health("idle"))
