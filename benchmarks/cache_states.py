"""What sessions are worth: the time to the first token, cold, warm and hot, beside bare mlx-lm.

Cold is a prompt that nobody has seen, warm one whose beginning the runtime has on disk after it was
started again, hot one whose beginning it has in memory. All sides go through the same conversations
round by round, and every answer is compared. Beside it: what is written and read, how long a
look-up takes, and whether the runtime's loop stands still meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .harness import ROOT, Figure, Options, Spread, option_parser, report, tidy
from .publish import Publication, provenance
from .states import lookup, models, stalls, table, writing
from .states.models import MEDIUM, SMALL
from .states.results import Key, Record, Way
from .states.rounds import Plan, Sitting
from .states.sides import BLAS, FLOOR, NODE, start_isthmus
from .states.stalls import Stalls
from .states.talks import COLD, HOT, WARM
from .states.writing import Writes

_PUBLICATION: Final = Publication("states", ROOT / "benchmarks" / "results" / "cache_states.svg")
_TARGET_LENGTHS: Final = (1_024, 2_048, 4_096)
"""Longer ones are reported, on another model, and decide nothing."""

_WAYS: Final = (Way(1, False), Way(2, True), Way(2, False))


@dataclass(frozen=True, slots=True)
class Whole:
    """How much is measured.

    Attributes:
        plans: What is asked of each model.
        turns: Which model has a conversation of equal turns, and how long it becomes.
        stall: Which model's session is saved and read, how long it is, and how often it is read.
        look_ups: Of each kind.
    """

    plans: dict[str, Plan]
    turns: tuple[str, int]
    stall: tuple[str, int, int]
    look_ups: int


QUICK: Final = Whole(
    {
        MEDIUM: Plan(
            (1_024, 2_048),
            rounds=2,
            max_tokens=8,
            steps=(512,),
        )
    },
    turns=(SMALL, 1_536),
    stall=(SMALL, 4_096, 3),
    look_ups=10,
)
FULL: Final = Whole(
    {
        MEDIUM: Plan(
            _TARGET_LENGTHS,
            rounds=5,
            max_tokens=16,
            has_python=True,
            ways=_WAYS,
            way_rounds=2,
            way_lengths=_TARGET_LENGTHS,
        ),
        SMALL: Plan((8_192, 16_384, 32_768), rounds=3, max_tokens=16),
    },
    turns=(MEDIUM, 4_096),
    stall=(SMALL, 32_768, 5),
    look_ups=30,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found."""

    record: Record
    writes: Writes
    stalls: Stalls
    look_ups: dict[str, list[float]]
    token_bytes: dict[str, int]

    def over_floor(self, state: str) -> dict[str, float]:
        """Return the times to the first token over the floor's, by context."""
        return self._ratios(state, lambda length: table.floor_of(length, state))

    def under_cold(self, state: str) -> dict[str, float]:
        """Return how many times as long a cold prompt takes, by context."""
        ratios = self._ratios(state, lambda length: table.key_of(length, NODE, COLD))
        return {length: 1 / ratio for length, ratio in ratios.items()}

    def _ratios(self, state: str, below: Callable[[int], Key]) -> dict[str, float]:
        return {
            str(length): self.record.ratio(table.key_of(length, NODE, state), below(length))
            for length in table.lengths(self.record)
        }


def measure(whole: Whole, is_quick: bool, folder: Path) -> Outcome:
    """Measure everything."""
    written = models.write_all(folder, is_quick)
    record = Record()
    for name, plan in whole.plans.items():
        _say(f"{name}: contexts of {', '.join(map(table.label, plan.lengths))}")
        Sitting(record, written[name], plan, folder).run()
    _say("what is written, and whether the loop stands still")
    (talking, turns_tokens), (long, stall_tokens, restores) = whole.turns, whole.stall
    with start_isthmus(NODE) as subject:
        sources = sorted({written[name].source for name in (talking, long)})
        subject.ask("start", dir=str(folder / "sessions"), sources=sources)
        writes = writing.measure(subject, written[talking], turns_tokens)
        stalled = stalls.measure(subject, written[long], stall_tokens, restores)
    look_ups = lookup.measure(folder / "lookup", whole.look_ups)
    token_bytes = {name: model.shape.token_bytes for name, model in written.items()}
    return Outcome(record, writes, stalled, look_ups, token_bytes)


def figures(outcome: Outcome) -> list[Figure]:
    """Return what has to be reached."""
    worst = {state: _worst(outcome.over_floor(state)) for state in (COLD, WARM, HOT)}
    record = outcome.record
    return [
        Figure("cold_vs_floor_worst", worst[COLD], 1.02, "times"),
        Figure("warm_vs_floor_worst", worst[WARM], 1.25, "times"),
        Figure("hot_vs_floor_worst", worst[HOT], 1.25, "times"),
        Figure("bytes_per_turn_vs_chunk", outcome.writes.per_turn, 1.1, "times"),
        Figure("shared_write_tokens_ratio", outcome.writes.shared, 1.1, "times"),
        Figure("lookup_32k_ms", _slowest_look_up(outcome), 5.0, "ms"),
        Figure("loop_stall_ms", outcome.stalls.lag_ms, 20.0, "ms"),
        Figure("tokens_equal", float(not record.different), 1.0, "", is_least=True),
    ]


def _worst(ratios: dict[str, float]) -> float:
    return max(ratio for length, ratio in ratios.items() if int(length) in _TARGET_LENGTHS)


def _slowest_look_up(outcome: Outcome) -> float:
    return max(Spread.of(taken).median for taken in outcome.look_ups.values())


def further(outcome: Outcome) -> dict[str, Any]:
    """Return the ratios by context, and the proof that prompts were not evaluated."""
    record = outcome.record
    ratios = {
        **{f"{state}_vs_floor": outcome.over_floor(state) for state in (COLD, WARM, HOT)},
        **{f"cold_vs_{state}": outcome.under_cold(state) for state in (WARM, HOT)},
        "hot_vs_forward": {
            str(length): record.ratio(
                table.key_of(length, NODE, HOT), table.key_of(length, FLOOR, HOT)
            )
            for length in table.lengths(record)
        },
    }
    reused = {
        f"{length}/{state}": record.spread(table.key_of(length, NODE, state), "reused_tokens")
        for length in table.lengths(record)
        for state in (COLD, WARM, HOT)
    }
    return {
        **{name: {at: tidy(ratio) for at, ratio in each.items()} for name, each in ratios.items()},
        "reused_tokens": {name: spread.median for name, spread in reused.items()},
    }


def _detail(outcome: Outcome, whole: Whole, seconds: float) -> dict[str, Any]:
    record = outcome.record
    return {
        "states": record.to_json(),
        "compared": record.compared,
        "different": record.different,
        "evaluated_again": record.reasons(),
        "cold_pass_tokens_ms": record.steps,
        "writes": outcome.writes.to_json(),
        "stalls": asdict(outcome.stalls),
        "look_ups_ms": {name: Spread.of(each).to_json() for name, each in outcome.look_ups.items()},
        "token_bytes": outcome.token_bytes,
        "plans": asdict(whole),
        "blas": record.blas,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Measure, print the tables and the line of JSON, and write what was asked for."""
    chosen = _PUBLICATION.read_options(option_parser(__doc__ or ""))
    options = Options(chosen.quick, chosen.json)
    begun = time.monotonic()
    whole = QUICK if options.is_quick else FULL
    if options.is_quick:
        _say("quick: short contexts and few rounds; its figures decide nothing")
    _say(f"BLAS: {BLAS.name}")
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        outcome = measure(whole, options.is_quick, Path(folder).resolve())
    table.show(outcome.record)
    detail = _detail(outcome, whole, time.monotonic() - begun)
    source = provenance()
    _PUBLICATION.write(
        chosen,
        lambda: table.to_markdown(outcome.record, source),
        lambda: table.to_svg(outcome.record, source),
    )
    report(options, "cache_states", figures(outcome), detail, further(outcome))


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    main()
