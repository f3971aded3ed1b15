"""A generation as the engine sees it: what to do, how far it is, and who hears of it.

A job is made on the event loop and then belongs to the engine thread. Two of its fields are written
by the loop while it runs, each a plain assignment: `granted` and `is_cancelled`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from ..errors import IsthmusError


class Phase(Enum):
    """Where in its life a job is; `phase` of its errors."""

    QUEUE = "queue"
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


NEXT_PHASES = {
    Phase.QUEUE: {Phase.PREFILL, Phase.DONE},
    Phase.PREFILL: {Phase.DECODE, Phase.DONE},
    Phase.DECODE: {Phase.DONE},
    Phase.DONE: set[Phase](),
}
"""Every legal change of phase."""


class Steps(Protocol):
    """One generation's model work; `engine.generate.Sequence`."""

    room: int
    prefilled: int
    cached: int

    @property
    def remaining(self) -> int:
        """Prompt tokens to evaluate before it decodes."""
        ...

    @property
    def is_prefilling(self) -> bool:
        """Whether there are any."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether no token may follow."""
        ...

    @property
    def is_complete(self) -> bool | None:
        """Whether the text is a whole match of its constraint; None if there is none."""
        ...

    def report(self) -> dict[str, Any]:
        """Return what the result says of how it was generated; on any thread."""
        ...


class Decoder(Protocol):
    """The model work of all generations of one model; `engine.decoder.Decoder`."""

    def limit_tokens(self, is_anybody_decoding: bool) -> int:
        """Return how many prompt tokens may be evaluated at once."""
        ...

    def took(self, tokens: int, seconds: float) -> None:
        """Learn how fast prompts are evaluated."""
        ...

    def prefill(self, waiting: Sequence[Any], limit: int) -> list[tuple[Any, Exception]]:
        """Evaluate about `limit` prompt tokens of the first; return who failed, and why."""
        ...

    def decode(self, ready: Sequence[Any]) -> list[tuple[Any, list[Any] | Exception]]:
        """Do one unit of work; return whose tokens came of it, or who failed."""
        ...

    def close(self, sequence: Any, is_sound: bool = True) -> Any:
        """End a generation; return what it leaves behind, for `Job.on_left`."""
        ...


@dataclass(slots=True)
class Outcome:
    """How a job ended; `report` says how it was generated."""

    finish_reason: str
    stop: str | int | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    started_at: float
    first_token_at: float
    ended_at: float
    report: dict[str, Any]


class TextOutput(Protocol):
    """Turns tokens into text; `text.stream.TextStream`."""

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        ...

    def add(self, token: int) -> str:
        """Take a token; return the text that it completes."""
        ...

    def finish(self) -> str:
        """Return the rest of the text."""
        ...

    def report(self) -> dict[str, Any]:
        """Return what the result says of the text, once it is finished."""
        ...


class Listener(Protocol):
    """Hears of a job, on the event loop."""

    def on_prefill(self, done: int, total: int) -> None:
        """So many of the prompt's tokens have been evaluated, and more are left."""
        ...

    def on_tokens(self, ids: list[int], text: str, logprobs: list[dict[str, Any]]) -> None:
        """More tokens, with the text that they complete."""
        ...

    def on_end(self, outcome: Outcome) -> None:
        """The job has ended; nothing follows."""
        ...

    def on_error(self, error: IsthmusError) -> None:
        """The job has failed; nothing follows."""
        ...


@dataclass(slots=True, eq=False)
class Job:
    """One generation.

    Attributes:
        prompt: Token ids.
        max_tokens: Most tokens to emit.
        end_tokens: Ids that end it and are not emitted.
        open: Makes the model work and the text output, on the engine thread.
        describe: The log-probabilities of a token by its logits, or None when not asked for.
        listener: Hears of it, on the event loop.
        granted: Tokens that the reader has room for, counted from the first.
        model: Whose time it takes.
        priority: Higher is admitted, and its prompt evaluated, first.
        is_cancelled: Set by the loop: drop it, nobody listens.
        on_left: Told on the loop, after everything else, what it left behind; also of one that
            was dropped.
    """

    prompt: list[int]
    max_tokens: int
    end_tokens: frozenset[int]
    open: Callable[[], tuple[Decoder, Steps, TextOutput]]
    describe: Callable[[Any, int], dict[str, Any]] | None
    listener: Listener
    granted: int
    model: str = ""
    priority: int = 0
    is_cancelled: bool = False
    on_left: Callable[[Any], None] | None = None
    phase: Phase = Phase.QUEUE
    emitted: int = 0
    added_at: float = 0.0
    started_at: float = 0.0
    first_token_at: float = 0.0
    decoder: Decoder | None = field(default=None, repr=False)
    steps: Steps | None = field(default=None, repr=False)
    text: TextOutput | None = field(default=None, repr=False)

    def enter(self, phase: Phase) -> None:
        """Change the phase.

        Raises:
            ValueError: The table has no such change.
        """
        if phase not in NEXT_PHASES[self.phase]:
            raise ValueError(f"a job cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase

    @property
    def is_starved(self) -> bool:
        """Whether it must wait for its reader."""
        return self.phase is Phase.DECODE and self.emitted >= self.granted
