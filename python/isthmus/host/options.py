"""How a runtime is started, watched, started again and ended, and what it keeps of sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ..errors import InvalidRequest
from ..limits import DRAIN_GRACE_S
from .life import OnState
from .restarts import RestartOptions
from .watchdog import HeartbeatOptions


@dataclass(frozen=True, slots=True)
class Graces:
    """How long the end may take.

    Attributes:
        close_s: Time to drain after the input was closed; then SIGTERM.
        terminate_s: Time after SIGTERM; then SIGKILL.
    """

    close_s: float = DRAIN_GRACE_S + 2.0
    terminate_s: float = 2.0


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """How a runtime is kept.

    Attributes:
        start_timeout_s: Time until the hello of a process.
        graces: How long an end may take.
        restart: When it is started again; None for never.
        heartbeat: How it is watched; None for not at all.
        on_state: Told of each step of its life.
    """

    start_timeout_s: float = 30.0
    graces: Graces = field(default_factory=Graces)
    restart: RestartOptions | None = field(default_factory=RestartOptions)
    heartbeat: HeartbeatOptions | None = field(default_factory=HeartbeatOptions)
    on_state: OnState | None = None


_NO_DIRECTORY: Final = "none"
"""How the command line says that there is none."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a runtime may keep of sessions, and where; None for the runtime's own default.

    Attributes:
        dir: The directory; False for none: sessions are kept in memory only.
        disk_bytes: Most that they may have on disk.
        memory_bytes: Most that they may have in memory.
        free_disk_bytes: What is left free on the disk.
        ttl_s: How long one is kept that nobody uses, in seconds.
        fsync: Whether what is written has to outlive the end of the whole machine, too.
    """

    dir: str | Path | Literal[False] | None = None
    disk_bytes: int | None = None
    memory_bytes: int | None = None
    free_disk_bytes: int | None = None
    ttl_s: float | None = None
    fsync: bool = False

    def arguments(self) -> tuple[str, ...]:
        """Return them as options of `isthmus runtime`.

        Raises:
            InvalidRequest: The directory's name says something else on a command line.
        """
        if str(self.dir) in ("", _NO_DIRECTORY):
            raise InvalidRequest(
                f"sessions.dir must be a path, not {str(self.dir)!r}; False is for no directory",
                field="sessions.dir",
            )
        given = {
            "--session-dir": _NO_DIRECTORY if self.dir is False else self.dir,
            "--session-disk-bytes": self.disk_bytes,
            "--session-memory-bytes": self.memory_bytes,
            "--session-free-disk-bytes": self.free_disk_bytes,
            "--session-ttl-s": self.ttl_s,
        }
        named = [(name, str(value)) for name, value in given.items() if value is not None]
        words = [word for pair in named for word in pair]
        return (*words, "--session-fsync") if self.fsync else tuple(words)
