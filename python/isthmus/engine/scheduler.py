"""Who runs next: schedule, step, emit.

Each step gives one prompt chunk to the oldest job in prefill and one decode step to every job that
decodes and whose reader has room. So a long prompt delays the others' tokens by one chunk, and a
slow reader delays nobody. Knows no MLX: the model work is behind `Job.open`. Called on the engine
thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import InternalError, IsthmusError
from .job import Job, Outcome, Phase

RUNNING_LIMIT = 32
"""Jobs that hold a KV cache at once; the others wait in the queue without one."""


class Scheduler:
    """Interleaves jobs.

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

    def add(self, job: Job) -> None:
        """Queue a job."""
        self._waiting.append(job)

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        if self._waiting and len(self._running) < RUNNING_LIMIT:
            return True
        return any(job.is_cancelled or not job.is_starved for job in self._running)

    @property
    def jobs(self) -> list[Job]:
        """All jobs that have not ended, the oldest first."""
        return [*self._running, *self._waiting]

    def step(self) -> None:
        """Do one unit of work for every job that can run."""
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

    def fail_all(self, error: IsthmusError) -> None:
        """End every job with `error`: the engine is going."""
        for job in self.jobs:
            self._end(job, job.listener.on_error, error)
        self._waiting.clear()

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
