"""What `benchmarks.streaming` measures: a token's price, and what streams do to each other."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..fifty import models, questions
from ..harness import Figure, node_path, percentile, tidy
from ..ipc import subjects, tokens
from ..ipc.calls import Record
from ..processes import Subject

STREAMS: Final = 8
_ECHO_EVERY_MS: Final = 5
_TOKENIZE_EVERY_MS: Final = 20
_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "titles": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 4_000}}
    },
    "required": ["titles"],
    "additionalProperties": False,
}
"""What no answer of so few tokens can complete."""

_SLOW_MS: Final = 100
"""What the slow reader rests after each delta; its stream is out of credit most of the time."""

_CREDIT: Final = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured; tokens are those of each stream.

    Attributes:
        generations: Of one stream, each way.
        lag_tokens: While echoes go there and back.
        tokenize_tokens: While texts are tokenized, on the large model.
        reader_rounds: With the slow reader and without.
        constrained_rounds: Of one stream on the large model, with a JSON schema and without.
    """

    generations: int
    lag_tokens: int
    tokenize_tokens: int
    reader_rounds: int
    reader_tokens: int
    constrained_rounds: int
    constrained_tokens: int


QUICK: Final = Plan(8, 120, 24, 1, 60, 6, 24)
FULL: Final = Plan(60, 1_500, 60, 5, 200, 12, 32)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures with a target, those without, and the detail."""

    figures: list[Figure]
    further: dict[str, Any]
    detail: dict[str, Any]


def measure(plan: Plan, is_quick: bool) -> Outcome:
    """Measure everything."""
    record = Record()
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        written = models.write_all(Path(folder), is_quick)
        embedded, large = (str(written[name].folder) for name in (models.EMBEDDED, models.LARGE))
        _price(record, plan)
        with _streams() as ours:
            for source in (embedded, large):
                ours.ask("load", source=source)
            _readers(record, ours, embedded, plan)
            lag = _beside(ours, embedded, "echo", _ECHO_EVERY_MS, plan.lag_tokens)
            _constrained(record, ours, _with_end_token(Path(large)), plan)
            tokenized = _beside(ours, large, "tokenize", _TOKENIZE_EVERY_MS, plan.tokenize_tokens)
    detail = {
        "streams": record.to_json(),
        "echo_ms": _percentiles(lag["waits"]),
        "loop_lag_max_ms": {"embedded": lag["loopLagMaxMs"], "large": tokenized["loopLagMaxMs"]},
        "tokenize_ms": _percentiles(tokenized["waits"]),
        "large_parameters": written[models.LARGE].parameters,
    }
    slow = percentile(tokenized["waits"], 0.99)
    further = {
        "token_extra_us": tidy(record.spread("generate/token_extra_us").median),
        "loop_lag_p99_ms": tidy(percentile(lag["waits"], 0.99)),
        "slow_reader_slowdown": tidy(record.ratio(_WITH_SLOW, _WITHOUT_SLOW).median),
    }
    constrained = record.ratio(_CONSTRAINED, _FREE).median
    figures = [
        Figure("tokenize_p99_ms_under_decode", slow, 10, "ms"),
        Figure("constrained_token_ratio", constrained, 1.1, "times"),
    ]
    return Outcome(figures, further, detail)


def _price(record: Record, plan: Plan) -> None:
    """Generate with one stream from Node and in one process, in turns."""
    with subjects.isthmus() as ours, subjects.in_process() as direct:
        ours.ask("load", source="default")
        ids = ours.ask("ids", text=tokens.PROMPT)["ids"]
        for index in range(plan.generations + 1):
            record.is_kept = index > 0
            tokens.generation(record, ours, direct, ids, index)


_WITH_SLOW: Final = "fast_tokens_per_s/with_slow_reader"
_WITHOUT_SLOW: Final = "fast_tokens_per_s/without"


def _readers(record: Record, ours: Subject, source: str, plan: Plan) -> None:
    """Read seven streams at once, with and without a slow reader on the eighth."""
    asked = _asked(source, plan.reader_tokens)
    ways: dict[str, dict[str, Any]] = {_WITHOUT_SLOW: {}, _WITH_SLOW: {"slowMs": _SLOW_MS}}
    for index in range(plan.reader_rounds + 1):
        record.is_kept = index > 0
        for name, way in ways.items() if index % 2 else reversed(ways.items()):
            answer = ours.ask("together", credit=_CREDIT, **asked, **way)
            record.add(name, answer["tokensPerS"])
            if way and answer["slowTokens"] >= plan.reader_tokens:
                raise SystemExit("the slow reader has read its stream to the end")


_FREE: Final = "token_ms/free"
_CONSTRAINED: Final = "token_ms/constrained"


def _with_end_token(folder: Path) -> str:
    """Return a copy of a model that can end its texts, as a format demands."""
    copy = folder.parent / f"{folder.name}-ending"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "eos_token_id": 0}))
    return str(copy)


def _constrained(record: Record, ours: Subject, source: str, plan: Plan) -> None:
    """Generate with one stream, with and without a JSON schema, in turns."""
    ours.ask("load", source=source)
    question = questions.texts()[0]
    formats = {_FREE: None, _CONSTRAINED: {"type": "json_schema", "schema": _SCHEMA}}
    for index in range(plan.constrained_rounds + 1):
        record.is_kept = index > 0
        for name, wanted in formats.items() if index % 2 else reversed(formats.items()):
            answer = ours.ask(
                "alone",
                source=source,
                question=question,
                maxTokens=plan.constrained_tokens,
                responseFormat=wanted,
            )
            record.add(name, answer["tokenMs"])


def _beside(
    ours: Subject, source: str, call: str, every_ms: int, stream_tokens: int
) -> dict[str, Any]:
    return ours.ask("beside", call=call, everyMs=every_ms, **_asked(source, stream_tokens))


def _asked(source: str, stream_tokens: int) -> dict[str, Any]:
    chosen = questions.texts()[:STREAMS]
    return {"source": source, "questions": chosen, "maxTokens": stream_tokens}


def _percentiles(waits: list[float]) -> dict[str, float]:
    found = {f"p{part}": tidy(percentile(waits, part / 100)) for part in (50, 95, 99)}
    return {**found, "max": tidy(max(waits)), "n": len(waits)}


def _streams() -> Subject:
    here = Path(__file__).resolve().parent
    return Subject("isthmus", [node_path(), str(here / "isthmus.mjs"), sys.executable])
