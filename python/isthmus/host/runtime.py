"""A running runtime, as a host program sees it: start it, call it, close it.

Arguments become the protocol's params here and in `model.py`; the wire is the connection's, the
process the process module's. Nothing is restarted and nothing is retried: that is for the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ..errors import RuntimeExited, StartFailed, StartTimeout
from ..limits import DRAIN_GRACE_S, STREAM_CREDIT
from .batch import Item, Operation
from .connection import Connection, OnEvent
from .lanes import envelope
from .model import Model
from .model_info import ModelInfo
from .process import (
    ALLOWED_ENVIRONMENT,
    ExitReport,
    RuntimeProcess,
    runtime_environment,
    spawn,
)
from .streams import Progress, Reply, Stream

T = TypeVar("T")

_DOCTOR: Final = "run `python -m isthmus doctor` with the same interpreter"


@dataclass(frozen=True, slots=True)
class Graces:
    """How long the end may take.

    Attributes:
        close_s: Time to drain after the input was closed; then SIGTERM.
        terminate_s: Time after SIGTERM; then SIGKILL.
    """

    close_s: float = DRAIN_GRACE_S + 2.0
    terminate_s: float = 2.0


_DEFAULT_GRACES: Final = Graces()


async def start(
    *,
    python: str = sys.executable,
    command: Sequence[str] | None = None,
    runtime_args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    env_allow: Sequence[str] = ALLOWED_ENVIRONMENT,
    start_timeout_s: float = 30.0,
    graces: Graces = _DEFAULT_GRACES,
    credit: int = STREAM_CREDIT,
    multiplex: bool = True,
    on_event: OnEvent | None = None,
) -> Runtime:
    """Start a runtime and wait for its hello.

    Args:
        python: The interpreter that has `isthmus` installed.
        command: Replaces the whole command line.
        runtime_args: Further options of `isthmus runtime`.
        env: Variables added to the runtime's environment.
        env_allow: Names, or `PREFIX*`, that the runtime inherits.
        start_timeout_s: Time until its hello.
        graces: How long its end may take.
        credit: Default window of streams, in items.
        multiplex: Whether text calls of one turn of the event loop share frames.
        on_event: Told of events that belong to no request.

    Raises:
        StartFailed: It cannot be run, or ends before its hello.
        StartTimeout: It says no hello in time.
        VersionMismatch: It speaks another version of the protocol.
        RemoteProtocolError: What it writes is not the protocol.
    """
    # -P keeps the working directory off the import path.
    default = (python, "-P", "-m", "isthmus", "runtime", *runtime_args)
    connection = Connection(on_event)
    process = await spawn(
        default if command is None else command, runtime_environment(env_allow, env), connection
    )
    try:
        async with asyncio.timeout(start_timeout_s):
            hello = await connection.hello
    except BaseException as error:
        process.kill()
        await asyncio.shield(asyncio.wait({process.ended}, timeout=graces.terminate_s))
        shown = _start_error(error, start_timeout_s)
        if shown is error:
            raise
        raise shown from error
    return Runtime(process, connection, hello, graces, credit, multiplex)


class Runtime:
    """A running runtime; made by `start`, ended by `close` or by leaving `async with`.

    Attributes:
        hello: What it said of itself first.
    """

    def __init__(
        self,
        process: RuntimeProcess,
        connection: Connection,
        hello: Mapping[str, Any],
        graces: Graces,
        credit: int,
        multiplex: bool,
    ) -> None:
        self.hello = hello
        self._process = process
        self._connection = connection
        self._graces = graces
        self._credit = credit
        self._is_multiplexed = multiplex
        self._closing: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """The last 64 KiB of its standard error."""
        return self._process.stderr

    @property
    def closed(self) -> asyncio.Future[ExitReport]:
        """Settles when the process has ended, with how."""
        return self._process.ended

    @property
    def in_flight(self) -> int:
        """Requests that have not settled."""
        return self._connection.in_flight

    @property
    def ignored(self) -> int:
        """Messages that arrived for nobody: late, unknown, or not for a host."""
        return self._connection.counters["ignored"]

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

        Args:
            deadline_ms: Time from its arrival at the runtime to its end.
            on_progress: Told of its progress events.
            on_abandoned: Given a result that came although its caller had been cancelled.

        Raises:
            IsthmusError: What the runtime answered, or why it cannot.
        """
        reply = Reply(on_progress, on_abandoned)
        request = self._connection.request(method, params or {}, envelope(deadline_ms), reply)
        try:
            return await reply.future
        except asyncio.CancelledError:
            self._connection.cancel(request)
            raise

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

    async def flush_calls(self) -> None:
        """Send the calls that collect; return when nothing that comes next can overtake them."""
        await self._connection.flush_calls()

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
        on_progress: Progress | None = None,
        deadline_ms: float | None = None,
    ) -> Model:
        """Load a model, or take another handle to one that is loaded.

        Args:
            source: A folder, a Hugging Face id, `default` or `default-draft`.

        Raises:
            IsthmusError: Why it cannot be loaded.
        """
        params = {
            "source": source,
            "revision": revision,
            "adapter_path": adapter_path,
            "trust_remote_code": trust_remote_code,
            "local_files_only": local_files_only,
        }
        info = await self.call(
            "load_model",
            params,
            deadline_ms=deadline_ms,
            on_progress=on_progress,
            on_abandoned=self._give_back,
        )
        return Model(self, ModelInfo.from_wire(info))

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

    async def health(self) -> dict[str, Any]:
        """Return the runtime's health (docs/protocol.md, section 2.5)."""
        return dict(await self.call("health"))

    async def stats(self) -> dict[str, Any]:
        """Return the runtime's counters, and as `calls` this host's: frames and calls of each
        operation, model and options."""
        return {**await self.call("stats"), "calls": self._connection.multiplexer.stats()}

    async def ping(self) -> dict[str, Any]:
        """Return the runtime's health by a ping, which is no request."""
        return await self._connection.ping()

    async def close(self) -> None:
        """End the runtime; what is in flight has the drain's grace to settle. May be repeated."""
        if self._closing is None:
            self._connection.refuse_requests()
            self._closing = asyncio.create_task(self._stop())
        await asyncio.shield(self._closing)

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._graces.close_s
        with contextlib.suppress(TimeoutError):
            # What waits for the runtime to read would be lost with the pipe.
            async with asyncio.timeout_at(until):
                await self._connection.flush_calls()
        await self._process.stop(max(until - loop.time(), 0.0), self._graces.terminate_s)

    def _give_back(self, info: Mapping[str, Any]) -> None:
        """Unload a model whose load was cancelled when it had already settled."""
        self._connection.request("unload_model", {"model": info["model"]}, {}, Reply())


def _start_error(error: BaseException, timeout_s: float) -> BaseException:
    """Return what the caller of `start` should see instead of `error`."""
    if isinstance(error, TimeoutError):
        return StartTimeout(
            f"the runtime said no hello within {timeout_s:g} s; {_DOCTOR}", phase="start"
        )
    if isinstance(error, RuntimeExited):
        failure = StartFailed(f"{error.message}; {_DOCTOR}", phase="start")
        failure.details = {**error.details, "cause": "exited"}
        return failure
    return error
