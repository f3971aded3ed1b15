"""What every benchmark shares: options, a description of the machine, statistics and the report.

A benchmark interleaves its subjects round by round in one run, drops the first round, and ends with
one line of JSON. Nothing here knows what is measured; `processes` has the subjects.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""


@dataclass(frozen=True, slots=True)
class Options:
    """What every benchmark can be told."""

    is_quick: bool
    json_path: Path | None


def read_options(description: str) -> Options:
    """Read `--quick` and `--json FILE` from the command line."""
    chosen = option_parser(description).parse_args()
    return Options(chosen.quick, chosen.json)


def option_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark has, for more to be added."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds; under 50 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, their interquartile range and their number."""

    median: float
    iqr: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarise at least one value."""
        quarters = quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        return cls(median(values), quarters[2] - quarters[0], len(values))

    def to_json(self) -> dict[str, float]:
        """Return the three figures, rounded to four significant digits."""
        return {"median": tidy(self.median), "iqr": tidy(self.iqr), "n": self.n}


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that `part` of the values lie below."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


def tidy(value: float) -> float:
    """Return `value` with four significant digits."""
    return float(f"{value:.4g}")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result: a measured value and what it has to reach.

    Attributes:
        key: Its name in the last line.
        value: What was measured.
        target: What to reach.
        is_least: Whether `target` is the least allowed, not the most.
        unit: For the table.
    """

    key: str
    value: float
    target: float
    unit: str
    is_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.target if self.is_least else self.value <= self.target

    def row(self) -> str:
        """Return the line of the table."""
        bound = f"{'>=' if self.is_least else '<='} {self.target:g}"
        verdict = "met" if self.is_met else "NOT MET"
        return f"  {self.key:<40}{self.value:>10.4g} {bound:>10} {self.unit:<12}{verdict}"


def show(title: str, summaries: dict[str, dict[str, float]]) -> None:
    """Print a table of medians with their spread."""
    print(f"\n  {title:<52}{'median':>12}{'iqr':>12}{'n':>5}")
    for name, summary in summaries.items():
        print(f"  {name:<52}{summary['median']:>12g}{summary['iqr']:>12g}{summary['n']:>5g}")


def report(
    options: Options,
    name: str,
    figures: Sequence[Figure],
    detail: dict[str, Any],
    tables: Mapping[str, Any] | None = None,
) -> None:
    """Print the table and, as the last line, one JSON object with all figures and `tables`."""
    print("\n  figure" + " " * 34 + "  measured     target")
    for figure in figures:
        print(figure.row())
    line: dict[str, Any] = {figure.key: tidy(figure.value) for figure in figures}
    line |= tables or {}
    line["benchmark"] = name
    line["is_quick"] = options.is_quick
    line["missed"] = [figure.key for figure in figures if not figure.is_met]
    line["detail"] = detail
    line["machine"] = machine()
    line["commit"] = commit()
    if options.json_path is not None:
        options.json_path.parent.mkdir(parents=True, exist_ok=True)
        options.json_path.write_text(json.dumps(line, indent=2) + "\n")
    print(json.dumps(line), flush=True)


def machine() -> dict[str, Any]:
    """Describe the machine: a figure without it says nothing."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "node": _first_line([node_path(), "--version"]),
    }


def commit() -> str:
    """Return the commit, with `+` when the tree differs from it."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    head = _first_line([*git, "rev-parse", "--short=12", "HEAD"])
    return head + ("+" if _first_line([*git, "status", "--porcelain"]) else "")


def node_path() -> str:
    """Return where `node` is."""
    path = shutil.which("node")
    if path is None:
        raise SystemExit("node is not on the PATH; these benchmarks need Node 20 or later")
    return path


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.split(":", 1)[1] for line in text.splitlines() if line.startswith("model name"))
    return next(names, "unknown").strip()


def _first_line(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or [""])[0]
