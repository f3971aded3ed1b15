"""The result as tables, for the terminal and for the documentation, and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .. import chart
from ..chart import Bar, Panel
from ..publish import markdown, number
from .results import Key, Record, Way
from .rounds import STREAMED
from .sides import FLOOR, NODE, PYTHON
from .talks import COLD, HOT, STATES, WARM

_TITLES: Final = (
    *("context", "state", "TTFT, ms", "IQR", "from Python", "mlx-lm", "over the floor"),
    *("reused", "evaluated", "whole answer, ms", "MB written", "MB read"),
)
_WAY_TITLES: Final = (
    *("context", "at once", "read as", "state", "TTFT, ms", "IQR"),
    *("whole answer, ms", "reused"),
)
_COLOURS: Final = {NODE: chart.OURS, FLOOR: chart.RIVAL}


def show(record: Record) -> None:
    """Print the tables."""
    for titles, rows in ((_TITLES, _rows(record)), (_WAY_TITLES, _way_rows(record))):
        if rows:
            _print([list(titles), *rows])


def to_markdown(record: Record, source: str) -> str:
    """Return the tables for the documentation; `source` says where the figures come from."""
    parts = [markdown(_TITLES, _rows(record), names=2)]
    if ways := _way_rows(record):
        parts.append("Two sessions at once, and answers that are awaited whole:")
        parts.append(markdown(_WAY_TITLES, ways, names=4))
    return "\n\n".join([*parts, source])


def to_svg(record: Record, source: str) -> str:
    """Return the picture."""
    panels = [
        Panel(f"{label(length)} tokens: TTFT, ms", _bars(record, length), is_rate=False)
        for length in lengths(record)
    ]
    legend = "Pale: mlx-lm in one process: a prefill, a forward pass, and a load before that."
    return chart.to_svg("Sessions, cold, warm and hot, beside mlx-lm", panels, (legend, source))


def label(length: int) -> str:
    """Return how a length is written."""
    return f"{length // 1_024}K"


def lengths(record: Record) -> list[int]:
    """Return the contexts, the shortest first."""
    return sorted({key.length for key in record})


def key_of(length: int, side: str, state: str) -> Key:
    """Return the key of the main way of asking."""
    return Key(STREAMED, length, side, state)


def floor_of(length: int, state: str) -> Key:
    """Return what a state is compared with: a cold prefill, or a load and one forward pass."""
    return key_of(length, FLOOR, COLD if state == COLD else WARM)


def _bars(record: Record, length: int) -> list[Bar]:
    return [
        Bar(f"{side.removesuffix(' (Node)')}, {state}", _median(record, key), _COLOURS[side])
        for side in (NODE, FLOOR)
        for state in STATES
        if (key := key_of(length, side, state)) in record
    ]


def _median(record: Record, key: Key, part: str = "ttft_ms") -> float:
    return record.spread(key, part).median


def _rows(record: Record) -> list[list[str]]:
    return [
        _row(record, length, state)
        for length in lengths(record)
        for state in STATES
        if key_of(length, NODE, state) in record
    ]


def _row(record: Record, length: int, state: str) -> list[str]:
    ours = key_of(length, NODE, state)
    cells = _cells(record, ours)
    python = key_of(length, PYTHON, state)
    return [
        *(label(length), state, cells("ttft_ms"), number(record.spread(ours).iqr)),
        number(_median(record, python)) if python in record else "-",
        number(_median(record, key_of(length, FLOOR, state))),
        number(record.ratio(ours, floor_of(length, state))),
        *(cells("reused_tokens"), cells("prefilled_tokens"), cells("total_ms")),
        *(cells("written_bytes", 1e6), cells("read_bytes", 1e6)),
    ]


def _way_rows(record: Record) -> list[list[str]]:
    ways = {key.way: None for key in record if key.way != STREAMED}
    return [
        _way_row(record, way, length, state)
        for length in lengths(record)
        for way in sorted(ways)
        for state in (COLD, WARM, HOT)
        if Key(way, length, NODE, state) in record
    ]


def _way_row(record: Record, way: Way, length: int, state: str) -> list[str]:
    key = Key(way, length, NODE, state)
    cells = _cells(record, key)
    return [
        *(label(length), str(way.at_once), "stream" if way.is_streamed else "whole", state),
        *(cells("ttft_ms"), number(record.spread(key).iqr)),
        *(cells("total_ms"), cells("reused_tokens")),
    ]


def _cells(record: Record, key: Key) -> Callable[..., str]:
    def cell(part: str, unit: float = 1.0) -> str:
        value = _median(record, key, part)
        return f"{value:,.0f}" if part.endswith("_tokens") else number(value / unit)

    return cell


def _print(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print()
    for line in lines:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
