"""A runtime that is kept, on a loop whose time the test moves; the test ends its processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any

from isthmus import host
from isthmus.host.life import StateChange
from isthmus.host.options import KeeperOptions
from isthmus.host.restarts import RestartOptions
from isthmus.host.streams import Stream
from isthmus.host.watchdog import HeartbeatOptions
from tests.python.host.fakes import END, RESULT, FakeProcess, VirtualLoop, model_info, start_kept

BACKOFF_MS = 250.0
ENDED = {
    "finish_reason": "stop",
    "stop": 0,
    "usage": {"prompt_tokens": 1, "completion_tokens": 0, "cached_tokens": 0},
    "timing": {},
    "seed": 5,
    "batching": None,
    "speculation": None,
    "is_complete": None,
    "tool_calls": None,
}


class KeptBench:
    """The runtime, and the hands of its clock; waits before restarts are the longest possible."""

    def __init__(self, **options: Any) -> None:
        self.loop = VirtualLoop()
        self.steps: list[StateChange] = []
        kept = {
            "restart": RestartOptions(),
            "heartbeat": HeartbeatOptions(),
            "on_state": self.steps.append,
            **options,
        }
        self.launcher, self.runtime, self.keeper = start_kept(self.loop, KeeperOptions(**kept))
        self.connection = self.runtime._connection

    @property
    def process(self) -> FakeProcess:
        """The newest process."""
        return self.launcher.processes[-1]

    @property
    def count(self) -> int:
        """Processes that have been started."""
        return len(self.launcher.processes)

    @property
    def states(self) -> list[str]:
        """The states that it has been in since it first ran."""
        return [str(step.to_state) for step in self.steps[1:]]

    def turn(self, count: int = 20) -> None:
        """Let everything happen that needs no time."""
        self.loop.turn(count)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a call, and let it leave."""
        task = self.begin(coroutine)
        self.turn()
        return task

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a call in the turn that comes next."""
        task = self.loop.create_task(coroutine)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def call(self, method: str, **params: Any) -> asyncio.Task[Any]:
        """Make a call of any method."""
        return self.start(self.runtime.call(method, params))

    def stream(self) -> Stream:
        """Begin a stream of any kind, and let it leave."""

        async def begin() -> Stream:
            return self.runtime.stream("stream_echo", {"count": 3})

        stream: Stream = self.start(begin()).result()
        return stream

    def load(self, source: str, handle: str | None = None, **options: Any) -> host.Model:
        """Load a model, which the present process calls `handle`."""
        task = self.start(self.runtime.load_model(source, **options))
        info = model_info(handle or source)
        self.answer({name: getattr(info, name) for name in info.__slots__})
        model: host.Model = task.result()
        return model

    def answer(self, value: object, index: int = -1) -> None:
        """Answer a request of the newest process, the last one."""
        self.loop.call_soon(self.process.answer, index, value)
        self.turn()

    def end(self, value: object = None, index: int = -1) -> None:
        """End a stream of the newest process."""
        self.process.say((END, self.process.requests[index][0], ENDED if value is None else value))
        self.turn()

    def die(self, signal: str | None = "SIGKILL") -> None:
        """End the newest process."""
        self.process.exit(signal)
        self.turn()

    def advance(self, milliseconds: float) -> None:
        """Let time pass in one step."""
        self.loop.advance(milliseconds)
        self.turn()

    def pass_by(self, milliseconds: float, step_ms: float = 1_000.0) -> None:
        """Let time pass as it does: a host that is not blocked looks every now and then."""
        while milliseconds > 0:
            self.advance(min(step_ms, milliseconds))
            milliseconds -= step_ms

    def follow(self) -> FakeProcess:
        """Let the newest process die, and its successor run."""
        before = self.count
        self.die()
        self.advance(self.steps[-1].delay_ms or 0.0)
        assert self.count == before + 1 and self.runtime.state == "running"
        return self.process

    def error(self, task: asyncio.Task[Any]) -> Any:
        """Return what a call has failed with."""
        assert task.done()
        return task.exception()


@contextlib.contextmanager
def kept(**options: Any) -> Iterator[KeptBench]:
    """A runtime that is kept; nothing is left of it in the end."""
    bench = KeptBench(**options)
    try:
        yield bench
        closing = bench.start(bench.runtime.close())
        if bench.launcher.processes:
            bench.die(None)
        bench.advance(60_000)
        assert closing.done() and bench.runtime.state == "closed"
        assert all(process.ended.done() for process in bench.launcher.processes)
        assert bench.runtime.in_flight == 0 and not bench.connection.gate.kept
        assert [task for task in asyncio.all_tasks(bench.loop) if not task.done()] == []
        assert bench.loop.defects == []
    finally:
        bench.loop.end()


__all__ = ["BACKOFF_MS", "ENDED", "RESULT", "KeptBench", "kept"]
