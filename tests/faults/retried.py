"""What docs/faults.md says of retries: from the tables and limits that the code itself uses.

Only the words for outcomes stand here; whether one is tried again, and what it says of a model, is
asked of `resilience.guard`, so that the text cannot say anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from isthmus import limits
from isthmus.errors import BY_CODE, DeadlineExceeded, IsthmusError
from isthmus.host.requests import IDEMPOTENT
from isthmus.resilience.guard import Weight, is_retried, weigh
from tests.faults.prose import bullet, head, paragraph, row


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call of a model may end."""

    what: str
    codes: tuple[str, ...]
    phase: str | None = None


OUTCOMES: Final = (
    Outcome(
        "the request is wrong, or names what is not there",
        (
            *("INVALID_REQUEST", "MODEL_NOT_LOADED", "PATH_REFUSED", "CODE_REFUSED"),
            *("FRAME_TOO_LARGE", "LOCAL_PROTOCOL_ERROR"),
        ),
    ),
    Outcome("the output cannot be what `response_format` demands", ("CONSTRAINT_FAILED",)),
    Outcome("it was cancelled", ("CANCELLED",)),
    Outcome(
        "its deadline passed before it had run for a second", ("DEADLINE_EXCEEDED",), phase="queue"
    ),
    Outcome(
        "its deadline passed when it had run for a second or more",
        ("DEADLINE_EXCEEDED",),
        phase="decode",
    ),
    Outcome("there is no room for it now", ("QUEUE_FULL", "MEMORY_LIMIT", "CIRCUIT_OPEN")),
    Outcome("the runtime goes, or its engine has ended", ("CLOSING", "ENGINE_DEAD")),
    Outcome("something failed in passing, such as I/O", ("UNAVAILABLE",)),
    Outcome("the model's numbers are not finite", ("NUMERIC_ERROR",)),
    Outcome("computing failed, for a reason that nobody foresaw", ("INTERNAL",)),
)
"""Every code that a call of a model may end with."""


def judged(outcome: Outcome) -> tuple[bool, bool]:
    """Return whether an outcome is tried again, and whether it counts against the model.

    Raises:
        ValueError: Its codes are not treated alike, so that they need a row each.
    """
    errors = [_error(code, outcome.phase) for code in outcome.codes]
    found = {(is_retried(error), weigh(error) is Weight.FAILURE) for error in errors}
    if len(found) != 1:
        raise ValueError(f"{', '.join(outcome.codes)} are not treated alike")
    return found.pop()


def _error(code: str, phase: str | None) -> IsthmusError:
    kind = DeadlineExceeded if code == DeadlineExceeded.code else BY_CODE[code]
    return kind("as an example", phase=phase)


def retrying() -> Iterator[str]:
    """Yield the chapter on what is tried again."""
    yield from _by_the_runtime()
    yield from _by_the_host()


def _by_the_runtime() -> Iterator[str]:
    yield "## What is tried again, and what counts against a model\n"
    yield paragraph(
        "This is for calls of a model (`generate`, `check_draft`) in the runtime. One that fails "
        "in passing is tried again without its caller noticing, unless a token of it has left. "
        "What counts against the model may open its circuit."
    )
    yield "\n" + head("a call ends because", "codes", "tried again", "counts against the model")
    for outcome in OUTCOMES:
        is_again, is_counted = judged(outcome)
        codes = ", ".join(f"`{code}`" for code in outcome.codes)
        phase = "" if outcome.phase is None else f", as in phase `{outcome.phase}`"
        yield row((outcome.what, codes + phase, _said(is_again), _said(is_counted)))
    yield row(("any of them, once a token has left", "", "never", "as above")) + "\n"
    yield bullet(
        f"*Retries*: at most {limits.RETRY_ATTEMPTS} attempts under the request's own deadline. "
        f"Each wait is drawn from zero to {limits.RETRY_BACKOFF_S * 1e3:g} ms, doubling. All calls "
        f"share a budget of {limits.RETRY_BUDGET_TOKENS:g}: a failure takes 1, a success gives "
        f"{limits.RETRY_BUDGET_RATIO:g} back, and at half of it or less nothing is retried."
    )
    yield bullet(
        "*Loading a model*: I/O that fails in passing is tried again in the same way. A folder "
        "that cannot be loaded for what it holds is not; the failure is remembered for "
        f"{limits.KNOWN_FAILURE_S:g} s, or until the folder changes."
    )
    yield bullet(
        "*Circuit*: each model has one. It opens when, of at least "
        f"{limits.BREAKER_CALLS} calls in {limits.BREAKER_WINDOW_S:g} s, "
        f"{limits.BREAKER_FAILURE_RATE:.0%} failed, or {limits.BREAKER_SLOW_RATE:.0%} took longer "
        f"than {limits.BREAKER_SLOW_CALL_S:g} s to their first token. Calls then fail at once with "
        f"`CIRCUIT_OPEN` and the time after which to come back: {limits.BREAKER_OPEN_S:g} s, "
        f"doubling to {limits.BREAKER_OPEN_LIMIT_S:g} s each time it opens again. `set_circuit` "
        "isolates a model by hand, or closes its circuit."
    )
    yield ""


def _by_the_host() -> Iterator[str]:
    methods = ", ".join(f"`{method}`" for method in sorted(IDEMPOTENT))
    yield "When the runtime's process ends, its host (Node or Python) decides for each request:\n"
    yield head("the request", "what becomes of it")
    yield row(("was not written yet, or is made in a restart", "it waits for the next process"))
    yield row(
        (
            "was written; its method may be repeated, and nothing of its answer has arrived",
            f"it is sent again, {_TIMES[limits.REPLAY_LIMIT]}, if the host's own retry budget "
            "(of the same size) allows it",
        )
    )
    yield row(
        (
            "was written, and anything else",
            "it fails at once with `RUNTIME_EXITED`, or `RUNTIME_UNRESPONSIVE` when the host "
            "ended the process, and with what had arrived; then `retryable` is false",
        )
    )
    yield row(("waits, and the host gives the runtime up", "it fails with `RUNTIME_FAILED`")) + "\n"
    yield paragraph(f"Methods that may be repeated: {methods}.") + "\n"
    yield bullet(
        f"*Restarts*: at most {limits.RESTART_LIMIT} in {limits.RESTART_WINDOW_MS / 1e3:g} s, each "
        f"after a wait drawn from zero to {limits.RESTART_BACKOFF_MS:g} ms, doubling to "
        f"{limits.RESTART_MAX_BACKOFF_MS / 1e3:g} s. A process counts as healthy once it has lived "
        f"{limits.RESTART_HEALTHY_MS / 1e3:g} s after its hello. `restart()` begins anew."
    )
    yield bullet(
        "*Heartbeat*: while something is pending the host looks every "
        f"{limits.HEARTBEAT_INTERVAL_MS / 1e3:g} s. A runtime that sends nothing for "
        f"{limits.HEARTBEAT_SILENCE_MS / 1e3:g} s, or whose engine is busy without progress for "
        f"{limits.HEARTBEAT_STUCK_MS / 1e3:g} s, is ended and started again."
    )
    yield bullet(
        "*Models*: loaded again at first use after a restart, under the handles that they had."
    )
    yield ""


_TIMES: Final = {1: "once", 2: "twice"}


def _said(value: bool) -> str:
    return "yes" if value else "no"
