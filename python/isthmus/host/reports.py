"""What is said of a runtime's end: to those who waited, and to whoever has to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import IsthmusError, RuntimeExited, RuntimeFailed, RuntimeUnresponsive, StartFailed
from .process import ExitReport
from .watchdog import Verdict

DOCTOR: Final = "run `python -m isthmus doctor` with the same interpreter"
_MEMORY_SIGNS: Final = (
    *("bad_alloc", "MemoryError", "Cannot allocate memory", "[malloc]"),
    "short of memory",  # the runtime's own warning, where its address space is limited
)
_MEMORY_HINT: Final = (
    "perhaps it ran out of memory: load a smaller model or set --model-memory-bytes"
)


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """One end of a process that nobody asked for.

    Attributes:
        at_ms: When.
        lived_ms: How long after its hello; 0 when it said none.
        cause: Why, in words.
        error: What callers were told.
    """

    at_ms: float
    lived_ms: float
    cause: str
    error: IsthmusError

    def to_dict(self) -> dict[str, Any]:
        """Return it for programs."""
        details = self.error.details
        return {
            "code": self.error.code,
            "exit_code": details.get("exit_code"),
            "signal": details.get("signal"),
            "cause": self.cause,
            "lived_ms": self.lived_ms,
        }


def exit_error(report: ExitReport, is_killed: bool) -> RuntimeExited:
    """Return the error of requests that were in flight when the process ended.

    Args:
        is_killed: Whether this host has killed it.
    """
    signal = None if is_killed else report.signal
    hint = f"; {_MEMORY_HINT}" if hints_at_memory(signal, report.stderr_tail) else ""
    return RuntimeExited(
        f"the runtime has ended ({report}){hint}",
        exit_code=report.code,
        signal=report.signal,
        stderr_tail=report.stderr_tail,
    )


def unresponsive_error(verdict: Verdict, stderr_tail: str) -> RuntimeUnresponsive:
    """Return the error of requests that were in flight when the host ended the process."""
    return RuntimeUnresponsive(
        f"the runtime was ended because {verdict.message}",
        exit_code=None,
        signal="SIGKILL",
        stderr_tail=stderr_tail,
        cause=verdict.cause.value,
    )


def start_error(error: IsthmusError) -> IsthmusError:
    """Return what the caller of a start sees instead of `error`."""
    if not isinstance(error, RuntimeExited):
        return error
    failure = StartFailed(f"{error.message}; {DOCTOR}", phase="start")
    failure.details = {**error.details, "cause": "exited"}
    return failure


def failed_error(ends: Sequence[ProcessEnd]) -> RuntimeFailed:
    """Return the report on a runtime that is given up."""
    last = ends[-1]
    seconds = (last.at_ms - ends[0].at_ms) / 1_000
    times = "once" if len(ends) == 1 else f"{len(ends)} times in {seconds:.1f} s"
    tail = str(last.error.details.get("stderr_tail") or "")
    words = tail.strip().splitlines()[-5:]
    is_ours = isinstance(last.error, RuntimeUnresponsive)
    signal = None if is_ours else last.error.details.get("signal")
    parts = [
        f"the runtime has ended {times} and is not started again "
        f"({', then '.join(end.cause for end in ends)})",
        *(["its last words:\n" + "\n".join(words)] if words else []),
        *([_MEMORY_HINT] if hints_at_memory(signal, tail) else []),
        f"{DOCTOR}; `restart()` tries again",
    ]
    return RuntimeFailed("; ".join(parts), ends=[end.to_dict() for end in ends], stderr_tail=tail)


def cause_of(error: IsthmusError) -> str:
    """Say in a few words why a process has ended."""
    signal, code = error.details.get("signal"), error.details.get("exit_code")
    if isinstance(error, RuntimeUnresponsive):
        return str(error.details.get("cause"))
    if signal is not None:
        return f"signal {signal}"
    if code is not None:
        return f"exit code {code}"
    return error.message.splitlines()[0]


def hints_at_memory(signal: object, stderr_tail: str) -> bool:
    """Whether a process may have ended for want of memory; the kernel kills without a word."""
    return signal == "SIGKILL" or any(sign in stderr_tail for sign in _MEMORY_SIGNS)
