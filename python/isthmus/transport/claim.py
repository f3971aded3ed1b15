"""Takes the process's standard input and output for the wire, before anything else is imported.

Afterwards descriptor 0 reads from the null device and descriptor 1 writes to standard error, so
that `print`, C's `printf`, a library's progress bar or a subprocess can neither put a byte on the
wire nor eat one from it. Imports nothing but the interpreter's own `os`.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple


class ClaimedPipes(NamedTuple):
    """Private, non-inheritable descriptors of the wire."""

    read_fd: int
    write_fd: int


def claim_stdio() -> ClaimedPipes:
    """Move standard input and output to private descriptors and put harmless ones in place."""
    pipes = ClaimedPipes(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return pipes


def unusable_end(pipes: ClaimedPipes) -> str | None:
    """Say which end is no pipe, socket or terminal; an event loop cannot wait for anything else."""
    for name, descriptor in (("input", pipes.read_fd), ("output", pipes.write_fd)):
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)):
            return f"standard {name} must be a pipe, a socket or a terminal"
    return None
