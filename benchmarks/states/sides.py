"""The sides that are asked in each state: Isthmus from Node and from Python, and bare mlx-lm.

Each has a process of its own and the same BLAS. A turn answers the next prompt of conversations and
takes down how it went; `restart` ends the process that holds caches and starts another.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from isthmus.engine.blas import interpose

from ..harness import ROOT, node_path
from ..processes import Subject
from .models import Written
from .talks import COLD, HOT, Talk

HERE: Final = Path(__file__).resolve().parent

BLAS: Final = interpose()
"""What the runtime puts in front of mlx here; calling it also sets the variables that go with it,
which every side inherits."""

NODE: Final = "isthmus (Node)"
PYTHON: Final = "isthmus (Python)"
FLOOR: Final = "mlx-lm"


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer.

    Attributes:
        kept_tokens: Of the prompt, what the turn before had left.
        reused_tokens: Of them, what was not evaluated again.
        load_ms: Reading from disk.
        written_bytes: To disk, until all was saved; of all that were asked at once.
        read_bytes: Likewise.
    """

    ttft_ms: float
    total_ms: float
    kept_tokens: int
    reused_tokens: int
    prefilled_tokens: int
    load_ms: float = 0.0
    written_bytes: int = 0
    read_bytes: int = 0
    reason: str | None = None


class Side(Protocol):
    """One who answers."""

    name: str

    def turn(self, state: str, talks: Sequence[Talk], is_streamed: bool = True) -> list[Sample]:
        """Answer the next prompt of each, all at once."""
        ...

    def restart(self) -> None:
        """End what holds caches, and start it again."""
        ...

    def forget(self, talks: Sequence[Talk]) -> None:
        """Delete what is kept of them."""
        ...

    def close(self) -> None:
        """End."""
        ...


class Isthmus:
    """A runtime that keeps sessions in a folder of its own.

    Args:
        name: NODE or PYTHON.
        folder: For the sessions.
        model: What answers.
        max_tokens: Of each answer.
    """

    def __init__(self, name: str, folder: Path, model: Written, max_tokens: int) -> None:
        self.name = name
        self._source = model.source
        self._max_tokens = max_tokens
        self.subject = start_isthmus(name)
        told = self.subject.ask("start", dir=str(folder), sources=[self._source])
        self.blas = told["blas"]

    def turn(self, state: str, talks: Sequence[Talk], is_streamed: bool = True) -> list[Sample]:
        """Answer, and wait until all is saved."""
        told = self.subject.ask(
            "ask",
            source=self._source,
            names=[talk.name for talk in talks],
            tenant=talks[0].tenant,
            prompts=[talk.prompt for talk in talks],
            maxTokens=self._max_tokens,
            isStreamed=is_streamed,
        )
        samples = [
            _sample(talk, answer, told) for talk, answer in zip(talks, told["answers"], strict=True)
        ]
        for talk, answer in zip(talks, told["answers"], strict=True):
            talk.answered(answer["ids"])
            if answer["state"] != state:
                raise SystemExit(f"{self.name}: {talk.name} is {answer['state']}, not {state}")
        return samples

    def restart(self) -> None:
        """End the runtime's process and start another one."""
        self.subject.ask("restart")

    def forget(self, talks: Sequence[Talk]) -> None:
        """Delete the sessions."""
        self.subject.ask("remove", names=[talk.name for talk in talks])

    def close(self) -> None:
        """End both processes."""
        self.subject.close()


def _sample(talk: Talk, answer: dict[str, Any], told: dict[str, Any]) -> Sample:
    return Sample(
        answer["ttftMs"],
        answer["totalMs"],
        talk.kept,
        answer["reusedTokens"],
        answer["prefilledTokens"],
        answer["loadMs"],
        told["savedBytes"],
        told["restoredBytes"],
        answer["reason"],
    )


class Floor:
    """Bare mlx-lm, one conversation at a time, with its own cache files.

    Args:
        folder: For the files.
        model: What answers.
        max_tokens: Of each answer.
    """

    name = FLOOR

    def __init__(self, folder: Path, model: Written, max_tokens: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._source = model.source
        self._max_tokens = max_tokens
        self._steps: dict[int, int] = {}
        self._start()

    def turn(self, state: str, talks: Sequence[Talk], is_streamed: bool = True) -> list[Sample]:
        """Answer, and save what is to be loaded; neither is timed but the answer."""
        (talk,) = talks
        if state == COLD:
            told = self._ask("cold", talk, name=talk.name, step=self._steps[talk.length])
        elif state == HOT:
            told = self._ask("hot", talk, name=talk.name)
            self._subject.ask("save", name=talk.name, file=self._file(talk))
        else:
            told = self._ask("warm", talk, file=self._file(talk))
        reused, fresh, load_ms = talk.kept, len(talk.fresh), told.get("loadMs", 0.0)
        talk.answered(told["ids"])
        return [Sample(told["ttftMs"], told["totalMs"], reused, reused, fresh, load_ms)]

    def choose_step(self, talk: Talk, steps: Sequence[int]) -> dict[int, float]:
        """Have cold passes of as many tokens as take least to the first one; return the times."""
        taken: dict[int, float] = {}
        for step in steps if len(steps) > 1 else ():
            told = self._subject.ask("uncached", ids=talk.prompt, maxTokens=1, step=step)
            taken[step] = told["ttftMs"]
        self._steps[talk.length] = min(taken, key=lambda step: taken[step], default=steps[0])
        return taken

    def uncached(self, prompt: list[int], length: int) -> list[int]:
        """Answer a prompt from nothing."""
        step = self._steps[length]
        told = self._subject.ask("uncached", ids=prompt, maxTokens=self._max_tokens, step=step)
        return list(told["ids"])

    def restart(self) -> None:
        """End the process and start another one."""
        self._subject.close()
        self._start()

    def forget(self, talks: Sequence[Talk]) -> None:
        """Delete the files."""
        for talk in talks:
            Path(self._file(talk)).unlink()

    def close(self) -> None:
        """End the process."""
        self._subject.close()

    def _start(self) -> None:
        command = [sys.executable, "-m", "benchmarks.states.mlx_lm_peer"]
        self._subject = Subject(FLOOR, command)
        self.blas = self._subject.ask("start", source=self._source)["blas"]

    def _ask(self, operation: str, talk: Talk, **parameters: Any) -> dict[str, Any]:
        fresh = talk.fresh
        return self._subject.ask(operation, ids=fresh, maxTokens=self._max_tokens, **parameters)

    def _file(self, talk: Talk) -> str:
        return str(self._folder / f"{talk.name}.safetensors")


def start_isthmus(name: str) -> Subject:
    """Start a program that uses Isthmus, from Node or from Python."""
    if name == PYTHON:
        return Subject(name, [sys.executable, "-m", "benchmarks.states.isthmus_peer"])
    if not (ROOT / "bridge" / "dist" / "index.js").exists():
        raise SystemExit("bridge/dist/index.js is missing; run `npm run build` in bridge/ first")
    return Subject(name, [node_path(), str(HERE / "isthmus.mjs"), sys.executable])
