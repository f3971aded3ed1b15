"""Sessions without processes: manager, store and disk as they are, the model's work in between.

The engine thread's place is taken by the test's own, so that nothing is decided by a race. A
restart is a new rig on the same folder.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlx_lm.generate import generation_stream

from isthmus.engine.decoder import Decoder
from isthmus.engine.generate import Sequence
from isthmus.engine.kv_layers import NewCache
from isthmus.engine.kv_memory import KvMemory, Ownership
from isthmus.engine.plan import Plan
from isthmus.engine.sampling import SamplingOptions
from isthmus.engine.speculate import Speculation
from isthmus.sessions.known import Place
from isthmus.sessions.layout import Layout
from isthmus.sessions.manager import SessionManager
from isthmus.sessions.reference import SessionReference
from isthmus.sessions.store import SessionStore, StoreOptions
from isthmus.sessions.turn import SessionModel, Turn
from isthmus.sessions.worker import Worker
from tests.python.engine.networks import VOCAB_SIZE

GREEDY = SamplingOptions()
ENOUGH = 2**40


@dataclass(frozen=True)
class Answer:
    """What a generation gave."""

    ids: list[int]
    logits: list[Any]
    reused: int
    state: str


class DirectCaches:
    """Takes the place of the way through the engine thread."""

    def __init__(self, network: Any, memory: KvMemory) -> None:
        self._network = network
        self._memory = memory

    async def allocate(self, model: str, layout: Layout, tokens: int) -> NewCache:
        """Make all of it."""
        made = NewCache(self._network, layout, tokens)
        while not made.step():
            pass
        return made

    async def snapshot(self, name: str) -> Any:
        """Return its numbers."""
        caches = self._memory.of_owner(name)
        return None if caches is None else caches.snapshot(name)

    async def evict(self, name: str) -> int:
        """Let it leave."""
        return self._memory.drop(name)

    async def truncate(self, name: str, tokens: int) -> int:
        """Cut it."""
        caches = self._memory.of_owner(name)
        return 0 if caches is None else caches.truncate(name, tokens)

    async def fork(self, name: str, to: str) -> int:
        """Copy it."""
        caches = self._memory.of_owner(name)
        return 0 if caches is None else caches.fork(name, to)

    def protect(self, name: str, is_protected: bool) -> None:
        """Note it."""
        (self._memory.in_use.add if is_protected else self._memory.in_use.discard)(name)


class Rig:
    """The sessions of one model.

    Args:
        network: The model.
        folder: Where they are kept; None for memory only.
        chunk_tokens: Of prefill.
        limit_bytes: What kept caches may take.
        quota_bytes: What files may take.
        fingerprint: What the model is said to be.
    """

    def __init__(
        self,
        network: Any,
        folder: Path | None,
        chunk_tokens: int = 512,
        limit_bytes: int = ENOUGH,
        quota_bytes: int = ENOUGH,
        fingerprint: bytes = b"model",
    ) -> None:
        self.network = network
        self.memory = KvMemory(limit_bytes, lambda name: self.manager.on_evicted(name))
        self.decoder = Decoder(network, VOCAB_SIZE, True, chunk_tokens, 2**26, self.memory)
        self.store = SessionStore(StoreOptions(folder, quota_bytes, 0, 1e9), lambda: 1e9)
        worker = Worker(asyncio.get_running_loop())
        engine = DirectCaches(network, self.memory)
        self.manager = SessionManager(self.store, worker, engine, lambda: 1e9)
        self.manager.start()
        self._chunk_tokens = chunk_tokens
        self.model = SessionModel("model", fingerprint, self.decoder.layout)

    async def generate(
        self,
        session: str,
        prompt: list[int],
        count: int,
        *,
        stops_after: int | None = None,
        speculation: Speculation | None = None,
        **options: Any,
    ) -> Answer:
        """Generate in a session.

        Args:
            stops_after: Steps after which it is cancelled.
            options: How the call names the session, besides its id.
        """
        reference = SessionReference(session, **options)
        async with self.turn(reference) as turn:
            await turn.prepare(prompt)
            on_left = turn.begin()
            known = turn.session
            whose = Ownership(known.hot_scope, known.record.name, known.record.pin)
            plan = Plan(prompt, GREEDY, count, whose=whose, restored=turn.restored)
            sequence = self.decoder.open(plan, speculation)
            found = self._run(sequence, count, stops_after)
            reused, state = sequence.cached, sequence.cache_state
            on_left(self.decoder.close(sequence))
        return Answer([token for token, _ in found], [row for _, row in found], reused, state)

    async def fail(self, session: str, prompt: list[int]) -> None:
        """Begin to generate in a session, and fail."""
        async with self.turn(SessionReference(session)) as turn:
            await turn.prepare(prompt)
            on_left = turn.begin()
            whose = Ownership(turn.session.hot_scope, turn.session.record.name)
            sequence = self.decoder.open(
                Plan(prompt, GREEDY, 4, whose=whose, restored=turn.restored)
            )
            self._run(sequence, 1, 2)
            on_left(self.decoder.close(sequence, is_sound=False))

    def _run(
        self, sequence: Sequence, count: int, stops_after: int | None
    ) -> list[tuple[int, Any]]:
        found: list[tuple[int, Any]] = []
        steps = 0
        while len(found) < count and steps != stops_after:
            steps += 1
            if sequence.is_prefilling:
                self.decoder.prefill([sequence], self._chunk_tokens)
                continue
            sequence.room = count - len(found)
            ((_, taken),) = self.decoder.decode([sequence])
            assert not isinstance(taken, Exception), taken
            found += [(token, np.array(row)) for token, row in taken]
        return found[:count]

    def turn(self, reference: SessionReference) -> AbstractAsyncContextManager[Turn]:
        """Have a session for a generation."""
        return self.manager.turn(self.manager.place(reference), self.model)

    async def open(self, session: str, scope: str = "") -> dict[str, Any]:
        """Begin it, or look at it."""
        return await self.manager.open(self._place(session, scope), self.model)

    async def save(self, session: str, scope: str = "") -> dict[str, Any]:
        """Have it saved."""
        return await self.manager.save(self._place(session, scope))

    async def evict(self, session: str, scope: str = "") -> dict[str, Any]:
        """Have it leave memory."""
        return await self.manager.evict(self._place(session, scope))

    async def fork(self, session: str, to: str, scope: str = "") -> dict[str, Any]:
        """Begin another one where it is."""
        places = self._place(session, scope), self._place(to, scope)
        return await self.manager.fork(*places)

    async def truncate(self, session: str, tokens: int, scope: str = "") -> dict[str, Any]:
        """Forget its end."""
        return await self.manager.truncate(self._place(session, scope), tokens)

    async def delete(self, session: str, scope: str = "") -> bool:
        """Forget it."""
        return await self.manager.delete(self._place(session, scope))

    def _place(self, session: str, scope: str) -> Place:
        return self.manager.place(SessionReference(session, scope))

    def close(self) -> None:
        """End, as a runtime does."""
        assert self.manager.stop(20.0)


@contextlib.asynccontextmanager
async def rig(*arguments: Any, **options: Any) -> AsyncIterator[Rig]:
    """A rig that is closed at the end."""
    made = Rig(*arguments, **options)
    try:
        yield made
    finally:
        made.close()


def alone(network: Any, prompt: list[int], count: int, chunk_tokens: int = 512) -> Answer:
    """Return what mlx-lm's own steps give, without any kept cache."""
    plan = Plan(prompt, GREEDY, count, may_batch=False, may_reuse=False)
    sequence = Sequence(network, VOCAB_SIZE, plan, chunk_tokens, generation_stream)
    while sequence.is_prefilling:
        sequence.prefill(chunk_tokens)
    found: list[tuple[int, Any]] = []
    while len(found) < count:
        found += [(token, np.array(row)) for token, row in sequence.decode()]
    return Answer([token for token, _ in found], [row for _, row in found], 0, "cold")


def text(seed: int, length: int) -> list[int]:
    """Return tokens that follow from a seed."""
    return [int(token) for token in np.random.default_rng(seed).integers(5, 700, length)]
