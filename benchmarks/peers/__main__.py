"""The same work from Node to Python through Isthmus and through published packages.

A lone echo, a hundred in flight, a thousand texts tokenized with a call each, a stream of a
thousand chunks. Every answer is compared. The packages are installed beside this file at first.
"""

from __future__ import annotations

import time
from typing import Any, Final

from ..harness import ROOT, Options, option_parser, report
from ..publish import Publication, provenance
from . import chart, install, measures, results, rounds, table

_PUBLICATION: Final = Publication("peers", ROOT / "benchmarks" / "results" / "peers.svg")


def main() -> None:
    """Measure, print the tables and the line of JSON, and write what was asked for."""
    chosen = _PUBLICATION.read_options(option_parser(__doc__ or ""))
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
    source = provenance()
    _PUBLICATION.write(
        chosen, lambda: table.to_markdown(rows, source), lambda: chart.to_svg(rows, source)
    )


def _tables(rows: list[results.Row]) -> dict[str, Any]:
    ours, *others = rows
    return {
        "ours": ours.to_json(),
        "peers": {row.peer.name: row.to_json() for row in others},
        "ahead_of_all": results.ahead_of_all(rows),
    }


if __name__ == "__main__":
    main()
