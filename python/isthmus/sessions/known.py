"""What the event loop knows of a session: who works on it, what is hot, what is saved.

The disk's side is `record.py`. A session is one call's at a time. A place in its queue is taken
when the call arrives, not when it gets round to it, so that no call overtakes one that was made
before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .chain import TokenIds, token_array
from .record import SessionRecord
from .reference import SessionReference
from .values import Saved

IsAnswered = Callable[[], bool]
"""Whether a call has its answer: what is still done for it keeps others waiting, but not busy."""


class _Waiting:
    """What a queue knows of a call: not its place, so that one that is dropped is left."""

    __slots__ = ("come", "is_answered")

    def __init__(self, is_answered: IsAnswered) -> None:
        self.come = asyncio.Event()
        self.is_answered = is_answered


class Place:
    """A call's place in the queue of a session; it is left when nobody holds it any more."""

    def __init__(
        self, session: KnownSession, reference: SessionReference, is_answered: IsAnswered
    ) -> None:
        self.session = session
        self.reference = reference
        self._waiting = _Waiting(is_answered)
        session.queue.append(self._waiting)
        session.queue[0].come.set()

    async def wait(self) -> None:
        """Wait until all who came before have left."""
        await self._waiting.come.wait()

    def leave(self) -> None:
        """Let the next one come; may be repeated."""
        queue = self.session.queue
        if self._waiting in queue:
            queue.remove(self._waiting)
            if queue:
                queue[0].come.set()

    def __del__(self) -> None:
        """Leave, if that was forgotten."""
        self.leave()


NO_TOKENS: TokenIds = token_array([])


@dataclass(slots=True, eq=False)
class KnownSession:
    """A session that the runtime has in mind.

    Attributes:
        record: How it is on disk, or would be.
        queue: Calls that work on it or wait to, in order.
        hot: The tokens of its cache in memory; none while it has none there.
        hot_model: Whose cache that is.
        hot_bytes: What that takes.
        saving: The last save, until it has ended.
        is_unsaved: Whether what is hot is not on disk, and is not being written.
        problem: Why not.
    """

    record: SessionRecord
    queue: list[_Waiting] = field(default_factory=list, repr=False)
    hot: TokenIds = field(default_factory=lambda: NO_TOKENS)
    hot_model: str = ""
    hot_bytes: int = 0
    saving: asyncio.Future[Saved] | None = None
    is_unsaved: bool = False
    problem: str | None = None
    is_read: bool = False
    """Whether the disk was asked for it."""

    @property
    def hot_scope(self) -> str:
        """Whose caches in memory it may share: those of its tenant, and of its format if what is
        read from disk in that is not exact."""
        return hot_scope(self.record)

    @property
    def unanswered(self) -> int:
        """How many calls are at work on it, or wait to."""
        return sum(not each.is_answered() for each in self.queue)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost when it is forgotten."""
        return not (self.queue or len(self.hot) or self.saving or self.is_unsaved)

    def is_now_hot(self, ids: TokenIds, model: str, nbytes: int) -> None:
        """Take note of what is in memory."""
        self.hot, self.hot_model, self.hot_bytes = ids, model, nbytes

    def is_now_cold(self) -> None:
        """Nothing of it is in memory any more."""
        self.is_now_hot(NO_TOKENS, "", 0)

    def info(self, saved_tokens: int, disk_bytes: int, used_at: float) -> dict[str, Any]:
        """Return the session info of the protocol (section 3.4)."""
        hot_tokens = len(self.hot)
        state = "hot" if hot_tokens else "warm" if saved_tokens else "cold"
        return {
            "id": self.record.id,
            "state": state,
            "tokens": hot_tokens or saved_tokens,
            "saved_tokens": saved_tokens,
            "memory_bytes": self.hot_bytes,
            "disk_bytes": disk_bytes,
            "kv": self.record.kv,
            "pin": self.record.pin,
            "busy": self.unanswered > 0,
            "used_at": used_at,
        }


def hot_scope(record: SessionRecord) -> str:
    """Return whose caches in memory a session may share."""
    return record.scope if record.kv == "native" else f"{record.scope} {record.kv}"
