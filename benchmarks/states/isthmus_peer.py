"""Sessions of Isthmus from Python, through its host; commands on standard input.

The twin of `isthmus.mjs`, for the states alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from benchmarks.processes import serve
from isthmus import host

_MEMORY_BYTES: Final = 4 * 1024**3
"""Room for every session of a round: none is to leave memory before it is told to."""

_WARM_UP: Final = list(range(64))


class Peer:
    """A runtime with loaded models, and the sessions that were opened on it."""

    def __init__(self) -> None:
        self._runtime: host.Runtime | None = None
        self._settings: tuple[str, list[str]] = ("", [])
        self._models: dict[str, host.Model] = {}
        self._sessions: dict[str, host.Session] = {}

    async def start(self, dir: str, sources: list[str]) -> dict[str, Any]:
        """Start a runtime that has loaded its models and run a few tokens on each."""
        self._settings = dir, sources
        options = host.SessionOptions(dir=dir, memory_bytes=_MEMORY_BYTES)
        self._runtime = await host.start(env=os.environ, sessions=options)
        for source in sources:
            model = await self._runtime.load_model(source, local_files_only=True)
            await model.generate(ids=_WARM_UP, max_tokens=2, cache_prompt=False)
            self._models[source] = model
        return {"blas": self._runtime.hello["blas"]["name"]}

    async def restart(self) -> dict[str, Any]:
        """End the runtime's process and start another on the same folder."""
        await self.stop()
        return await self.start(*self._settings)

    async def stop(self) -> None:
        """End the runtime."""
        if self._runtime is not None:
            await self._runtime.close()
        self._models.clear()
        self._sessions.clear()

    async def ask(
        self,
        source: str,
        names: list[str],
        tenant: str | None,
        prompts: list[list[int]],
        maxTokens: int,
        isStreamed: bool,
    ) -> dict[str, Any]:
        """Ask several sessions at once, each its own prompt."""
        asked = [await self._session(name, source, tenant) for name in names]
        sessions = self._running.sessions
        before = await sessions.stats()
        start = time.perf_counter()
        answers = await asyncio.gather(
            *(
                _answer(session.generate(ids=ids, max_tokens=maxTokens, stream=isStreamed), start)
                for session, ids in zip(asked, prompts, strict=True)
            )
        )
        for session in asked:
            await session.save()
        after = await sessions.stats()
        return {
            "answers": answers,
            "savedBytes": after["saved_bytes"] - before["saved_bytes"],
            "restoredBytes": after["restored_bytes"] - before["restored_bytes"],
        }

    async def remove(self, names: list[str]) -> dict[str, Any]:
        """Delete sessions."""
        for name in names:
            await self._sessions.pop(name).delete()
        return {}

    @property
    def _running(self) -> host.Runtime:
        assert self._runtime is not None
        return self._runtime

    async def _session(self, name: str, source: str, tenant: str | None) -> host.Session:
        if name not in self._sessions:
            model = self._models[source]
            opened = await self._running.sessions.open(name, model=model, tenant=tenant)
            self._sessions[name] = opened
        return self._sessions[name]


async def _answer(generation: host.Generation, start: float) -> dict[str, Any]:
    ttft_ms = None
    async for delta in generation:
        if delta.ids and ttft_ms is None:
            ttft_ms = _ms_since(start)
    result = await generation
    cache = result.cache
    assert cache is not None and result.batching is not None
    return {
        "ids": result.ids,
        "totalMs": _ms_since(start),
        # Without deltas the runtime alone knows.
        "ttftMs": ttft_ms or result.timing["ttft_ms"],
        "state": cache["state"],
        "reusedTokens": cache["reused_tokens"],
        "prefilledTokens": cache["prefilled_tokens"],
        "loadMs": cache["load_ms"],
        "reason": result.batching["reason"],
    }


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Answer commands until the input ends; one loop lives through all of them."""
    peer = Peer()
    with asyncio.Runner() as runner:

        def on_loop(
            operation: Callable[..., Coroutine[Any, Any, dict[str, Any]]],
        ) -> Callable[..., dict[str, Any]]:
            return lambda **parameters: runner.run(operation(**parameters))

        operations = ("start", "restart", "ask", "remove")
        try:
            serve({name: on_loop(getattr(peer, name)) for name in operations}, sys.stdin)
        finally:
            runner.run(peer.stop())


if __name__ == "__main__":
    main()
