"""The sides that switch: a runtime that keeps what was unloaded, one that does not, and mlx-lm.

A switch gives back the model at hand, loads another one and has it answer. The runtimes are asked
through the Python host. Each side is given the same token ids and must give the same ones back.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

from benchmarks.processes import Subject
from isthmus import host

PROMPT: Final = "Tell me which of the five you are."
TOKENS: Final = 2


@dataclass(slots=True)
class Pass:
    """A row of switches: its seconds, those of them that loads took, and its answers."""

    load_s: float = 0.0
    total_s: float = 0.0
    answers: dict[str, list[int]] = field(default_factory=dict)

    def add(self, source: Path, load_s: float, total_s: float, ids: list[int]) -> None:
        """Count a switch."""
        self.load_s += load_s
        self.total_s += total_s
        if self.answers.setdefault(source.name, ids) != ids:
            raise SystemExit(f"{source.name} answers differently from one switch to the next")


class Side(Protocol):
    """One who switches."""

    async def switch(self, sources: list[Path], ids: list[int]) -> Pass:
        """Go through the models in order, from none in memory."""
        ...


class MlxLm:
    """mlx-lm, which loads each time."""

    def __init__(self) -> None:
        self.subject = Subject("mlx-lm", [sys.executable, "-m", "benchmarks.switching.mlx_lm_peer"])

    async def switch(self, sources: list[Path], ids: list[int]) -> Pass:
        """Load and answer, one after the other."""
        done = Pass()
        for source in sources:
            answer = self.subject.ask("switch", source=str(source), ids=ids, maxTokens=TOKENS)
            done.add(source, answer["loadS"], answer["totalS"], answer["ids"])
        return done


class Isthmus:
    """A runtime, asked from Python; with `is_cached` it keeps what nobody has a reference to."""

    def __init__(self, runtime: host.Runtime) -> None:
        self._runtime = runtime
        self.resident_mb: dict[str, float] = {}
        """Of the runtime: before the first load of the last pass, at its end, after eviction."""
        self.reloads = 0
        """Loads in all passes of what had been loaded in the same pass."""

    @classmethod
    async def start(cls, is_cached: bool) -> Self:
        """Start a runtime whose engine has imported its libraries."""
        options = () if is_cached else ("--model-idle-timeout-s", "0")
        runtime = await host.start(runtime_args=options)
        await runtime.load_model("default-draft")
        return cls(runtime)

    async def close(self) -> None:
        """End it."""
        await self._runtime.close()

    async def switch(self, sources: list[Path], ids: list[int]) -> Pass:
        """Give back, load and answer, one after the other; then evict what is left."""
        done = Pass()
        before = await self._loads()
        self.resident_mb["before"] = await self._resident_mb()
        model: host.Model | None = None
        for source in sources:
            start = time.perf_counter()
            if model is not None:
                await model.unload()
            model = await self._runtime.load_model(str(source), local_files_only=True)
            load_s = time.perf_counter() - start
            result = await model.generate(
                ids=ids, max_tokens=TOKENS, ignore_eos=True, cache_prompt=False
            )
            done.add(source, load_s, time.perf_counter() - start, result.ids)
        self.resident_mb["loaded"] = await self._resident_mb()
        self.reloads += await self._loads() - before - len(set(sources))
        assert model is not None
        await model.unload()
        await self._evict(set(sources))
        self.resident_mb["evicted"] = await self._resident_mb()
        return done

    async def _evict(self, sources: set[Path]) -> None:
        in_memory = {info.source for info in await self._runtime.list_models()}
        for source in sources:
            if str(source) in in_memory:
                model = await self._runtime.load_model(str(source), local_files_only=True)
                await model.unload(evict=True)

    async def _loads(self) -> int:
        stats: dict[str, Any] = await self._runtime.stats()
        return int(stats["models"]["loads"])

    async def _resident_mb(self) -> float:
        return float((await self._runtime.ping())["rss_bytes"]) / 1e6
