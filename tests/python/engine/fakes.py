"""Model work without a model: each step notes that it happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from isthmus.engine.job import Decoder, Job, Outcome, Steps, TextOutput
from isthmus.errors import IsthmusError
from isthmus.text.stream import TextStream


class Letters:
    """A detokenizer whose tokens are letters."""

    def __init__(self) -> None:
        self._segment = ""

    @property
    def last_segment(self) -> str:
        """Return the new text once."""
        segment, self._segment = self._segment, ""
        return segment

    def add_token(self, token: int) -> None:
        """Take a token."""
        self._segment += chr(ord("a") + token)

    def finalize(self) -> None:
        """There is never a rest."""


class FakeSteps:
    """A prompt of some chunks, then tokens 0, 1, 2, ...; a script may raise at a step."""

    def __init__(
        self, name: str, log: list[str], chunks: int, script: dict[str, Exception], burst: int
    ) -> None:
        self.prefilled = self.cached = 0
        self.room = 0
        self.finishes_at = -1
        self.is_complete = None
        self._name, self._log, self._chunks, self._script = name, log, chunks, script
        self._burst = burst
        self._decoded = 0

    @property
    def remaining(self) -> int:
        """How many chunks are left."""
        return self._chunks - self.prefilled

    @property
    def is_prefilling(self) -> bool:
        """Whether chunks are left."""
        return self.remaining > 0

    @property
    def is_finished(self) -> bool:
        """Whether it was told to end here."""
        return self._decoded == self.finishes_at

    def report(self) -> dict[str, Any]:
        """Name itself."""
        return {"name": self._name}

    def prefill(self) -> None:
        """Do a chunk."""
        self._note(f"{self._name}:p{self.prefilled}")
        self.prefilled += 1

    def decode(self) -> list[tuple[int, Any]]:
        """Return the next letters, as many as come at once."""
        self._note(f"{self._name}:d{self._decoded}")
        first = self._decoded
        self._decoded += min(self._burst, self.room)
        return [(token, None) for token in range(first, self._decoded)]

    def _note(self, step: str) -> None:
        self._log.append(step)
        if step.split(":")[1] in self._script:
            raise self._script[step.split(":")[1]]


class FakeDecoder:
    """Does a chunk of the first prompt, and a token for one after the other.

    Args:
        closed: Notes who was closed, and whether soundly.
        script: May fail `prefill` and `decode`.
    """

    def __init__(self, closed: list[tuple[Any, bool]], script: dict[str, Exception]) -> None:
        self.closed = closed
        self.busy: list[bool] = []
        self.took_tokens = 0
        self._script = script
        self._turns: dict[Any, int] = {}

    def limit_tokens(self, is_anybody_decoding: bool) -> int:
        """Note whether others wait."""
        self.busy.append(is_anybody_decoding)
        return 1

    def took(self, tokens: int, seconds: float) -> None:
        """Count."""
        self.took_tokens += tokens

    def prefill(self, waiting: Sequence[Any], limit: int) -> list[tuple[Any, Exception]]:
        """Do a chunk of the first."""
        self._raise("prefill")
        try:
            waiting[0].prefill()
        except Exception as error:
            return [(waiting[0], error)]
        return []

    def decode(self, ready: Sequence[Any]) -> list[tuple[Any, list[Any] | Exception]]:
        """Let the one decode that waited longest."""
        self._raise("decode")
        first = min(ready, key=lambda steps: self._turns.get(steps, 0))
        self._turns[first] = max(self._turns.values(), default=0) + 1
        try:
            return [(first, first.decode())]
        except Exception as error:
            return [(first, error)]

    def close(self, sequence: Any, is_sound: bool = True) -> None:
        """Note it."""
        self.closed.append((sequence, is_sound))

    def _raise(self, what: str) -> None:
        if what in self._script:
            raise self._script[what]


class FakeListener:
    """Keeps what it hears."""

    def __init__(self, on_end: Callable[[], object] | None = None) -> None:
        self.prefilled: list[tuple[int, int]] = []
        self.ids: list[int] = []
        self.text = ""
        self.logprobs: list[dict[str, Any]] = []
        self.outcomes: list[Outcome] = []
        self.errors: list[IsthmusError] = []
        self._on_end = on_end

    def on_prefill(self, done: int, total: int) -> None:
        """Keep how far the prompt is."""
        self.prefilled.append((done, total))

    def on_tokens(self, ids: list[int], text: str, logprobs: list[dict[str, Any]]) -> None:
        """More tokens."""
        assert not self.has_ended
        self.ids += ids
        self.text += text
        self.logprobs += logprobs

    def on_end(self, outcome: Outcome) -> None:
        """The end."""
        self.outcomes.append(outcome)
        if self._on_end is not None:
            self._on_end()

    def on_error(self, error: IsthmusError) -> None:
        """The end, in failure."""
        self.errors.append(error)
        if self._on_end is not None:
            self._on_end()

    @property
    def has_ended(self) -> bool:
        """Whether it has heard of an end; two are a failure."""
        ends = len(self.outcomes) + len(self.errors)
        assert ends <= 1
        return ends == 1


def make_job(
    name: str,
    log: list[str],
    *,
    chunks: int = 1,
    max_tokens: int = 3,
    granted: int = 1_000,
    end_tokens: frozenset[int] = frozenset(),
    stops: tuple[str, ...] = (),
    script: dict[str, Exception] | None = None,
    on_end: Callable[[], object] | None = None,
    has_logprobs: bool = False,
    model: str = "model",
    priority: int = 0,
    burst: int = 1,
    finishes_at: int = -1,
    decoder: FakeDecoder | None = None,
) -> Job:
    """Return a job on fake steps; `script` may fail `open`, `p0`, `d2`, or its decoder's `prefill`
    and `decode`. `burst` tokens come at once."""
    failures = script or {}

    def open_job() -> tuple[Decoder, Steps, TextOutput]:
        if "open" in failures:
            raise failures["open"]
        steps = FakeSteps(name, log, chunks, failures, burst)
        steps.finishes_at = finishes_at
        return decoder or FakeDecoder([], failures), steps, TextStream(Letters(), stops)

    return Job(
        prompt=[0] * chunks,
        max_tokens=max_tokens,
        end_tokens=end_tokens,
        open=open_job,
        describe=(lambda logits, token: {"id": token}) if has_logprobs else None,
        listener=FakeListener(on_end),
        granted=granted,
        model=model,
        priority=priority,
    )


def listener_of(job: Job) -> FakeListener:
    """Return a job's listener."""
    assert isinstance(job.listener, FakeListener)
    return job.listener


class FakeErrand:
    """Step work of some steps; a script may raise at one."""

    def __init__(
        self, name: str, log: list[str], steps: int, script: dict[int, BaseException] | None = None
    ) -> None:
        self.done = 0
        self._name, self._log, self._steps, self._script = name, log, steps, script or {}

    def step(self) -> bool:
        """Do a step."""
        self._log.append(f"{self._name}:s{self.done}")
        self.done += 1
        if self.done - 1 in self._script:
            raise self._script[self.done - 1]
        return self.done == self._steps
