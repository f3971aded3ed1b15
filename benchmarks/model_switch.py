"""What keeping models in memory is worth to who switches between five of them.

Ten and a hundred switches in a skewed order, each followed by one short greedy generation: through
a runtime that keeps what was unloaded, through one that does not, and with mlx-lm in one process,
which loads each time. The runtimes are asked from Python. Every answer is compared.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from . import chart
from .chart import Bar, Panel
from .harness import ROOT, Figure, Options, Spread, option_parser, report, show, tidy
from .publish import Publication, markdown, number, provenance
from .switching import handle, models
from .switching.sides import PROMPT, Isthmus, MlxLm, Pass, Side

_PUBLICATION: Final = Publication("switch", ROOT / "benchmarks" / "results" / "model_switch.svg")
_SEED: Final = 5
_SKEW: Final = 1.0
"""The n-th most wanted model is asked for 1/n**_SKEW as often as the first."""

CACHED: Final = "isthmus, kept"
UNCACHED: Final = "isthmus, not kept"
RELOADED: Final = "mlx-lm, each time"
_COLOURS: Final = {CACHED: chart.OURS, UNCACHED: chart.OURS, RELOADED: chart.RIVAL}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    handle_rounds: int
    uncached: tuple[int, ...]
    """Of the numbers of switches, those that the runtime which keeps nothing goes through."""
    switches: tuple[int, ...] = (10, 100)


QUICK: Final = Plan(rounds=1, handle_rounds=5, uncached=(10,))
FULL: Final = Plan(rounds=3, handle_rounds=15, uncached=(10, 100))


def order(count: int, sources: list[Path], seed: int) -> list[Path]:
    """Return a skewed order in which all models occur and none follows itself."""
    rng = random.Random(seed)
    ranked = rng.sample(sources, len(sources))
    weights = [1 / (rank + 1) ** _SKEW for rank in range(len(ranked))]
    chosen = rng.sample(ranked, len(ranked))
    while len(chosen) < count:
        (following,) = rng.choices(ranked, weights)
        if following != chosen[-1]:
            chosen.append(following)
    return chosen


@dataclass(frozen=True, slots=True)
class Outcome:
    """All passes, by the number of switches and the side, and what was seen beside them."""

    passes: dict[int, dict[str, list[Pass]]]
    handles: dict[str, list[float]]
    reloads: int
    resident_mb: dict[str, float]
    blas: str

    def seconds(self, switches: int, side: str, part: str = "total_s") -> float:
        """Return the median of a part of the passes."""
        return median(getattr(each, part) for each in self.passes[switches][side])

    def ratio(self, switches: int, part: str = "total_s", side: str = CACHED) -> float:
        """Return how many times as long mlx-lm takes: the median of the rounds."""
        taken = self.passes[switches]
        return median(
            getattr(theirs, part) / getattr(ours, part)
            for theirs, ours in zip(taken[RELOADED], taken[side], strict=True)
        )


async def measure(plan: Plan, sources: list[Path]) -> Outcome:
    """Have the sides take turns."""
    reloading = MlxLm()
    asked = reloading.subject.ask("ids", source=str(sources[0]), text=PROMPT)
    cached, uncached = await Isthmus.start(True), await Isthmus.start(False)
    sides: dict[str, Side] = {CACHED: cached, UNCACHED: uncached, RELOADED: reloading}
    passes: dict[int, dict[str, list[Pass]]] = {
        count: {name: [] for name in sides if name != UNCACHED or count in plan.uncached}
        for count in plan.switches
    }
    try:
        for side in sides.values():  # reads every file once
            await side.switch(sources, asked["ids"])
        for index in range(plan.rounds):
            for count, taken in passes.items():
                wanted = order(count, sources, _SEED + index)
                for name in taken if index % 2 else reversed(taken):
                    taken[name].append(await sides[name].switch(wanted, asked["ids"]))
                _compare([each[-1] for each in taken.values()])
        handles = await handle.measure(plan.handle_rounds)
    finally:
        await cached.close()
        await uncached.close()
        reloading.subject.close()
    return Outcome(passes, handles, cached.reloads, cached.resident_mb, asked["blas"])


def _compare(passes: list[Pass]) -> None:
    """End the run when two sides answer differently."""
    if any(each.answers != passes[0].answers for each in passes):
        raise SystemExit("the sides do not answer with the same tokens")


def figures(outcome: Outcome) -> list[Figure]:
    """Return what has to be reached."""

    saved = 100 * (1 - 1 / outcome.ratio(100, "load_s"))
    return [
        Figure("switch10_speedup", outcome.ratio(10), 1.2, "times", is_least=True),
        Figure("switch100_speedup", outcome.ratio(100), 3.0, "times", is_least=True),
        Figure("load_time_saved_at_100", saved, 90.0, "%", is_least=True),
        Figure("cached_handle_us", median(outcome.handles["handle_us"]), 50.0, "us"),
        Figure("reloads", outcome.reloads, 0, "loads"),
    ]


def table(outcome: Outcome) -> str:
    """Return the table of the document."""
    rows = []
    for count, sides in outcome.passes.items():
        for name in sides:
            total_s, load_s = outcome.seconds(count, name), outcome.seconds(count, name, "load_s")
            cells = [number(load_s), number(total_s), number(total_s / count * 1e3)]
            rows.append([str(count), name, *cells, number(outcome.ratio(count, side=name))])
    titles = ["switches", "side", "loads, s", "all, s", "a switch, ms", "times as fast"]
    seen = outcome.resident_mb
    return (
        f"{markdown(titles, rows, names=2)}\n\n"
        f"Resident size of the runtime that keeps models: {number(seen['before'])} MB before a "
        f"pass, {number(seen['loaded'])} MB with five models, {number(seen['evicted'])} MB after "
        f"they were evicted. {provenance()}"
    )


def picture(outcome: Outcome) -> str:
    """Return the totals as bars."""
    panels = [
        Panel(
            f"{count} switches over five models, s",
            [Bar(name, outcome.seconds(count, name), _COLOURS[name]) for name in sides],
            is_rate=False,
        )
        for count, sides in outcome.passes.items()
    ]
    return chart.to_svg("Switching between models", panels, (provenance(),))


def main() -> None:
    """Measure, print the tables and the line of JSON, and write what was asked for."""
    chosen = _PUBLICATION.read_options(option_parser(__doc__ or ""))
    options = Options(chosen.quick, chosen.json)
    begun = time.monotonic()
    plan = QUICK if options.is_quick else FULL
    if options.is_quick:
        print("  quick: smaller models and one round; its figures decide nothing")
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        sources = models.write_all(Path(folder).resolve(), options.is_quick)
        sizes = {each.name: _weight_mb(each) for each in sources}
        outcome = asyncio.run(measure(plan, sources))
    summaries = {
        f"{count} switches/{name}/{part}": Spread.of(
            [getattr(each, part) for each in taken]
        ).to_json()
        for count, sides in outcome.passes.items()
        for name, taken in sides.items()
        for part in ("load_s", "total_s")
    }
    show("switches, s", summaries)
    beside: dict[str, Any] = {
        "rss_mb": {name: tidy(size) for name, size in outcome.resident_mb.items()},
        "cached_load_us": tidy(median(outcome.handles["load_and_unload_us"])),
    }
    print(f"\n  resident size, MB    {beside['rss_mb']}")
    print(f"  load_model and unload_model of a model in memory, us    {beside['cached_load_us']}")
    detail = {
        "switches": summaries,
        "handle_us": Spread.of(outcome.handles["handle_us"]).to_json(),
        "weights_mb": sizes,
        "blas": outcome.blas,
        "seconds": round(time.monotonic() - begun, 1),
    }
    _PUBLICATION.write(chosen, lambda: table(outcome), lambda: picture(outcome))
    report(options, "model_switch", figures(outcome), detail, beside)


def _weight_mb(folder: Path) -> float:
    return tidy((folder / "model.safetensors").stat().st_size / 1e6)


if __name__ == "__main__":
    main()
