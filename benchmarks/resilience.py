"""What resilience costs where all is well, and what it saves where not.

The layer around calls of a model, on a call that succeeds; generations of which 0, 5, 10 and 20 %
fail, with the layer and without; and a runtime that is killed while idle, until it tokenizes again
through the same `Model`, against one that is started anew.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from .harness import Figure, read_options, report, show
from .recovery import failures, overhead, restart


@dataclass(frozen=True, slots=True)
class Plan:
    """How many rounds of each are measured."""

    overhead: int
    failures: int
    restarts: int


QUICK: Final = Plan(40, 6, 3)
FULL: Final = Plan(200, 40, 20)


def main() -> None:
    """Measure, print the tables and the line of JSON."""
    options = read_options(__doc__ or "")
    plan = QUICK if options.is_quick else FULL
    begun = time.monotonic()
    added = overhead.measure(plan.overhead)
    sides, retries = failures.measure(plan.failures)
    restarts = restart.measure(plan.restarts)
    removed = {
        rate: 1 - failures.penalty_ms(sides, rate, True) / failures.penalty_ms(sides, rate, False)
        for rate in failures.RATES
        if rate
    }
    rows = failures.table(sides)
    show("guarding and restarting", {"success, us": added.to_json()} | _json(restarts))
    for row in rows:
        print("  " + "  ".join(f"{name} {value:g}" for name, value in row.items()))
    figures = [
        Figure("success_overhead_us", added.median, 1.0, "us"),
        Figure("penalty_removed_at_10pct", removed[0.10], 0.875, "", is_least=True),
        Figure("completed_at_20pct", sides[0.20, True].completed, 0.98, "", is_least=True),
        Figure("restart_vs_fresh_start", restarts["ratio"].median, 1.5, "times"),
    ]
    detail: dict[str, Any] = {
        "success_overhead_us": added.to_json(),
        "failures": rows,
        "penalty_removed": {f"{rate:g}": removed[rate] for rate in removed},
        "retries": retries,
        "restarts": _json(restarts),
        "seconds": round(time.monotonic() - begun, 1),
    }
    report(options, "resilience", figures, detail)


def _json(spreads: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: spread.to_json() for name, spread in spreads.items()}


if __name__ == "__main__":
    main()
