"""Every promise has its tests, every test its promise, and docs/faults.md is made from both."""

from __future__ import annotations

import re

import pytest

from isthmus.resilience.guard import RULES
from tests.faults.document import TARGET, document
from tests.faults.files import FOLDER, ROOT, all_test_files, files_of, places_of, row_of
from tests.faults.promised.promise import Place, Promise
from tests.faults.promises import BESIDE_THE_ROWS, LAST_ROW, NOT_PROMISED, PROMISES
from tests.faults.retried import OUTCOMES, judged
from tests.faults.sentences import python_tests, sentences_of

HERE = "test_rows_are_covered.py"
ROWS = [promise.row for promise in PROMISES]


def test_every_row_is_promised_once_or_has_a_reason_why_not() -> None:
    refused = [row.row for row in NOT_PROMISED]
    assert sorted(ROWS + refused) == list(range(1, LAST_ROW + 1))
    assert all(row.reason for row in NOT_PROMISED)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: f"row {promise.row}")
def test_every_promise_has_tests_wherever_it_is_judged(promise: Promise) -> None:
    found: set[Place] = set()
    for file in files_of(promise.row):
        assert sentences_of(file), f"{file.name} has no test"
        found |= places_of(file)
    for test in promise.elsewhere:
        name, function = test.split("::")
        assert function in python_tests((ROOT / name).read_text("utf-8")), test
        found |= places_of(ROOT / name)
    assert found == set(promise.places)


def test_every_test_file_belongs_to_a_promise() -> None:
    strangers = [
        file.name
        for file in all_test_files()
        if row_of(file) not in ROWS and file.name not in (*BESIDE_THE_ROWS, HERE)
    ]
    assert strangers == []
    assert all((FOLDER / name).exists() for name in BESIDE_THE_ROWS)


def test_every_test_file_of_a_row_says_its_row_first() -> None:
    for file in all_test_files():
        row = row_of(file)
        if row is not None:
            begin = file.read_text("utf-8")[:40]
            assert re.match(rf'("""|/\*\* )Rows? {row}\b', begin), f"{file.name}: {begin}"


def test_every_outcome_of_a_call_stands_in_the_table_of_retries() -> None:
    said = [code for outcome in OUTCOMES for code in outcome.codes]
    assert set(said) == set(RULES)
    assert all(judged(outcome) is not None for outcome in OUTCOMES)


def test_the_document_is_what_the_promises_and_tests_make() -> None:
    assert TARGET.read_text("utf-8") == document(), "run python -m tests.faults.document"
