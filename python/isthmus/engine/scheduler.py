"""Who runs next: schedule, step, emit.

Each step does one unit of work: a chunk of prompts, a token of one generation or of one batch, or a
step of an errand. Whose turn it is follows the time that each model's prompts and each model's
tokens have used, so that a slow model does not slow down a fast one, and a long prompt holds up the
tokens of others by one short chunk at a time. A slow reader delays nobody. Knows no MLX: the model
work is behind `Decoder`, `Job.open` and `StepWork`. Called on the engine thread only.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from ..errors import InternalError, IsthmusError
from ..faults import Faults, Point
from ..limits import (
    PREFILL_WEIGHT,
    PROMPT_AGE_TOKENS_PER_S,
    RUNNING_LIMIT,
    SHORT_PROMPT_TOKENS,
)
from .fair_share import FairShare
from .job import Job, Outcome, Phase

_ERRANDS: Final = ("", "errands")
_SERVICE_MEMORY: Final = 0.9
"""Weight of the past in the mean time that a job runs."""

Turn = tuple[str, str]
"""Whose time: a model's handle, and what is done on it."""


class StepWork(Protocol):
    """Model work that is no generation, cut into steps."""

    def step(self) -> bool:
        """Do one bounded unit; return whether all is done."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Errand:
    """Step work and who waits for it: `is_wanted` is asked before each step, and `on_end` is told
    of the end, on the event loop, with the error if there was one."""

    work: StepWork
    is_wanted: Callable[[], bool]
    on_end: Callable[[Exception | None], None]


class Scheduler:
    """Interleaves jobs and errands.

    Args:
        post: Hands a call to the event loop, in order.
        clock: Monotonic seconds.
        faults: What is to go wrong on purpose.
    """

    def __init__(
        self,
        post: Callable[[Callable[..., None], tuple[Any, ...]], None],
        clock: Callable[[], float],
        faults: Faults | None = None,
    ) -> None:
        self._post = post
        self._clock = clock
        self._faults = faults
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._errands: deque[Errand] = deque()
        self._shares: FairShare[Turn] = FairShare()
        self.service_s = 0.0
        """How long a job runs, lately; read by the event loop."""

    def add(self, job: Job) -> None:
        """Queue a job."""
        job.added_at = self._clock()
        self._waiting.append(job)

    def add_errand(self, errand: Errand) -> None:
        """Queue an errand."""
        self._errands.append(errand)

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        if self._errands or (self._waiting and len(self._running) < RUNNING_LIMIT):
            return True
        return any(job.is_cancelled for job in self._waiting) or any(
            job.is_cancelled or not job.is_starved for job in self._running
        )

    @property
    def jobs(self) -> list[Job]:
        """All jobs that have not ended, those that run first."""
        return [*self._running, *self._waiting]

    def step(self) -> None:
        """Do one unit of work."""
        if self._faults is not None:
            self._faults.strike(Point.ENGINE_STEP)
        self._drop_cancelled()
        self._admit()
        work = self._work()
        if not work:
            return
        turn = self._shares.pick(work)
        started = self._clock()
        weight = work[turn]()
        self._shares.charge(turn, self._clock() - started, weight)

    def fail_all(self, error: IsthmusError) -> None:
        """End every job and errand with `error`: the engine is going."""
        while self._errands:
            self._post(self._errands.popleft().on_end, (error,))
        for job in self.jobs:
            self._end(job, error)
        self._waiting.clear()

    def _work(self) -> dict[Turn, Callable[[], float]]:
        """Return what can be done, by whose time it takes; each returns its weight."""
        prefilling: dict[str, list[Job]] = {}
        decoding: dict[str, list[Job]] = {}
        for job in self._running:
            if job.phase is Phase.PREFILL:
                prefilling.setdefault(job.model, []).append(job)
            elif not job.is_starved:
                decoding.setdefault(job.model, []).append(job)
        work: dict[Turn, Callable[[], float]] = {}
        for model, jobs in prefilling.items():
            work[model, "prefill"] = partial(self._prefill, jobs, bool(decoding))
        for model, jobs in decoding.items():
            work[model, "decode"] = partial(self._decode, jobs)
        if self._errands:
            work[_ERRANDS] = self._run_errand
        return work

    def _run_errand(self) -> float:
        while self._errands and not self._errands[0].is_wanted():
            self._errands.popleft()
        if not self._errands:
            return 1.0
        failure: Exception | None = None
        try:
            is_done = self._errands[0].work.step()
        except Exception as error:  # whatever a model may raise is its caller's to hear
            failure, is_done = error, True
        if is_done:
            self._post(self._errands.popleft().on_end, (failure,))
        return 1.0

    def _admit(self) -> None:
        while self._waiting and len(self._running) < RUNNING_LIMIT:
            running = Counter(job.model for job in self._running)
            # By priority, then whose model runs the fewest; of equals the oldest.
            job = min(self._waiting, key=lambda job: (-job.priority, running[job.model]))
            self._waiting.remove(job)
            self._running.append(job)
            job.started_at = self._clock()
            job.enter(Phase.PREFILL)
            try:
                job.decoder, job.steps, job.text = job.open()
            except Exception as error:
                self._fail(job, error)
            else:
                self._advance(job)

    def _drop_cancelled(self) -> None:
        for job in self.jobs:
            if job.is_cancelled:
                self._tell_left(job, self._leave(job))
        self._waiting = [job for job in self._waiting if job.phase is not Phase.DONE]

    def _prefill(self, jobs: list[Job], is_anybody_decoding: bool) -> float:
        """Evaluate a chunk: short ones where others wait for tokens."""
        jobs = sorted(jobs, key=self._urgency)
        decoder, steps = jobs[0].decoder, jobs[0].steps
        assert decoder is not None and steps is not None
        limit = decoder.limit_tokens(is_anybody_decoding)
        weight = PREFILL_WEIGHT if steps.remaining <= SHORT_PROMPT_TOKENS else 1.0
        before = [_prefilled(job) for job in jobs]
        started = self._clock()
        sequences = [job.steps for job in jobs]
        try:
            failed = dict(decoder.prefill(sequences, limit))
        except Exception as error:
            failed = dict.fromkeys(sequences, error)
        advanced = [_prefilled(job) - done for job, done in zip(jobs, before, strict=True)]
        decoder.took(sum(advanced), self._clock() - started)
        for job, tokens in zip(jobs, advanced, strict=True):
            if job.steps in failed:
                self._fail(job, failed[job.steps])
            elif tokens:
                self._advance(job)
        return weight

    def _urgency(self, job: Job) -> tuple[int, float]:
        """Return a rank: by priority, then the shortest rest, less what the wait is worth."""
        assert job.steps is not None
        waited_s = self._clock() - job.added_at
        return -job.priority, job.steps.remaining - waited_s * PROMPT_AGE_TOKENS_PER_S

    def _advance(self, job: Job) -> None:
        """Tell how far the prompt is, or go on to decode."""
        assert job.steps is not None
        if not job.steps.is_prefilling:
            job.enter(Phase.DECODE)
        elif job.steps.prefilled:
            self._post(job.listener.on_prefill, (job.steps.prefilled, len(job.prompt)))

    def _decode(self, jobs: list[Job]) -> float:
        decoder, by_steps = jobs[0].decoder, {job.steps: job for job in jobs}
        assert decoder is not None
        for job in jobs:
            assert job.steps is not None
            job.steps.room = job.granted - job.emitted
        results: list[tuple[Any, Any]]
        try:
            results = decoder.decode(list(by_steps))
        except Exception as error:
            results = [(steps, error) for steps in by_steps]
        for steps, result in results:
            job = by_steps[steps]
            if isinstance(result, Exception):
                self._fail(job, result)
                continue
            try:
                for token, logits in result:
                    if job.phase is Phase.DECODE:
                        self._emit(job, token, logits)
            except Exception as error:  # of the text or the log-probabilities
                self._fail(job, error)
        return 1.0

    def _emit(self, job: Job, token: int, logits: Any) -> None:
        assert job.steps is not None and job.text is not None
        if self._faults is not None:
            self._faults.strike(Point.ENGINE_TOKEN, job.model)
        if not job.first_token_at:
            job.first_token_at = self._clock()
        if token in job.end_tokens:
            self._finish(job, "stop", token, [], [])
            return
        logprobs = [job.describe(logits, token)] if job.describe is not None else []
        text = job.text.add(token)
        job.emitted += 1
        if job.text.stop is not None:
            self._finish(job, "stop", job.text.stop, [token], logprobs, text)
        elif job.steps.is_finished:
            self._finish(job, "stop", None, [token], logprobs, text)
        elif job.emitted >= job.max_tokens:
            self._finish(job, "length", None, [token], logprobs, text)
        else:
            self._post(job.listener.on_tokens, ([token], text, logprobs))

    def _finish(
        self,
        job: Job,
        reason: str,
        stop: str | int | None,
        ids: list[int],
        logprobs: list[dict[str, Any]],
        text: str = "",
    ) -> None:
        assert job.text is not None and job.steps is not None
        text += job.text.finish()
        if job.text.stop is not None:
            reason, stop = "stop", job.text.stop
        if ids or text:
            self._post(job.listener.on_tokens, (ids, text, logprobs))
        now = self._clock()
        outcome = Outcome(
            reason,
            stop,
            len(job.prompt),
            job.emitted,
            job.steps.cached,
            job.started_at,
            job.first_token_at,
            now,
            {
                **job.steps.report(),
                **job.text.report(),
                "is_complete": job.steps.is_complete,
            },
        )
        past, ran = self.service_s, now - job.started_at
        self.service_s = ran if past == 0 else past + (1 - _SERVICE_MEMORY) * (ran - past)
        left = self._leave(job)
        self._post(job.listener.on_end, (outcome,))
        self._tell_left(job, left)

    def _fail(self, job: Job, error: Exception) -> None:
        """End a job with an error of its own."""
        if job.phase is Phase.DONE:
            return
        if not isinstance(error, IsthmusError):
            error = InternalError(
                f"the model failed in {job.phase.value}: {type(error).__name__}: {error}",
                phase=job.phase.value,
                completion_tokens=job.emitted,
            )
        self._end(job, error)

    def _end(self, job: Job, error: IsthmusError) -> None:
        left = self._leave(job, is_sound=False)
        self._post(job.listener.on_error, (error,))
        self._tell_left(job, left)

    def _tell_left(self, job: Job, left: Any) -> None:
        if job.on_left is not None:
            self._post(job.on_left, (left,))

    def _leave(self, job: Job, is_sound: bool = True) -> Any:
        """Let go of what a job holds; return what is left of it."""
        job.enter(Phase.DONE)
        decoder, steps = job.decoder, job.steps
        job.decoder = job.steps = job.text = None
        if job in self._running:
            self._running.remove(job)
        if decoder is None or steps is None:
            return None
        return decoder.close(steps, is_sound)


def _prefilled(job: Job) -> int:
    assert job.steps is not None
    return job.steps.prefilled
