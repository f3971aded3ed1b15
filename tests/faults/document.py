"""Writes docs/faults.md from the promises and from the sentences of their tests.

`python -m tests.faults.document` writes it; `--check` only says whether it is up to date, by its
exit code. What the text says of retries and of injecting faults comes from the tables that the
runtime itself uses.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.faults.files import FOLDER, ROOT, files_of, places_of
from tests.faults.injected import injecting
from tests.faults.promised.promise import Promise
from tests.faults.promises import BESIDE_THE_ROWS, NOT_PROMISED, PROMISES, SECTIONS
from tests.faults.prose import head, paragraph
from tests.faults.retried import retrying
from tests.faults.sentences import sentence, sentences_of

TARGET: Final = ROOT / "docs" / "faults.md"

_BEGINNING: Final = """\
<!-- Made by `python -m tests.faults.document` from tests/faults; change it there. -->

# Faults, and what to rely on

Each row below is something that goes wrong, what you can rely on when it does, and the tests that
show it by making it go wrong. A row without a test, or a test without a row, fails `make test`. The
number is the row's: its tests are `tests/faults/test_row_<number>_*.py` (through the runtime's own
wire, or the Python host) and `tests/faults/row_<number>_*.test.ts` (through the Node package).

A request *settles* exactly once: with its result, or with one typed error, which has a `code`,
`retryable` and, in its message, the fix. Wherever a row says that a request fails, the others are
unaffected.
"""


def document() -> str:
    """Return the text of docs/faults.md."""
    return "\n".join(_lines()).rstrip("\n") + "\n"


def _lines() -> Iterator[str]:
    yield _BEGINNING
    yield f"{len(PROMISES)} rows are promised, {len(NOT_PROMISED)} are not.\n"
    yield from retrying()
    yield from injecting()
    for section in SECTIONS:
        yield f"## {section.title}\n"
        for promise in section.promises:
            yield from _row(promise)
    yield "## Beside the rows\n"
    for name, text in BESIDE_THE_ROWS.items():
        if text:
            yield f"{paragraph(text)} ({_link(FOLDER / name)})\n"
            yield from _shown(FOLDER / name)
    yield "## Not promised\n"
    yield head("row", "fault", "why")
    for row in NOT_PROMISED:
        yield f"| {row.row} | {row.fault} | {row.reason} |"


def _row(promise: Promise) -> Iterator[str]:
    yield f"### {promise.row}. {promise.fault[0].upper()}{promise.fault[1:]}\n"
    yield f"{paragraph(promise.text)}\n"
    for file in files_of(promise.row):
        yield f"{_places(file)} ({_link(file)}):\n"
        yield from _shown(file)
    if promise.elsewhere:
        yield from _elsewhere(promise.elsewhere)


def _elsewhere(tests: tuple[str, ...]) -> Iterator[str]:
    """Say what single tests of one other file show."""
    name = tests[0].split("::")[0]
    yield f"{_places(ROOT / name)} ({_link(ROOT / name)}):\n"
    yield from (f"- {sentence(test.split('::')[1])}" for test in tests)
    yield ""


def _shown(file: Path) -> Iterator[str]:
    yield from (f"- {shown}" for shown in sentences_of(file))
    yield ""


def _places(file: Path) -> str:
    return f"Shown through the {' and the '.join(sorted(places_of(file)))}"


def _link(file: Path) -> str:
    return f"[{file.name}](../{file.relative_to(ROOT).as_posix()})"


def main() -> int:
    """Write the document, or with `--check` say whether it is up to date."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.document", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    is_check: bool = parser.parse_args().check
    text = document()
    if TARGET.exists() and TARGET.read_text("utf-8") == text:
        return 0
    if is_check:
        sys.stderr.write("docs/faults.md is not up to date: run python -m tests.faults.document\n")
        return 1
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
