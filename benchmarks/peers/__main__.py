"""The same work from Node to Python through Isthmus and through published packages.

A lone echo, a hundred in flight, a thousand texts tokenized with a call each, a stream of a
thousand chunks. Every answer is compared. The packages are installed beside this file at first.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

from ..harness import ROOT, Options, commit, machine, option_parser, report
from . import chart, install, measures, results, rounds, table

_CHART: Final = ROOT / "benchmarks" / "results" / "peers.svg"


def main() -> None:
    """Measure, print the tables and the line of JSON, and write what was asked for."""
    chosen = _read_options()
    options = Options(chosen.quick, chosen.json)
    install.ensure()
    begun = time.monotonic()
    outcome = rounds.run(measures.QUICK if options.is_quick else measures.FULL)
    rows = results.rows(outcome)
    if rows[0].unavailable is not None:
        raise SystemExit(f"isthmus: {rows[0].unavailable}")
    compared = results.comparisons(outcome, rows)
    table.show(rows)
    report(
        options,
        "peers",
        [comparison.figure for comparison in compared],
        {
            "values": outcome.record.to_json(),
            "compared": {item.figure.key: item.to_json() for item in compared},
            "packages": install.versions(),
            "seconds": round(time.monotonic() - begun, 1),
        },
        _tables(rows),
    )
    _write(chosen, rows)


def _read_options() -> argparse.Namespace:
    parser = option_parser(__doc__ or "")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write a picture of the result")
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="put the table between this document's markers"
    )
    chosen = parser.parse_args()
    if chosen.docs is not None and not table.has_markers(chosen.docs):
        parser.error(f"{chosen.docs} has no {table.BEGIN} followed by {table.END}")
    if chosen.chart is None and chosen.json is not None and not chosen.quick:
        chosen.chart = _CHART
    return chosen


def _tables(rows: list[results.Row]) -> dict[str, Any]:
    ours, *others = rows
    return {
        "ours": ours.to_json(),
        "peers": {row.peer.name: row.to_json() for row in others},
        "ahead_of_all": results.ahead_of_all(rows),
    }


def _write(chosen: argparse.Namespace, rows: list[results.Row]) -> None:
    """Write the picture and the table of the documentation, where they are asked for."""
    described = machine()
    source = (
        f"{described['cpu']}, {described['cpus']} processors, {described['system']}, "
        f"Node {described['node']}, Python {described['python']}, commit {commit()}."
    )
    if chosen.chart is not None:
        chosen.chart.parent.mkdir(parents=True, exist_ok=True)
        chosen.chart.write_text(chart.to_svg(rows, source))
    if chosen.docs is not None:
        table.replace_between_markers(chosen.docs, table.to_markdown(rows, source))


if __name__ == "__main__":
    main()
