"""A running runtime, as a host program sees it: call it, ask how it is, close it.

Arguments become the protocol's params here and in `model.py`; requests are the connection's, the
processes the keeper's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from ..errors import IsthmusError
from ..limits import HEALTH_ANSWER_MS
from .batch import Item, Operation
from .connection import Connection
from .health import health_of, supervision_of
from .keeper import Keeper
from .lanes import envelope
from .life import RuntimeState
from .loading import GivingBack, Loading, Unloading
from .model import Model
from .model_info import ModelInfo
from .process import ExitReport
from .registry import ModelState
from .sessions import Sessions
from .streams import Progress, Reply, Stream

T = TypeVar("T")


class Runtime:
    """A running runtime; made by `start`, ended by `close` or by leaving `async with`.

    It outlives its processes: when one ends, another is started, and requests wait for it.
    """

    def __init__(
        self, keeper: Keeper, connection: Connection, credit: int, multiplex: bool
    ) -> None:
        self._keeper = keeper
        self._connection = connection
        self._credit = credit
        self._is_multiplexed = multiplex

    @property
    def state(self) -> RuntimeState:
        """Where in its life it is."""
        return self._keeper.state

    @property
    def hello(self) -> Mapping[str, Any]:
        """What its newest process said of itself first."""
        return self._keeper.hello

    @property
    def pid(self) -> int:
        """The id of its newest process."""
        return self._keeper.process.pid

    @property
    def stderr(self) -> str:
        """The last 64 KiB of its newest process's standard error."""
        return self._keeper.process.stderr

    @property
    def closed(self) -> asyncio.Future[ExitReport]:
        """Settles when it has ended for good, with how its last process ended."""
        return self._keeper.closed

    @property
    def in_flight(self) -> int:
        """Requests that have not settled."""
        return self._connection.in_flight

    @property
    def ignored(self) -> int:
        """Messages that arrived for nobody: late, unknown, or not for a host."""
        return self._connection.inbox.counters["ignored"]

    @property
    def sessions(self) -> Sessions:
        """Its sessions: conversations whose KV cache it keeps."""
        return Sessions(self)

    async def __aenter__(self) -> Self:
        """Return itself: it has been started already."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        deadline_ms: float | None = None,
        on_progress: Progress | None = None,
        on_abandoned: Callable[[Any], object] | None = None,
    ) -> Any:
        """Send a request and return its result; cancelling the task cancels the request.

        Models that are loaded by this instead of `load_model` are not loaded again by themselves.

        Args:
            deadline_ms: Time from its arrival at the runtime to its end; while no process takes
                requests, from now on.
            on_progress: Told of its progress events.
            on_abandoned: Given a result that came although its caller had been cancelled.

        Raises:
            IsthmusError: What the runtime answered, or why it cannot.
        """
        reply = Reply(on_progress, on_abandoned)
        return await self._answer(method, params or {}, reply, deadline_ms)

    async def call_one(
        self,
        operation: Operation[Item, T],
        item: Item,
        model: str,
        options: Mapping[str, Any],
        deadline_ms: float | None = None,
    ) -> T:
        """Make a call that may share its frame with others of the same operation and options.

        Raises:
            IsthmusError: The call's own error, or why it cannot be sent.
        """
        if self._is_multiplexed:
            result = await self._connection.multiplexer.call(
                operation, item, model, options, deadline_ms
            )
        else:
            params = operation.params(item, model, options)
            result = await self.call(operation.method, params, deadline_ms=deadline_ms)
        return operation.read(result)

    def stream(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        deadline_ms: float | None = None,
        credit: int | None = None,
    ) -> Stream:
        """Send a request that answers in deltas.

        Raises:
            IsthmusError: It cannot be sent.
        """
        window = self._credit if credit is None else credit
        stream = Stream(self._connection, window)
        options = {"credit": window, **envelope(deadline_ms)}
        stream.request = self._connection.request(method, params, options, stream)
        return stream

    async def load_model(
        self,
        source: str = "default",
        *,
        revision: str | None = None,
        adapter_path: str | None = None,
        trust_remote_code: bool = False,
        local_files_only: bool = False,
        pin: bool | None = None,
        idle_timeout_ms: float | None = None,
        kv_tokens: int | None = None,
        replace: Model | None = None,
        on_progress: Progress | None = None,
        deadline_ms: float | None = None,
    ) -> Model:
        """Load a model, or take another handle to one that is loaded.

        Args:
            source: A folder, a Hugging Face id, `default` or `default-draft`.
            pin: Keep it in memory whether or not anybody uses it; False ends that.
            idle_timeout_ms: How long it stays in memory once nobody has it; 0 for not at all.
            kv_tokens: Tokens of KV cache that memory is kept free for.
            replace: A model to give back for it; where there is no room for both, it leaves first.

        Raises:
            MemoryLimit: It does not fit.
            IsthmusError: Why it cannot be loaded.
        """
        optional = {
            "pin": pin,
            "idle_timeout_ms": idle_timeout_ms,
            "kv_tokens": kv_tokens,
            "replace": None if replace is None else replace.info.model,
        }
        params = {
            "source": source,
            "revision": revision,
            "adapter_path": adapter_path,
            "trust_remote_code": trust_remote_code,
            "local_files_only": local_files_only,
            **{name: value for name, value in optional.items() if value is not None},
        }
        registry = self._connection.registry
        is_lost = replace and registry.state_of(replace.info.model) is ModelState.LOST
        revival = registry.revival(params)
        sent = {**params, **revival}
        if is_lost:
            del sent["replace"]
        recheck, revived = self._connection.gate.recheck, revival.get("handle")
        loading = Loading(registry, params, revived, recheck, on_progress, self._give_back)
        info = await self._answer("load_model", sent, loading, deadline_ms)
        return Model(self, ModelInfo.from_wire(info))

    async def unload(self, handle: str, *, evict: bool = False) -> bool:
        """Give a model's handle back; return whether it was the last reference."""
        await self._connection.flush_calls()
        params = {"model": handle, **({"evict": True} if evict else {})}
        unloading = Unloading(self._connection.registry, handle)
        return bool((await self._answer("unload_model", params, unloading))["unloaded"])

    async def list_models(self) -> list[ModelInfo]:
        """Return what is loaded."""
        models = (await self.call("list_models"))["models"]
        return [ModelInfo.from_wire(info) for info in models]

    async def echo(self, data: Any, *, deadline_ms: float | None = None) -> Any:
        """Return `data`, by way of the runtime."""
        return await self.call("echo", {"data": data}, deadline_ms=deadline_ms)

    async def stream_echo(
        self, count: int, data: Any = None, *, credit: int | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yield `count` items, each `data` or its index, by way of the runtime."""
        items = self.stream("stream_echo", {"count": count, "data": data}, credit=credit).read()
        try:
            async for payload in items:
                for item in payload:
                    yield item
        finally:
            await items.aclose()

    async def inject_fault(self, spec: str) -> Any:
        """Arm a fault, such as `engine.step:crash:after=5`, in a runtime started with `faults`."""
        return await self.call("inject_fault", {"spec": spec})

    async def clear_faults(self) -> Any:
        """Disarm all faults."""
        return await self.call("clear_faults")

    async def health(self) -> dict[str, Any]:
        """Say how it is; in every state, and without waiting for a restart.

        Returns:
            `state`; `is_ready`, and if it is not, why: `reason`; `restarts`, the times that it ran
            again; `last_exit`, how its last process ended; `silent_ms`, how long it has sent
            nothing though it is waited for; `runtime`, its own health (docs/protocol.md, section
            2.5), None when it does not answer.
        """
        return health_of(self._keeper, await self._ask_health())

    async def stats(self) -> dict[str, Any]:
        """Return the runtime's counters, as `calls` this host's frames and calls of each operation,
        model and options, and as `supervision` what became of its processes."""
        return {
            **await self.call("stats"),
            "calls": self._connection.multiplexer.stats(),
            "supervision": supervision_of(self._keeper, self._connection),
        }

    async def ping(self) -> dict[str, Any]:
        """Return the health of its process by a ping, which is no request and waits for no restart.

        Raises:
            IsthmusError: No process listens.
        """
        return await self._connection.ping()

    async def restart(self) -> None:
        """Have another process, also when it has been given up; return when it runs.

        One that runs may finish what it has; what comes meanwhile waits.

        Raises:
            Closing: It has been closed.
            RuntimeFailed: It ended too often.
        """
        await self._keeper.restart()

    async def close(self) -> None:
        """End the runtime; what is in flight has the drain's grace to settle. May be repeated."""
        await self._keeper.close()

    async def _answer(
        self,
        method: str,
        params: Mapping[str, Any],
        reply: Reply,
        deadline_ms: float | None = None,
    ) -> Any:
        try:
            request = self._connection.request(method, params, envelope(deadline_ms), reply)
        except IsthmusError as error:
            reply.on_error(error)
            return await reply.future
        try:
            return await reply.future
        except asyncio.CancelledError:
            self._connection.cancel(request)
            reply.abandon()
            raise

    async def _ask_health(self) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(HEALTH_ANSWER_MS / 1_000):
                return await self._connection.ping()
        except (IsthmusError, TimeoutError):
            return None

    def _give_back(self, handle: str) -> None:
        """Unload a model whose load was cancelled when it had already settled."""
        giving_back = GivingBack(self._connection.registry, handle)
        try:
            self._connection.request("unload_model", {"model": handle}, {}, giving_back)
        except IsthmusError as error:
            giving_back.on_error(error)
