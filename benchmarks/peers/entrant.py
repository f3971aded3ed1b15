"""A peer that takes part in a run: its process, what went wrong, and whether it still answers."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any, Final

from ..processes import Subject, descendants
from .roster import FLOOR, Peer

_ANSWER_LIMIT_S: Final = 60.0
"""After this a subject is taken to hang; one that can still tell says so itself much earlier."""


class Entrant:
    """Asks a peer and survives its failure.

    Attributes:
        peer: Which one.
        subject: Its process, while it runs.
        errors: Answers that were wrong or missing.
        unavailable: Why it takes no part any more.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.errors = 0
        self.unavailable: str | None = None
        self.subject: Subject | None = None

    def start(self) -> None:
        """Start its process, unless it has failed before; `ready` has to be asked first."""
        if self.unavailable is None:
            self.subject = self.peer.start()

    @property
    def is_floor(self) -> bool:
        """Whether it can do nothing but echo."""
        return self.peer is FLOOR

    @property
    def echo_kind(self) -> str:
        """What it echoes."""
        return "bytes" if self.is_floor else "text"

    def ask(self, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """Have it do one thing; None when it cannot, then or any more."""
        if self.subject is None:
            return None
        guard = threading.Timer(_ANSWER_LIMIT_S, _kill, [self.subject])
        guard.start()
        try:
            answer = self.subject.ask(operation, **parameters)
        except (SystemExit, OSError) as failure:  # a subject's failure would end the benchmark
            self.unavailable = str(failure).removeprefix(f"{self.peer.name}: ")
            self.close()
            return None
        finally:
            guard.cancel()
        self.errors += answer.get("errors", 0)
        return answer

    def close(self) -> None:
        """End its process."""
        subject, self.subject = self.subject, None
        if subject is not None:
            with suppress(OSError):
                subject.close()


def _kill(subject: Subject) -> None:
    for process in (*descendants(subject.pid), subject.pid):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
