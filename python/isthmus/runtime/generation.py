"""One `generate` on the event loop: gathers tokens into deltas and settles the call.

A cancel or deadline settles the request at once with what it has; the engine drops the job within
one step. A failure that may pass, before any token, ends the attempt and leaves the call to the
next one; any other settles it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..engine.job import Job, Outcome, Phase
from ..engine.thread import EngineThread
from ..errors import Cancelled, DeadlineExceeded, InternalError, IsthmusError, own_copy
from ..limits import CREDIT_LIMIT
from ..resilience.guard import is_retried
from ..wire.codec import token_ids
from .generate_options import GenerateOptions
from .requests import Call

Check = Callable[[str], None]
"""Given a complete output, raises if it is not what was asked for."""


class Generation:
    """The listener of one job.

    Args:
        call: The request.
        options: What it asks for.
        engine: Where its job runs.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        call: Call,
        options: GenerateOptions,
        engine: EngineThread,
        clock: Callable[[], float],
    ) -> None:
        self.call = call
        self.options = options
        self.job: Job | None = None
        """Set once the engine has it."""
        self.done = asyncio.Event()
        """Set when the attempt is over."""
        self.failure: IsthmusError | None = None
        """Set with `done`: how the attempt ended, if not well."""
        self.load_ms = 0.0
        """How long reading a session from disk took."""
        self.unchecked: Outcome | None = None
        """Set with `done` when the output is complete and must be checked before it settles."""
        self._engine = engine
        self._clock = clock
        self._ids: list[int] = []
        self._text: list[str] = []
        self._whole: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._completion_tokens = 0
        self._is_flush_due = False
        self._granted = call.options.credit if options.is_streamed else CREDIT_LIMIT
        call.on_credit = self._grant
        call.on_interrupt = self._interrupt

    @property
    def granted(self) -> int:
        """Tokens that the reader has room for, counted from the first."""
        return self._granted

    @property
    def text(self) -> str:
        """All of the text; kept with a response format only."""
        return "".join(self._whole)

    def begin(self, job: Job) -> None:
        """Hear of a job from now on: a new attempt, after which nothing came of the last one."""
        self.done.clear()
        self.failure = None
        self.job = job

    def on_prefill(self, done: int, total: int) -> None:
        """Tell the host that a long prompt is being worked on."""
        progress = {"stage": "prefill", "done": done, "total": total, "unit": "tokens"}
        self.call.event("progress", progress)

    def on_tokens(self, ids: list[int], text: str, logprobs: list[dict[str, Any]]) -> None:
        """Keep tokens for this turn's delta."""
        self._ids += ids
        self._text.append(text)
        self._logprobs += logprobs
        self._completion_tokens += len(ids)
        if self.options.response_format is not None:
            self._whole.append(text)
        if self.options.is_streamed and not self._is_flush_due:
            self._is_flush_due = True
            self._engine.at_turn_end(self._flush)

    def on_end(self, outcome: Outcome) -> None:
        """Settle, unless the output must be checked first."""
        try:
            self._end(outcome)
        except Exception as error:  # whatever is wrong here, the call must settle
            failure = InternalError(
                f"the result could not be made: {type(error).__name__}: {error}", phase="running"
            )
            self.on_error(failure)

    def _end(self, outcome: Outcome) -> None:
        if self._is_cut(outcome.stop):
            outcome.report["is_complete"] = False
        if outcome.report.get("is_complete"):
            self.unchecked = outcome
            self.done.set()
        else:
            self.settle(outcome)

    def on_error(self, error: IsthmusError) -> None:
        """The engine's error: end the attempt, and settle unless there may be another one."""
        # A copy: when the engine dies all jobs are given the same error.
        self.failure = own = own_copy(error)
        own.details = {"completion_tokens": self._completion_tokens, **error.details}
        if is_retried(own):
            self.job = None
            self.done.set()
        else:
            self.fail(own)

    def fail(self, error: IsthmusError) -> None:
        """Settle with an error."""
        self._flush()
        error.details.setdefault("completion_tokens", self._completion_tokens)
        self.call.error(error)
        self.done.set()

    def settle(self, outcome: Outcome) -> None:
        """End the call with what was generated."""
        summary = self._summary(outcome)
        if self.options.is_streamed:
            self._flush()
            self.call.end(summary)
        else:
            self.call.result({**self._take(), **summary})
        self.done.set()

    def _is_cut(self, stop: str | int | None) -> bool:
        """Whether the text lacks what matched the response format: a stop string or token."""
        if self.options.response_format is None or stop is None:
            return False
        return isinstance(stop, str) or stop in self.options.stop_token_ids

    def _flush(self) -> None:
        self._is_flush_due = False
        has_something = bool(self._ids) or any(self._text)
        if not has_something or not self.options.is_streamed:
            return
        count = max(len(self._ids), 1)
        payload = self._take()
        self.call.delta(count, payload)

    def _take(self) -> dict[str, Any]:
        payload: dict[str, Any] = {"text": "".join(self._text), "ids": token_ids(self._ids)}
        if self.options.logprobs is not None:
            payload["logprobs"] = self._logprobs
        self._ids, self._text, self._logprobs = [], [], []
        return payload

    def _grant(self, count: int) -> None:
        self._granted = min(self._granted + count, CREDIT_LIMIT)
        if self.job is not None:
            self.job.granted = self._granted
            self._engine.wake()

    def _interrupt(self, error: IsthmusError) -> None:
        """Settle now: a cancel with what there is, a deadline with its error."""
        phase, waits_for_reader = Phase.QUEUE, False
        if self.job is not None:
            waits_for_reader = self.job.is_starved
            self.job.is_cancelled = True
            self._engine.wake()
            phase = Phase.DECODE if self.job.phase is Phase.DONE else self.job.phase
        if isinstance(error, DeadlineExceeded):
            self.failure = late = DeadlineExceeded(error.message, phase=phase.value)
            self.fail(late)
            if waits_for_reader:
                # The reader had no room for more: that says nothing of the model.
                self.failure = Cancelled("the reader took too long", phase=phase.value)
        elif isinstance(error, Cancelled):
            self.failure = error
            self.settle(self._cancelled())
        else:
            self.on_error(error)

    def _cancelled(self) -> Outcome:
        now, job = self._clock(), self.job
        steps = None if job is None else job.steps
        report = {} if steps is None else steps.report()
        if self.options.response_format is not None:
            report["is_complete"] = False
        return Outcome(
            finish_reason="cancelled",
            stop=None,
            prompt_tokens=0 if job is None else len(job.prompt),
            completion_tokens=self._completion_tokens,
            cached_tokens=0 if steps is None else steps.cached,
            started_at=now if job is None else job.started_at or now,
            first_token_at=now if job is None else job.first_token_at or now,
            ended_at=now,
            report=report,
        )

    def _summary(self, outcome: Outcome) -> dict[str, Any]:
        first = outcome.first_token_at or outcome.ended_at
        prefill_s, decode_s = first - outcome.started_at, outcome.ended_at - first
        after_first = max(outcome.completion_tokens - 1, 0)
        evaluated = outcome.prompt_tokens - outcome.cached_tokens
        return {
            "finish_reason": outcome.finish_reason,
            "stop": outcome.stop,
            "usage": {
                "prompt_tokens": outcome.prompt_tokens,
                "completion_tokens": outcome.completion_tokens,
                "cached_tokens": outcome.cached_tokens,
            },
            "timing": {
                "queue_ms": (outcome.started_at - self.call.arrived_at) * 1_000,
                "prefill_ms": prefill_s * 1_000,
                "decode_ms": decode_s * 1_000,
                "ttft_ms": (first - self.call.arrived_at) * 1_000,
                "tokens_per_second": after_first / decode_s if decode_s > 0 else 0.0,
                "prefill_tokens_per_second": evaluated / prefill_s if prefill_s > 0 else 0.0,
            },
            "seed": self.options.sampling["seed"],
            "cache": self._cache(outcome, evaluated, prefill_s),
            "batching": outcome.report.get("batching"),
            "speculation": outcome.report.get("speculation"),
            "is_complete": outcome.report.get("is_complete"),
            "tool_calls": outcome.report.get("tool_calls"),
        }

    def _cache(self, outcome: Outcome, evaluated: int, prefill_s: float) -> dict[str, Any] | None:
        state = outcome.report.get("cache_state")
        if state is None:
            return None
        return {
            "state": state,
            "reused_tokens": outcome.cached_tokens,
            "prefilled_tokens": evaluated,
            "load_ms": self.load_ms,
            "prefill_ms": prefill_s * 1_000,
        }
