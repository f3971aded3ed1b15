"""Isthmus from Python, through its host; commands on standard input."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.processes import serve
from isthmus import host


class Peer:
    """A runtime with a loaded model, and what is asked of it."""

    def __init__(self) -> None:
        self._runtime: host.Runtime | None = None
        self._model: host.Model | None = None

    async def start(self, source: str, ids: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """Start from nothing: process, model, first token; seconds."""
        begun = time.perf_counter()
        self._runtime = await host.start()
        self._model = await self._runtime.load_model(source)
        loaded = time.perf_counter()
        await self._model.generate(ids=ids, max_tokens=1, **options)
        return {"loadedS": loaded - begun, "firstTokenS": time.perf_counter() - begun}

    async def stop(self) -> dict[str, Any]:
        """End the runtime."""
        if self._runtime is not None:
            await self._runtime.close()
            self._runtime = None
        return {}

    async def ask(
        self,
        questions: list[dict[str, Any]],
        atOnce: int,
        maxTokens: int,
        temperature: float,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Ask every question with up to `atOnce` in flight."""
        answers: dict[int, dict[str, Any]] = {}
        left = iter(enumerate(questions))
        settings = {"max_tokens": maxTokens, "temperature": temperature, **options}

        async def worker() -> None:
            for index, question in left:
                answers[index] = await self._answer(question["ids"], settings)

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(atOnce, len(questions))):
                group.create_task(worker())
        wall_ms = _ms_since(start)
        return {"wallMs": wall_ms, "answers": [answers[index] for index in sorted(answers)]}

    async def _answer(self, ids: list[int], settings: dict[str, Any]) -> dict[str, Any]:
        assert self._model is not None
        start = time.perf_counter()
        ttft_ms = first_text_ms = None
        generation = self._model.generate(ids=ids, **settings)
        async for delta in generation:
            if delta.ids and ttft_ms is None:
                ttft_ms = _ms_since(start)
            if delta.text and first_text_ms is None:
                first_text_ms = _ms_since(start)
        response_ms = _ms_since(start)
        result = await generation
        return {
            "responseMs": response_ms,
            "ttftMs": ttft_ms,
            "firstTextMs": first_text_ms or response_ms,
            "tokens": result.usage.completion_tokens,
            "promptTokens": result.usage.prompt_tokens,
            "cachedTokens": result.usage.cached_tokens,
            "ids": result.ids,
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

        operations = {"start": on_loop(peer.start), "ask": on_loop(peer.ask)}
        try:
            serve(operations, sys.stdin)
        finally:
            runner.run(peer.stop())


if __name__ == "__main__":
    main()
