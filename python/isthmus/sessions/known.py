"""What the event loop knows of a session: who works on it, what is hot, what is saved.

The disk's side is `record.py`. A session has one worker at a time; who comes meanwhile waits in
order.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from .chain import TokenIds, token_array
from .record import SessionRecord
from .store import Saved

NO_TOKENS: TokenIds = token_array([])


@dataclass(slots=True, eq=False)
class KnownSession:
    """A session that the runtime has in mind.

    Attributes:
        record: How it is on disk, or would be.
        working: Held by the call that is at work on it.
        waiting: Calls that work on it or wait to.
        hot: The tokens of its cache in memory; none while it has none there.
        hot_model: Whose cache that is.
        hot_bytes: What that takes.
        saving: The last save, until it has ended.
        is_unsaved: Whether what is hot is not on disk, and is not being written.
        problem: Why not.
    """

    record: SessionRecord
    working: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
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
    def is_idle(self) -> bool:
        """Whether nothing is lost when it is forgotten."""
        return not (self.waiting or len(self.hot) or self.saving or self.is_unsaved)

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
            "busy": self.waiting > 0,
            "used_at": used_at,
        }


def hot_scope(record: SessionRecord) -> str:
    """Return whose caches in memory a session may share."""
    return record.scope if record.kv == "native" else f"{record.scope} {record.kv}"
