"""What a promise is: a fault, what a user can rely on when it happens, and where that is shown.

The rows are those of the fault matrix; a row's test files are named after its number. This module
knows no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Place(StrEnum):
    """Through what the tests of a promise look at it."""

    RUNTIME = "runtime"
    """Bytes into and out of a real runtime, or the module of it that decides."""
    NODE = "Node package"
    """The Node package, with a real or a scripted runtime behind it."""
    PYTHON_HOST = "Python host"
    """`isthmus.host`, with a real or a scripted runtime behind it."""


RUNTIME, NODE, PYTHON_HOST = Place.RUNTIME, Place.NODE, Place.PYTHON_HOST

SUPERVISION = "tests/contract/test_supervision.py"
"""The Python host's tests with real processes that end."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One row.

    Attributes:
        row: Its number.
        places: Where it is judged; each has a test there.
        fault: What goes wrong, in a few words.
        text: What a user can rely on then.
        elsewhere: Tests outside tests/faults that show it too, as `file::function`.
    """

    row: int
    places: tuple[Place, ...]
    fault: str
    text: str
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NotPromised:
    """A row that nothing is promised for, and why."""

    row: int
    fault: str
    reason: str


@dataclass(frozen=True, slots=True)
class Section:
    """Promises that belong together."""

    title: str
    promises: tuple[Promise, ...]
