"""Handles to loaded models: counted, and the same source loads once however many ask.

Lives on the event loop. Each waiter of a shared load has its own cancel and its own error; a load
whose waiters have all gone still ends, and its model is let go again. Which idle model to evict for
another is not decided here yet: a model leaves when its last reference does.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import ModelNotLoaded
from ..text.tokenizer import TextTokenizer
from .adapter import verify_adapter
from .download import hub_download
from .load import LoadedModel, Progress, Source, load_network, load_tokenizer
from .locate import Located, locate, locate_folder
from .verify import VerifiedModel, verify

T = TypeVar("T")

_Waiters = list[Progress]


class Engine(Protocol):
    """The thread that may touch MLX."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` on it and return its result."""
        ...


class ModelCache:
    """All loaded models.

    Args:
        engine: Loads the weights.
        model_roots: Folders that local models must lie in; empty allows any.
    """

    def __init__(self, engine: Engine, model_roots: tuple[Path, ...]) -> None:
        self._engine = engine
        self._model_roots = model_roots
        self._by_handle: dict[str, LoadedModel] = {}
        self._by_source: dict[Source, LoadedModel] = {}
        self._loading: dict[Source, tuple[asyncio.Task[LoadedModel], _Waiters]] = {}
        self._numbers = itertools.count(1)

    def get(self, handle: str) -> LoadedModel:
        """Return the model with that handle.

        Raises:
            ModelNotLoaded: There is none.
        """
        model = self._by_handle.get(handle)
        if model is None:
            raise ModelNotLoaded(
                f"no model has the handle {handle[:128]!r}; call load_model and use its `model`",
                model=handle[:128],
            )
        return model

    def list(self) -> list[LoadedModel]:
        """Return all loaded models, the oldest first."""
        return list(self._by_handle.values())

    async def load(self, source: Source, progress: Progress) -> LoadedModel:
        """Return a handle to a model, loading it if nobody has.

        Raises:
            IsthmusError: Why it cannot be loaded.
        """
        model = self._by_source.get(source)
        if model is None:
            model = await self._join(source, progress)
        model.references += 1
        return model

    async def unload(self, handle: str) -> LoadedModel:
        """Give one reference back; the last one lets the model go."""
        model = self.get(handle)
        model.references -= 1
        if model.references <= 0:
            self._forget(model)
            await self._engine.run(lambda: _release(model))
        return model

    async def close(self) -> None:
        """Cancel the loads that run."""
        for task, _ in self._loading.values():
            task.cancel()

    async def _join(self, source: Source, progress: Progress) -> LoadedModel:
        if source not in self._loading:
            waiters: _Waiters = []
            task = asyncio.create_task(self._load(source, waiters))
            self._loading[source] = (task, waiters)
            task.add_done_callback(lambda done: self._end_load(source, done))
            # A load that everybody left must not end in "exception was never retrieved".
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        task, waiters = self._loading[source]
        waiters.append(progress)
        try:
            return await asyncio.shield(task)
        finally:
            waiters.remove(progress)
            if not waiters and not task.done():
                # Who comes next must not join a load that is being cancelled.
                self._end_load(source, task)
                task.cancel()

    def _end_load(self, source: Source, task: asyncio.Task[LoadedModel]) -> None:
        if source in self._loading and self._loading[source][0] is task:
            del self._loading[source]

    async def _load(self, source: Source, waiters: _Waiters) -> LoadedModel:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        is_cancelled = False

        def tell(stage: str, done: int = 0, total: int = 1, unit: str = "steps") -> None:
            for progress in tuple(waiters):
                progress(stage, done, total, unit)

        def downloaded(done: int, total: int, unit: str) -> None:
            loop.call_soon_threadsafe(tell, "download", done, total, unit)

        try:
            tell("resolve")
            download = hub_download(downloaded, lambda: is_cancelled)
            located = await asyncio.to_thread(self._locate, source, download)
            tell("verify")
            verified, adapter = await asyncio.to_thread(self._verify, located, source)
            tell("load", 0, verified.weight_bytes, "bytes")
            (network, vocab_size), wrapper = await asyncio.gather(
                self._engine.run(
                    lambda: load_network(verified.path, adapter, source.trust_remote_code)
                ),
                asyncio.to_thread(
                    load_tokenizer, verified.path, list(verified.eos_token_ids) or None
                ),
            )
            tokenizer = await asyncio.to_thread(TextTokenizer, wrapper, vocab_size)
            tell("load", verified.weight_bytes, verified.weight_bytes, "bytes")
        except asyncio.CancelledError:
            is_cancelled = True
            raise
        return self._remember(source, verified, network, tokenizer, started)

    def _remember(
        self,
        source: Source,
        verified: VerifiedModel,
        network: Any,
        tokenizer: TextTokenizer,
        started: float,
    ) -> LoadedModel:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.source.rstrip("/").rsplit("/", 1)[-1])
        model = LoadedModel(
            handle=f"{name[:100] or 'model'}-{next(self._numbers)}",
            source=source,
            verified=verified,
            network=network,
            tokenizer=tokenizer,
            vocab_size=tokenizer.vocab_size,
            load_ms=(time.monotonic() - started) * 1_000,
        )
        self._by_handle[model.handle] = model
        self._by_source[source] = model
        return model

    def _locate(self, source: Source, download: Any) -> Located:
        return locate(
            source.source,
            model_roots=self._model_roots,
            local_files_only=source.local_files_only,
            revision=source.revision,
            download=download,
            trust_remote_code=source.trust_remote_code,
        )

    def _verify(self, located: Located, source: Source) -> tuple[VerifiedModel, Path | None]:
        verified = verify(
            located.path,
            trust_remote_code=source.trust_remote_code,
            allowed_roots=located.allowed_roots,
        )
        if source.adapter_path is None:
            return verified, None
        adapter = locate_folder(source.adapter_path, self._model_roots)
        return verified, verify_adapter(adapter.path)

    def _forget(self, model: LoadedModel) -> None:
        self._by_handle.pop(model.handle, None)
        if self._by_source.get(model.source) is model:
            del self._by_source[model.source]


def _release(model: LoadedModel) -> None:
    """Drop the weights where they were made, and give their memory back; on the engine thread."""
    import mlx.core as mx

    model.release()
    mx.clear_cache()
