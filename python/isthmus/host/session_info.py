"""What the runtime says of a session, and of what was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What the runtime says of a session (docs/protocol.md, section 3.4).

    Attributes:
        state: `hot`: in memory; `warm`: on disk; `cold`: nothing is kept.
        tokens: Those that are kept.
        saved_tokens: Those of them that are on disk.
        disk_bytes: What it has on disk; what it shares with others counts fully.
        kv: How it is kept on disk: `native`, `q8`, `k8v4` or `q4`.
        pin: Whether it leaves neither memory nor disk to make room.
        busy: Whether a call is at work on it.
        used_at: When it was used last, in seconds of Unix time.
    """

    id: str
    state: str
    tokens: int
    saved_tokens: int
    memory_bytes: int
    disk_bytes: int
    kv: str
    pin: bool
    busy: bool
    used_at: float

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> SessionInfo:
        """Read a session info map; unknown keys are ignored."""
        return cls(**_known(cls, wire))


@dataclass(frozen=True, slots=True)
class SaveResult:
    """How a save went.

    Attributes:
        saved: Whether all of the session is on disk.
        tokens: Tokens that are on disk.
        written_bytes: What had to be written for it.
        reason: Why it is not saved, in a sentence.
    """

    saved: bool
    tokens: int
    written_bytes: int
    reason: str | None = None

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> SaveResult:
        """Read the result of `save_session`; unknown keys are ignored."""
        return cls(**_known(cls, wire))


@dataclass(frozen=True, slots=True)
class EvictResult:
    """How an eviction went.

    Attributes:
        evicted: False when the session was not in memory, or cannot be saved.
        freed_bytes: Memory that has come back.
    """

    evicted: bool
    freed_bytes: int

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> EvictResult:
        """Read the result of `evict_session`; unknown keys are ignored."""
        return cls(**_known(cls, wire))


def _known(kind: type[Any], wire: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: wire[field.name] for field in fields(kind) if field.name in wire}
