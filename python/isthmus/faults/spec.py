"""What a fault is, as text: `point:action[:key=value,...]`, such as `engine.step:crash:after=5`.

The points, the actions and the keys are the tables below, which messages and documents are made
from.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ..errors import BY_CODE, InvalidRequest


class Point(Enum):
    """Where a fault can strike."""

    HELLO = "hello"
    READ = "read"
    REQUEST = "request"
    WRITE = "write"
    LOOP = "loop"
    TEXT = "text"
    MODEL_LOAD = "model.load"
    ENGINE_PREPARE = "engine.prepare"
    ENGINE_STEP = "engine.step"
    ENGINE_TOKEN = "engine.token"
    DRAFT = "draft"


class Action(Enum):
    """What happens there."""

    CRASH = "crash"
    EXIT = "exit"
    HANG = "hang"
    STALL = "stall"
    SLOW = "slow"
    FAIL = "fail"
    CORRUPT = "corrupt"


_ANYWHERE: Final = (Action.CRASH, Action.EXIT, Action.HANG, Action.STALL, Action.SLOW)
_WITH_FAIL: Final = (*_ANYWHERE, Action.FAIL)


@dataclass(frozen=True, slots=True)
class PointInfo:
    """What a point is.

    Attributes:
        when: When it is passed, and on which thread.
        actions: What can happen there.
        filter: The key by which only some passes count; None where there is none.
    """

    when: str
    actions: tuple[Action, ...]
    filter: str | None = None


POINTS: Final[Mapping[Point, PointInfo]] = {
    Point.HELLO: PointInfo("the event loop is about to say hello", _WITH_FAIL),
    Point.READ: PointInfo("bytes of the host arrive", (*_WITH_FAIL, Action.CORRUPT)),
    Point.REQUEST: PointInfo("a request arrives", _WITH_FAIL, "method"),
    Point.WRITE: PointInfo("bytes are about to be written", (*_ANYWHERE, Action.CORRUPT)),
    Point.LOOP: PointInfo("the event loop measures its lag, four times a second", _ANYWHERE),
    Point.TEXT: PointInfo("a batch of texts is about to be computed", _WITH_FAIL),
    Point.MODEL_LOAD: PointInfo("a model is about to be read, in a thread", _WITH_FAIL, "source"),
    Point.ENGINE_PREPARE: PointInfo("the engine is about to import its libraries", _WITH_FAIL),
    Point.ENGINE_STEP: PointInfo(
        "the engine is about to do a step; what fails there ends the engine", _WITH_FAIL
    ),
    Point.ENGINE_TOKEN: PointInfo(
        "a token of a generation is about to be handed out, on the engine", _WITH_FAIL, "model"
    ),
    Point.DRAFT: PointInfo("drafts are about to be verified, on the engine", _WITH_FAIL, "model"),
}
"""Every point; `model` is a handle, `source` what `load_model` was given."""


@dataclass(frozen=True, slots=True)
class ActionInfo:
    """What an action does; `keys` are its own, each with what it means."""

    what: str
    keys: Mapping[str, str]


ACTIONS: Final[Mapping[Action, ActionInfo]] = {
    Action.CRASH: ActionInfo(
        "the process ends by a signal", {"signal": "its name (SIGKILL), as in SIGSEGV"}
    ),
    Action.EXIT: ActionInfo("the process ends without a word", {"code": "its exit code (1)"}),
    Action.HANG: ActionInfo("the thread never comes back", {}),
    Action.STALL: ActionInfo("the thread pauses, once", {"ms": "for how long"}),
    Action.SLOW: ActionInfo("the thread pauses, each time", {"ms": "for how long"}),
    Action.FAIL: ActionInfo(
        "an error is raised", {"code": "its code (UNAVAILABLE), as in NUMERIC_ERROR"}
    ),
    Action.CORRUPT: ActionInfo(
        "bytes are changed",
        {
            "mode": "flip (a byte is inverted) or truncate (what follows is left out)",
            "at": "the place of that byte (0)",
        },
    ),
}
"""Every action."""

TRIGGERS: Final[Mapping[str, str]] = {
    "after": "so many passes go well first (0)",
    "times": "how often it strikes (1 for stall, else always)",
    "probability": "how likely it strikes at a pass (1)",
    "seed": "of that likelihood's random numbers (0)",
}
"""When a fault strikes; every action has these keys. A filter's value may have `*` and `?`."""

_PAUSE_LIMIT_MS: Final = 24 * 3_600_000.0
"""Longest pause: a day, as good as for ever."""

_MODES: Final = ("flip", "truncate")


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One fault, as it was asked for."""

    text: str
    point: Point
    action: Action
    after: int = 0
    times: int | None = None
    probability: float = 1.0
    seed: int = 0
    filter: str = "*"
    ms: float = 0.0
    signal: int = signal.SIGKILL
    exit_code: int = 1
    error_code: str = "UNAVAILABLE"
    mode: str = "flip"
    at: int = 0


def parse_spec(text: str) -> FaultSpec:
    """Read a spec.

    Raises:
        InvalidRequest: It is none; the message says what is, and lists the points or the actions.
    """
    head, _, rest = text.partition(":")
    name, _, pairs = rest.partition(":")
    points = {point.value: point for point in Point}
    if head not in points:
        raise _wrong(text, f"there is no point {head!r}; there are {', '.join(points)}")
    point = points[head]
    actions = {action.value: action for action in POINTS[point].actions}
    if name not in actions:
        raise _wrong(text, f"{head} has no action {name!r}; it has {', '.join(actions)}")
    action = actions[name]
    values = _pairs(text, pairs, _keys(point, action))
    return FaultSpec(
        text=text,
        point=point,
        action=action,
        after=_whole(text, values, "after", 0),
        times=_times(text, values, action),
        probability=_number(text, values, "probability", 1.0, 1.0),
        seed=_whole(text, values, "seed", 0),
        filter=values.get(POINTS[point].filter or "", "*"),
        ms=_milliseconds(text, values, action),
        signal=_signal(text, values.get("signal", "SIGKILL")),
        exit_code=_whole(text, values, "code", 1) if action is Action.EXIT else 1,
        error_code=_code(text, values) if action is Action.FAIL else "UNAVAILABLE",
        mode=_mode(text, values.get("mode", "flip")),
        at=_whole(text, values, "at", 0),
    )


def usage() -> str:
    """Return the syntax in a few lines, for a command's help."""
    points = ", ".join(point.value for point in Point)
    actions = ", ".join(action.value for action in Action)
    triggers = ", ".join(TRIGGERS)
    return (
        f"POINT:ACTION[:KEY=VALUE,...]; points: {points}; actions: {actions}; "
        f"keys of all: {triggers}"
    )


def _keys(point: Point, action: Action) -> list[str]:
    own = [*ACTIONS[action].keys, *TRIGGERS]
    wanted = POINTS[point].filter
    return own if wanted is None else [wanted, *own]


def _pairs(text: str, pairs: str, keys: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in pairs.split(",") if pairs else ():
        key, equals, value = pair.partition("=")
        if not equals or key not in keys or key in values:
            raise _wrong(text, f"{pair!r} is not one of {', '.join(f'{key}=' for key in keys)}")
        values[key] = value
    return values


def _whole(text: str, values: Mapping[str, str], key: str, default: int) -> int:
    value = values.get(key, str(default))
    if not (value.isascii() and value.isdigit()):
        raise _wrong(text, f"{key} must be a whole number of at least 0")
    return int(value)


def _number(text: str, values: Mapping[str, str], key: str, default: float, most: float) -> float:
    try:
        number = float(values.get(key, default))
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise _wrong(text, f"{key} must be a number from 0 to {most:g}")
    return number


def _times(text: str, values: Mapping[str, str], action: Action) -> int | None:
    if "times" in values:
        return _whole(text, values, "times", 0)
    return 1 if action is Action.STALL else None


def _milliseconds(text: str, values: Mapping[str, str], action: Action) -> float:
    if action not in (Action.STALL, Action.SLOW):
        return 0.0
    if "ms" not in values:
        raise _wrong(text, f"{action.value} needs ms=, the milliseconds of the pause")
    return _number(text, values, "ms", 0.0, _PAUSE_LIMIT_MS)


def _signal(text: str, name: str) -> int:
    known = {one.name: int(one) for one in signal.Signals}
    if name not in known:
        raise _wrong(text, f"there is no signal {name!r}; use a name such as SIGKILL or SIGSEGV")
    return known[name]


def _code(text: str, values: Mapping[str, str]) -> str:
    code = values.get("code", "UNAVAILABLE")
    if code not in BY_CODE:
        raise _wrong(text, f"there is no error code {code!r}; there are {', '.join(BY_CODE)}")
    return code


def _mode(text: str, mode: str) -> str:
    if mode not in _MODES:
        raise _wrong(text, f"mode must be one of {', '.join(_MODES)}")
    return mode


def _wrong(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{text[:128]!r} is no fault: {why}", field="spec")
