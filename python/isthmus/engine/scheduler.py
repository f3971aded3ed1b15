"""Who runs next: schedule, step, emit.

Each step gives one prompt chunk to the oldest job in prefill, one decode step to every job that
decodes and whose reader has room, and one step to the oldest errand. So a long prompt delays the
others' tokens by one chunk, and a slow reader delays nobody. Knows no MLX: the model work is behind
`Job.open` and `StepWork`. Called on the engine thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import InternalError, IsthmusError
from .job import Job, Outcome, Phase

RUNNING_LIMIT = 32
"""Jobs that hold a KV cache at once; the others wait in the queue without one."""


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
    """

    def __init__(
        self,
        post: Callable[[Callable[..., None], tuple[Any, ...]], None],
        clock: Callable[[], float],
    ) -> None:
        self._post = post
        self._clock = clock
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._errands: deque[Errand] = deque()

    def add(self, job: Job) -> None:
        """Queue a job."""
        self._waiting.append(job)

    def add_errand(self, errand: Errand) -> None:
        """Queue an errand."""
        self._errands.append(errand)

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        if self._errands or (self._waiting and len(self._running) < RUNNING_LIMIT):
            return True
        return any(job.is_cancelled or not job.is_starved for job in self._running)

    @property
    def jobs(self) -> list[Job]:
        """All jobs that have not ended, the oldest first."""
        return [*self._running, *self._waiting]

    def step(self) -> None:
        """Do one unit of work for every job that can run, and for the oldest errand."""
        self._drop_cancelled()
        self._admit()
        is_prefill_done = False
        for job in tuple(self._running):
            if job.phase is Phase.DECODE:
                if not job.is_starved:
                    self._guard(job, self._decode)
            elif not is_prefill_done:
                is_prefill_done = True
                self._guard(job, self._prefill)
        self._run_errand()

    def fail_all(self, error: IsthmusError) -> None:
        """End every job and errand with `error`: the engine is going."""
        while self._errands:
            self._post(self._errands.popleft().on_end, (error,))
        for job in self.jobs:
            self._end(job, job.listener.on_error, error)
        self._waiting.clear()

    def _run_errand(self) -> None:
        while self._errands and not self._errands[0].is_wanted():
            self._errands.popleft()
        if not self._errands:
            return
        failure: Exception | None = None
        try:
            is_done = self._errands[0].work.step()
        except Exception as error:  # whatever a model may raise is its caller's to hear
            failure, is_done = error, True
        if is_done:
            self._post(self._errands.popleft().on_end, (failure,))

    def _admit(self) -> None:
        while self._waiting and len(self._running) < RUNNING_LIMIT:
            job = self._waiting.popleft()
            if job.is_cancelled:
                job.enter(Phase.DONE)
                continue
            self._running.append(job)
            self._guard(job, self._open)

    def _drop_cancelled(self) -> None:
        for job in self._running:
            if job.is_cancelled:
                job.enter(Phase.DONE)
                job.steps = None
        self._running = [job for job in self._running if job.phase is not Phase.DONE]

    def _guard(self, job: Job, work: Callable[[Job], None]) -> None:
        """Run `work` so that its failure ends this job alone."""
        try:
            work(job)
        except IsthmusError as error:
            self._end(job, job.listener.on_error, error)
        except Exception as error:  # whatever a model may raise is this job's failure
            failure = InternalError(
                f"the model failed in {job.phase.value}: {type(error).__name__}: {error}",
                phase=job.phase.value,
                completion_tokens=job.emitted,
            )
            self._end(job, job.listener.on_error, failure)

    def _open(self, job: Job) -> None:
        job.started_at = self._clock()
        job.enter(Phase.PREFILL)
        job.steps, job.text = job.open()

    def _prefill(self, job: Job) -> None:
        assert job.steps is not None
        job.steps.prefill()
        if job.steps.is_prefilling:
            self._post(job.listener.on_prefill, (job.steps.prefilled, len(job.prompt)))
        else:
            job.enter(Phase.DECODE)

    def _decode(self, job: Job) -> None:
        assert job.steps is not None and job.text is not None
        token = job.steps.decode()
        if not job.first_token_at:
            job.first_token_at = self._clock()
        if token in job.end_tokens:
            self._finish(job, "stop", token, [], [])
            return
        logprobs = [job.describe(job.steps, token)] if job.describe is not None else []
        text = job.text.add(token)
        job.emitted += 1
        if job.text.stop is not None:
            self._finish(job, "stop", job.text.stop, [token], logprobs, text)
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
        assert job.text is not None
        text += job.text.finish()
        if job.text.stop is not None:
            reason, stop = "stop", job.text.stop
        if ids or text:
            self._post(job.listener.on_tokens, (ids, text, logprobs))
        outcome = Outcome(
            reason,
            stop,
            len(job.prompt),
            job.emitted,
            job.started_at,
            job.first_token_at,
            self._clock(),
        )
        self._end(job, job.listener.on_end, outcome)

    def _end(self, job: Job, tell: Callable[[Any], None], what: object) -> None:
        if job.phase is Phase.DONE:
            return
        job.enter(Phase.DONE)
        job.steps = job.text = None
        if job in self._running:
            self._running.remove(job)
        self._post(tell, (what,))
