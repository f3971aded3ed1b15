"""A loop whose time the test moves, and both ends of a connection without a process."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from isthmus import host
from isthmus.errors import IsthmusError
from isthmus.host.connection import Connection
from isthmus.host.keeper import Keeper
from isthmus.host.link import Link
from isthmus.host.multiplexer import OpsMultiplexer
from isthmus.host.options import KeeperOptions
from isthmus.host.process import RuntimeProcess
from isthmus.host.runtime import Runtime
from isthmus.host.streams import Pending
from isthmus.host.text import COUNT_TOKENS
from isthmus.wire.codec import MsgpackCodec
from isthmus.wire.frames import FrameDecoder, pack_header

HELLO, REQUEST, RESULT, ERROR, DELTA, END = range(6)
CANCEL, CREDIT, EVENT, PING, PONG, PIECE = range(6, 12)


class _NeverWaits(selectors.DefaultSelector):
    """A test that would wait has nothing left that could wake it."""

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready now."""
        assert timeout is not None and timeout <= 0, "the test waits for what never comes"
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that runs turn by turn, and whose time goes on when the test says so."""

    def __init__(self) -> None:
        self._now_s = 1_000.0
        super().__init__(_NeverWaits())
        self.defects: list[dict[str, Any]] = []
        """What was reported to nobody in particular: must be nothing."""
        self.set_exception_handler(lambda _, context: self.defects.append(context))

    def time(self) -> float:
        """Return the seconds that the test has let pass."""
        return self._now_s

    def turn(self, count: int = 1) -> None:
        """Run what is ready; what that makes ready comes with the next turn."""
        for _ in range(count):
            self.call_soon(self.stop)
            self.run_forever()

    def advance(self, milliseconds: float) -> None:
        """Let time pass and what it made due happen."""
        self._now_s += milliseconds / 1_000
        self.turn(2)

    def end(self) -> None:
        """Let go whoever still waits, and close."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.turn(5)
        self.close()


class FakeCarrier:
    """Keeps the requests that a multiplexer sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.pending: list[Pending] = []
        self.cancelled: list[int] = []
        self.writes = 0
        self.refusal: IsthmusError | None = None
        self._codec = MsgpackCodec()

    def check_open(self) -> None:
        """Raise what the test put there."""
        if self.refusal is not None:
            raise self.refusal

    def request(
        self, method: str, params: Mapping[str, Any], options: Mapping[str, Any], pending: Pending
    ) -> int:
        """Take a request that can travel."""
        self.check_open()
        self.sent.append((method, self._codec.decode(self._codec.encode(params)), dict(options)))
        self.pending.append(pending)
        return len(self.sent) - 1

    def cancel(self, request: int) -> None:
        """Note it."""
        self.cancelled.append(request)

    @contextlib.contextmanager
    def one_write(self) -> Iterator[None]:
        """Count."""
        yield
        self.writes += 1


class Bench:
    """A multiplexer, what it sends, and the hands of its clock."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.carrier = FakeCarrier()
        self.multiplexer = OpsMultiplexer(self.carrier, self.loop)

    @property
    def frames(self) -> list[Any]:
        """What was sent: a text, or the texts of a batch."""
        return [params.get("texts", params.get("text")) for _, params, _ in self.carrier.sent]

    def count(
        self, text: Any, deadline_ms: float | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Begin to count the tokens of a text."""
        task = self.loop.create_task(
            self.multiplexer.call(COUNT_TOKENS, text, "m1", options, deadline_ms)
        )
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def answer(self, frame: int) -> None:
        """Answer as a runtime whose tokens are characters, to which only texts are good."""
        self.carrier.pending[frame].on_value(answer_to(self.carrier.sent[frame][1]))

    def stats(self, label: str = "count_tokens m1") -> dict[str, Any]:
        """Return the counters of a lane, without the reasons that did not occur."""
        stats = self.multiplexer.stats()[label]
        reasons = {reason: count for reason, count in stats["reasons"].items() if count}
        return {**stats, "reasons": reasons}


@contextlib.contextmanager
def a_bench() -> Iterator[Bench]:
    """A bench on which nothing is left in the end."""
    bench = Bench()
    try:
        yield bench
        assert bench.loop.defects == []
    finally:
        bench.loop.end()


def answer_to(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a runtime's answer to a count."""
    if "texts" not in params:
        return {"count": len(params["text"])}
    return {"results": [_result(index, text) for index, text in enumerate(params["texts"])]}


def _result(index: int, text: Any) -> dict[str, Any]:
    if isinstance(text, str):
        return {"count": len(text)}
    field = f"texts[{index}]"
    message = f"{field} must be a string"
    details = {"field": field}
    return {"error": {"code": "INVALID_REQUEST", "message": message, "details": details}}


class FakeProcess:
    """The runtime's process: takes frames, says what the test says."""

    def __init__(self, link: Link, loop: VirtualLoop) -> None:
        self.link = link
        self.stdin = self
        self.stderr = "its last words"
        self.pid = id(self)
        self.messages: list[Any] = []
        self.is_input_closed = False
        self.is_killed = False
        self.unread_bytes = 0
        """What the test says that the process has not read."""
        self.ended: asyncio.Future[host.ExitReport] = loop.create_future()
        self._loop = loop
        self._codec = MsgpackCodec()
        self._decoder = FrameDecoder()

    def write(self, data: bytes) -> None:
        """Take bytes."""
        assert not self.is_input_closed
        self.messages += map(self._codec.decode, self._decoder.feed(data))

    def writelines(self, parts: list[bytes | memoryview]) -> None:
        """Take bytes."""
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        """Return what is not read."""
        return self.unread_bytes

    def hello(self) -> None:
        """Say hello."""
        self.say((HELLO, {"protocol": 1, "runtime": "fake"}))

    def say(self, *messages: object) -> None:
        """Let messages arrive at the host in one read."""
        payloads = [self._codec.encode(list(message)) for message in messages]  # type: ignore[call-overload]
        self.link.on_output(b"".join(pack_header(len(p)) + p for p in payloads))

    def answer(self, index: int, value: object) -> None:
        """Answer one of the requests that arrived."""
        self.say((RESULT, self.requests[index][0], value))

    def read_all(self) -> None:
        """Read again, and all that there is."""
        self.unread_bytes = 0
        self.link.on_room(True)

    def exit(self, signal: str | None = None) -> None:
        """Let it end, by a signal or with 0."""
        if not self.ended.done():
            report = host.ExitReport(None if signal else 0, signal, "its last words")
            self.ended.set_result(report)
            self.link.on_exit(report)

    def kill(self) -> None:
        """Die in the next turn."""
        self.is_killed = True
        self._loop.call_soon(self.exit, "SIGKILL")

    async def stop(self, close_grace_s: float, terminate_grace_s: float) -> None:
        """Take no more input; end when the test says so, or the grace is over."""
        self.is_input_closed = True
        await asyncio.wait({self.ended}, timeout=close_grace_s + terminate_grace_s)
        self.exit("SIGKILL")

    @property
    def requests(self) -> list[Any]:
        """The requests that arrived: id, method and params."""
        return [message[1:4] for message in self.messages if message[0] == REQUEST]

    @property
    def methods(self) -> list[str]:
        """The methods of these requests."""
        return [method for _, method, _ in self.requests]

    @property
    def pings(self) -> list[int]:
        """The nonces of the pings that arrived."""
        return [message[1] for message in self.messages if message[0] == PING]


class FakeLauncher:
    """Starts fake processes."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.processes: list[FakeProcess] = []
        self.greets = True
        """Whether they say hello at once."""
        self.refusal: Exception | None = None
        """What a start fails with."""
        self._loop = loop

    async def __call__(self, link: Link) -> RuntimeProcess:
        """Start one; there must be no other."""
        if self.refusal is not None:
            raise self.refusal
        assert all(process.ended.done() for process in self.processes)
        process = FakeProcess(link, self._loop)
        self.processes.append(process)
        link.on_connected(cast(RuntimeProcess, process))
        if self.greets:
            self._loop.call_soon(process.hello)
        return cast(RuntimeProcess, process)


def start_kept(
    loop: VirtualLoop, options: KeeperOptions, multiplex: bool = True
) -> tuple[FakeLauncher, Runtime, Keeper]:
    """Return what starts processes, a host's runtime that has its first one, and its keeper."""
    launcher = FakeLauncher(loop)

    async def connect() -> tuple[Runtime, Keeper]:
        connection = Connection(None)
        keeper = Keeper(launcher, connection, options, lambda: 1.0)
        await keeper.start()
        return Runtime(keeper, connection, 16, multiplex), keeper

    task = loop.create_task(connect())
    loop.turn(4)
    return (launcher, *task.result())


def start_fake(
    loop: VirtualLoop, multiplex: bool = True
) -> tuple[FakeProcess, Runtime, Callable[[str], host.Model]]:
    """Return a process that has no successor, a host's runtime that talks to it, and what makes
    models by handle."""
    launcher, runtime, _ = start_kept(loop, KeeperOptions(restart=None, heartbeat=None), multiplex)
    return launcher.processes[0], runtime, lambda handle: host.Model(runtime, model_info(handle))


def model_info(handle: str) -> host.ModelInfo:
    """Return what a runtime says of a model, as far as a host needs it."""
    numbers = dict.fromkeys(("parameters", "vocab_size", "weight_bytes", "references"), 1)
    words = dict.fromkeys(("source", "path", "architecture", "dtype"), "")
    nothing = {"context_length": None, "quantization": None, "eos_token_ids": ()}
    rest = {"has_chat_template": False, "load_ms": 0.0}
    return host.ModelInfo.from_wire(
        {"model": handle, **numbers, **words, **nothing, **rest},
    )
