"""Puts a benchmark's result where people read it: a table in a document, a picture beside it.

The table replaces what stands between two markers of the document. Knows no benchmark.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .harness import commit, machine


@dataclass(frozen=True, slots=True)
class Publication:
    """Where one benchmark is published.

    Attributes:
        marker: Names its markers in a document.
        chart: Where its picture goes when a full run writes its figures.
    """

    marker: str
    chart: Path

    def read_options(self, parser: argparse.ArgumentParser) -> argparse.Namespace:
        """Add `--chart` and `--docs` to a benchmark's options and read the command line."""
        parser.add_argument("--chart", type=Path, metavar="FILE", help="write a picture")
        parser.add_argument(
            "--docs", type=Path, metavar="FILE", help="put the table between this one's markers"
        )
        chosen = parser.parse_args()
        if chosen.docs is not None and not self._is_marked(chosen.docs):
            parser.error(f"{chosen.docs} has no {self._begin} followed by {self._end}")
        if chosen.chart is None and chosen.json is not None and not chosen.quick:
            chosen.chart = self.chart
        return chosen

    def write(
        self, chosen: argparse.Namespace, table: Callable[[], str], picture: Callable[[], str]
    ) -> None:
        """Write what the options ask for."""
        if chosen.chart is not None:
            chosen.chart.parent.mkdir(parents=True, exist_ok=True)
            chosen.chart.write_text(picture())
        if chosen.docs is not None:
            head, rest = chosen.docs.read_text().split(self._begin, 1)
            tail = rest.split(self._end, 1)[1]
            chosen.docs.write_text(f"{head}{self._begin}\n{table()}\n{self._end}{tail}")

    @property
    def _begin(self) -> str:
        return f"<!-- {self.marker}:begin -->"

    @property
    def _end(self) -> str:
        return f"<!-- {self.marker}:end -->"

    def _is_marked(self, path: Path) -> bool:
        return path.is_file() and self._end in path.read_text().partition(self._begin)[2]


def provenance() -> str:
    """Say on what the figures were measured."""
    described = machine()
    return (
        f"{described['cpu']}, {described['cpus']} processors, {described['system']}, "
        f"Node {described['node']}, Python {described['python']}, commit {commit()}."
    )


def number(value: float) -> str:
    """Write a value with as many digits as mean something."""
    if value >= 1_000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Return a table whose first `names` columns are names, the others numbers."""
    rules = ["---"] * names + ["---:"] * (len(titles) - names)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows))
