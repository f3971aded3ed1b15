"""Puts the runtime together and runs it until its host is gone."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
from collections.abc import Callable
from typing import Any

from ..engine.blas import Blas
from ..engine.kv_memory import KvMemory
from ..engine.thread import EngineThread
from ..errors import EngineDead, IsthmusError
from ..faults import Faults, Point
from ..limits import (
    PENDING_TEXT_LIMIT_BYTES,
    WRITE_WATERMARK_BYTES,
)
from ..models.cache import CacheSettings, ModelCache
from ..models.load import LoadOptions, Source
from ..models.making import FolderMaker
from ..models.memory import address_space_left
from ..multiplex.multiplexer import Multiplexer
from ..resilience.breaker import Transition
from ..resilience.registry import Resilience
from ..resilience.retry import Retrier
from ..settings import Settings
from ..transport.claim import ClaimedPipes
from ..transport.parent import ParentWatch, is_unread
from ..transport.stdio import StdioTransport, open_stdio
from ..wire.codec import Codec, JsonCodec, MsgpackCodec
from ..wire.frames import FrameDecoder
from ..wire.lines import LineDecoder
from ..wire.messages import Kind
from .health import LoopLag, resident_bytes
from .hello import make_hello
from .instrumented import instrument, make_decoder, make_operations, make_writer
from .log import log
from .methods import (
    basic,
    compatibility,
    draft,
    generate,
    models,
    resilience,
    sessions,
    status,
    text,
)
from .router import Router
from .server import Server
from .services import Services
from .session_service import KeptMemory, SessionService

Extend = Callable[[Router, Services], None]
"""Adds methods of a host program's own."""

_ENGINE_STOP_S = 1.0
_FLUSH_S = 1.0
_TAG_BYTES = 3
"""Random bytes in model handles, so that those of one runtime mean nothing to the next."""
_BACKLOG_LIMIT_BYTES = 16 * WRITE_WATERMARK_BYTES
"""Unread output above which no more input is read."""


async def run_runtime(
    pipes: ClaimedPipes, settings: Settings, blas: Blas, extend: Extend | None = None
) -> int:
    """Serve the host at the other end of `pipes`; return the exit code."""
    parent = ParentWatch()
    parent.arm()
    async with asyncio.TaskGroup() as group:
        runtime = Runtime(pipes, settings, blas, group, parent, extend)
        await runtime.start()
        await runtime.server.closing.wait()
        await runtime.stop()
    return 0


class Runtime:
    """The parts of one running runtime, and the order in which they start and stop."""

    def __init__(
        self,
        pipes: ClaimedPipes,
        settings: Settings,
        blas: Blas,
        group: asyncio.TaskGroup,
        parent: ParentWatch,
        extend: Extend | None,
    ) -> None:
        self._pipes = pipes
        self._settings = settings
        self._parent = parent
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._codec: Codec = JsonCodec() if settings.codec == "json" else MsgpackCodec()
        faults = None if settings.faults is None else Faults.parse(settings.faults)
        self._faults = faults
        self._writer = make_writer(self._codec, loop, settings.piece_bytes, faults)
        self._engine = EngineThread(loop, import_models, faults=faults)
        self._engine.on_dead = self._on_engine_dead
        self._engine.on_turn_end = self._writer.flush
        self._multiplexer = Multiplexer(group.create_task, loop)
        retrier = Retrier()
        memory = KvMemory(on_evicted=lambda name: self._services.sessions.on_evicted(name))
        models = ModelCache(
            FolderMaker(self._engine, settings.model_roots, retrier, faults),
            CacheSettings(settings.model_memory_bytes, settings.model_idle_timeout_s),
            secrets.token_hex(_TAG_BYTES),
            self._on_model,
            kept=KeptMemory(self._engine, memory, settings.session_memory_bytes),
        )
        services = Services(
            settings=settings,
            engine=self._engine,
            models=models,
            text=make_operations(self._multiplexer, faults),
            multiplexer=self._multiplexer,
            resilience=Resilience(
                lambda handle: any(model.handle == handle for model in models.list()),
                self._engine.wait_ms,
                self._on_transition,
                retrier=retrier,
            ),
            sessions=SessionService(settings, self._engine, models, memory, blas),
            memory=memory,
            faults=faults,
        )
        self._services = services
        router = _router(services, self, extend)
        self.server = Server(
            self._codec,
            self._writer,
            router,
            group,
            make_hello(settings, self._codec, router.names, blas),
            self.health,
            self._multiplexer,
        )
        self._lag = LoopLag(loop, self._on_tick)
        self._group = group
        self._preloading: asyncio.Task[None] | None = None
        self._transport: StdioTransport | None = None
        self._is_paused = False

    async def start(self) -> None:
        """Say hello, then read, then let the engine import the model libraries."""
        is_json = self._codec.name == "json"
        limit = self._settings.frame_limit_bytes
        decoder = make_decoder(LineDecoder(limit) if is_json else FrameDecoder(limit), self._faults)
        self._handle_signals()
        self._loop.set_exception_handler(_log_defect)
        self._transport = await open_stdio(
            self._pipes, self.server, decoder, self._writer, self._say_hello
        )
        self._multiplexer.on_drained = self._check_pressure
        self._writer.on_drained = self._check_pressure
        self._engine.start()
        _warn_of_limits()
        if self._settings.preload:
            self._preloading = self._group.create_task(self._preload())

    async def stop(self) -> None:
        """Drain, flush and end the engine; every wait is bounded, and none when nobody reads."""
        is_alone = self.server.closed.is_set() or is_unread(self._pipes.write_fd)
        await self.server.drain(0.0 if is_alone else self._settings.drain_grace_s)
        if not is_alone:
            await self._flush()
        if self._preloading is not None:
            self._preloading.cancel()
        await self._services.models.close()
        self._lag.stop()
        self._services.text.pool.close()
        if not self._services.sessions.stop(0.0 if is_alone else self._settings.drain_grace_s):
            log("warning", "sessions were not all written in time; what is missing is computed")
        # While it imports its libraries it cannot hear us, and it holds nothing worth a wait.
        is_importing = self._engine.health()["state"] == "starting"
        wait_s = 0.0 if is_alone or is_importing else _ENGINE_STOP_S
        if not self._engine.stop(wait_s) and wait_s > 0:
            log("warning", "the engine did not end in time")

    async def room(self) -> None:
        """Wait until the host has taken what is written."""
        await self._writer.room()

    def tell(self, event: str, payload: dict[str, Any]) -> None:
        """Send an event that belongs to no request."""
        self._writer.send([int(Kind.EVENT), event, payload])

    def _on_model(self, event: str, payload: dict[str, Any]) -> None:
        if event == "model_evicted":
            self._services.sessions.on_model_gone(payload["model"])
        self.tell(event, payload)

    def health(self) -> dict[str, Any]:
        """Return the protocol's health (section 2.5)."""
        return {
            **self._lag.take(),
            "engine": self._engine.health(),
            "in_flight": self.server.in_flight,
            "uptime_ms": self.server.counters.snapshot()["uptime_ms"],
            "rss_bytes": resident_bytes(),
        }

    def stats(self) -> dict[str, Any]:
        """Return all counters."""
        return {
            **self.server.counters.snapshot(),
            "bytes_written": self._writer.bytes_written,
            "writer_backlog_bytes": self._writer.backlog_bytes,
            "batches": self._multiplexer.stats(),
            "templates_ended": self._services.text.pool.templates_ended,
            "models": self._services.models.stats(),
            "sessions": self._services.sessions.stats(),
            **self._services.resilience.stats(),
        }

    async def _preload(self) -> None:
        """Load and pin what the settings name, one after the other; a failure is told."""
        for source in self._settings.preload:
            try:
                await self._services.models.load(
                    Source(source), lambda *_: None, LoadOptions(pin=True, references=0)
                )
            except IsthmusError as error:
                log("error", f"preload: {error.message}", source=source, code=error.code)
                self.tell("preload_failed", {"source": source, "error": error.to_wire()})

    def _handle_signals(self) -> None:
        # A Ctrl-C reaches the whole process group; what to do is the host's decision.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.platform != "win32":
            self._loop.add_signal_handler(signal.SIGTERM, self.server.on_input_closed, None)

    def _say_hello(self) -> None:
        if self._faults is not None:
            self._faults.strike(Point.HELLO)
        self.server.say_hello()

    def _on_tick(self) -> None:
        if self._parent.is_orphaned():
            os._exit(0)
        if self._faults is not None:
            self._faults.strike(Point.LOOP)
        self._check_pressure()

    def _check_pressure(self) -> None:
        """Stop reading while too much text waits, or too much output is unread."""
        if self._transport is None:
            return
        limit = PENDING_TEXT_LIMIT_BYTES / 2 if self._is_paused else PENDING_TEXT_LIMIT_BYTES
        is_pressed = (
            self._multiplexer.pending_cost > limit
            or self._writer.backlog_bytes > _BACKLOG_LIMIT_BYTES
        )
        if is_pressed != self._is_paused:
            self._is_paused = is_pressed
            if is_pressed:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _on_engine_dead(self, error: EngineDead) -> None:
        log("error", error.message)
        self.tell("engine_dead", {"message": error.message})

    def _on_transition(self, handle: str, change: Transition) -> None:
        self.tell(
            "breaker",
            {
                "model": handle,
                "from": change.before.value,
                "to": change.after.value,
                "reason": change.reason,
                "retry_after_ms": change.retry_after_ms,
            },
        )

    async def _flush(self) -> None:
        """Wait until the host has taken what is written, for a bounded time."""
        deadline = self._loop.time() + _FLUSH_S
        while self._writer.backlog_bytes and self._loop.time() < deadline:
            if self.server.closed.is_set() or is_unread(self._pipes.write_fd):
                return
            await asyncio.sleep(0.001)


def _warn_of_limits() -> None:
    """Say what a process that ends without a word may have ended of."""
    left = address_space_left()
    if left is not None:
        log(
            "warning",
            "the address space of this process is limited (RLIMIT_AS, ulimit -v): an allocation "
            "that does not fit into what is left ends it. If it ends by a signal, it may have been "
            "short of memory: raise the limit, or load smaller models",
            left_bytes=left,
        )


def _log_defect(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log("error", str(context.get("message")), exception=repr(context.get("exception")))


def import_models() -> None:
    """Import the model libraries; on the engine thread, after the hello."""
    import mlx_lm.generate
    import mlx_lm.utils

    from ..engine import decoder, draft

    del mlx_lm, decoder, draft
    # The libraries' half a million objects live for ever: no collection need look at them again.
    gc.freeze()


def _router(services: Services, runtime: Runtime, extend: Extend | None) -> Router:
    router = Router()
    basic.register(router, runtime.room)
    models.register(router, services)
    text.register(router, services)
    generate.register(router, services)
    sessions.register(router, services)
    draft.register(router, services)
    compatibility.register(router, services)
    status.register(router, runtime.health, runtime.stats)
    resilience.register(router, services)
    if extend is not None:
        extend(router, services)
    if services.faults is None:
        return router
    router = instrument(router, services.faults)
    # Behind the others, so that no fault of requests keeps them from being heard.
    resilience.register_faults(router, services.faults)
    return router
