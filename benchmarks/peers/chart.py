"""The result as a picture: a panel for each of four measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .. import chart
from ..chart import Bar, Panel
from .measures import MEASURES
from .results import Row
from .roster import OURS

_SHOWN: Final = ("lone_echo_us", "rps100", "tokenize1000_ms", "chunk_us")


def to_svg(rows: Sequence[Row], source: str) -> str:
    """Return the picture; `source` is its last line."""
    panels = [
        Panel(
            measure.title,
            [
                Bar(row.peer.name, row.values[measure.key], _colour(row))
                for row in rows
                if measure.key in row.values
            ],
            measure.is_rate,
        )
        for measure in MEASURES
        if measure.key in _SHOWN
    ]
    legend = f"Pale: not counted as a rival ({', '.join(_uncounted(rows))})."
    title = "From Node to Python: Isthmus beside published packages"
    return chart.to_svg(title, panels, (legend, source))


def _uncounted(rows: Sequence[Row]) -> list[str]:
    return [row.peer.name for row in rows if not row.peer.is_rival and row.peer is not OURS]


def _colour(row: Row) -> str:
    if row.peer is OURS:
        return chart.OURS
    return chart.RIVAL if row.peer.is_rival else chart.UNCOUNTED
