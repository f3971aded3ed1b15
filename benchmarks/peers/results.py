"""What the values come to: a row for each peer, the figures with targets, and who is ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..harness import Figure, Spread
from .entrant import Entrant
from .measures import MEASURES, Measure
from .roster import NEOVIM_STYLE, OURS, PYTHON_SHELLS, Peer
from .rounds import Outcome


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of one peer by measure, and what went wrong with it."""

    peer: Peer
    values: dict[str, float]
    errors: int
    unavailable: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the row for the last line."""
        row: dict[str, Any] = {**self.values, "errors": self.errors, "what": self.peer.what}
        if self.peer is not OURS:
            row["is_rival"] = self.peer.is_rival
        if self.unavailable is not None:
            row["unavailable"] = self.unavailable
        return row


def rows(outcome: Outcome) -> list[Row]:
    """Return a row for each entrant, ours first; one that has failed keeps no values."""
    measured = outcome.record.to_json()
    return [_row(measured, entrant) for entrant in outcome.entrants]


def _row(measured: Mapping[str, Mapping[str, float]], entrant: Entrant) -> Row:
    peer, has_failed = entrant.peer, entrant.unavailable is not None
    values = {
        measure.key: measured[measure.name(peer.name)]["median"]
        for measure in MEASURES
        if measure.name(peer.name) in measured and not has_failed
    }
    return Row(peer, values, entrant.errors, entrant.unavailable)


def ahead_of_all(table: Sequence[Row]) -> Literal[True] | list[str]:
    """Return True, or where a rival is ahead of ours."""
    ours, *others = table
    behind = [
        f"{measure.key}: {row.peer.name} {row.values[measure.key]:.4g}"
        f" {'>' if measure.is_rate else '<'} ours {ours.values[measure.key]:.4g}"
        for measure in MEASURES
        for row in others
        if row.peer.is_rival
        and measure.key in row.values
        and measure.is_ahead(row.values[measure.key], ours.values[measure.key])
    ]
    return behind or True


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours against the best of several peers, round by round."""

    figure: Figure
    rival: str
    spread: Spread

    def to_json(self) -> dict[str, Any]:
        """Return it for the detail."""
        return {"against": self.rival, **self.spread.to_json()}


def comparisons(outcome: Outcome, table: Sequence[Row]) -> list[Comparison]:
    """Return the figures with targets; one whose peers are all unavailable is left out."""
    rivals = [row.peer for row in table if row.peer.is_rival]
    made = [
        _compare(outcome, table, "lone_echo_vs_python_shell", PYTHON_SHELLS[:1], 0.6),
        _compare(outcome, table, "lone_echo_vs_neovim_style", NEOVIM_STYLE, 0.55),
        _compare(outcome, table, "rps100_vs_best_peer", rivals, 2.5),
        _compare(outcome, table, "tokenize1000_vs_best_peer", rivals, 1.8, is_speedup=True),
    ]
    return [comparison for comparison in made if comparison is not None]


def _compare(
    outcome: Outcome,
    table: Sequence[Row],
    key: str,
    against: Sequence[Peer],
    target: float,
    is_speedup: bool = False,
) -> Comparison | None:
    """Compare with the best of `against`: ours over theirs, or theirs over ours as a speed-up."""
    measure = _measure_of(key)
    best = _best(table, measure, against)
    if best is None:
        return None
    names = [measure.name(OURS.name), measure.name(best)]
    above, below = reversed(names) if is_speedup else names
    spread = outcome.record.ratio(above, below)
    is_least = is_speedup or measure.is_rate
    return Comparison(Figure(key, spread.median, target, "times", is_least), best, spread)


def _measure_of(key: str) -> Measure:
    return next(measure for measure in MEASURES if measure.key.startswith(key.split("_vs_")[0]))


def _best(table: Sequence[Row], measure: Measure, peers: Sequence[Peer]) -> str | None:
    values = {
        row.peer.name: row.values[measure.key]
        for row in table
        if row.peer in peers and measure.key in row.values
    }
    choose = max if measure.is_rate else min
    return choose(values, key=lambda name: values[name], default=None)
