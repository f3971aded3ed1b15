"""Whatever the order of calls, cancels, answers and ends of processes: nothing is lost or doubled.

Every call settles exactly once and rightly; what may have changed something is sent once; what is
sent twice had been answered nothing; no call overtakes an earlier one of its model or session, and
none reaches a process that has not got the model.

150 histories; `ISTHMUS_EXAMPLES=2000` in the environment makes it so many.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from isthmus.errors import IsthmusError
from isthmus.host.requests import IDEMPOTENT
from isthmus.host.streams import Stream
from tests.python.host.fakes import DELTA, END, ERROR, RESULT, FakeProcess
from tests.python.host.kept import ENDED, KeptBench

EXAMPLES = int(os.environ.get("ISTHMUS_EXAMPLES", "150"))
HANDLES = ("a", "b")
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("echo", {}),
    ("tokenize", {"model": "a"}),
    ("tokenize", {"model": "b"}),
    ("check_draft", {"model": "a"}),
    ("check_draft_compatibility", {"model": "a", "draft_model": "b"}),
    ("set_circuit", {"model": "b"}),
    ("fault", {}),
    ("open_session", {"model": "a", "session": {"id": "s"}}),
    ("truncate_session", {"session": {"id": "s"}}),
    ("delete_session", {"session": {"id": "s"}}),
)


class Made:
    """A call that was made."""

    def __init__(self, number: int, method: str, params: dict[str, Any]) -> None:
        self.number = number
        self.method = method
        self.params = {**params, "data": number}
        self.settled = 0
        self.is_cancelled = False
        self.delivered_by: FakeProcess | None = None
        """The process that delivered something of a stream."""
        self.task: asyncio.Task[Any]
        self.stream: Stream | None = None


class Histories(RuleBasedStateMachine):
    """Histories of one runtime and its processes."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = KeptBench()
        self.made: list[Made] = []
        self.others: list[asyncio.Task[Any]] = []
        self.answered: dict[FakeProcess, set[int]] = {}
        self.loaded: dict[FakeProcess, dict[str, int]] = {}
        """Where in the requests of a process its models had been loaded."""
        for handle in HANDLES:
            self.bench.load(handle)
        self.loaded[self.process] = dict.fromkeys(HANDLES, 0)
        self.answered[self.process] = {number for number, _, _ in self.process.requests}

    @property
    def process(self) -> FakeProcess:
        """The newest process."""
        return self.bench.process

    def soon(self, made: Made) -> None:
        """Make a call in the turn that comes next."""

        async def run() -> Any:
            if made.method != "stream_echo":
                return await self.bench.runtime.call(made.method, made.params)
            stream = self.bench.runtime.stream("stream_echo", made.params)
            made.stream = stream
            return [payload async for payload in stream.read()]

        def on_done(task: asyncio.Task[Any]) -> None:
            made.settled += 1

        made.task = self.bench.begin(run())
        made.task.add_done_callback(on_done)
        self.made.append(made)

    @rule(calls=st.lists(st.sampled_from(CALLS), min_size=1, max_size=5))
    def call(self, calls: list[tuple[str, dict[str, Any]]]) -> None:
        """Make calls of one turn."""
        for method, params in calls:
            self.soon(Made(len(self.made), method, params))

    @rule()
    def begin_stream(self) -> None:
        """Begin a stream."""
        self.soon(Made(len(self.made), "stream_echo", {}))

    @rule(back=st.integers(0, 8))
    def cancel(self, back: int) -> None:
        """Let a caller give up."""
        if back < len(self.made):
            made = self.made[-1 - back]
            made.is_cancelled |= made.task.cancel()

    @rule(count=st.integers(1, 6))
    def turn(self, count: int) -> None:
        """Let the event loop go on."""
        self.bench.turn(count)

    def open_requests(self) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
        """Yield the place, id, method and params of what the newest process has not answered."""
        if self.process.ended.done():
            return
        done = self.answered.setdefault(self.process, set())
        for place, (number, method, params) in enumerate(self.process.requests):
            if number not in done:
                yield place, number, method, params

    @rule(index=st.integers(0, 5), is_refused=st.sampled_from([False, False, False, True]))
    def answer(self, index: int, is_refused: bool) -> None:
        """Let the newest process answer something."""
        waiting = list(self.open_requests())
        if not waiting:
            return
        _, number, method, params = waiting[index % len(waiting)]
        self.answered[self.process].add(number)
        if is_refused:
            message: tuple[Any, ...] = (ERROR, number, {"code": "INVALID_REQUEST", "message": "no"})
        elif method == "stream_echo":
            message = (END, number, ENDED)
        else:
            message = (RESULT, number, {"for": params.get("data")})
        if method == "load_model" and not is_refused:
            places = self.loaded.setdefault(self.process, {})
            places[params["handle"]] = len(self.process.requests)
        self.bench.loop.call_soon(self.process.say, message)
        self.bench.turn(1)

    @rule(index=st.integers(0, 5))
    def deliver(self, index: int) -> None:
        """Let a stream deliver something."""
        streams = [entry for entry in self.open_requests() if entry[2] == "stream_echo"]
        if streams:
            _, number, _, params = streams[index % len(streams)]
            made, process = self.made[params["data"]], self.process

            def say() -> None:
                if not process.ended.done():
                    made.delivered_by = process
                    process.say((DELTA, number, 1, [1]))

            self.bench.loop.call_soon(say)
            self.bench.turn(1)

    @rule(turns=st.integers(0, 2))
    def die(self, turns: int) -> None:
        """Let the newest process die."""
        self.bench.loop.call_soon(self.process.exit, "SIGKILL")
        self.bench.turn(turns)

    @rule(milliseconds=st.sampled_from([1.0, 300.0, 1_000.0, 70_000.0]))
    def advance(self, milliseconds: float) -> None:
        """Let time pass."""
        self.bench.loop.advance(milliseconds)

    @rule()
    def restart(self) -> None:
        """Restart it by hand."""
        self.others.append(self.bench.begin(self.bench.runtime.restart()))

    @invariant()
    def nothing_is_reported_to_nobody(self) -> None:
        """What the event loop has to report is a defect, and one process is the most."""
        assert self.bench.loop.defects == []
        assert sum(not process.ended.done() for process in self.bench.launcher.processes) <= 1

    def teardown(self) -> None:
        """Come to rest; then everything has settled, and rightly."""
        try:
            self.come_to_rest()
            self.check()
        finally:
            self.bench.loop.end()

    def come_to_rest(self) -> None:
        """Answer everything until nobody waits."""
        for _ in range(60):
            self.bench.turn()
            while list(self.open_requests()):
                self.answer(0, False)
                self.bench.turn(4)
            if all(made.settled for made in self.made) and all(o.done() for o in self.others):
                break
            self.bench.advance(8_000)
        closing = self.bench.start(self.bench.runtime.close())
        self.bench.die(None)
        self.bench.advance(20_000)
        assert closing.done() and self.bench.runtime.in_flight == 0
        assert not self.bench.connection.gate.kept and not self.bench.connection.gate.kept.named

    def check(self) -> None:
        """Check every call and every process."""
        sent: dict[int, int] = {}
        for process in self.bench.launcher.processes:
            self.check_process(process, sent)
        for made in self.made:
            assert made.settled == 1
            times = sent.get(made.number, 0)
            assert times <= (2 if made.method in IDEMPOTENT else 1)
            if made.task.cancelled():
                assert made.is_cancelled
            elif (error := made.task.exception()) is not None:
                assert isinstance(error, IsthmusError)
                assert not (made.delivered_by and error.retryable)
            elif made.method != "stream_echo":
                assert made.task.result() == {"for": made.number}

    def check_process(self, process: FakeProcess, sent: dict[int, int]) -> None:
        """Check the order of what a process got, and that it had the models."""
        latest: dict[str, int] = {}
        processes = self.bench.launcher.processes
        for place, (_, method, params) in enumerate(process.requests):
            if "data" not in params:
                continue
            number = params["data"]
            sent[number] = sent.get(number, 0) + 1
            delivered_by = self.made[number].delivered_by
            assert delivered_by is None or processes.index(delivered_by) >= processes.index(process)
            handles = {params[name] for name in ("model", "draft_model") if name in params}
            for named in (*handles, *(["session"] if "session" in params else [])):
                assert latest.get(named, -1) < number, (method, params)
                latest[named] = number
            for handle in handles:
                assert place >= self.loaded.get(process, {}).get(handle, 10**9)


Histories.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase
