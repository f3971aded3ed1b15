"""The sessions that a runtime has in mind: their queues, what is hot, who was used when.

One is remembered while a call works on it, while it is in memory or not yet saved, and, up to a
number of them, after it was used; the others are known to the disk, or to nobody. Pure bookkeeping:
touches neither the engine nor the disk. Lives on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import SessionBusy
from ..limits import SESSIONS_KNOWN_LIMIT
from .known import IsAnswered, KnownSession, Place
from .record import SessionRecord
from .reference import SessionReference

_COMPARED: Final = 32
"""Other hot sessions that a prompt is compared with, at some 20 microseconds for 32K tokens."""


class SessionRegistry:
    """All sessions that are known here.

    Args:
        wall_clock: Unix time in seconds.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._known: dict[str, KnownSession] = {}
        self._used_at: dict[str, float] = {}

    def place(self, reference: SessionReference, is_answered: IsAnswered) -> Place:
        """Take a place in a session's queue, at once.

        Raises:
            SessionBusy: Somebody is there, and the call does not want to wait.
        """
        session = self._known.get(reference.name)
        if session is None:
            session = KnownSession(SessionRecord(reference.id, reference.scope))
            self._known[reference.name] = session
        if session.unanswered and not reference.waits:
            raise SessionBusy(
                f"another call is at work on the session {reference.id!r}; wait for it, or ask "
                "with when_busy: queue"
            )
        return Place(session, reference, is_answered)

    def leave(self, place: Place) -> None:
        """Give a place back, and forget whom nobody needs."""
        place.leave()
        name = place.reference.name
        if place.session.is_idle and name not in self._used_at:
            # The disk knows it, or nobody does.
            self._known.pop(name, None)
        self._forget_some()

    def get(self, name: str) -> KnownSession | None:
        """Return a session."""
        return self._known.get(name)

    def names(self) -> set[str]:
        """Return what they are called."""
        return set(self._known)

    def use(self, name: str) -> None:
        """Take note that a session is used now."""
        self._used_at[name] = self._wall_clock()

    def is_used(self, name: str) -> bool:
        """Whether a session was used here, and not deleted since."""
        return name in self._used_at

    def used_at(self, name: str, on_disk: float) -> float:
        """Return when a session was used last.

        Args:
            on_disk: What the disk says, for one that was not used here.
        """
        return self._used_at.get(name, on_disk)

    def forget_use(self, name: str) -> None:
        """A session is deleted."""
        self._used_at.pop(name, None)

    def used_in(self, scope: str) -> dict[str, KnownSession]:
        """Return the sessions of a tenant that were used here."""
        return {
            name: session
            for name, session in self._known.items()
            if session.record.scope == scope and name in self._used_at
        }

    def hot(self) -> list[KnownSession]:
        """Return the sessions that are in memory."""
        return [session for session in self._known.values() if len(session.hot)]

    def latest(self) -> list[KnownSession]:
        """Return the sessions that were hot last: comparing with all of them would take long."""
        latest = sorted(self.hot(), key=lambda each: self._used_at.get(each.record.name, 0.0))
        return latest[-_COMPARED:]

    def on_evicted(self, name: str) -> None:
        """A session's cache made room for others in memory."""
        session = self._known.get(name)
        if session is not None:
            session.is_now_cold()

    def on_model_gone(self, handle: str) -> None:
        """A model has left memory, and the caches of its sessions with it."""
        for session in self._known.values():
            if session.hot_model == handle:
                session.is_now_cold()

    def _forget_some(self) -> None:
        if len(self._known) <= SESSIONS_KNOWN_LIMIT:
            return
        for name, session in list(self._known.items()):
            if session.is_idle:
                del self._known[name]
                self._used_at.pop(name, None)
