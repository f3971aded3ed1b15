"""The sides that answer the same questions, each with a process of its own and the same BLAS."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isthmus.engine.blas import interpose

from ..harness import ROOT, node_path
from ..processes import Subject
from .questions import Question

HERE: Final = Path(__file__).resolve().parent

BLAS: Final = interpose()
"""What the runtime puts in front of mlx here; calling it also sets the variables that go with it,
which every side inherits."""

IN_PROCESS: Final = "in process"
SERVER: Final = "mlx_lm.server"
NODE: Final = "isthmus (Node)"
PYTHON: Final = "isthmus (Python)"
BATCH_GENERATOR: Final = "BatchGenerator"
"""mlx-lm's own batches in the process of the first side, without text, pipes or requests."""

_OUR_OPTIONS: Final[dict[str, Any]] = {"cache_prompt": False}
"""What our side is asked with besides: `stream_generate` keeps no prompts either."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, as the asking side saw it.

    Attributes:
        ttft_ms: Until the first token was seen; where only text is seen, until the first text.
        ids: Empty where the side does not tell them.
    """

    response_ms: float
    ttft_ms: float
    first_text_ms: float
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    ids: list[int]
    text: str


@dataclass(frozen=True, slots=True)
class Pass:
    """All questions answered once; the bytes are 0 where they are not counted."""

    wall_s: float
    answers: list[Answer]
    bytes_sent: int = 0
    bytes_received: int = 0

    def __add__(self, other: Pass) -> Pass:
        """Return this pass, continued with another."""
        return Pass(
            self.wall_s + other.wall_s,
            [*self.answers, *other.answers],
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
        )

    @property
    def tokens(self) -> int:
        """All tokens generated."""
        return sum(answer.tokens for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Settings:
    """How questions are asked."""

    at_once: int
    max_tokens: int
    temperature: float


class Side:
    """One way to have the questions answered.

    Args:
        name: In the tables.
        command: Starts the process that is asked.
        options: What each request has besides the settings; None for the opponents.
    """

    def __init__(
        self, name: str, command: Sequence[str], options: dict[str, Any] | None = None
    ) -> None:
        self.name = name
        self._command = command
        self.options = options or {}
        self._is_ours = options is not None
        self._more = {"options": options} if self._is_ours else {}
        self._subject: Subject | None = None

    def start(self, source: Path, first: Question) -> dict[str, Any]:
        """Start it with a model; return how long it took to the first token, from nothing.

        A side in Node is an app that runs already; the time is that of its runtime or server.
        """
        begun = time.perf_counter()
        self._subject = Subject(self.name, self._command)
        prompt = {"ids": first.ids, **self._more} if self._is_ours else {"text": first.text}
        answer = self.operate("start", source=str(source), **prompt)
        return {"firstTokenS": time.perf_counter() - begun, **answer}

    def ask(
        self, questions: Sequence[Question], settings: Settings, operation: str = "ask"
    ) -> Pass:
        """Have the questions answered."""
        answer = self.operate(
            operation,
            questions=[question.to_wire() for question in questions],
            atOnce=settings.at_once,
            maxTokens=settings.max_tokens,
            temperature=settings.temperature,
            **self._more,
        )
        return _pass_of(answer)

    def operate(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Have it do something else."""
        assert self._subject is not None
        return self._subject.ask(operation, **parameters)

    def close(self) -> None:
        """End it."""
        subject, self._subject = self._subject, None
        if subject is not None:
            subject.close()


def in_process() -> Side:
    """Return mlx-lm in one process."""
    return Side(IN_PROCESS, [sys.executable, "-m", "benchmarks.fifty.inprocess_peer"])


def server() -> Side:
    """Return mlx_lm.server, asked from Node."""
    preload = {} if BLAS.path is None else {"LD_PRELOAD": BLAS.path}
    return Side(SERVER, [*_node("server.mjs"), json.dumps(preload)])


def node() -> Side:
    """Return Isthmus, asked from Node."""
    if not (ROOT / "bridge" / "dist" / "index.js").exists():
        raise SystemExit("bridge/dist/index.js is missing; run `npm run build` in bridge/ first")
    options = {_camel(name): value for name, value in _OUR_OPTIONS.items()}
    return Side(NODE, _node("isthmus.mjs"), options)


def python() -> Side:
    """Return Isthmus, asked from Python."""
    command = [sys.executable, "-m", "benchmarks.fifty.isthmus_peer"]
    return Side(PYTHON, command, _OUR_OPTIONS)


def maps_blas(process: int) -> bool:
    """Whether a process has loaded the BLAS that the others have (Linux)."""
    name = os.path.basename(BLAS.path or "").split(".so")[0]
    try:
        return bool(name) and name in Path(f"/proc/{process}/maps").read_text()
    except OSError:
        return False


def _node(script: str) -> list[str]:
    return [node_path(), str(HERE / script), sys.executable]


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _pass_of(answer: dict[str, Any]) -> Pass:
    return Pass(
        answer["wallMs"] / 1e3,
        [_answer_of(each) for each in answer["answers"]],
        answer.get("bytesSent", 0),
        answer.get("bytesReceived", 0),
    )


def _answer_of(answer: dict[str, Any]) -> Answer:
    return Answer(
        answer["responseMs"],
        answer["ttftMs"],
        answer["firstTextMs"],
        answer["tokens"],
        answer["promptTokens"],
        answer["cachedTokens"],
        answer.get("ids", []),
        answer.get("text", ""),
    )


MAKERS: Final[dict[str, Callable[[], Side]]] = {
    IN_PROCESS: in_process,
    SERVER: server,
    NODE: node,
    PYTHON: python,
}
