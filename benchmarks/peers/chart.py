"""The result as a picture: four panels of horizontal bars, as SVG written by hand.

The background is part of the picture, so that it reads the same on a light and on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from .measures import MEASURES, Measure
from .results import Row
from .roster import OURS
from .table import number

_SHOWN: Final = ("lone_echo_us", "rps100", "tokenize1000_ms", "chunk_us")
_COLUMNS: Final = 2
_WIDTH: Final = 470
_BAR_HEIGHT: Final = 15
_STEP: Final = 20
_HEAD: Final = 46
_NAME_WIDTH: Final = 140
_VALUE_WIDTH: Final = 62
_MARGIN: Final = 20
_LINE: Final = 16
_LOGARITHMIC_FROM: Final = 20.0
"""With the largest this many times the smallest, short bars would not be seen."""

_INK, _FAINT, _PAPER = "#1f2328", "#59636e", "#ffffff"
_OURS, _RIVAL, _UNCOUNTED = "#0a7d55", "#8fa3b8", "#d5dbe2"


@dataclass(frozen=True, slots=True)
class Scale:
    """How long a bar is for a value."""

    least: float
    most: float
    is_logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> Scale:
        """Choose the scale for these values."""
        least, most = min(values), max(values)
        is_logarithmic = most / least >= _LOGARITHMIC_FROM
        # Half a decade below the smallest, so that its bar is seen.
        return cls(least / math.sqrt(10) if is_logarithmic else 0.0, most, is_logarithmic)

    def part(self, value: float) -> float:
        """Return the part of the width, up to 1."""
        if self.is_logarithmic:
            return math.log(value / self.least) / math.log(self.most / self.least)
        return value / self.most


def to_svg(rows: Sequence[Row], source: str) -> str:
    """Return the picture; `source` is its last line."""
    panels = [measure for measure in MEASURES if measure.key in _SHOWN]
    height = _HEAD + _STEP * len(rows) + _MARGIN
    lines = -(-len(panels) // _COLUMNS)
    total_width = _MARGIN * 2 + _WIDTH * _COLUMNS
    total_height = _MARGIN * 3 + height * lines
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}"'
        f' width="{total_width}" height="{total_height}" role="img"'
        ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        "<title>From Node to Python: Isthmus beside published packages</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{_PAPER}"/>',
    ]
    for index, measure in enumerate(panels):
        left = _MARGIN + _WIDTH * (index % _COLUMNS)
        top = _MARGIN + height * (index // _COLUMNS)
        parts += [f'<g transform="translate({left} {top})">', *_panel(rows, measure), "</g>"]
    legend = f"Pale: not counted as a rival ({', '.join(_uncounted(rows))})."
    for above, line in ((_MARGIN + _LINE, legend), (_MARGIN, source)):
        parts.append(_text(_MARGIN, total_height - above, line, _FAINT, 11))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panel(rows: Sequence[Row], measure: Measure) -> Iterator[str]:
    """Draw one measure, the best peer first."""
    shown = [row for row in rows if measure.key in row.values]
    shown.sort(key=lambda row: row.values[measure.key], reverse=measure.is_rate)
    scale = Scale.of([row.values[measure.key] for row in shown])
    better = "more is better" if measure.is_rate else "less is better"
    hint = f"{better}{', logarithmic' if scale.is_logarithmic else ''}"
    yield _text(0, 16, measure.title, _INK, 14, weight="600")
    yield _text(0, 33, hint, _FAINT, 11)
    room = _WIDTH - _NAME_WIDTH - _VALUE_WIDTH - _MARGIN
    for index, row in enumerate(shown):
        top = _HEAD + index * _STEP
        value = row.values[measure.key]
        length = max(scale.part(value) * room, 1)
        weight = "700" if row.peer is OURS else "400"
        base = top + _BAR_HEIGHT - 3
        yield _text(_NAME_WIDTH - 8, base, row.peer.name, _INK, 12, weight, "end")
        yield (
            f'<rect x="{_NAME_WIDTH}" y="{top}" width="{length:.1f}" height="{_BAR_HEIGHT}"'
            f' rx="2" fill="{_colour(row)}"/>'
        )
        yield _text(_NAME_WIDTH + length + 6, base, number(value), _INK, 12, weight)


def _uncounted(rows: Sequence[Row]) -> list[str]:
    return [row.peer.name for row in rows if not row.peer.is_rival and row.peer is not OURS]


def _colour(row: Row) -> str:
    if row.peer is OURS:
        return _OURS
    return _RIVAL if row.peer.is_rival else _UNCOUNTED


def _text(
    left: float,
    base: float,
    text: str,
    colour: str,
    size: int,
    weight: str = "400",
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{left:.1f}" y="{base:.1f}" fill="{colour}" font-size="{size}"'
        f' font-weight="{weight}" text-anchor="{anchor}">{escape(text)}</text>'
    )
