"""The faults that are armed, and what they do when their point is passed.

A runtime without faults has none of these objects: each point asks whether there is one, once for
each unit of work, or is wrapped only when there is. Points are passed on several threads.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ..errors import BY_CODE
from .spec import Action, FaultSpec, Point, parse_spec


@dataclass(slots=True)
class _Armed:
    """A fault, and how often its point was passed and it struck."""

    spec: FaultSpec
    random: random.Random
    passed: int = 0
    struck: int = 0

    def is_due(self, subject: str) -> bool:
        """Whether it strikes at this pass."""
        spec = self.spec
        if not fnmatchcase(subject, spec.filter):
            return False
        self.passed += 1
        if self.passed <= spec.after or (spec.times is not None and self.struck >= spec.times):
            return False
        if spec.probability < 1 and self.random.random() >= spec.probability:
            return False
        self.struck += 1
        return True


@dataclass(slots=True)
class Faults:
    """All faults of a runtime.

    Args:
        sleep: Pauses the thread for so many seconds.
        end: Ends the process, given an exit code.
        kill: Ends the process by a signal.
    """

    sleep: Callable[[float], None] = time.sleep
    end: Callable[[int], Any] = os._exit
    kill: Callable[[int], Any] = lambda number: os.kill(os.getpid(), number)
    _armed: list[_Armed] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Guards `_armed` and its counts."""

    @classmethod
    def parse(cls, specs: Iterable[str]) -> Faults:
        """Return faults that are armed from the start.

        Raises:
            InvalidRequest: A spec is none.
        """
        faults = cls()
        for spec in specs:
            faults.arm(spec)
        return faults

    def arm(self, spec: str) -> None:
        """Add a fault.

        Raises:
            InvalidRequest: The spec is none.
        """
        parsed = parse_spec(spec)
        with self._lock:
            self._armed.append(_Armed(parsed, random.Random(parsed.seed)))

    def clear(self) -> int:
        """Remove all faults; return how many there were. A thread that hangs goes on hanging."""
        with self._lock:
            count = len(self._armed)
            self._armed.clear()
        return count

    def to_wire(self) -> list[dict[str, Any]]:
        """Return each fault, how often its point was passed, and how often it struck."""
        with self._lock:
            return [
                {"spec": armed.spec.text, "passed": armed.passed, "struck": armed.struck}
                for armed in self._armed
            ]

    def strike(self, point: Point, subject: str = "") -> None:
        """Say that a point is passed; does what is due there.

        Args:
            point: Which.
            subject: What the point's filter is compared with.

        Raises:
            IsthmusError: The error of a `fail`.
        """
        self.corrupt(point, b"", subject)

    def corrupt(self, point: Point, data: bytes, subject: str = "") -> bytes:
        """As `strike`, where bytes pass; return what is left of them.

        Raises:
            IsthmusError: The error of a `fail`.
        """
        with self._lock:
            due = [
                armed.spec
                for armed in self._armed
                if armed.spec.point is point and armed.is_due(subject)
            ]
        for spec in due:
            data = self._act(spec, data)
        return data

    def _act(self, spec: FaultSpec, data: bytes) -> bytes:
        if spec.action is Action.CRASH:
            self.kill(spec.signal)
        elif spec.action is Action.EXIT:
            self.end(spec.exit_code)
        elif spec.action is Action.HANG:
            threading.Event().wait()
        elif spec.action is Action.FAIL:
            raise BY_CODE[spec.error_code](f"a fault was injected: {spec.text}")
        elif spec.action is Action.CORRUPT:
            return _corrupted(spec, data)
        else:
            self.sleep(spec.ms / 1_000)
        return data


def _corrupted(spec: FaultSpec, data: bytes) -> bytes:
    if spec.mode == "truncate":
        return data[: spec.at]
    if spec.at >= len(data):
        return data
    return data[: spec.at] + bytes((data[spec.at] ^ 0xFF,)) + data[spec.at + 1 :]
