"""Whatever the order of calls, cancels, bad items, replies and ends, every call settles rightly.

The real host and the real runtime are joined in one process (`tests/python/host/joined.py`). The
machine decides when bytes, in which portions, turns, time and the tokenizer's threads go on, so
that what happens depends on nothing else; the oracle tokenizes one text at a time. Limits are
lowered so that short histories reach them.

150 histories; `ISTHMUS_EXAMPLES=2000` in the environment makes it so many.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from isthmus import host
from isthmus.errors import (
    Closing,
    DeadlineExceeded,
    InvalidRequest,
    LocalProtocolError,
    ModelNotLoaded,
    RuntimeExited,
)
from isthmus.limits import HOLD_LIMIT_MS
from isthmus.models import BUILTIN_ROOT
from isthmus.models.load import load_tokenizer
from isthmus.multiplex.window import Window, WindowLimits
from isthmus.text.tokenizer import TextTokenizer
from tests.python.host.fakes import VirtualLoop
from tests.python.host.joined import HANDLES, VOCABULARY, Joined

EXAMPLES = int(os.environ.get("ISTHMUS_EXAMPLES", "150"))
QUIET_ROUNDS = 200
"""Far more than any history needs to come to rest."""

LONG_HISTORY = 40
"""Calls that are made before anything may end: what comes after an end is soon told."""

LOWERED = {
    "isthmus.host.multiplexer.ALONE_BYTES": 300,
    "isthmus.runtime.text_operations.ALONE_BYTES": 300,
    "isthmus.text.batch.INLINE_TEXT_CHARS": 100,
    "isthmus.host.lanes.Window": functools.partial(
        Window, limits=WindowLimits(calls=8, size_bytes=700)
    ),
}
TEXTS = (
    "",
    "a",
    "two words",
    "naïve 日本語 👩‍👩‍👧",
    "<|user|>hi<|end|>",
    "x y " * 20,
    "long " * 70,
)
BAD_TEXTS: tuple[Any, ...] = (7, None, b"bytes", ["list"], {"a": 1})
UNSENDABLE: tuple[Any, ...] = ("\ud800", object(), 2**70, "\udfff" * 400)
LISTS: tuple[list[int], ...] = ([], [5], [1, 2, 3], list(range(40, 140)))
BAD_LISTS = ([VOCABULARY], [1, 2**31], [2**32], [-1], ["1"])
METHODS = ("tokenize", "count_tokens", "detokenize", "offsets")
PORTIONS = (1, 3, 40, 700, 10**9)


@functools.cache
def tokenizer() -> TextTokenizer:
    """Return the built-in model's tokenizer."""
    return TextTokenizer(load_tokenizer(BUILTIN_ROOT / "chat", None), VOCABULARY)


@functools.cache
def oracle(method: str, item: Any, flag: bool) -> Any:
    """Return what one call gives, made alone."""
    if method == "detokenize":
        return tokenizer().decode(list(item), flag)
    if method == "offsets":
        (pieces,) = tokenizer().encode_pieces([item], flag)
        return host.Encoding(pieces.ids, pieces.offsets, pieces.tokens)
    ids = tokenizer().encode(item, flag)
    return len(ids) if method == "count_tokens" else ids


@dataclass(frozen=True)
class Plan:
    """One call to be made."""

    method: str
    model: int
    number: int
    flag: bool
    deadline_ms: float | None

    @property
    def items(self) -> tuple[tuple[Any, ...], ...]:
        """Items that are good, bad, and unsendable."""
        if self.method == "detokenize":
            return LISTS, BAD_LISTS, ()
        return TEXTS, BAD_TEXTS, UNSENDABLE

    @property
    def item(self) -> Any:
        """What it is about: mostly something good."""
        good, bad, torn = self.items
        return (*good, *good, *good, *bad, *torn)[self.number % (3 * len(good) + len(bad + torn))]

    def call(self, model: host.Model) -> Coroutine[Any, Any, Any]:
        """Return the call."""
        options: dict[str, Any] = {"deadline_ms": self.deadline_ms}
        if self.method == "detokenize":
            return model.detokenize(self.item, skip_special_tokens=self.flag, **options)
        if self.method == "count_tokens":
            return model.count_tokens(self.item, add_special_tokens=self.flag, **options)
        if self.method == "offsets":
            return model.tokenize(
                self.item, add_special_tokens=self.flag, offsets=True, tokens=True, **options
            )
        return model.tokenize(self.item, add_special_tokens=self.flag, **options)


class Made:
    """A call that was made, and what had happened when it was."""

    def __init__(self, plan: Plan, machine: MultiplexedCalls) -> None:
        self.plan = plan
        self.is_cancelled = False
        self.began_ms: float | None = None
        self.ended_ms = 0.0
        self.was_refused = self.was_unloading = self.was_unloaded = False
        self.settled = 0
        self._machine = machine
        self.task = machine.loop.create_task(self._run())
        self.task.add_done_callback(self._on_done)

    async def _run(self) -> Any:
        machine = self._machine
        self.began_ms = machine.now_ms
        self.was_refused = machine.is_closed or machine.is_crashed
        self.was_unloading = self.plan.model in machine.unloading
        self.was_unloaded = self.plan.model in machine.unloaded
        return await self.plan.call(machine.joined.models[self.plan.model])

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self.settled += 1
        self.ended_ms = self._machine.now_ms
        if not task.cancelled():
            task.exception()

    def check(self) -> None:
        """Fail unless what came of it is explained by what happened to it."""
        assert self.settled == 1
        if self.task.cancelled():
            assert self.is_cancelled
            return
        error = self.task.exception()
        if error is None:
            self._check_value(self.task.result())
        else:
            self._check_error(error)

    def _check_value(self, value: object) -> None:
        plan, (good, _, _) = self.plan, self.plan.items
        assert plan.item in good and not self.was_refused
        item = tuple(plan.item) if plan.method == "detokenize" else plan.item
        assert value == oracle(plan.method, item, plan.flag)
        assert not self.was_unloaded

    def _check_error(self, error: BaseException) -> None:
        plan, machine = self.plan, self._machine
        _, bad, torn = plan.items
        if isinstance(error, InvalidRequest):
            assert plan.item in bad
            assert error.details["field"] == ("ids" if plan.method == "detokenize" else "text")
            assert "[" not in error.message.split(" must")[0]
        elif isinstance(error, LocalProtocolError):
            assert plan.item in torn
        elif isinstance(error, ModelNotLoaded):
            assert self.was_unloading and error.details == {"model": HANDLES[plan.model]}
        elif isinstance(error, DeadlineExceeded):
            assert plan.deadline_ms is not None and self.began_ms is not None
            # A frame has what its oldest call has left, and its youngest came a hold later.
            least_ms = plan.deadline_ms - HOLD_LIMIT_MS
            assert self.ended_ms - self.began_ms >= least_ms - 0.01
        elif isinstance(error, Closing):
            # What was made before is sent, and the runtime lets it go only after its grace.
            assert machine.is_closed and (self.was_refused or "shutting down" in error.message)
        else:
            assert isinstance(error, RuntimeExited), repr(error)
            assert machine.is_crashed or (machine.is_closed and machine.joined.is_cut)


PLANS = st.builds(
    Plan,
    st.sampled_from(METHODS),
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.integers(0, 30),
    st.booleans(),
    st.sampled_from([None, None, 6.0, 2.0]),
)


class MultiplexedCalls(RuleBasedStateMachine):
    """Histories of calls."""

    joined: Joined

    def __init__(self) -> None:
        super().__init__()
        self.lowered = pytest.MonkeyPatch()
        for name, value in LOWERED.items():
            self.lowered.setattr(name, value)
        self.loop = VirtualLoop()
        self.made: list[Made] = []
        self.is_closed = self.is_crashed = False
        self.unloading: set[int] = set()
        self.unloaded: set[int] = set()
        self.others: list[asyncio.Task[Any]] = []

    @property
    def now_ms(self) -> float:
        """The time."""
        return self.loop.time() * 1_000

    def soon(self, action: Callable[..., object], *arguments: object) -> None:
        """Do something within the turn that comes next."""
        self.loop.call_soon(action, *arguments)

    def soon_start(self, coroutine: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start a task that is no call within the turn that comes next."""
        self.soon(lambda: self.others.append(self.loop.create_task(coroutine())))

    @initialize()
    def join(self) -> None:
        """Let both ends say hello."""

        def start() -> None:
            self.joined = Joined(self.loop, tokenizer())

        self.soon(start)
        self.loop.turn(2)
        self.soon(self.joined.deliver_down, 10**9)
        self.loop.turn(3)
        self.soon(self.joined.deliver_up, 10**9)
        self.loop.turn(2)
        assert self.joined.starting.done()

    @rule(plans=st.lists(PLANS, min_size=1, max_size=6))
    def call(self, plans: list[Plan]) -> None:
        """Make calls of one turn."""
        self.soon(lambda: self.made.extend(Made(plan, self) for plan in plans))

    @rule(plan=PLANS, count=st.integers(2, 20))
    def call_alike(self, plan: Plan, count: int) -> None:
        """Make calls of one turn and one key, all about different items."""
        plans = [replace(plan, number=plan.number + more) for more in range(count)]
        self.soon(lambda: self.made.extend(Made(one, self) for one in plans))

    @rule(
        turns=st.integers(0, 3),
        first=st.integers(0, 60),
        step=st.integers(1, 5),
        count=st.integers(1, 12),
    )
    def cancel(self, turns: int, first: int, step: int, count: int) -> None:
        """Let callers give up, the latest first."""
        self.loop.turn(turns)

        def give_up() -> None:
            for made in self.made[::-1][first::step][:count]:
                made.is_cancelled |= made.task.cancel()

        self.soon(give_up)

    @rule(count=st.integers(1, 4))
    def turn(self, count: int) -> None:
        """Let the event loop go on."""
        self.loop.turn(count)

    @rule(portion=st.sampled_from(PORTIONS), turns=st.integers(0, 2))
    def deliver_up(self, portion: int, turns: int) -> None:
        """Let bytes reach the runtime."""
        self.soon(self.joined.deliver_up, portion)
        self.loop.turn(turns)

    @rule(portion=st.sampled_from(PORTIONS), turns=st.integers(0, 2))
    def deliver_down(self, portion: int, turns: int) -> None:
        """Let bytes reach the host."""
        self.soon(self.joined.deliver_down, portion)
        self.loop.turn(turns)

    @rule(index=st.integers(0, 3))
    def tokenize(self, index: int) -> None:
        """Let a thread of the tokenizer do its work."""
        self.soon(self.joined.far.pool.open, index)

    @rule(milliseconds=st.sampled_from([0.5, 1.0, 3.0, 5.0, 50.0]))
    def advance(self, milliseconds: float) -> None:
        """Let time pass."""
        self.loop.advance(milliseconds)

    @rule()
    def go_on(self) -> None:
        """Let everything but time go on for a while."""
        for _ in range(3):
            self.step()

    @rule(model=st.integers(1, len(HANDLES) - 1), plan=PLANS, count=st.integers(0, 6))
    def unload(self, model: int, plan: Plan, count: int) -> None:
        """Give a model back in the turn of calls that name it; the first one stays."""

        async def run() -> None:
            if model not in self.unloading:
                self.unloading.add(model)
                assert await self.joined.models[model].unload()
                self.unloaded.add(model)

        plans = [replace(plan, model=model, number=plan.number + more) for more in range(count)]
        self.soon(lambda: self.made.extend(Made(one, self) for one in plans))
        self.soon_start(run)

    @precondition(lambda self: len(self.made) > LONG_HISTORY)
    @rule()
    def close(self) -> None:
        """Close the host's runtime."""

        async def run() -> None:
            self.is_closed = True
            await self.joined.runtime.close()

        self.soon_start(run)

    @precondition(lambda self: len(self.made) > LONG_HISTORY)
    @rule()
    def crash(self) -> None:
        """Kill the runtime's process."""

        def kill() -> None:
            self.is_crashed |= not self.joined.ended.done()
            self.joined.crash()

        self.soon(kill)

    @invariant()
    def nothing_is_reported_to_nobody(self) -> None:
        """What the event loop has to report is a defect."""
        assert self.loop.defects == []

    @invariant()
    def windows_count_what_lanes_keep(self) -> None:
        """The window and its lane agree."""
        if hasattr(self, "joined"):
            for lane in self.joined.connection.multiplexer._lanes.values():
                assert lane._window.calls == len(lane._members) and lane._window.in_flight >= 0
                sizes = sum(member.size for member in lane._members)
                assert lane._window.size_bytes == sizes

    def step(self) -> None:
        """Deliver all that is on its way, and let all work be done that can be."""
        self.soon(self.joined.deliver_up, 10**9)
        self.soon(self.joined.deliver_down, 10**9)
        for _ in range(4):
            self.soon(self.joined.far.pool.open, 0)
        self.loop.turn(3)

    def teardown(self) -> None:
        """Come to rest; then everything has settled and every counter is back at zero."""
        try:
            if hasattr(self, "joined"):
                self.come_to_rest()
                self.check()
        finally:
            self.loop.end()
            self.lowered.undo()

    def come_to_rest(self) -> None:
        """Go on until nobody waits; time is not needed, except to end a process."""
        self.loop.turn(2)
        for _ in range(QUIET_ROUNDS):
            self.step()
            if self.is_closed:
                self.loop.advance(1.0)
            if all(made.settled for made in self.made) and self.is_quiet:
                break

    @property
    def is_quiet(self) -> bool:
        """Whether what is no call has ended, too, and nothing is on its way."""
        joined = self.joined
        on_their_way = joined.up.get_write_buffer_size() + joined.down.get_write_buffer_size()
        return (
            all(task.done() for task in self.others)
            and joined.connection.multiplexer.is_idle
            and (joined.ended.done() or (on_their_way == 0 and joined.connection.in_flight == 0))
        )

    def check(self) -> None:
        """Check every call, and that nothing is left on either side."""
        assert self.is_quiet and self.loop.defects == []
        for made in self.made:
            made.check()
        connection, far = self.joined.connection, self.joined.far
        assert connection.in_flight == 0 and connection.inbox.counters["ignored"] == 0
        if not self.is_crashed:
            assert far.server.in_flight == 0
            assert far.multiplexer.pending_cost == 0 and not far.multiplexer._lanes
        lanes = connection.multiplexer.stats().values()
        frames, calls = (sum(lane[name] for lane in lanes) for name in ("frames", "calls"))
        assert frames <= calls <= len(self.made)
        for task in self.others:
            error = task.exception()
            assert error is None or self.is_closed or self.is_crashed, repr(error)


MultiplexedCalls.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestMultiplexedCalls = MultiplexedCalls.TestCase
