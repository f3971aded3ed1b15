"""Lines of Markdown as long as those of the other documents."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

_WIDTH: Final = 100


def paragraph(text: str, first: str = "", rest: str = "") -> str:
    """Return a text in lines, with something in front of the first and of the rest."""
    return textwrap.fill(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def bullet(text: str) -> str:
    """Return an item of a list."""
    return paragraph(text, "- ", "  ")


def row(cells: Sequence[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def head(*titles: str) -> str:
    """Return the beginning of a table."""
    return f"{row(titles)}\n|{'---|' * len(titles)}"
