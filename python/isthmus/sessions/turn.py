"""One call's work on a session: find what is kept, read it, and keep what became of it.

The work lies between two others: before, while the session is this call's alone, what is on disk
and not in memory is read into memory that the engine made; afterwards, when the engine has let go
of the generation, its cache is the session's, and a save is queued. Neither keeps an answer waiting
but for reading, and that for a bounded time. What goes wrong with the disk is counted, and the
prompt is evaluated. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..errors import EngineDead
from ..limits import CACHE_ROOM_TOKENS, PROMPT_REUSE_TOKENS, SESSION_RESTORE_LIMIT_S
from .chain import TokenIds, root_key, shared_tokens, token_array
from .chunkfile import FORMAT_VERSION, ChunkFormat
from .known import KnownSession
from .layout import Array, Layout
from .statefile import State
from .store import NO_DIRECTORY, SessionStore
from .values import Evaluated, Family, Held
from .worker import Urgency, Worker


@dataclass(frozen=True, slots=True)
class SessionModel:
    """A loaded model, as sessions see it.

    Attributes:
        handle: Its name in this runtime.
        fingerprint: What it is; None when that cannot be told: nothing of it is kept on disk.
        layout: What its caches look like; None when a kind of them cannot be kept on disk.
    """

    handle: str
    fingerprint: bytes | None
    layout: Layout | None

    def family(self, scope: str, kv: str) -> Family | None:
        """Return whose texts on disk are this model's; None when there can be none."""
        if self.fingerprint is None or self.layout is None:
            return None
        parts = (str(FORMAT_VERSION), self.fingerprint, self.layout.to_bytes(), kv, scope)
        root = root_key(part.encode() if isinstance(part, str) else part for part in parts)
        return Family(root, ChunkFormat(self.layout, kv))


class Memory(Protocol):
    """Memory for a cache, made by the engine: `engine.kv_layers.NewCache`."""

    arrays: list[Array]

    def finish(self, tokens: int, states: list[State] | None) -> list[Any]:
        """Return the cache; on the engine thread."""
        ...


class SessionEngine(Protocol):
    """What sessions ask of the engine."""

    async def allocate(self, model: str, layout: Layout, tokens: int) -> Memory:
        """Return memory for a cache of up to so many tokens."""
        ...

    async def snapshot(self, name: str) -> Evaluated | None:
        """Return the numbers of a session's cache in memory."""
        ...

    async def evict(self, name: str) -> int:
        """Let a session's cache leave memory; return its bytes."""
        ...

    async def truncate(self, name: str, tokens: int) -> int:
        """Cut a session's cache in memory; return how many tokens it has then."""
        ...

    async def fork(self, name: str, to: str) -> int:
        """Let another session have a cache like this one's; return its bytes."""
        ...

    def protect(self, name: str, is_protected: bool) -> None:
        """Whether a session's cache in memory must stay."""
        ...


class Leftovers(Protocol):
    """What a generation left behind: `engine.decoder.Left`."""

    ids: TokenIds
    kept_bytes: int
    evaluated: Evaluated | None
    problem: str | None


class RestoredCache:
    """A cache that was read from disk, until the engine takes it."""

    def __init__(self, memory: Memory, tokens: int, states: list[State] | None) -> None:
        self._memory: Memory | None = memory
        self._tokens = tokens
        self._states = states

    @property
    def tokens(self) -> int:
        """How many tokens it holds; 0 once it was taken."""
        return 0 if self._memory is None else self._tokens

    def take(self) -> list[Any]:
        """Return it, once; on the engine thread."""
        assert self._memory is not None
        memory, self._memory = self._memory, None
        return memory.finish(self._tokens, self._states)


class Turn:
    """A generation's work on a session, which is its alone meanwhile.

    Args:
        session: The session.
        model: The model that generates.
        parts: What it works with.
        others: Sessions that are hot, and that it may share with.

    Attributes:
        restored: What was read from disk for it.
        load_ms: How long that took.
    """

    def __init__(
        self,
        session: KnownSession,
        model: SessionModel,
        parts: TurnParts,
        others: Callable[[], list[KnownSession]],
    ) -> None:
        self.session = session
        self.model = model
        self.restored: RestoredCache | None = None
        self.load_ms = 0.0
        self._parts = parts
        self._others = others
        self._family = model.family(session.record.scope, session.record.kv)
        self._attempts: list[asyncio.Future[Leftovers | None]] = []

    async def prepare(self, prompt: list[int]) -> None:
        """Read what is on disk of a prompt, and not in memory."""
        ids = token_array(prompt)
        limit = len(ids) - 1
        in_memory = self._in_memory(ids, limit)
        if self._family is None or in_memory >= limit:
            return
        started = time.perf_counter()
        try:
            async with asyncio.timeout(SESSION_RESTORE_LIMIT_S):
                await self._restore(self._family, ids, limit, in_memory)
        except EngineDead:
            raise
        except Exception:  # whatever it is, the prompt can be evaluated instead
            self._parts.store.counts["restore_failures"] += 1
        if self.restored is not None:
            self.load_ms = (time.perf_counter() - started) * 1_000

    def begin(self) -> Callable[[Any], None]:
        """Begin an attempt; return what is to be told what it leaves behind, None for nothing."""
        left: asyncio.Future[Leftovers | None] = asyncio.get_running_loop().create_future()
        self._attempts.append(left)

        def on_left(leftovers: Leftovers | None) -> None:
            if not left.done():
                left.set_result(leftovers)

        return on_left

    async def end(self) -> None:
        """Wait until the engine has let go, keep what there is, and have it saved."""
        for attempt in self._attempts:
            left = await attempt
            # One that never began leaves what was kept as it is.
            if left is not None:
                self._keep(left)

    def _keep(self, left: Leftovers) -> None:
        session = self.session
        if left.kept_bytes:
            session.is_now_hot(left.ids, self.model.handle, left.kept_bytes)
        else:
            session.is_now_cold()
        if left.problem is not None:
            self._parts.store.counts["save_failures"] += 1
            session.problem = f"what was evaluated could not be kept: {left.problem}"
        if left.evaluated is not None:
            save(session, self.model, left.evaluated, self._parts)
        elif left.kept_bytes:
            # Of a failed turn, or of a model whose caches are never saved.
            session.is_unsaved = True
            if self._family is None:
                session.problem = self._parts.why_not(self.model)

    def _in_memory(self, ids: TokenIds, limit: int) -> int:
        """Return how many tokens are hot: `limit` when nothing on disk could be more."""
        own, most = self.session, 0
        for other in (own, *self._others()):
            if other.hot_model == self.model.handle and other.hot_scope == own.hot_scope:
                shared = shared_tokens(other.hot, ids[:limit])
                if other is own and shared == len(own.hot):
                    return limit
                most = max(most, shared)
        return most

    async def _restore(self, family: Family, ids: TokenIds, limit: int, in_memory: int) -> None:
        worker, store = self._parts.worker, self._parts.store
        held = await self._find(family, ids, limit)
        if held.tokens < in_memory + PROMPT_REUSE_TOKENS:
            self._release(held)
            return
        try:
            # With room for the rest of the prompt and for some tokens after it.
            memory = await self._parts.engine.allocate(
                self.model.handle, family.format.layout, len(ids) + CACHE_ROOM_TOKENS
            )
        except BaseException:
            self._release(held)
            raise
        arrays = list(memory.arrays)
        found = await worker.submit(Urgency.RESTORE, lambda: store.read(held, arrays))
        if found.tokens > in_memory:
            self.restored = RestoredCache(memory, found.tokens, found.states)

    async def _find(self, family: Family, ids: TokenIds, limit: int) -> Held:
        store = self._parts.store
        finding = self._parts.worker.submit(Urgency.RESTORE, lambda: store.find(family, ids, limit))
        try:
            return await asyncio.shield(finding)
        except asyncio.CancelledError:
            finding.add_done_callback(self._release_found)
            raise

    def _release_found(self, finding: asyncio.Future[Held]) -> None:
        if not finding.cancelled() and finding.exception() is None:
            self._release(finding.result())

    def _release(self, held: Held) -> None:
        self._parts.worker.submit(Urgency.RESTORE, lambda: self._parts.store.release(held))


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What turns work with."""

    store: SessionStore
    worker: Worker
    engine: SessionEngine

    def why_not(self, model: SessionModel) -> str:
        """Return why nothing of a model is kept on disk."""
        if self.store.options.path is None:
            return NO_DIRECTORY
        if model.layout is None:
            return "the kind of this model's KV cache is unknown, and stays in memory"
        return "the files of the model have changed since it was loaded; load it again"


def save(
    session: KnownSession, model: SessionModel, evaluated: Evaluated, parts: TurnParts
) -> None:
    """Queue a save of a session; one too many is left out, and counted."""
    session.is_unsaved = True
    family = model.family(session.record.scope, session.record.kv)
    if family is None:
        session.problem = parts.why_not(model)
        return
    if not parts.worker.has_room:
        parts.store.counts["dropped_saves"] += 1
        session.problem = "too many saves were waiting"
        return
    session.is_unsaved = False
    record = replace(session.record)
    saving = parts.worker.submit(Urgency.SAVE, parts.store.save(family, evaluated, record))
    session.saving = saving

    def on_done(done: asyncio.Future[Any]) -> None:
        if session.saving is not done:
            return
        session.saving = None
        failed = done.cancelled() or done.exception() is not None
        session.problem = "writing failed" if failed else done.result().reason
        session.is_unsaved = session.problem is not None

    saving.add_done_callback(on_done)
