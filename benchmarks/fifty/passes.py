"""Has every side answer the questions with one model: greedily first, then timed in rounds.

In the timed rounds the temperature is 0.7. One at a time, the sides take turns every few questions;
several at once, they take turns with all of them. Another side begins each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Final

from . import questions as fifty
from .models import EMBEDDED, FP32, LARGE, Written
from .questions import Question
from .results import Equality, Key, Results
from .sides import (
    BATCH_GENERATOR,
    IN_PROCESS,
    MAKERS,
    NODE,
    PYTHON,
    SERVER,
    Answer,
    Pass,
    Settings,
    maps_blas,
)

_TEMPERATURE: Final = 0.7
_WARM_UP_TOKENS: Final = 3
_BLOCK: Final = 5
"""Questions that a side answers before the next one has its turn, one at a time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked of one model.

    Attributes:
        tokens: Of each answer.
        python_at_once: How many at once the Python host is asked, too; without any it does not run.
        batched: How many at once the `BatchGenerator` is asked.
        greedy: How many questions are compared.
        starts: How often every side starts from nothing.
    """

    questions: int
    tokens: int
    rounds: int
    at_once: tuple[int, ...]
    python_at_once: tuple[int, ...]
    batched: tuple[int, ...]
    greedy: int
    starts: int


_ALL: Final = (1, 4, 8, 16)
_SOME: Final = (1, 8, 16)
FULL: Final = {
    EMBEDDED: Plan(50, 50, 3, _ALL, _ALL, (16,), 50, 3),
    LARGE: Plan(50, 16, 1, _ALL, (1,), (), 16, 1),
    FP32: Plan(50, 32, 2, _ALL, _ALL, (16,), 16, 1),
}
QUICK: Final = {
    EMBEDDED: Plan(10, 16, 1, (1, 8), (1,), (), 12, 1),
    LARGE: Plan(16, 3, 1, _SOME, (), (), 3, 1),
    FP32: Plan(16, 8, 1, (1, 16), (), (16,), 3, 1),
}


@dataclass(slots=True)
class Record:
    """What a run finds.

    Attributes:
        starts: Seconds from nothing to the first token, by model and side.
        prompt_tokens: Of all questions, by model; the same on every side, or the run has ended.
        correct: Greedy answers of the embedded model that are right, and those that can be checked.
        blas: What each side multiplies with.
    """

    results: Results = field(default_factory=Results)
    equality: Equality = field(default_factory=Equality)
    starts: dict[str, dict[str, float]] = field(default_factory=dict)
    prompt_tokens: dict[str, int] = field(default_factory=dict)
    correct: tuple[int, int] = (0, 0)
    blas: dict[str, str] = field(default_factory=dict)


class Sitting:
    """One model, loaded by every side."""

    def __init__(self, record: Record, model: Written, plan: Plan, say: Callable[[str], None]):
        self._record = record
        self._model = model
        self._plan = plan
        self._say = say
        self._sides = {
            name: make() for name, make in MAKERS.items() if name != PYTHON or plan.python_at_once
        }
        self._questions: list[Question] = []
        self._asked = 0
        record.starts[model.name] = {}

    def run(self) -> None:
        """Measure everything."""
        with ExitStack() as stack:
            for side in self._sides.values():
                stack.callback(side.close)
            self._start()
            self._say(f"{self._model.name}: greedy answers of {self._plan.greedy} questions")
            self._compare()
            for number in range(self._plan.rounds):
                for at_once in self._plan.at_once:
                    self._say(
                        f"{self._model.name}: round {number + 1}, {at_once} at once, "
                        f"{self._plan.questions} questions of {self._plan.tokens} tokens"
                    )
                    self._time(number, at_once)

    def _start(self) -> None:
        """Start every side from nothing, one after the other, and leave it running."""
        first = Question(fifty.texts()[0], [], None)
        for name, side in self._sides.items():
            seconds = []
            for _ in range(self._plan.starts):
                side.close()
                answer = side.start(self._model.folder, first)
                seconds.append(answer["firstTokenS"])
            self._record.starts[self._model.name][name] = median(seconds)
            self._note_blas(name, answer)
            if name == IN_PROCESS:
                first = replace(first, ids=answer["ids"])
        prompts = self._sides[IN_PROCESS].operate("prompts", questions=fifty.texts())["ids"]
        if self._sides[NODE].operate("prompts", questions=fifty.texts())["ids"] != prompts:
            raise SystemExit("the chat template gives other prompts in the runtime")
        self._questions = fifty.questions(prompts)
        self._record.prompt_tokens[self._model.name] = sum(map(len, prompts))

    def _note_blas(self, name: str, answer: dict[str, Any]) -> None:
        if "blas" in answer:
            self._record.blas[name] = answer["blas"]
        elif "pid" in answer:
            self._record.blas[name] = "the same" if maps_blas(answer["pid"]) else "bundled"

    def _compare(self) -> None:
        """Compare the greedy answers of our sides with those of `stream_generate`."""
        asked = self._questions[: self._plan.greedy]
        tokens = self._plan.tokens
        answers = self._sides[IN_PROCESS].ask(asked, Settings(1, tokens, 0.0)).answers
        right = [answer.ids for answer in answers]
        for name in (each for each in (NODE, PYTHON) if each in self._sides):
            for at_once in self._at_once_of(name):
                done = self._sides[name].ask(asked, Settings(at_once, tokens, 0.0))
                key = Key(self._model.name, at_once, name)
                self._record.equality.add(key, [each.ids for each in done.answers], right)
                self._check_prompts(name, asked, done.answers)
        self._compare_server(asked, right)
        if self._model.name == EMBEDDED:
            self._judge(asked, answers)

    def _compare_server(self, asked: Sequence[Question], right: Sequence[Sequence[int]]) -> None:
        at_once = max(self._plan.at_once)
        answer = self._sides[SERVER].operate(
            "greedyIds",
            questions=[question.to_wire() for question in asked],
            atOnce=at_once,
            maxTokens=self._plan.tokens,
        )
        ids = [each["ids"] for each in answer["answers"]]
        self._record.equality.add(Key(self._model.name, at_once, SERVER), ids, right)

    def _judge(self, asked: Sequence[Question], answers: Sequence[Answer]) -> None:
        pairs = [pair for pair in zip(asked, answers, strict=True) if pair[0].expected is not None]
        right = sum(question.is_answered_by(answer.text) for question, answer in pairs)
        self._record.correct = (right, len(pairs))

    def _time(self, number: int, at_once: int) -> None:
        settings = Settings(at_once, self._plan.tokens, _TEMPERATURE)
        asked, others = self._next_questions()
        if number == 0:
            # mlx compiles some kernels when they are needed first.
            warm_up = replace(settings, max_tokens=_WARM_UP_TOKENS)
            for _ in self._turn(0, at_once, others[:at_once], warm_up):
                pass
        block = _BLOCK if at_once == 1 else len(asked)
        done: dict[str, Pass] = {}
        for turn, start in enumerate(range(0, len(asked), block)):
            some = asked[start : start + block]
            for name, one in self._turn(number + turn, at_once, some, settings):
                done[name] = done[name] + one if name in done else one
        for name, whole in done.items():
            self._record.results.add(Key(self._model.name, at_once, name), whole)
            if name != BATCH_GENERATOR:
                self._check_prompts(name, asked, whole.answers)

    def _turn(
        self, turn: int, at_once: int, some: Sequence[Question], settings: Settings
    ) -> Iterator[tuple[str, Pass]]:
        names = [name for name in self._sides if at_once in self._at_once_of(name)]
        if at_once in self._plan.batched:
            names.append(BATCH_GENERATOR)
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            if name == BATCH_GENERATOR:
                yield name, self._sides[IN_PROCESS].ask(some, settings, "batch")
            else:
                yield name, self._sides[name].ask(some, settings)

    def _at_once_of(self, name: str) -> tuple[int, ...]:
        if name == IN_PROCESS:
            return (1,)
        return self._plan.python_at_once if name == PYTHON else self._plan.at_once

    def _next_questions(self) -> tuple[list[Question], list[Question]]:
        """Return other questions than last time, where not all of them are asked, and those that
        come last after them: the server keeps the caches of its last ten prompts."""
        begin = self._asked % len(self._questions)
        self._asked += self._plan.questions
        turned = self._questions[begin:] + self._questions[:begin]
        return turned[: self._plan.questions], turned[::-1]

    def _check_prompts(
        self, name: str, asked: Sequence[Question], answers: Sequence[Answer]
    ) -> None:
        for question, answer in zip(asked, answers, strict=True):
            if answer.prompt_tokens != len(question.ids):
                raise SystemExit(
                    f"{name}: {question.text!r} has {answer.prompt_tokens} prompt tokens, "
                    f"{len(question.ids)} in process"
                )
            if answer.tokens != self._plan.tokens:
                raise SystemExit(f"{name}: {answer.tokens} tokens instead of {self._plan.tokens}")
