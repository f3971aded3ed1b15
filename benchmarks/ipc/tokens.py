"""What the way through Node adds to tokens: delivery, generation, and the start from nothing."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..harness import Figure, percentile
from ..processes import Subject
from . import subjects
from .calls import Record

PROMPT: Final = "Tell me a short story about a bridge between two islands, and who built it."
DEEP_LAYERS: Final = 28
TOKENS: Final = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    generations: int
    deliveries: int
    delivered_tokens: int
    starts: int


QUICK: Final = Plan(16, 2, 100, 2)
FULL: Final = Plan(100, 10, 200, 10)


def measure(plan: Plan) -> tuple[list[Figure], dict[str, Any]]:
    """Measure everything of this module; return figures and detail."""
    record = Record()
    with (
        tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder,
        subjects.isthmus() as ours,
        subjects.stamped() as stamped,
        subjects.in_process() as direct,
    ):
        ours.ask("load", source="default")
        ids = ours.ask("ids", text=PROMPT)["ids"]
        blas = direct.ask("write_deep", folder=folder, layers=DEEP_LAYERS)["blas"]
        stamped.ask("load", source=str(Path(folder).resolve()))
        for index in range(plan.generations + 1):
            record.is_kept = index > 0
            generation(record, ours, direct, ids, index)
        for index in range(plan.deliveries + 1):
            record.is_kept = index > 0
            _delivery(record, stamped, ids, plan.delivered_tokens)
    with subjects.isthmus() as ours:
        ours.ask("load", source="default")
        for index in range(plan.starts + 1):
            record.is_kept = index > 0
            for key, value in ours.ask("start", source="default", ids=ids).items():
                record.add(f"start/{key}", value)
    detail = {"tokens": record.to_json(), "prompt_tokens": len(ids), "blas_in_process": blas}
    return _figures(record), detail


def generation(record: Record, ours: Subject, direct: Subject, ids: list[int], index: int) -> None:
    """Generate the same tokens both ways, in turns first; the difference is recorded under
    `generate/token_extra_us`."""
    pair = [("isthmus", ours), ("in_process", direct)]
    answers = {}
    for name, subject in pair if index % 2 else reversed(pair):
        answers[name] = answer = subject.ask("generate", ids=ids, maxTokens=TOKENS)
        record.add(f"generate/ttft_ms/{name}", answer["ttftMs"])
        record.add(f"generate/token_us/{name}", answer["tokenUs"])
    mine, theirs = answers["isthmus"], answers["in_process"]
    if mine["tokens"] != theirs["tokens"] or len(mine["tokens"]) != TOKENS:
        raise SystemExit("the two ways generate different tokens")
    record.add("generate/ttft_extra_ms", mine["ttftMs"] - theirs["ttftMs"])
    record.add("generate/token_extra_us", mine["tokenUs"] - theirs["tokenUs"])
    timing = mine["timing"]
    record.add("generate/part/queue_ms", timing["queueMs"])
    record.add("generate/part/prefill_ms", timing["prefillMs"])
    record.add("generate/part/ttft_in_runtime_ms", timing["ttftMs"])
    record.add("generate/part/ttft_outside_ms", mine["ttftMs"] - timing["ttftMs"])
    record.add("generate/part/token_us_in_runtime", timing["decodeMs"] * 1e3 / (TOKENS - 1))


def _delivery(record: Record, stamped: Subject, ids: list[int], tokens: int) -> None:
    """Subtract the engine's clock from the consumer's; both read CLOCK_MONOTONIC."""
    arrived = stamped.ask("generate", ids=ids, maxTokens=tokens)
    stamps = stamped.ask("stamps")["stamps"]
    if not len(arrived["at"]) == len(stamps["sampled"]) == len(stamps["heard"]) == tokens:
        raise SystemExit("tokens and stamps do not match")
    # The last one comes with the end of the stream, while the engine is idle again.
    rows = list(zip(arrived["at"], stamps["sampled"], stamps["heard"], strict=True))[:-1]
    whole = [(at - sampled) / 1e6 for at, sampled, _ in rows]
    record.add("delivery/ms", percentile(whole, 0.5))
    record.add("delivery/p99_ms", percentile(whole, 0.99))
    record.add("delivery/to_loop_ms", percentile([(h - s) / 1e6 for _, s, h in rows], 0.5))
    record.add("delivery/to_node_ms", percentile([(a - h) / 1e6 for a, _, h in rows], 0.5))
    record.add("delivery/token_ms", arrived["tokenUs"] / 1e3)


def _figures(record: Record) -> list[Figure]:
    def median(name: str) -> float:
        return record.spread(name).median

    return [
        Figure("token_delivery_ms", median("delivery/ms"), 0.3, "ms"),
        Figure("ttft_extra_ms", median("generate/ttft_extra_ms"), 3.0, "ms"),
        Figure("token_extra_us", median("generate/token_extra_us"), 40.0, "us"),
        Figure("spawn_to_hello_ms", median("start/helloMs"), 150.0, "ms"),
        Figure("spawn_to_first_token_s", median("start/firstTokenS"), 2.0, "s"),
    ]
