"""The result as a table: for the terminal, and in Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..publish import markdown, number
from .measures import MEASURES
from .results import Row
from .roster import FLOOR, OURS

_ABSENT: Final = "-"


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    titles = "".join(f"{measure.key:>17}" for measure in MEASURES)
    print(f"\n  {'peer':<24}{titles}{'errors':>9}")
    for row in rows:
        if row.unavailable is not None:
            print(f"  {row.peer.name:<24}  unavailable: {row.unavailable}")
            continue
        print(f"  {row.peer.name:<24}" + "".join(f"{cell:>17}" for cell in _cells(row)), end="")
        print(f"{row.errors:>9}")


def to_markdown(rows: Sequence[Row], source: str) -> str:
    """Return the table for the documentation; `source` says where the figures come from."""
    titles = ["", *(measure.title for measure in MEASURES), "wrong or lost"]
    lines = markdown(titles, [_markdown_cells(row) for row in rows])
    note = (
        "Lone calls, echoes/s and chunks with both ends on one processor; a thousand texts at once"
        f" on all. {FLOOR.name.capitalize()} are the floor and node-calls-python runs inside the"
        f" Node process: neither is counted as a rival. {source}"
    )
    return f"{lines}\n\n{note}"


def _cells(row: Row) -> list[str]:
    return [
        number(row.values[measure.key]) if measure.key in row.values else _ABSENT
        for measure in MEASURES
    ]


def _markdown_cells(row: Row) -> list[str]:
    name = row.peer.name
    if row.unavailable is not None:
        name += f" (unavailable: {row.unavailable})".replace("|", "/")
    cells = [name, *_cells(row), str(row.errors)]
    return [f"**{cell}**" for cell in cells] if row.peer is OURS else cells
