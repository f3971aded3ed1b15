"""The test files of the rows: which there are, and where each looks at its promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

from tests.faults.promised.promise import Place

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parents[1]

ROW_NAME: Final = re.compile(r"(?:test_row_(\d\d)_[a-z0-9_]+\.py|row_(\d\d)_[a-z0-9_]+\.test\.ts)")
_TEST_NAME: Final = re.compile(r"test_.*\.py|.*\.test\.ts")


def row_of(file: Path) -> int | None:
    """Return the row that a file is named after."""
    match = ROW_NAME.fullmatch(file.name)
    return None if match is None else int(match[1] or match[2])


def all_test_files() -> list[Path]:
    """Return every test file of the folder, by name."""
    return sorted(file for file in FOLDER.iterdir() if _TEST_NAME.fullmatch(file.name))


def files_of(row: int) -> list[Path]:
    """Return a row's test files: Python first."""
    return sorted(
        (file for file in all_test_files() if row_of(file) == row), key=lambda f: f.suffix
    )


def places_of(file: Path) -> set[Place]:
    """Return through what a test file looks: Node for TypeScript; for Python by what it imports."""
    if file.suffix == ".ts":
        return {Place.NODE}
    imported = _imports(file)
    has_host = any(
        name == "isthmus.host" or name.startswith(("isthmus.host.", "tests.fixtures.runtimes"))
        for name in imported
    )
    if not has_host:
        return {Place.RUNTIME}
    return {Place.PYTHON_HOST} | (
        {Place.RUNTIME} if "tests.faults.peer.Peer" in imported else set()
    )


def _imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found
