"""From a source to weights, tokenizer and vocabulary size, and back to free memory.

`FolderMaker` locates and verifies in threads, loads weights on the engine thread and the tokenizer
beside it, and tries again what fails in passing. It keeps nothing: which models there are, who
waits for them and whether they fit is for the cache (`cache.py`), to which `ModelMaker` is the
seam.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import EngineDead
from ..faults import Faults, Point
from ..limits import LOAD_RETRY_BACKOFF_S
from ..sessions.fingerprint import FileStamp, stamps_of
from ..text.tokenizer import TextTokenizer
from .adapter import adapter_bytes, adapter_files, verify_adapter
from .download import Download, hub_download
from .failures import Stamp, is_transient, stamp_of
from .folder import files_read
from .load import LoadedModel, Progress, Source, load_tokenizer
from .locate import Located, locate, locate_folder
from .memory import Machine, read_machine
from .network import NetworkLoad, return_memory
from .verify import VerifiedModel, verify

T = TypeVar("T")
S = TypeVar("S")


class StepWork(Protocol):
    """Work cut into steps, as the engine's scheduler takes it."""

    def step(self) -> bool:
        """Do one bounded unit; return whether all is done."""
        ...


class Engine(Protocol):
    """The thread that may touch MLX."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` on it and return its result."""
        ...

    async def run_steps(self, work: StepWork) -> None:
        """Run step work on it, in turns with other work."""
        ...


class Retrying(Protocol):
    """Tries again what failed in passing (`resilience.retry.Retrier`)."""

    async def call(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        is_retryable: Callable[[Exception], bool],
        deadline: float | None = None,
        backoff_s: float | None = None,
    ) -> T:
        """Return what an attempt returns."""
        ...


@dataclass(frozen=True, slots=True)
class Inspected:
    """A folder that may be loaded."""

    source: Source
    verified: VerifiedModel
    adapter: Path | None = None
    adapter_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a load makes."""

    network: Any
    tokenizer: TextTokenizer
    vocab_size: int
    stamps: tuple[FileStamp, ...] | None = None
    """How the files looked before and after; None when that is not the same."""


class ModelMaker(Protocol):
    """What the cache asks for."""

    async def stamp(self, source: Source) -> Stamp:
        """Return how the source's folder looks."""
        ...

    async def inspect(self, source: Source, tell: Progress) -> Inspected:
        """Find and verify a source; raises why it cannot be loaded."""
        ...

    async def build(self, inspected: Inspected, tell: Progress) -> Parts:
        """Load what was inspected; when it fails or is cancelled, its memory is back."""
        ...

    async def release(self, model: LoadedModel) -> None:
        """Drop a model's weights and give their memory back."""
        ...

    async def machine(self) -> Machine:
        """Return what bounds the memory now."""
        ...


class FolderMaker:
    """Makes models from folders and from the Hugging Face Hub.

    Args:
        engine: Loads the weights.
        model_roots: Folders that local models must lie in; empty allows any.
        retrying: Tries again what fails in passing.
        faults: What is to go wrong on purpose.
    """

    def __init__(
        self,
        engine: Engine,
        model_roots: tuple[Path, ...],
        retrying: Retrying,
        faults: Faults | None = None,
    ) -> None:
        self._engine = engine
        self._model_roots = model_roots
        self._retrying = retrying
        self._faults = faults

    async def stamp(self, source: Source) -> Stamp:
        """Return how the source's folder looks."""
        return await asyncio.to_thread(stamp_of, source)

    async def inspect(self, source: Source, tell: Progress) -> Inspected:
        """Find the folder, downloading it where that is needed, and verify it.

        Raises:
            IsthmusError: As `locate` and `verify`.
        """
        return await self._retry(lambda: self._inspect(source, tell))

    async def build(self, inspected: Inspected, tell: Progress) -> Parts:
        """Load the weights in steps on the engine thread, and the tokenizer beside them.

        Raises:
            ModelLoadFailed: As `NetworkLoad.step` and `load_tokenizer`.
            EngineDead: The engine thread has ended.
        """
        return await self._retry(lambda: self._build(inspected, tell))

    async def release(self, model: LoadedModel) -> None:
        """Drop the weights where they were made, and give their memory back.

        Raises:
            EngineDead: The engine thread has ended; its memory leaves with the process.
        """
        # A step, because those come after cancelled jobs were dropped, which held the weights too.
        await self._engine.run_steps(_Release(model))

    async def machine(self) -> Machine:
        """Ask on the engine thread, when it has imported its libraries and can ask mlx."""
        return await self._engine.run(lambda: read_machine(is_on_engine=True))

    async def _retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await self._retrying.call(
            attempt, is_retryable=is_transient, backoff_s=LOAD_RETRY_BACKOFF_S
        )

    async def _inspect(self, source: Source, tell: Progress) -> Inspected:
        loop = asyncio.get_running_loop()
        is_cancelled = False

        def downloaded(done: int, total: int, unit: str) -> None:
            loop.call_soon_threadsafe(tell, "download", done, total, unit)

        try:
            download = hub_download(downloaded, lambda: is_cancelled)
            located = await asyncio.to_thread(self._locate, source, download)
            tell("verify", 0, 1, "steps")
            return await asyncio.to_thread(self._verify, located, source)
        except asyncio.CancelledError:
            is_cancelled = True
            raise

    async def _build(self, inspected: Inspected, tell: Progress) -> Parts:
        loop = asyncio.get_running_loop()
        verified = inspected.verified

        def on_step(stage: str, done: int, total: int, unit: str) -> None:
            loop.call_soon_threadsafe(tell, stage, done, total, unit)

        load = NetworkLoad(
            verified.path, inspected.adapter, inspected.source.trust_remote_code, on_step
        )
        try:
            before = await asyncio.to_thread(_stamps, inspected)
            _, wrapper = await _both(
                self._run_steps(load),
                asyncio.to_thread(
                    load_tokenizer, verified.path, list(verified.eos_token_ids) or None
                ),
            )
            tokenizer = await asyncio.to_thread(TextTokenizer, wrapper, load.vocab_size)
            after = await asyncio.to_thread(_stamps, inspected)
        except BaseException:
            with contextlib.suppress(EngineDead):
                await asyncio.shield(self._engine.run(load.drop))
            raise
        stamps = before if before == after else None
        return Parts(load.network, tokenizer, tokenizer.vocab_size, stamps)

    async def _run_steps(self, load: NetworkLoad) -> None:
        while not load.is_done:
            await self._engine.run_steps(load)

    def _locate(self, source: Source, download: Download) -> Located:
        if self._faults is not None:
            self._faults.strike(Point.MODEL_LOAD, source.source)
        return locate(
            source.source,
            model_roots=self._model_roots,
            local_files_only=source.local_files_only,
            revision=source.revision,
            download=download,
            trust_remote_code=source.trust_remote_code,
        )

    def _verify(self, located: Located, source: Source) -> Inspected:
        verified = verify(
            located.path,
            trust_remote_code=source.trust_remote_code,
            allowed_roots=located.allowed_roots,
        )
        if source.adapter_path is None:
            return Inspected(source, verified)
        adapter = verify_adapter(locate_folder(source.adapter_path, self._model_roots).path)
        return Inspected(source, verified, adapter, adapter_bytes(adapter))


def _stamps(inspected: Inspected) -> tuple[FileStamp, ...] | None:
    """Return how the files look that a model is made of; None when one of them is gone."""
    files = files_read(inspected.verified.path)
    if inspected.adapter is not None:
        files += adapter_files(inspected.adapter)
    try:
        return stamps_of(files)
    except OSError:
        return None


class _Release:
    """The end of a model, as one step of the engine."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def step(self) -> bool:
        """Drop the weights and give their memory back."""
        self._model.release()
        return_memory()
        return True


async def _both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, S]) -> tuple[T, S]:
    """Await two at once; when one fails or the caller is cancelled, the other is cancelled too."""
    tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
    return tasks[0].result(), tasks[1].result()
