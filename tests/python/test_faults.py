"""Faults on purpose: what a spec says, when it strikes, and what it does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from isthmus.errors import BY_CODE, InvalidRequest, NumericError, Unavailable
from isthmus.faults import ACTIONS, POINTS, TRIGGERS, Action, Faults, Point, parse_spec, usage


class Seen:
    """Faults that only write down what they would do."""

    def __init__(self, *specs: str) -> None:
        self.done: list[tuple[str, float]] = []
        self.faults = Faults(
            sleep=lambda seconds: self.done.append(("sleep", seconds)),
            end=lambda code: self.done.append(("exit", code)),
            kill=lambda number: self.done.append(("kill", number)),
        )
        for spec in specs:
            self.faults.arm(spec)

    def passes(self, point: Point, count: int, subject: str = "") -> list[bool]:
        """Pass a point; say each time whether something happened."""
        happened = []
        for _ in range(count):
            before = len(self.done)
            self.faults.strike(point, subject)
            happened.append(len(self.done) > before)
        return happened


@pytest.mark.parametrize(
    ("spec", "point", "action"),
    [
        ("engine.step:crash:after=5", Point.ENGINE_STEP, Action.CRASH),
        ("model.load:fail:times=2", Point.MODEL_LOAD, Action.FAIL),
        ("request:slow:ms=200,method=tokenize", Point.REQUEST, Action.SLOW),
        ("write:corrupt:times=1", Point.WRITE, Action.CORRUPT),
        ("engine.step:hang", Point.ENGINE_STEP, Action.HANG),
        ("loop:stall:ms=30000", Point.LOOP, Action.STALL),
        ("hello:exit:code=3", Point.HELLO, Action.EXIT),
    ],
)
def test_a_spec_names_a_point_and_an_action(spec: str, point: Point, action: Action) -> None:
    parsed = parse_spec(spec)
    assert (parsed.point, parsed.action, parsed.text) == (point, action, spec)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("", "there is no point ''; there are hello, read, request"),
        ("nowhere:crash", "there is no point 'nowhere'"),
        ("engine.step", "engine.step has no action ''; it has crash, exit, hang"),
        ("engine.step:corrupt", "engine.step has no action 'corrupt'"),
        ("write:fail", "write has no action 'fail'"),
        ("engine.step:crash:after", "'after' is not one of signal=, after="),
        ("engine.step:crash:method=echo", "'method=echo' is not one of"),
        ("engine.step:crash:after=1,after=2", "'after=2' is not one of"),
        ("engine.step:crash:after=-1", "after must be a whole number"),
        ("engine.step:crash:after=1.5", "after must be a whole number"),
        ("engine.step:crash:signal=SIGNOTHING", "there is no signal 'SIGNOTHING'"),
        ("engine.step:slow", "slow needs ms="),
        ("engine.step:slow:ms=nan", "ms must be a number"),
        ("engine.step:slow:ms=-1", "ms must be a number"),
        ("engine.step:hang:probability=2", "probability must be a number from 0 to 1"),
        ("engine.step:fail:code=OOPS", "there is no error code 'OOPS'; there are INTERNAL"),
        ("read:corrupt:mode=melt", "mode must be one of flip, truncate"),
    ],
)
def test_what_is_no_spec_is_refused_with_what_would_be_one(spec: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_spec(spec)
    assert why in caught.value.message
    assert caught.value.details["field"] == "spec"


def test_every_point_and_action_is_described_and_named_in_the_usage() -> None:
    assert set(POINTS) == set(Point) and set(ACTIONS) == set(Action)
    for name in [*Point, *Action]:
        assert name.value in usage()
    assert all(key in usage() for key in TRIGGERS)


def every_spec() -> Iterator[str]:
    """Yield a spec for each action of each point."""
    for point, info in POINTS.items():
        for action in info.actions:
            needs_ms = action in (Action.SLOW, Action.STALL)
            yield f"{point.value}:{action.value}" + (":ms=5" if needs_ms else "")


@pytest.mark.parametrize("spec", list(every_spec()))
def test_each_action_can_be_armed_at_each_of_its_points(spec: str) -> None:
    faults = Faults.parse([spec])
    assert faults.to_wire() == [{"spec": spec, "passed": 0, "struck": 0}]
    assert faults.clear() == 1
    assert faults.to_wire() == []


def test_it_strikes_after_so_many_passes_and_so_many_times() -> None:
    seen = Seen("engine.step:slow:ms=5,after=2,times=3")
    happened = seen.passes(Point.ENGINE_STEP, 8)
    assert happened == [False, False, True, True, True, False, False, False]
    assert seen.faults.to_wire()[0] | {"spec": ""} == {"spec": "", "passed": 8, "struck": 3}


def test_a_stall_comes_once_and_slowness_each_time() -> None:
    seen = Seen("loop:stall:ms=1500")
    assert seen.passes(Point.LOOP, 3) == [True, False, False]
    assert seen.done == [("sleep", 1.5)]
    assert Seen("loop:slow:ms=1").passes(Point.LOOP, 3) == [True] * 3


def test_another_point_is_not_struck() -> None:
    assert Seen("loop:slow:ms=1").passes(Point.TEXT, 2) == [False, False]


def test_a_filter_picks_some_passes_and_only_those_are_counted() -> None:
    seen = Seen("request:slow:ms=1,method=tok*,after=1")
    assert seen.passes(Point.REQUEST, 3, "echo") == [False] * 3
    assert seen.passes(Point.REQUEST, 2, "tokenize") == [False, True]


def test_a_likelihood_is_drawn_from_a_seed() -> None:
    def draw(seed: int) -> list[bool]:
        return Seen(f"text:slow:ms=1,probability=0.3,seed={seed}").passes(Point.TEXT, 400)

    assert draw(1) == draw(1) != draw(2)
    assert 80 < sum(draw(1)) < 160


def test_it_crashes_by_a_signal_or_exits_with_a_code() -> None:
    seen = Seen("engine.step:crash:times=1", "engine.step:crash:signal=SIGSEGV,after=1,times=1")
    seen.faults.arm("hello:exit:code=7")
    seen.passes(Point.ENGINE_STEP, 2)
    seen.passes(Point.HELLO, 1)
    assert seen.done == [("kill", signal.SIGKILL), ("kill", signal.SIGSEGV), ("exit", 7)]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [("draft:fail", Unavailable), ("draft:fail:code=NUMERIC_ERROR", NumericError)],
)
def test_a_failure_is_the_error_that_was_asked_for(spec: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="a fault was injected"):
        Faults.parse([spec]).strike(Point.DRAFT)


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_code_can_be_injected(code: str) -> None:
    with pytest.raises(BY_CODE[code]):
        Faults.parse([f"text:fail:code={code}"]).strike(Point.TEXT)


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ("", b"\x9ebcdef"),
        ("at=2", b"ab\x9cdef"),
        ("at=99", b"abcdef"),
        ("mode=truncate,at=4", b"abcd"),
        ("mode=truncate", b""),
    ],
)
def test_bytes_are_changed_or_left_out(keys: str, left: bytes) -> None:
    faults = Faults.parse([f"write:corrupt:{keys}" if keys else "write:corrupt"])
    assert faults.corrupt(Point.WRITE, b"abcdef") == left


def test_the_command_refuses_a_bad_spec_and_says_what_there_is() -> None:
    command = [sys.executable, "-m", "isthmus", "runtime", "--fault", "nowhere:crash"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "there is no point 'nowhere'; there are hello" in done.stderr
