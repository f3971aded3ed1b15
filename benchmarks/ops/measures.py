"""What `benchmarks.ops_batching` measures, round by round; every comparison is within a round."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any, Final

from ..harness import Figure, percentile
from ..ipc import subjects
from ..ipc.calls import Record
from ..processes import CAN_PIN, Subject, on_one_cpu
from ..texts import TOKENIZER, Texts

TEXTS: Final = 1_000
DRAFTS: Final = 64
DRAFT_TOKENS: Final = 4
SCENES: Final = ("sea", "city", "winter forest", "old house", "sky", "road", "river", "quiet room")
LONG_CHARS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    lone_calls: int
    poisson_seconds: float
    """Of each rate, in all rounds together."""


QUICK: Final = Plan(4, 200, 3.0)
FULL: Final = Plan(20, 500, 30.0)


class Everyone:
    """The subjects, alive together."""

    def __init__(self) -> None:
        here = subjects.HERE.parent / "ops"
        node = subjects.node_path()
        self.ours = Subject(
            "isthmus", [node, "--expose-gc", str(here / "isthmus.mjs"), sys.executable]
        )
        command = [sys.executable, "-m", "benchmarks.ops.encode_peer", str(TOKENIZER)]
        self.floor = Subject("in process", command)
        self.serial = subjects.serial("--tokenizer", str(TOKENIZER))

    def close(self) -> None:
        """End them."""
        for subject in (self.ours, self.floor, self.serial):
            subject.close()


def measure(plan: Plan) -> tuple[list[Figure], dict[str, Any]]:
    """Measure everything; return figures and detail."""
    everyone, texts, record = Everyone(), Texts(), Record()
    times: dict[str, list[float]] = {name: [] for name in _ARRIVALS}
    try:
        checks = _drafts(everyone.ours)
        for index in range(plan.rounds + 1):
            record.is_kept = index > 0
            _tokenize(record, everyone, texts, index)
            _lone(record, everyone.ours, texts, plan)
            _long(record, everyone.ours, texts)
            for name, some in checks.items():
                answer = everyone.ours.ask("drafts", checks=some)
                for key, value in answer.items():
                    record.add(f"check_draft/{name}/{key}", value)
            if index > 0:
                _poisson(times, everyone.ours, texts, plan, index)
    finally:
        everyone.close()
    detail = {"ops": record.to_json(), "poisson": _summary(times)}
    return _figures(record, times), detail


def _tokenize(record: Record, everyone: Everyone, texts: Texts, index: int) -> None:
    """Measure each way with some batches in a row: the first one wakes processes, fills caches."""
    names = list(_WAYS)
    shift = index % len(names)
    for name in names[shift:] + names[:shift]:
        batches = [texts.batch(TEXTS).both() for _ in range(_BATCHES)]
        answer = _WAYS[name](everyone, batches)
        record.add(f"tokenize1000_ms/{name}", median(answer["ms"][1:]))
        if name == "on":
            record.add("frames_per_call", answer["framesPerCall"])


_BATCHES: Final = 4
_WAYS: Final[dict[str, Callable[[Everyone, list[dict[str, Any]]], dict[str, Any]]]] = {
    "on": lambda everyone, batches: everyone.ours.ask("all", which="on", batches=batches),
    "in_process": lambda everyone, batches: everyone.floor.ask("encode", batches=batches),
    "off": lambda everyone, batches: everyone.ours.ask("all", which="off", batches=batches),
    "batch_api": lambda everyone, batches: everyone.ours.ask("batch", batches=batches),
    "serial_json": lambda everyone, batches: everyone.serial.ask("all", batches=batches),
}


def _lone(record: Record, ours: Subject, texts: Texts, plan: Plan) -> None:
    for place in ("pinned", "free") if CAN_PIN else ("free",):
        both = texts.batch(plan.lone_calls).both()
        if place == "pinned":
            with on_one_cpu([ours]):
                answer = ours.ask("lone", **both)
        else:
            answer = ours.ask("lone", **both)
        for which in ("on", "off"):
            record.add(f"lone_us/{place}/{which}", answer[which]["p50"])


def _long(record: Record, ours: Subject, texts: Texts) -> None:
    text, count = texts.long(LONG_CHARS)
    answer = ours.ask("beside", text=text, count=count)
    for key in ("p50", "p99", "max", "n"):
        record.add(f"echo_ms_beside_1mb/{key}", answer[key])
    short = texts.batch(TEXTS - 1).both()
    record.add("mixed_ms/with_1mb", ours.ask("mixed", text=text, **short)["ms"])


def _poisson(
    times: dict[str, list[float]], ours: Subject, texts: Texts, plan: Plan, index: int
) -> None:
    for name, (rate, is_echo) in _ARRIVALS.items():
        # A rate that is not slow needs no more calls than that for its percentiles.
        calls = min(int(rate * plan.poisson_seconds / plan.rounds), 4_000)
        both = texts.batch(calls).both()
        answer = ours.ask("poisson", rate=rate, seed=index, isEcho=is_echo, **both)
        times[name] += answer["times"]


_ARRIVALS: Final = {
    "tokenize 200/s": (200, False),
    "tokenize 2000/s": (2_000, False),
    "tokenize 20000/s": (20_000, False),
    "echo 200/s": (200, True),
}
"""What arrives at random; the echo shows what the machine itself adds after a rest."""


def _drafts(ours: Subject) -> dict[str, list[dict[str, Any]]]:
    """Return drafts of different prompts, and of one prompt, most of them wrong somewhere."""
    rng = random.Random(20)
    questions = [
        f"What is {first} plus {second}?" if first % 2 else f"Describe the {SCENES[second]}."
        for first, second in product(range(8), range(8))
    ]
    answers = ours.ask("answers", questions=questions, maxTokens=DRAFT_TOKENS)["ids"]

    def check(question: str, ids: list[int]) -> dict[str, Any]:
        draft = list(ids)
        wrong = rng.randrange(2 * DRAFT_TOKENS)
        if wrong < DRAFT_TOKENS:
            draft[wrong] = rng.randrange(5, 700)
        return {"messages": [{"role": "user", "content": question}], "draft": draft}

    return {
        "prompts": [check(*pair) for pair in zip(questions, answers, strict=True)],
        "one_prompt": [check(questions[0], answers[0]) for _ in range(DRAFTS)],
    }


def _summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "p50_us": round(percentile(values, 0.5), 1),
            "p99_us": round(percentile(values, 0.99), 1),
            "n": len(values),
        }
        for name, values in times.items()
    }


def _figures(record: Record, times: dict[str, list[float]]) -> list[Figure]:
    ms = "tokenize1000_ms"
    place = "pinned" if CAN_PIN else "free"
    slow_p99 = percentile(times["tokenize 200/s"], 0.99)
    lone = record.spread("lone_us/free/on").median
    draft = "check_draft"
    return [
        Figure(
            "tokenize1000_vs_encode_batch",
            record.ratio(f"{ms}/on", f"{ms}/in_process").median,
            1.3,
            "times",
        ),
        Figure(
            "tokenize1000_vs_serial_json",
            record.ratio(f"{ms}/serial_json", f"{ms}/on").median,
            6,
            "times",
            True,
        ),
        Figure("frames_per_call", record.spread("frames_per_call").median, 0.05, "frames"),
        Figure(
            "lone_vs_unmultiplexed",
            record.ratio(f"lone_us/{place}/on", f"lone_us/{place}/off").median,
            1.1,
            "times",
        ),
        Figure("p99_vs_lone_at_200", slow_p99 / lone, 3, "times"),
        Figure(
            "check_draft_batch_speedup",
            record.ratio(f"{draft}/prompts/aloneMs", f"{draft}/prompts/togetherMs").median,
            5,
            "times",
            True,
        ),
        Figure(
            "check_draft_one_prompt_speedup",
            record.ratio(f"{draft}/one_prompt/aloneMs", f"{draft}/one_prompt/togetherMs").median,
            5,
            "times",
            True,
        ),
        Figure("echo_max_ms_beside_1mb", record.spread("echo_ms_beside_1mb/max").median, 10, "ms"),
    ]
