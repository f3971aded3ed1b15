"""Sessions as a runtime has them: opened, worked on one call at a time, saved, evicted, forked.

Memory belongs to the engine, the disk to the worker's thread (`stored.py`); which sessions there
are, and who waits for them, is in `registry.py`. Here is who may do what, and in which order.
Nothing here fails a generation for what is wrong with the disk. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final

from ..limits import SESSION_SWEEP_S
from .known import IsAnswered, KnownSession, Place
from .record import SessionRecord
from .reference import SessionReference, exists
from .registry import SessionRegistry
from .store import SessionStore
from .stored import StoredSessions
from .turn import SessionEngine, SessionModel, Turn, TurnParts, save
from .values import Saved
from .worker import Urgency, Worker

NOT_SAVED: Final = "nothing of it is kept on disk"


def _never() -> bool:
    return False


class SessionManager:
    """All sessions of a runtime.

    Args:
        store: What is on disk; touched by the worker's thread alone.
        worker: That thread.
        engine: What is in memory.
        wall_clock: Unix time in seconds.
    """

    def __init__(
        self,
        store: SessionStore,
        worker: Worker,
        engine: SessionEngine,
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._worker = worker
        self._engine = engine
        self._parts = TurnParts(store, worker, engine)
        self._registry = SessionRegistry(wall_clock)
        self._stored = StoredSessions(store, worker, wall_clock)
        self._models: dict[str, SessionModel] = {}
        self._opening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sweeping: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look at the disk, and begin to take calls."""
        self._worker.start()
        self._opening = self._worker.submit(Urgency.RESTORE, self._store.open)
        self._sweep_later()

    async def opened(self) -> None:
        """Wait until the disk was looked at."""
        await asyncio.wait({self._opening})

    def stop(self, timeout_s: float) -> bool:
        """Have what was queued written, for so long; return whether it was."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._worker.submit(Urgency.SAVE, self._store.close)
        return self._worker.stop(timeout_s)

    def place(self, reference: SessionReference, is_answered: IsAnswered = _never) -> Place:
        """Take a place in a session's queue, at once; whoever has it hands it to a method, or
        leaves.

        Args:
            is_answered: Whether the call has its answer: then others that do not want to wait may
                come, although they wait for what is left to be done.

        Raises:
            SessionBusy: Somebody is there, and the call does not want to wait.
        """
        return self._registry.place(reference, is_answered)

    @contextlib.asynccontextmanager
    async def turn(self, place: Place, model: SessionModel) -> AsyncIterator[Turn]:
        """Have a session for a generation, as soon as nobody else has it."""
        reference = place.reference
        async with self._session(place, is_used=True) as session:
            self._models[model.handle] = model
            self._engine.protect(reference.name, True)
            turn = Turn(session, model, self._parts, self._registry.latest)
            try:
                yield turn
            finally:
                try:
                    await turn.end()
                finally:
                    self._engine.protect(reference.name, False)

    async def open(self, place: Place, model: SessionModel) -> dict[str, Any]:
        """Begin a session, or say how it is; return the protocol's session info."""
        name = place.reference.name
        async with self._session(place, is_used=True) as session:
            # One under way would write the options that it began with.
            await self._finish_saving(session)
            before = await self._stored.get(name)
            if before is None or before.pin != session.record.pin:
                await self._stored.put(session.record, before)
            return await self._info(session, model)

    async def save(self, place: Place) -> dict[str, Any]:
        """Wait until all of a session is on disk."""
        async with self._session(place) as session:
            saved = await self._save(session)
            return {
                "saved": saved.reason is None,
                "tokens": saved.tokens,
                "written_bytes": saved.written_bytes,
                "reason": saved.reason,
            }

    async def evict(self, place: Place) -> dict[str, Any]:
        """Save a session and let it leave memory; it stays where it cannot be saved."""
        async with self._session(place) as session:
            is_hot = len(session.hot) > 0
            if not is_hot or (await self._save(session)).reason is not None:
                return {"evicted": False, "freed_bytes": 0}
            freed = await self._engine.evict(place.reference.name)
            session.is_now_cold()
            return {"evicted": True, "freed_bytes": freed}

    async def fork(self, place: Place, other_place: Place) -> dict[str, Any]:
        """Begin another session where this one is. No two forks wait for each other: each has
        taken both of its places at once.

        Raises:
            InvalidRequest: The other one exists.
        """
        reference, to = place.reference, other_place.reference
        async with self._session(place) as session, self._session(other_place) as other:
            is_on_disk = await self._stored.get(to.name) is not None
            if is_on_disk or self._registry.is_used(to.name):
                raise exists(to)
            await self._save(session)
            other.record = replace(session.record, id=to.id)
            await self._stored.copy(reference.name, other.record)
            if len(session.hot):
                nbytes = await self._engine.fork(reference.name, to.name)
                if nbytes:
                    other.is_now_hot(session.hot, session.hot_model, nbytes)
                other.is_unsaved, other.problem = session.is_unsaved, session.problem
            self._registry.use(to.name)
            return await self._info(other)

    async def truncate(self, place: Place, tokens: int) -> dict[str, Any]:
        """Forget all of a session but its first tokens."""
        name = place.reference.name
        async with self._session(place) as session:
            await self._finish_saving(session)
            if len(session.hot) > tokens:
                left = await self._engine.truncate(name, tokens)
                if left:
                    session.hot = session.hot[:left]
                else:
                    session.is_now_cold()
            await self._stored.truncate(name, tokens)
            return await self._info(session)

    async def delete(self, place: Place) -> bool:
        """Forget a session; return whether there was one."""
        reference, name = place.reference, place.reference.name
        async with self._session(place) as session:
            was_known = self._registry.is_used(name)
            await self._finish_saving(session)
            await self._engine.evict(name)
            session.is_now_cold()
            session.is_unsaved, session.problem = False, None
            session.record = SessionRecord(reference.id, reference.scope)
            was_on_disk = await self._stored.delete(name)
            self._registry.forget_use(name)
        return was_known or was_on_disk

    async def infos(self, scope: str) -> list[dict[str, Any]]:
        """Return the info of all sessions of a tenant, the latest used first."""
        on_disk = await self._stored.records(scope)
        infos: dict[str, dict[str, Any]] = {}
        for record, tokens, disk_bytes in on_disk:
            session = self._registry.get(record.name) or KnownSession(record)
            used_at = self._registry.used_at(record.name, record.used_at)
            infos[record.name] = session.info(tokens, disk_bytes, used_at)
        for name, session in self._registry.used_in(scope).items():
            if name not in infos:
                infos[name] = session.info(0, 0, self._registry.used_at(name, 0.0))
        return sorted(infos.values(), key=lambda info: -float(info["used_at"]))

    def stats(self, held_bytes: int, limit_bytes: int) -> dict[str, Any]:
        """Return the protocol's `session_stats` (section 3.4).

        Args:
            held_bytes: What kept caches take in memory.
            limit_bytes: What they may take.
        """
        store = self._store.stats()
        return {
            **store,
            "sessions": len({*self._registry.names(), *list(self._store.sessions)}),
            "hot": len(self._registry.hot()),
            "hot_bytes": held_bytes,
            "hot_limit_bytes": limit_bytes,
            "dropped_saves": self._store.counts["dropped_saves"],
        }

    def on_evicted(self, name: str) -> None:
        """A session's cache made room for others in memory."""
        self._registry.on_evicted(name)

    def on_model_gone(self, handle: str) -> None:
        """A model has left memory, and the caches of its sessions with it."""
        self._models.pop(handle, None)
        self._registry.on_model_gone(handle)

    @contextlib.asynccontextmanager
    async def _session(self, place: Place, is_used: bool = False) -> AsyncIterator[KnownSession]:
        """Have a session, alone, as it is asked for."""
        session, name = place.session, place.reference.name
        try:
            await place.wait()
            await self._read(session, place.reference)
            if is_used:
                self._registry.use(name)
            yield session
        finally:
            self._registry.leave(place)

    async def _read(self, session: KnownSession, reference: SessionReference) -> None:
        """Learn what the disk knows of a session, once, and take the options of a call."""
        if not session.is_read:
            found = await self._stored.get(reference.name)
            session.is_read = True
            session.record = found or session.record
        record = session.record
        kv = record.kv if reference.kv is None else reference.kv
        pin = record.pin if reference.pin is None else reference.pin
        session.record = replace(record, kv=kv, pin=pin)
        if kv != record.kv:
            await self._begin_anew(session)

    async def _begin_anew(self, session: KnownSession) -> None:
        """Forget what was kept in another format: it may not be exact."""
        name = session.record.name
        await self._finish_saving(session)
        await self._engine.evict(name)
        session.is_now_cold()
        session.is_unsaved, session.problem = False, None
        session.record = replace(session.record, root="", tip="", tokens=0)
        await self._stored.replace(session.record)

    async def _save(self, session: KnownSession) -> Saved:
        """Have everything written that is not; return how that went."""
        saved = await self._finish_saving(session)
        if session.is_unsaved and len(session.hot):
            evaluated = await self._engine.snapshot(session.record.name)
            model = self._models.get(session.hot_model)
            if evaluated is not None and model is not None:
                save(session, model, evaluated, self._parts)
                saved = await self._finish_saving(session)
        if saved is not None:
            return saved
        record = await self._stored.get(session.record.name)
        tokens = 0 if record is None else await self._stored.kept_tokens(record)
        reason = session.problem if session.is_unsaved else None
        return Saved(tokens, 0, reason or (NOT_SAVED if tokens < len(session.hot) else None))

    async def _finish_saving(self, session: KnownSession) -> Saved | None:
        """Wait for the save under way, if there is one; return how it went."""
        saved = None
        while session.saving is not None:
            saving = session.saving
            await asyncio.wait({saving})
            failed = saving.cancelled() or saving.exception() is not None
            saved = Saved(0, 0, "writing failed") if failed else saving.result()
            # Its own callback comes after this one's.
            await asyncio.sleep(0)
        return saved

    async def _info(
        self, session: KnownSession, model: SessionModel | None = None
    ) -> dict[str, Any]:
        """Return a session's info; with a model, only of what that can use."""
        name = session.record.name
        if not len(session.hot):
            # What has left memory while it was written is on its way.
            await self._finish_saving(session)
        family = None
        if model is not None:
            family = model.family(session.record.scope, session.record.kv)
        tokens, disk_bytes, used_at = await self._stored.content(name, family)
        info = session.info(tokens, disk_bytes, self._registry.used_at(name, used_at))
        # The call that asks is no other.
        info["busy"] = session.unanswered > 1
        return info

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(SESSION_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._worker.submit(Urgency.SAVE, self._store.expire)
        self._sweep_later()
