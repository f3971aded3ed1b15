"""Subjects of a benchmark in processes of their own, and what Linux can do with such processes.

A subject is asked over lines of JSON, so that one benchmark keeps several alive and interleaves
them. Pinning and the processor clock of another process need Linux; elsewhere they are left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from .harness import ROOT

_END_LIMIT_S = 5.0
"""What a subject may take to end, once its input is closed."""


def cpus() -> set[int]:
    """Return the processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


CAN_PIN = hasattr(os, "sched_setaffinity") and Path("/proc/self/task").exists()
"""Whether both ends can be put on one processor; without it only unpinned figures exist."""


@contextmanager
def on_one_cpu(subjects: Sequence[Subject]) -> Iterator[None]:
    """Keep every thread of the subjects and of their children on one processor.

    Waking an idle virtual processor costs 25 to 30 microseconds a hop, more than what is measured.
    """
    everywhere = cpus()
    _confine(subjects, {max(everywhere)})
    try:
        yield
    finally:
        _confine(subjects, everywhere)


def _confine(subjects: Sequence[Subject], allowed: set[int]) -> None:
    if not CAN_PIN:
        return
    for subject in subjects:
        for process in (subject.pid, *descendants(subject.pid)):
            for task in Path(f"/proc/{process}/task").iterdir():
                try:
                    os.sched_setaffinity(int(task.name), allowed)
                except ProcessLookupError:
                    continue


def descendants(process: int) -> list[int]:
    """Return the children of a process and theirs; empty where /proc does not say."""
    found: list[int] = []
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, listing.read_text().split()):
            found += [child, *descendants(child)]
    return found


def cpu_seconds(process: int) -> float:
    """Return the processor time that a process has used, all its threads together (Linux)."""
    posix_clock = (~process << 3) | 2
    return time.clock_gettime(posix_clock)


class Subject:
    """A process that measures on request: one line of JSON in, one out.

    Args:
        name: For messages.
        command: How to start it; it inherits our environment.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        self._name = name
        self.pid = self._process.pid

    def ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Have it do one thing and return its answer."""
        to, back = _pipes(self._process)
        to.write(json.dumps({"op": operation, **parameters}).encode() + b"\n")
        to.flush()
        line = back.readline()
        answer = json.loads(line) if line else {"error": "it has ended"}
        if "error" in answer:
            raise SystemExit(f"{self._name}: {operation}: {answer['error']}")
        return dict(answer)

    def close(self) -> None:
        """End it."""
        for pipe in _pipes(self._process):
            pipe.close()
        try:
            self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(operations: dict[str, Callable[..., dict[str, Any]]], lines: IO[str]) -> None:
    """Be a subject written in Python: answer each line until the input ends."""
    for line in lines:
        request = json.loads(line)
        try:
            answer = operations[request.pop("op")](**request)
        except Exception as error:  # told to the benchmark, which ends
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout
