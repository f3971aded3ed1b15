"""The fault matrix as promises: every row that can be shown on Linux, and why others are not.

`test_rows_are_covered.py` holds each promise to its tests, and each test to its promise;
`document.py` writes docs/faults.md from both.
"""

from __future__ import annotations

from typing import Final

from tests.faults.promised.models import MODELS
from tests.faults.promised.processes import PROCESSES
from tests.faults.promised.promise import NotPromised, Promise, Section
from tests.faults.promised.recovery import RECOVERY
from tests.faults.promised.requests import REQUESTS
from tests.faults.promised.wire import WIRE

SECTIONS: Final[tuple[Section, ...]] = (WIRE, PROCESSES, REQUESTS, RECOVERY, MODELS)

PROMISES: Final[tuple[Promise, ...]] = tuple(
    promise for section in SECTIONS for promise in section.promises
)

NOT_PROMISED: Final = (
    NotPromised(
        66,
        "a browser from another site, huge bodies and slow senders over HTTP",
        "Isthmus has no HTTP front and opens no port.",
    ),
    NotPromised(
        68,
        "what is particular to Windows, macOS and Metal",
        "The tests run on Linux, where it cannot be shown. Nothing is promised for Windows. On "
        "macOS the same code runs; what these tests show is not measured there.",
    ),
)

BESIDE_THE_ROWS: Final = {
    "many_calls_at_once.test.ts": "Thousands of calls that are made at once are all answered, each "
    "with its own answer.",
    "test_sentences.py": "",
}
"""Test files that belong to no row, and what they show; nothing, where they test the tests."""

LAST_ROW: Final = 68
"""Rows are numbered from 1 to this, without gaps."""
