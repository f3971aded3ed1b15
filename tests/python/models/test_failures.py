"""Which failures of a load are tried again, which are remembered, and for how long."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from isthmus.errors import (
    CodeRefused,
    IsthmusError,
    MemoryLimit,
    ModelLoadFailed,
    PathRefused,
    Unavailable,
)
from isthmus.limits import KNOWN_FAILURES_LIMIT
from isthmus.models.failures import KnownFailures, is_transient, load_error, stamp_of
from isthmus.models.load import Source
from tests.python.models.shop import Clock

SOURCE = Source("a")
STAMP = (1,)


def failed(cause: str, because: Exception | None = None) -> ModelLoadFailed:
    """Return the failure of a load."""
    error = ModelLoadFailed("no", phase="load", cause=cause)
    error.__cause__ = because
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "disk"), True),
        (OSError(errno.ESTALE, "nfs"), True),
        (OSError(errno.ENOENT, "gone"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (Unavailable("later"), True),
        (failed("transient_io"), True),
        (failed("io_error", OSError(errno.EIO, "disk")), True),
        (failed("io_error", OSError(errno.EACCES, "denied")), False),
        (failed("io_error"), False),
        (failed("corrupt_weights", OSError(errno.EIO, "disk")), False),
        (MemoryLimit("full"), False),
        (ValueError("defect"), False),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception, expected: bool) -> None:
    assert is_transient(error) is expected


@pytest.mark.parametrize(
    "error",
    [failed("corrupt_weights"), failed("missing"), failed("not_found"), CodeRefused("code")],
)
def test_what_lies_in_the_content_is_remembered(error: IsthmusError) -> None:
    clock = Clock()
    known = KnownFailures(clock)
    known.remember(SOURCE, STAMP, error)
    first, second = known.find(SOURCE, STAMP), known.find(SOURCE, STAMP)
    assert first is not None and first is not second and first.to_wire() == error.to_wire()
    clock.move(30.0)
    assert known.find(SOURCE, STAMP) is None and len(known) == 0


@pytest.mark.parametrize(
    "error",
    [
        *(failed(cause) for cause in ("io_error", "offline", "disk_full", "transient_io")),
        MemoryLimit("full"),
        PathRefused("out"),
        Unavailable("later"),
    ],
)
def test_what_may_be_otherwise_the_next_time_is_not_remembered(error: IsthmusError) -> None:
    known = KnownFailures(Clock())
    known.remember(SOURCE, STAMP, error)
    assert len(known) == 0


def test_another_look_of_the_folder_ends_the_memory() -> None:
    known = KnownFailures(Clock())
    known.remember(SOURCE, STAMP, failed("missing"))
    assert known.find(SOURCE, (2,)) is None
    assert known.find(SOURCE, STAMP) is None


def test_so_many_are_remembered_and_the_oldest_is_forgotten_first() -> None:
    known = KnownFailures(Clock())
    for number in range(KNOWN_FAILURES_LIMIT + 1):
        known.remember(Source(str(number)), STAMP, failed("missing"))
    assert len(known) == KNOWN_FAILURES_LIMIT
    assert known.find(Source("0"), STAMP) is None
    assert known.find(Source("1"), STAMP) is not None


def test_a_folder_looks_different_when_a_file_of_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    source = Source(str(folder), adapter_path=str(tmp_path / "adapter"))
    stamps = [stamp_of(source)]
    folder.mkdir()
    stamps.append(stamp_of(source))
    (folder / "config.json").write_text("{}")
    stamps.append(stamp_of(source))
    (folder / "config.json").write_text("[]")
    os.utime(folder / "config.json", ns=(1, 1))
    stamps.append(stamp_of(source))
    (folder / "broken").symlink_to("nothing")
    stamps.append(stamp_of(source))
    (tmp_path / "adapter").mkdir()
    stamps.append(stamp_of(source))
    assert len(set(stamps)) == len(stamps)
    assert stamp_of(source) == stamps[-1]


@pytest.mark.parametrize("source", ["owner/name", "\0", "x" * 5_000, "/dev/null"])
def test_what_is_no_folder_looks_the_same_always(source: str) -> None:
    assert stamp_of(Source(source)) == stamp_of(Source(source))


def test_every_failure_reaches_its_waiters_typed() -> None:
    given = failed("missing")
    assert load_error(SOURCE, given) is given
    disk = load_error(SOURCE, OSError(errno.EIO, "disk"))
    assert isinstance(disk, ModelLoadFailed) and disk.details["cause"] == "io_error"
    assert load_error(SOURCE, KeyError("x")).code == "INTERNAL"
