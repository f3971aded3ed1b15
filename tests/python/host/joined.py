"""The real host and the real runtime in one process and one event loop, joined by pipes of memory.

Nothing moves by itself: the test moves bytes, turns, time and the tokenizer's threads. What lies
between them is real: `Connection`, `Runtime` and `Model` here, `Server`, `Router`, the methods and
their `Multiplexer` there. Only processes, threads and weights are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

from isthmus import host
from isthmus.engine.kv_memory import KvMemory
from isthmus.engine.thread import EngineThread
from isthmus.host.connection import Connection
from isthmus.host.keeper import Keeper
from isthmus.host.link import Link
from isthmus.host.options import KeeperOptions
from isthmus.host.process import RuntimeProcess
from isthmus.host.runtime import Runtime
from isthmus.models.cache import CacheSettings, ModelCache
from isthmus.models.load import LoadedModel, Source
from isthmus.models.making import ModelMaker
from isthmus.models.memory import Machine
from isthmus.models.verify import VerifiedModel
from isthmus.multiplex.multiplexer import Multiplexer
from isthmus.resilience.registry import Resilience
from isthmus.runtime.methods import models, text
from isthmus.runtime.router import Router
from isthmus.runtime.server import Server
from isthmus.runtime.services import Services
from isthmus.runtime.session_service import SessionService
from isthmus.runtime.text_operations import TextOperations
from isthmus.settings import Settings
from isthmus.text.pool import TextPool
from isthmus.text.tokenizer import TextTokenizer
from isthmus.transport.writer import OrderedWriter
from isthmus.wire.codec import MsgpackCodec
from isthmus.wire.frames import FrameDecoder
from tests.python.host.fakes import VirtualLoop, model_info

T = TypeVar("T")

PIECE_BYTES = 400
WATERMARK_BYTES = 600
DRAIN_GRACE_S = 5.0
VOCABULARY = 768
HANDLES = ("m1", "m2", "m3", "m4")


class Pipe:
    """One direction: what is written waits until the test delivers it."""

    def __init__(self, on_room: Callable[[bool], None]) -> None:
        self.is_closed = False
        self._on_room = on_room
        self._unread = bytearray()
        self._is_full = False

    def write(self, data: bytes) -> None:
        """Take bytes, and say when there are too many."""
        if not self.is_closed:
            self._unread += data
            if len(self._unread) > WATERMARK_BYTES and not self._is_full:
                self._is_full = True
                self._on_room(False)

    def writelines(self, parts: list[bytes | memoryview]) -> None:
        """Take bytes."""
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        """Return what is not delivered."""
        return len(self._unread)

    def take(self, count: int) -> bytes:
        """Return what is delivered now."""
        data = bytes(self._unread[:count])
        del self._unread[:count]
        if self._is_full and len(self._unread) <= WATERMARK_BYTES // 4:
            self._is_full = False
            self._on_room(True)
        return data

    def cut(self) -> None:
        """Lose everything."""
        self.is_closed = True
        self._unread.clear()


class GatedPool:
    """The tokenizer's threads: work waits until the test lets it be done."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._gates: list[asyncio.Future[None]] = []

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work when the gate opens."""
        gate = self._loop.create_future()
        self._gates.append(gate)
        await gate
        return work()

    def open(self, index: int) -> None:
        """Let one piece of work be done."""
        if self._gates:
            gate = self._gates.pop(index % len(self._gates))
            if not gate.done():
                gate.set_result(None)


class Shelf(ModelCache):
    """Models that nobody has to load."""

    def put(self, handle: str, tokenizer: TextTokenizer) -> None:
        """Add one that has a tokenizer and no weights."""
        verified = cast(VerifiedModel, None)
        model = LoadedModel(handle, Source(handle), verified, None, tokenizer, VOCABULARY, 0.0, 1)
        model.idle_timeout_s = 0.0
        self.residents.add(model)


class _NoMaker:
    async def release(self, model: LoadedModel) -> None:
        """There are no weights to let go."""

    async def machine(self) -> Machine:
        """Nothing is loaded, so nobody asks."""
        raise NotImplementedError


class FarEnd:
    """The runtime, without its process.

    Args:
        loop: Runs it.
        tokenizer: Of all its models.
        group: Owns its tasks.
    """

    def __init__(
        self, loop: VirtualLoop, tokenizer: TextTokenizer, group: asyncio.TaskGroup
    ) -> None:
        codec = MsgpackCodec()
        self.writer = OrderedWriter(codec, loop, PIECE_BYTES)
        self.pool = GatedPool(loop)
        self.multiplexer = Multiplexer(group.create_task, loop)
        maker = cast(ModelMaker, _NoMaker())
        shelf = Shelf(maker, CacheSettings(budget_bytes=1), "joined", lambda *_: None)
        for handle in HANDLES:
            shelf.put(handle, tokenizer)
        operations = TextOperations(cast(TextPool, self.pool), self.multiplexer)
        engine = cast(EngineThread, None)
        resilience = Resilience(lambda handle: True, lambda: 0.0)
        services = Services(
            Settings(),
            engine,
            shelf,
            operations,
            self.multiplexer,
            resilience,
            cast(SessionService, None),
            KvMemory(),
        )
        router = Router()
        text.register(router, services)
        models.register(router, services)
        hello = {"protocol": 1, "runtime": "joined", "limits": {"piece_bytes": PIECE_BYTES}}
        self.server = Server(codec, self.writer, router, group, hello, lambda: {}, self.multiplexer)
        self._decoder = FrameDecoder()

    def on_input(self, data: bytes) -> None:
        """Take bytes as `transport.stdio` does."""
        self.writer.hold()
        self.server.on_read_begins()
        try:
            for payload in self._decoder.feed(data):
                self.server.on_payload(payload)
        finally:
            self.server.on_read_ends()
            self.writer.flush()


class Joined:
    """Both ends; made on the loop that runs them."""

    def __init__(self, loop: VirtualLoop, tokenizer: TextTokenizer) -> None:
        self.loop = loop
        self.connection = Connection(None)
        keeper_options = KeeperOptions(restart=None)
        self.keeper = Keeper(self._launch, self.connection, keeper_options)
        self.up = Pipe(lambda room: self.link.on_room(room))
        self.is_cut = False
        """Whether the host's pipe was closed before all had been written."""
        self.is_input_ending = False
        self.stdin = self.up
        self.stderr = ""
        self.is_killed = False
        self.ended: asyncio.Future[host.ExitReport] = loop.create_future()
        self._tokenizer = tokenizer
        self._serving = loop.create_task(self._serve())
        self.starting = loop.create_task(self.keeper.start())
        self.runtime = Runtime(self.keeper, self.connection, 16, True)
        self.models = [host.Model(self.runtime, model_info(handle)) for handle in HANDLES]

    async def _launch(self, link: Link) -> RuntimeProcess:
        self.link = link
        link.on_connected(cast(RuntimeProcess, self))
        return cast(RuntimeProcess, self)

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            self.far = FarEnd(self.loop, self._tokenizer, group)
            writer = self.far.writer
            self.down = Pipe(lambda room: writer.resume() if room else writer.pause())
            writer.attach(self.down)
            self.far.server.say_hello()
            await self.far.server.closing.wait()
            await self.far.server.drain(DRAIN_GRACE_S)
            while writer.backlog_bytes:
                await asyncio.sleep(0.001)
        self._exit(host.ExitReport(0, None, ""))

    def deliver_up(self, count: int) -> None:
        """Let the runtime read so many bytes, or the end."""
        if self.ended.done():
            return
        data = self.up.take(count)
        if data:
            self.far.on_input(data)
        elif self.is_input_ending and not self.far.server.closing.is_set():
            self.far.server.on_input_closed(None)

    def deliver_down(self, count: int) -> None:
        """Let the host read so many bytes."""
        if not self.ended.done() and (data := self.down.take(count)):
            self.link.on_output(data)

    def crash(self) -> None:
        """End the runtime's process."""
        if not self.ended.done():
            self.up.cut()
            self.down.cut()
            self._serving.cancel()
            self._exit(host.ExitReport(None, "SIGKILL", ""))

    def kill(self) -> None:
        """Be the process that the host kills."""
        self.crash()

    async def stop(self, close_grace_s: float, terminate_grace_s: float) -> None:
        """Be the process whose input the host closes."""
        self.is_cut = bool(self.link.writer.backlog_bytes - len(self.up._unread))
        self.link.on_input_lost()
        self.is_input_ending = True
        await asyncio.wait({self.ended})

    def _exit(self, report: host.ExitReport) -> None:
        self.ended.set_result(report)
        self.link.on_exit(report)
