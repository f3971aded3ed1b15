"""A cache without models: sizes, failures, folders, memory and time are what the test says.

Loads and releases go on only when the test lets them, unless `is_open`. `memory` counts what a real
runtime would have in memory, by other code than the cache's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from isthmus.models.cache import CacheSettings, ModelCache
from isthmus.models.failures import Stamp
from isthmus.models.load import LoadedModel, LoadOptions, Progress, Source
from isthmus.models.making import Inspected, Parts
from isthmus.models.memory import Machine
from isthmus.models.verify import VerifiedModel

TAG = "abc123"
KV_TOKEN_BYTES = 4
"""What the configuration of every fake model comes to: a key and a value, each one number of 16
bits."""

_CONFIG = {"num_hidden_layers": 1, "num_key_value_heads": 1, "head_dim": 1}


@dataclass
class Clock:
    """Time that stands still until it is moved, and the one timer that waits for it."""

    now: float = 1_000.0
    timers: list[Timer] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Set a timer."""
        timer = Timer(self, self.now + delay_s, call)
        self.timers.append(timer)
        return timer

    def move(self, seconds: float) -> None:
        """Let time pass, and call what is due."""
        self.now += seconds
        while due := [timer for timer in self.timers if timer.due <= self.now]:
            timer = min(due, key=lambda timer: timer.due)
            self.timers.remove(timer)
            timer.call()


@dataclass(eq=False)
class Timer:
    """A call that is due."""

    clock: Clock
    due: float
    call: Callable[[], None]

    def cancel(self) -> None:
        """Take it back."""
        self.clock.timers.remove(self)


class Shop:
    """What makes the models of a cache.

    Args:
        sizes: Weights of each source, in bytes.
        is_open: Whether loads and releases end at once.
    """

    def __init__(self, sizes: dict[str, int], is_open: bool = True) -> None:
        self.sizes = sizes
        self.failures: dict[str, Exception] = {}
        self.stamps: dict[str, int] = {}
        self.address_space_left: int | None = None
        self.heap_shrinks = True
        self.memory: dict[object, int] = {}
        self.most = 0
        """The most that was in memory at once."""
        self.inspections = self.builds = self.releases = 0
        self.told = 0
        self._is_open = is_open
        self._gates: list[asyncio.Event] = []

    @property
    def is_waiting(self) -> bool:
        """Whether a load or a release waits to go on."""
        return bool(self._gates)

    def open_one(self, index: int = 0) -> None:
        """Let one of them go on."""
        self._gates.pop(index % len(self._gates)).set()

    def shut(self) -> None:
        """Let no further load or release go on by itself."""
        self._is_open = False

    def open_all(self) -> None:
        """Let everything go on, from now on."""
        self._is_open = True
        while self._gates:
            self.open_one()

    async def stamp(self, source: Source) -> Stamp:
        """Return how the source's folder looks."""
        await self._pass()
        return (self.stamps.get(source.source, 0),)

    async def inspect(self, source: Source, tell: Progress) -> Inspected:
        """Say how large it is."""
        self.inspections += 1
        tell("verify", 0, 1, "steps")
        await self._pass()
        verified = SimpleNamespace(
            path=Path(source.source),
            config=_CONFIG,
            dtype="float16",
            context_length=None,
            weight_bytes=self.sizes[source.source],
        )
        return Inspected(source, cast(VerifiedModel, verified))

    async def build(self, inspected: Inspected, tell: Progress) -> Parts:
        """Take the memory, fail if it was told to, and give the memory back if so."""
        self.builds += 1
        key = object()
        source = inspected.source.source
        tell("load", 0, inspected.verified.weight_bytes, "bytes")
        self._map(key, inspected.verified.weight_bytes)
        try:
            await self._pass()
            if source in self.failures:
                raise self.failures[source]
        except BaseException:
            self._unmap(key)
            raise
        tell("warm_up", 1, 1, "steps")
        return Parts(key, cast(Any, None), 32)

    async def release(self, model: LoadedModel) -> None:
        """Give the memory back."""
        self.releases += 1
        assert not model.is_in_use
        await self._pass()
        self._unmap(model.network)

    async def machine(self) -> Machine:
        """Say what may still be mapped."""
        return Machine(address_space_left=self.address_space_left)

    async def _pass(self) -> None:
        if self._is_open:
            return
        gate = asyncio.Event()
        self._gates.append(gate)
        try:
            await gate.wait()
        finally:
            if gate in self._gates:
                self._gates.remove(gate)

    def _map(self, key: object, size: int) -> None:
        self.memory[key] = size
        self.most = max(self.most, sum(self.memory.values()))
        if self.address_space_left is not None:
            self.address_space_left -= size

    def _unmap(self, key: object) -> None:
        size = self.memory.pop(key)
        if self.address_space_left is not None and self.heap_shrinks:
            self.address_space_left += size


class Bench:
    """A cache, its shop, its clock and its events."""

    def __init__(
        self,
        sizes: dict[str, int],
        budget_bytes: int,
        is_open: bool = True,
        idle_timeout_s: float = 60.0,
    ) -> None:
        self.clock = Clock()
        self.shop = Shop(sizes, is_open)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.on_event: Callable[[], object] | None = None
        self.cache = ModelCache(
            self.shop,
            CacheSettings(budget_bytes, idle_timeout_s),
            TAG,
            self._tell,
            self.clock,
            self.clock.call_later,
        )

    def _tell(self, name: str, payload: dict[str, Any]) -> None:
        self.events.append((name, payload))
        if self.on_event is not None:
            self.on_event()

    async def load(self, name: str, **options: Any) -> LoadedModel:
        """Load a source, with room for one token unless it says otherwise."""
        wanted = LoadOptions(**{"kv_tokens": 1, **options})
        return await self.cache.load(Source(name), lambda *_: None, wanted)

    async def unload(self, model: LoadedModel | str, evict: bool = False) -> Any:
        """Give a reference back, and wait until memory that leaves is back."""
        handle = model if isinstance(model, str) else model.handle
        left = self.cache.unload(handle, evict)
        if left.release is not None:
            await left.release
        return left

    @property
    def resident(self) -> set[str]:
        """The sources in memory."""
        return {model.source.source for model in self.cache.list()}

    def evicted(self) -> list[tuple[str, str]]:
        """Return what has left and why."""
        return [
            (payload["source"], payload["reason"])
            for name, payload in self.events
            if name == "model_evicted"
        ]


async def turns(count: int = 20) -> None:
    """Let the event loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)
