"""Every row of the fault matrix that is promised has a test file, and no file names another."""

from __future__ import annotations

import re
from pathlib import Path

PROMISED = (
    *range(1, 21),
    *range(22, 32),
    *(33, 34),
    *range(36, 44),
    *(48, 52, 53, 54, 55, 56, 57, 58, 61, 62, 64, 65, 67),
)
"""The rows whose behaviour this version has."""

OF_THE_HOST = (
    4,
    5,
    6,
    9,
    14,
    19,
    20,
    22,
    23,
    24,
    25,
    26,
    30,
    31,
    *range(36, 41),
    42,
    43,
    48,
    52,
    53,
    65,
)
"""Promises of the Node package: shown there, whatever else is shown."""

PYTHON = re.compile(r"test_row_(\d\d)_[a-z0-9_]+\.py")
NODE = re.compile(r"row_(\d\d)_[a-z0-9_]+\.test\.ts")


def rows_of(pattern: re.Pattern[str]) -> set[int]:
    """Return the rows that files of one language are named after."""
    matches = (pattern.fullmatch(file.name) for file in Path(__file__).parent.iterdir())
    return {int(match[1]) for match in matches if match is not None}


def test_every_promised_row_has_a_test_file_and_no_file_names_another_row() -> None:
    assert rows_of(PYTHON) | rows_of(NODE) == set(PROMISED)


def test_every_promise_of_the_host_is_shown_through_the_node_package() -> None:
    assert set(OF_THE_HOST) - rows_of(NODE) == set()


def test_every_test_file_with_a_row_in_its_name_says_its_row_first() -> None:
    for file in Path(__file__).parent.iterdir():
        match = PYTHON.fullmatch(file.name) or NODE.fullmatch(file.name)
        if match is not None:
            begin = file.read_text("utf-8")[:40]
            assert re.match(rf'("""|/\*\* )Rows? {int(match[1])}\b', begin), f"{file.name}: {begin}"
