"""Ends this process when its parent is gone, whatever it is doing.

Three nets, from quick to slow: the kernel's parent-death signal on Linux, which works even while
native code holds the GIL; the end of the input, which the transport sees; and a look at the
parent's id, for hosts behind a wrapper process.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1


class ParentWatch:
    """Knows who started this process, and whether it still lives."""

    def __init__(self) -> None:
        self._parent = os.getppid()

    def arm(self) -> None:
        """Ask the kernel to kill this process with its parent, where there is such a call."""
        if sys.platform != "linux":
            return
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if self.is_orphaned():
            os._exit(0)

    def is_orphaned(self) -> bool:
        """Whether the parent has changed: the one that started us is dead."""
        return os.getppid() != self._parent


def is_unread(write_fd: int) -> bool:
    """Whether nobody can read what is written to `write_fd` any more."""
    if sys.platform == "win32":
        return False
    poll = select.poll()
    poll.register(write_fd, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
