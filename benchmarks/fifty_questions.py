"""Fifty questions to the same models through Isthmus, mlx_lm.server and mlx-lm in one process.

The same weights, prompts, sampler and BLAS on every side; one question at a time, then 4, 8 and 16
at once. Greedy answers are compared token by token, timed ones have temperature 0.7. What a start
from nothing takes stands beside the figures of the running sides.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from .fifty import figures, models, passes, speculation, table
from .fifty.passes import Record, Sitting
from .harness import ROOT, Options, option_parser, report
from .publish import Publication, provenance

_PUBLICATION: Final = Publication("fifty", ROOT / "benchmarks" / "results" / "fifty_questions.svg")
_SPECULATED: Final = (50, 50)
_SPECULATED_QUICK: Final = (6, 24)


def main() -> None:
    """Measure, print the tables and the line of JSON, and write what was asked for."""
    chosen = _PUBLICATION.read_options(option_parser(__doc__ or ""))
    options = Options(chosen.quick, chosen.json)
    begun = time.monotonic()
    plans = passes.QUICK if options.is_quick else passes.FULL
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        written = models.write_all(Path(folder), options.is_quick)
        record = Record()
        _say("speculation: the embedded model with its draft model")
        count, tokens = _SPECULATED_QUICK if options.is_quick else _SPECULATED
        gains = speculation.measure(record.equality, count, tokens)
        for name, plan in plans.items():
            Sitting(record, written[name], plan, _say).run()
    for line in _conditions(record, written, options.is_quick):
        print(f"  {line}")
    table.show(record.results)
    detail = {
        **_measured(record),
        "speculation": gains.detail,
        "parameters": {name: model.parameters for name, model in written.items()},
        "plans": {name: asdict(plan) for name, plan in plans.items()},
        "seconds": round(time.monotonic() - begun, 1),
    }
    report(
        options,
        "fifty_questions",
        figures.figures(record, gains),
        detail,
        figures.further(record, gains),
    )
    source = provenance()
    _PUBLICATION.write(
        chosen, lambda: table.to_markdown(record, source), lambda: table.to_svg(record, source)
    )


def _measured(record: Record) -> dict[str, Any]:
    """Return what the passes have found, and one at a time what each question took."""
    results = record.results
    return {
        "passes": {"/".join(map(str, key)): results.summary(key).to_json() for key in results},
        "per_question": {
            f"{key.model}/{key.side}": results.by_question(key)
            for key in results
            if key.at_once == 1
        },
        "starts_s": record.starts,
        "equal": record.equality.to_json(),
        "prompt_tokens": record.prompt_tokens,
        "blas": record.blas,
    }


def _conditions(record: Record, written: dict[str, models.Written], is_quick: bool) -> list[str]:
    """Say under which conditions the figures are what they are."""
    lines = ["quick: fewer questions, tokens and layers; its figures decide nothing"] * is_quick
    for name, model in written.items():
        lines.append(
            f"{name}: {model.parameters / 1e6:.1f} M parameters; prompts of "
            f"{record.prompt_tokens[name]} tokens in all, the same on every side"
        )
    blas: dict[str, Any] = record.blas
    lines.append("BLAS: " + "; ".join(f"{side}: {name}" for side, name in blas.items()))
    return lines


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    main()
