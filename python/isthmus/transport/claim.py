"""Takes the process's standard input and output for the wire, before anything else is imported.

Afterwards descriptor 0 reads from the null device and descriptor 1 writes to standard error, so
that `print`, C's `printf`, a library's progress bar or a subprocess can neither put a byte on the
wire nor eat one from it. Imports nothing but the interpreter's own `os`.
"""

from __future__ import annotations

import os
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
