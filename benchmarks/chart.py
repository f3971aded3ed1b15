"""A benchmark's result as a picture: panels of horizontal bars, as SVG written by hand.

The background is part of the picture, so that it reads the same on a light and on a dark page.
Knows no benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from .publish import number

OURS: Final = "#0a7d55"
RIVAL: Final = "#8fa3b8"
UNCOUNTED: Final = "#d5dbe2"

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


@dataclass(frozen=True, slots=True)
class Bar:
    """One subject's value; `colour` is `OURS`, `RIVAL` or `UNCOUNTED`."""

    name: str
    value: float
    colour: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One measure of several subjects; `is_rate` says that more is better."""

    title: str
    bars: Sequence[Bar]
    is_rate: bool


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


def to_svg(title: str, panels: Sequence[Panel], notes: Sequence[str]) -> str:
    """Return the picture; `notes` are its last lines."""
    height = _HEAD + _STEP * max(len(panel.bars) for panel in panels) + _MARGIN
    lines = -(-len(panels) // _COLUMNS)
    total_width = _MARGIN * 2 + _WIDTH * _COLUMNS
    total_height = _MARGIN * 2 + height * lines + _LINE * (len(notes) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}"'
        f' width="{total_width}" height="{total_height}" role="img"'
        ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{_PAPER}"/>',
    ]
    for index, panel in enumerate(panels):
        left = _MARGIN + _WIDTH * (index % _COLUMNS)
        top = _MARGIN + height * (index // _COLUMNS)
        parts += [f'<g transform="translate({left} {top})">', *_panel(panel), "</g>"]
    for above, note in enumerate(reversed(notes)):
        parts.append(_text(_MARGIN, total_height - _MARGIN - _LINE * above, note, _FAINT, 11))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panel(panel: Panel) -> Iterator[str]:
    """Draw one measure, the best first."""
    bars = sorted(panel.bars, key=lambda bar: bar.value, reverse=panel.is_rate)
    scale = Scale.of([bar.value for bar in bars])
    better = "more is better" if panel.is_rate else "less is better"
    hint = f"{better}{', logarithmic' if scale.is_logarithmic else ''}"
    yield _text(0, 16, panel.title, _INK, 14, weight="600")
    yield _text(0, 33, hint, _FAINT, 11)
    room = _WIDTH - _NAME_WIDTH - _VALUE_WIDTH - _MARGIN
    for index, bar in enumerate(bars):
        top = _HEAD + index * _STEP
        length = max(scale.part(bar.value) * room, 1)
        weight = "700" if bar.colour == OURS else "400"
        base = top + _BAR_HEIGHT - 3
        yield _text(_NAME_WIDTH - 8, base, bar.name, _INK, 12, weight, "end")
        yield (
            f'<rect x="{_NAME_WIDTH}" y="{top}" width="{length:.1f}" height="{_BAR_HEIGHT}"'
            f' rx="2" fill="{bar.colour}"/>'
        )
        yield _text(_NAME_WIDTH + length + 6, base, number(bar.value), _INK, 12, weight)


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
