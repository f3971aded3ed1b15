"""Sessions of a runtime, put together when they are first needed, and their seam to the engine.

What they are made of imports numpy, which the runtime must not before its hello; so that everything
is made at the first use, and nothing while nobody has a session. `EngineCaches` is what `sessions`
asks of the engine, `KeptMemory` what the models' budget says to the caches that are kept.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from ..engine.blas import Blas
from ..engine.kv_memory import KvMemory
from ..engine.thread import EngineThread
from ..errors import EngineDead
from ..limits import KV_MEMORY_PART
from ..models.cache import ModelCache
from ..models.load import LoadedModel
from ..sessions.fingerprint import fingerprint
from ..settings import Settings

if TYPE_CHECKING:
    from ..engine.kv_layers import NewCache
    from ..sessions.layout import Layout
    from ..sessions.manager import SessionManager
    from ..sessions.turn import SessionModel
    from ..sessions.values import Evaluated

_DIGESTS: Final = "digests"


class KeptMemory:
    """What kept caches may take: a share of the budget, and what models leave of it.

    Args:
        engine: Where they are.
        memory: Counts them.
        most_bytes: What a user allows; None for the share.
    """

    def __init__(self, engine: EngineThread, memory: KvMemory, most_bytes: int | None) -> None:
        self._engine = engine
        self._memory = memory
        self._most_bytes = most_bytes

    def limit(self, left_bytes: int, budget_bytes: int) -> None:
        """Say what models leave of the budget."""
        most_bytes = self._most_bytes
        if most_bytes is None:
            most_bytes = int(budget_bytes * KV_MEMORY_PART)
        self._memory.limit_bytes = max(min(left_bytes, most_bytes), 0)

    async def give_way(self, left_bytes: int) -> int:
        """Let caches leave until they take no more; return what they still take."""
        if self._memory.held_bytes <= left_bytes:
            return self._memory.held_bytes
        try:
            return await self._engine.run(lambda: self._memory.fit(max(left_bytes, 0)))
        except EngineDead:
            return self._memory.held_bytes


class EngineCaches:
    """The caches in memory, by way of the engine thread: `sessions.turn.SessionEngine`.

    Args:
        engine: The thread.
        models: Finds a model by its handle.
        memory: Counts the caches.
    """

    def __init__(self, engine: EngineThread, models: ModelCache, memory: KvMemory) -> None:
        self._engine = engine
        self._models = models
        self._memory = memory

    async def allocate(self, model: str, layout: Layout, tokens: int) -> NewCache:
        """Return memory for a cache of so many tokens, made in steps."""
        from ..engine.kv_layers import NewCache

        made = NewCache(self._models.get(model).network, layout, tokens)
        await self._engine.run_steps(made)
        return made

    async def snapshot(self, name: str) -> Evaluated | None:
        """Return the numbers of a session's cache; None when they cannot be saved."""
        return await self._engine.run(lambda: self._with(name, lambda of: of.snapshot(name), None))

    async def evict(self, name: str) -> int:
        """Let a session's cache leave memory; return its bytes."""
        return await self._engine.run(lambda: self._memory.drop(name))

    async def truncate(self, name: str, tokens: int) -> int:
        """Cut a session's cache back; return how many tokens it has then."""
        return await self._engine.run(
            lambda: self._with(name, lambda of: of.truncate(name, tokens), 0)
        )

    async def fork(self, name: str, to: str) -> int:
        """Let another session have a cache like this one's; return its bytes."""
        return await self._engine.run(lambda: self._with(name, lambda of: of.fork(name, to), 0))

    def protect(self, name: str, is_protected: bool) -> None:
        """Whether a session's cache in memory must stay."""
        change = self._memory.in_use.add if is_protected else self._memory.in_use.discard
        change(name)

    def _with(self, name: str, work: Any, otherwise: Any) -> Any:
        caches = self._memory.of_owner(name)
        return otherwise if caches is None else work(caches)


class SessionService:
    """The sessions, once somebody wants one.

    Args:
        settings: Where sessions are kept, and how much of them.
        engine: Does the models' work.
        models: The loaded models.
        memory: Counts the caches that are kept.
        blas: Which BLAS computes.
    """

    def __init__(
        self,
        settings: Settings,
        engine: EngineThread,
        models: ModelCache,
        memory: KvMemory,
        blas: Blas,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._models = models
        self._memory = memory
        self._blas = blas
        self._manager: SessionManager | None = None

    @property
    def manager(self) -> SessionManager:
        """The sessions; the disk is looked at when this is first asked for."""
        if self._manager is None:
            from ..sessions.manager import SessionManager
            from ..sessions.store import SessionStore
            from ..sessions.values import StoreOptions
            from ..sessions.worker import Worker

            settings = self._settings
            options = StoreOptions(
                settings.session_dir,
                settings.session_disk_bytes,
                settings.session_free_disk_bytes,
                settings.session_ttl_s,
                settings.session_fsync,
            )
            self._manager = SessionManager(
                SessionStore(options, time.time),
                Worker(asyncio.get_running_loop()),
                EngineCaches(self._engine, self._models, self._memory),
                time.time,
            )
            self._manager.start()
        return self._manager

    async def model(self, model: LoadedModel) -> SessionModel:
        """Return what sessions have to know of a model; computed once."""
        known: dict[str, asyncio.Future[SessionModel]] = model.operation("session_model", dict)
        if "known" not in known:
            known["known"] = asyncio.ensure_future(self._describe(model))
        try:
            return await asyncio.shield(known["known"])
        except Exception:
            known.pop("known", None)
            raise

    def stats(self) -> dict[str, Any] | None:
        """Return the protocol's `session_stats`; None while nobody has had a session."""
        if self._manager is None:
            return None
        return self._manager.stats(self._memory.held_bytes, self._memory.limit_bytes)

    def on_evicted(self, name: str) -> None:
        """A session's cache made room for others; on the engine thread."""
        self._engine.post(self._tell_evicted, (name,))

    def on_model_gone(self, handle: str) -> None:
        """A model has left memory."""
        if self._manager is not None:
            self._manager.on_model_gone(handle)

    def stop(self, timeout_s: float) -> bool:
        """Have what was queued written, for so long; return whether it was."""
        return self._manager is None or self._manager.stop(timeout_s)

    def _tell_evicted(self, name: str) -> None:
        if self._manager is not None:
            self._manager.on_evicted(name)

    async def _describe(self, model: LoadedModel) -> SessionModel:
        from ..sessions.turn import SessionModel

        network = model.network

        def look() -> tuple[Layout | None, str]:
            import mlx.core as mx

            from ..engine.kv_layers import layout_of

            return layout_of(network), str(mx.default_device())

        layout, device = await self._engine.run(look)
        also = [str(model.verified.dtype), device, self._blas.name]
        digest = await asyncio.to_thread(self._fingerprint, model, also)
        return SessionModel(model.handle, digest, layout)

    def _fingerprint(self, model: LoadedModel, also: list[str]) -> bytes | None:
        path = self._settings.session_dir
        if model.stamps is None or path is None:
            return None
        digests = path / _DIGESTS if path.is_dir() else None
        try:
            return fingerprint(model.stamps, also, digests)
        except OSError:
            # Its files have changed: what is in memory cannot be told any more.
            return None
