"""The cache beside its rules: loads, uses, leases, time and failures in any order.

Whatever happens: memory stays within the budget, what somebody holds is not evicted, references are
those that were given out, and every waiter hears once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from isthmus.errors import MemoryLimit, ModelLoadFailed
from isthmus.models.cache import Unloaded
from isthmus.models.load import LoadedModel, Stay
from tests.python.models.shop import Bench, turns

SIZES = {"a": 20, "b": 30, "c": 45, "d": 70}
BUDGET = 130
IDLE_S = 60.0

NAMES = st.sampled_from(sorted(SIZES))
INDEX = st.integers(0, 7)


@dataclass(eq=False)
class Asked:
    """A load that was asked for."""

    task: asyncio.Task[LoadedModel]
    references: int
    offered: LoadedModel | None
    is_cancelled: bool = False


class CacheMachine(RuleBasedStateMachine):
    """Drives the cache as several callers would who give back what they have, once."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bench = self._on_loop(self._make())
        self.shop = self.bench.shop
        self.held: list[LoadedModel] = []
        """One for each reference that callers have and have not offered."""
        self.leases: list[tuple[LoadedModel, Any]] = []
        self.asked: list[Asked] = []
        self.seen = 0

    async def _make(self) -> Bench:
        return Bench(SIZES, BUDGET, is_open=False, idle_timeout_s=IDLE_S)

    def _on_loop(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def _settle(self) -> None:
        """Let the loop do what it can, and take note of what has ended."""
        self._on_loop(turns(40))
        for asked in [asked for asked in self.asked if asked.task.done()]:
            self.asked.remove(asked)
            self._note(asked)

    def _note(self, asked: Asked) -> None:
        task, offered = asked.task, asked.offered
        if task.cancelled():
            assert asked.is_cancelled
            # It may have been given up for the load before that was cancelled.
            if offered is not None and offered.references > self._references(offered):
                self.held.append(offered)
            return
        error = task.exception()
        if error is None:
            self.held += [task.result()] * asked.references
            return
        assert isinstance(error, MemoryLimit | ModelLoadFailed), error
        if offered is not None and not error.details.get("replaced"):
            self.held.append(offered)

    def _references(self, model: LoadedModel) -> int:
        """Return how many references callers have that are known to exist."""
        pending = sum(asked.offered is model for asked in self.asked)
        return sum(held is model for held in self.held) + pending

    @rule(
        name=NAMES,
        references=st.integers(1, 2),
        pin=st.sampled_from([None, None, None, None, False, True]),
        idle_s=st.sampled_from([None, None, 0.0, 5.0]),
        kv_tokens=st.integers(1, 4),
        replaced=st.one_of(st.none(), INDEX),
        is_quick=st.booleans(),
    )
    def load(
        self,
        name: str,
        references: int,
        pin: bool | None,
        idle_s: float | None,
        kv_tokens: int,
        replaced: int | None = None,
        is_quick: bool = False,
    ) -> None:
        options: dict[str, Any] = {
            "references": references,
            "pin": pin,
            "idle_timeout_s": idle_s,
            "kv_tokens": kv_tokens,
        }
        offered = None
        if replaced is not None and self.held:
            offered = self.held.pop(replaced % len(self.held))
            options["replace"] = offered.handle
        task = self.loop.create_task(self.bench.load(name, **options))
        self.asked.append(Asked(task, references, offered))
        self._settle()
        if is_quick:
            self.go_on_to_the_end()

    @precondition(lambda self: self.asked)
    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        asked = self.asked[index % len(self.asked)]
        asked.is_cancelled = asked.task.cancel()
        self._settle()

    @precondition(lambda self: self.asked)
    @rule(index=INDEX)
    def cancel_when_the_answer_is_ready(self, index: int) -> None:
        asked = self.asked[index % len(self.asked)]

        def cancel() -> None:
            asked.is_cancelled = asked.task.cancel()

        def on_event() -> None:
            self.bench.on_event = None
            self.loop.call_soon(cancel)

        self.bench.on_event = on_event
        self.go_on_to_the_end()

    @precondition(lambda self: self.shop.is_waiting)
    @rule(index=INDEX, count=st.integers(1, 4))
    def go_on(self, index: int, count: int) -> None:
        for _ in range(count):
            if self.shop.is_waiting:
                self.shop.open_one(index)
                self._settle()

    @precondition(lambda self: self.shop.is_waiting)
    @rule()
    def go_on_to_the_end(self) -> None:
        while self.shop.is_waiting:
            self.shop.open_one()
            self._settle()

    @precondition(lambda self: self.held)
    @rule(index=INDEX, evict=st.booleans())
    def unload(self, index: int, evict: bool) -> None:
        model = self.held.pop(index % len(self.held))
        before = model.references
        left = self._on_loop(self._unload(model, evict))
        assert left.references == model.references == before - 1
        self._settle()

    async def _unload(self, model: LoadedModel, evict: bool) -> Unloaded:
        return self.bench.cache.unload(model.handle, evict)

    @precondition(lambda self: self.held)
    @rule(index=INDEX)
    def use(self, index: int) -> None:
        model = self.held[index % len(self.held)]
        assert self.bench.cache.get(model.handle) is model

    @precondition(lambda self: self.held)
    @rule(index=INDEX, is_given_back=st.booleans())
    def begin_work(self, index: int, is_given_back: bool) -> None:
        model = self.held[index % len(self.held)]
        lease = model.lease()
        lease.__enter__()
        self.leases.append((model, lease))
        if is_given_back:
            self.unload(index, False)

    @precondition(lambda self: self.leases)
    @rule(index=INDEX)
    def end_work(self, index: int) -> None:
        _, lease = self.leases.pop(index % len(self.leases))
        self._on_loop(self._end(lease))
        self._settle()

    async def _end(self, lease: Any) -> None:
        lease.__exit__(None, None, None)

    @rule(seconds=st.sampled_from([1.0, 6.0, 31.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self._on_loop(self._move(seconds))
        self._settle()

    async def _move(self, seconds: float) -> None:
        self.bench.clock.move(seconds)

    @rule(name=NAMES, fails=st.booleans())
    def break_or_mend(self, name: str, fails: bool) -> None:
        self.shop.stamps[name] = self.shop.stamps.get(name, 0) + 1
        self.shop.failures.pop(name, None)
        if fails:
            self.shop.failures[name] = ModelLoadFailed("broken", phase="load", cause="not_finite")

    @invariant()
    def memory_is_within_the_budget(self) -> None:
        assert sum(self.shop.memory.values()) <= BUDGET
        residents = self.bench.cache.residents
        leaving = sum(
            model.room.total_bytes for model in residents._models if model.stay is Stay.LEAVING
        )
        assert residents.used_bytes - leaving + residents.reserved_bytes <= BUDGET

    @invariant()
    def references_are_those_that_were_given_out(self) -> None:
        for model in {*self.held, *self.bench.cache.list()}:
            expected = self._references(model)
            gone_for_a_load = any(asked.offered is model for asked in self.asked)
            assert model.references == expected or (gone_for_a_load and model.references == 0)

    @invariant()
    def what_is_held_is_in_memory(self) -> None:
        for model in self.held:
            assert model.stay is Stay.RESIDENT and model.network in self.shop.memory
        for model, _ in self.leases:
            assert model.stay is not Stay.GONE and model.network in self.shop.memory

    @invariant()
    def nothing_leaves_that_is_in_use(self) -> None:
        new, self.seen = self.bench.events[self.seen :], len(self.bench.events)
        left = {payload["model"] for name, payload in new if name == "model_evicted"}
        assert not left & {model.handle for model in self.held}
        assert not left & {model.handle for model, _ in self.leases}

    @invariant()
    def what_is_idle_has_a_timer_and_there_is_but_one(self) -> None:
        idle = self.bench.cache.residents.idle()
        assert len(self.bench.clock.timers) <= 1
        assert not idle or self.bench.clock.timers

    def teardown(self) -> None:
        """Let everything end: every caller hears, and all memory comes back."""
        self.shop.open_all()
        self._settle()
        assert not self.asked
        while self.leases:
            self.end_work(0)
        while self.held:
            self.unload(0, True)
        pinned = [model for model in self.bench.cache.list() if model.is_pinned]
        for model in pinned:
            self.shop.failures.clear()
            self.load(model.source.source, 1, False, None, 1)
            self.unload(0, True)
        self._on_loop(self._move(1e6))
        self._settle()
        assert self.shop.memory == {} and self.bench.cache.residents.used_bytes == 0
        self.loop.close()


CacheMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestCacheMachine = CacheMachine.TestCase
