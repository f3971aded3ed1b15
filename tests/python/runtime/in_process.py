"""The runtime in this process: bytes in, messages out, with nothing below it that could vary.

Server, router, methods, cache, tokenizer and multiplexer are the runtime's own. In place of the
transport there is a list, in place of the engine thread one that makes tokens on the loop, and in
place of weights nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar
from unittest import mock

import msgpack

from isthmus.engine.blas import Blas
from isthmus.engine.job import Job, Outcome, Phase
from isthmus.errors import NumericError, Unavailable
from isthmus.models.load import LoadedModel, Progress, load_tokenizer
from isthmus.models.making import FolderMaker, Inspected, Parts
from isthmus.models.memory import Machine
from isthmus.runtime import app
from isthmus.settings import Settings
from isthmus.text.tokenizer import TextTokenizer
from isthmus.transport.claim import ClaimedPipes
from isthmus.transport.parent import ParentWatch
from isthmus.transport.stdio import _ReadEnd
from isthmus.wire.codec import MsgpackCodec
from isthmus.wire.frames import FrameDecoder, pack_header
from isthmus.wire.messages import PieceAssembler
from tests.faults.small_models import VOCABULARY
from tests.python.runtime.judge import HELLO, PIECE

T = TypeVar("T")

WAIT_S = 20.0
MESSAGE_BYTES = 64 * 1024 * 1024
TOKEN = ord("a")
"""What every generation consists of."""
SICK_PROMPT = 3
"""Prompts of so many tokens fail."""


class LoopEngine:
    """Takes the place of the engine thread: a token a turn for each job, on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *_: object, **__: object) -> None:
        self._loop = loop
        self._jobs: list[Job] = []
        self._turn_ends: list[Callable[[], None]] = []
        self._is_due = False
        self.on_dead: Callable[[Exception], None] | None = None
        self.on_turn_end: Callable[[], None] | None = None

    def start(self) -> None:
        """There is no thread."""

    def stop(self, timeout_s: float) -> bool:
        """There is no thread."""
        return True

    def health(self) -> dict[str, object]:
        """Return the `engine` map."""
        return {"state": "idle", "progress_age_ms": None}

    def wait_ms(self) -> float:
        """Return when to come back."""
        return 100.0

    def submit(self, job: Job) -> None:
        """Take a job."""
        job.enter(Phase.PREFILL)
        job.started_at = self._loop.time()
        job.enter(Phase.DECODE)
        self._jobs.append(job)
        self.wake()

    def at_turn_end(self, call: Callable[[], None]) -> None:
        """Call after this turn's tokens."""
        self._turn_ends.append(call)

    def wake(self) -> None:
        """Go on, if somebody has room."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a later turn."""
        await asyncio.sleep(0)
        return work()

    async def run_steps(self, work: object) -> None:
        """Refuse: it would be work on weights."""
        await asyncio.sleep(0)
        raise Unavailable("there are no weights here")

    def _turn(self) -> None:
        self._is_due = False
        going: list[Job] = []
        for job in self._jobs:
            if not job.is_cancelled and not self._step(job):
                going.append(job)
            elif job.on_left is not None:
                job.on_left(None)
        self._jobs = going
        while self._turn_ends:
            self._turn_ends.pop(0)()
        if self.on_turn_end is not None:
            self.on_turn_end()
        if any(not job.is_starved for job in self._jobs):
            self.wake()

    def _step(self, job: Job) -> bool:
        """Make a token if there is room; return whether the job has ended."""
        if job.is_starved:
            return False
        if len(job.prompt) == SICK_PROMPT:
            job.enter(Phase.DONE)
            job.listener.on_error(NumericError("the logits are not finite", phase="decode"))
            return True
        job.emitted += 1
        job.listener.on_tokens([TOKEN], chr(TOKEN), [])
        if job.emitted < job.max_tokens:
            return False
        job.enter(Phase.DONE)
        now, count = self._loop.time(), len(job.prompt)
        began = job.started_at
        job.listener.on_end(Outcome("length", None, count, job.emitted, 0, began, began, now, {}))
        return True


class WeightlessMaker(FolderMaker):
    """Finds and verifies folders, and loads nothing but tokenizers."""

    async def build(self, inspected: Inspected, tell: Progress) -> Parts:
        """Load the tokenizer."""
        wrapper = await asyncio.to_thread(load_tokenizer, inspected.verified.path, None)
        tell("load", 1, 1, "steps")
        return Parts(None, TextTokenizer(wrapper, VOCABULARY), VOCABULARY)

    async def release(self, model: LoadedModel) -> None:
        """There is nothing to give back."""

    async def machine(self) -> Machine:
        """Nothing bounds the memory."""
        return Machine()


class Output:
    """Takes the place of the transport: reads messages and wakes who waits for one."""

    def __init__(self, see: Callable[[list[Any]], None]) -> None:
        self._see = see
        self._decoder = FrameDecoder()
        self._codec = MsgpackCodec()
        self._pieces = PieceAssembler(MESSAGE_BYTES, 64)
        self.came = asyncio.Event()

    def write(self, data: bytes) -> None:
        """Take bytes."""
        for payload in self._decoder.feed(bytes(data)):
            message = self._codec.decode(payload)
            if message[0] == PIECE:
                whole = self._pieces.add(*message[1:])
                message = None if whole is None else self._codec.decode(whole)
            if message is not None:
                self._see(message)
        self.came.set()

    def writelines(self, parts: list[bytes | memoryview]) -> None:
        """Take bytes."""
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        """Everything is read at once."""
        return 0


class InProcess:
    """One runtime on a loop of its own, which runs while a test lets it.

    Args:
        see: Told every message.
    """

    def __init__(self, see: Callable[[list[Any]], None]) -> None:
        self._see = see
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self.defects: list[str] = []
        """What a runtime would have logged as defects of its callbacks."""
        self._loop.set_exception_handler(lambda _, context: self.defects.append(repr(context)))
        started: asyncio.Future[None] = self._loop.create_future()
        self._life = self._loop.create_task(self._live(started))
        self._loop.run_until_complete(asyncio.wait_for(started, WAIT_S))

    async def _live(self, started: asyncio.Future[None]) -> None:
        ends = os.pipe()
        with ExitStack() as at_end:
            for end in ends:
                at_end.callback(os.close, end)
            async with asyncio.TaskGroup() as group:
                with (
                    mock.patch.object(app, "EngineThread", LoopEngine),
                    mock.patch.object(app, "FolderMaker", WeightlessMaker),
                ):
                    pipes, blas = ClaimedPipes(*ends), Blas("bundled")
                    self.runtime = app.Runtime(pipes, Settings(), blas, group, ParentWatch(), None)
                writer = self.runtime._writer
                self.output = Output(self._see)
                writer.attach(self.output)
                self._input = _ReadEnd(self.runtime.server, FrameDecoder(), writer)
                self.send([HELLO, {"protocol": 1}])
                started.set_result(None)
                await self._over.wait()
                self.runtime.server.on_input_closed(None)
                await self.runtime.stop()

    def send(self, *messages: object) -> None:
        """Let messages arrive in one read."""
        payloads = [msgpack.packb(message) for message in messages]
        self._input.data_received(b"".join(pack_header(len(p)) + p for p in payloads))

    def run(self, scene: Coroutine[Any, Any, T]) -> T:
        """Run the loop until `scene` has ended."""
        return self._loop.run_until_complete(asyncio.wait_for(scene, WAIT_S))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until messages have made something so."""
        while not condition():
            self.output.came.clear()
            await self.output.came.wait()

    def close(self) -> None:
        """End the runtime in its own order."""
        self._over.set()
        self._loop.run_until_complete(asyncio.wait_for(self._life, WAIT_S))
        self._loop.close()
