"""The sessions on disk, as the event loop asks for them: each question is a job of the worker's.

Reading and saving of tokens are not here (`turn.py`); these are the records: to look at, to put, to
cut, to delete. A job is done as a whole, with no other between. Knows not what is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from .record import SessionRecord
from .store import SessionStore
from .values import Family
from .worker import Urgency, Worker

T = TypeVar("T")


class StoredSessions:
    """The records of a store.

    Args:
        store: What is on disk; touched by the worker's thread alone.
        worker: That thread.
        wall_clock: Unix time in seconds.
    """

    def __init__(
        self, store: SessionStore, worker: Worker, wall_clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._worker = worker
        self._wall_clock = wall_clock

    async def get(self, name: str) -> SessionRecord | None:
        """Return a session."""
        return await self._do(lambda: self._store.get(name))

    async def put(self, record: SessionRecord, before: SessionRecord | None) -> None:
        """Have a session on disk, with the options it has now, that ends where it did before."""
        await self._do(lambda: self._put(record, before))

    async def copy(self, name: str, record: SessionRecord) -> None:
        """Let another session end where one does."""
        await self._do(lambda: self._put(record, self._store.get(name)))

    async def replace(self, record: SessionRecord) -> None:
        """Have a session be as `record` says, if it is on disk."""

        def change() -> None:
            if self._store.get(record.name) is not None:
                self._store.put(record)

        await self._do(change)

    async def truncate(self, name: str, tokens: int) -> None:
        """Let a session end earlier."""
        await self._do(lambda: self._store.truncate(name, tokens))

    async def delete(self, name: str) -> bool:
        """Forget a session; return whether there was one."""
        return await self._do(lambda: self._store.delete(name))

    async def kept_tokens(self, record: SessionRecord) -> int:
        """Return how many of a session's tokens are on disk."""
        return await self._do(lambda: self._store.kept_tokens(record))

    async def content(self, name: str, family: Family | None) -> tuple[int, int, float]:
        """Return a session's tokens and bytes on disk, and when it was used last.

        Args:
            family: Whose texts count; None for anybody's.
        """
        return await self._do(lambda: self._content(name, family))

    async def records(self, scope: str) -> list[tuple[SessionRecord, int, int]]:
        """Return the sessions of a tenant, with their tokens and bytes on disk."""
        return await self._do(lambda: self._records(scope))

    def _do(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return self._worker.submit(Urgency.MANAGE, work)

    # On the worker's thread.

    def _put(self, record: SessionRecord, before: SessionRecord | None) -> None:
        ends = before or record
        self._store.put(replace(record, root=ends.root, tip=ends.tip, tokens=ends.tokens))

    def _content(self, name: str, family: Family | None) -> tuple[int, int, float]:
        record = self._store.get(name)
        if record is None:
            return 0, 0, self._wall_clock()
        if family is not None and record.root != family.root.hex():
            return 0, 0, record.used_at
        tokens = self._store.kept_tokens(record)
        return tokens, self._store.disk_bytes(record), record.used_at

    def _records(self, scope: str) -> list[tuple[SessionRecord, int, int]]:
        return [
            (record, self._store.kept_tokens(record), self._store.disk_bytes(record))
            for record in self._store.sessions.values()
            if record.scope == scope
        ]
