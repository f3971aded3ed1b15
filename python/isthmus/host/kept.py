"""Requests that are kept until they can be sent: in order, with a bound, and not past deadlines.

A request is kept while no process takes requests, and while a model that it names is not loaded
in the present one. Of requests that name the same model or session none overtakes another. Sends
nothing; who may go is asked of the registry.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from ..errors import QueueFull
from ..limits import IN_FLIGHT_LIMIT, KEPT_REQUESTS_BYTES
from ..wire.codec import Codec
from .registry import ModelRegistry, ModelState
from .requests import UNSENT, Request, names_of

_RETRY_AFTER_MS: Final = 1_000.0
"""When to come back to a queue that is full: a start takes about so long."""


class _Kept:
    """One of them."""

    __slots__ = ("names", "request", "size", "timer")

    def __init__(self, request: Request, size: int, timer: asyncio.TimerHandle | None) -> None:
        self.request = request
        self.names = names_of(request.params)
        self.size = size
        self.timer = timer


class KeptRequests:
    """The requests that wait in one host.

    Args:
        loop: Has the time and timers.
        codec: Says whether a request can travel, and how long it is.
        registry: Says what is behind a handle.
        on_late: Told of a request whose deadline has passed here.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        codec: Codec,
        registry: ModelRegistry,
        on_late: Callable[[int], object],
    ) -> None:
        self.named: Counter[str] = Counter()
        """Models and sessions that they name."""
        self._loop = loop
        self._codec = codec
        self._registry = registry
        self._on_late = on_late
        self._kept: dict[int, _Kept] = {}
        self._size = 0

    def __contains__(self, number: object) -> bool:
        return number in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def accept(self, number: int, request: Request) -> None:
        """Keep a new request.

        Raises:
            LocalProtocolError: Its params cannot travel.
            QueueFull: Too many are kept.
        """
        size = len(self._codec.encode([request.params, dict(request.options)]))
        if len(self._kept) >= IN_FLIGHT_LIMIT or self._size + size > KEPT_REQUESTS_BYTES:
            raise QueueFull(
                f"{len(self._kept)} requests of {self._size} bytes wait for the runtime to be "
                "started; come back when it runs",
                phase="queue",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self.keep(number, request, size)

    def keep(self, number: int, request: Request, size: int = 0) -> None:
        """Keep a request that was accepted long ago."""
        deadline_at, timer = request.deadline_at, None
        if deadline_at is not None:
            timer = self._loop.call_at(deadline_at, self._on_late, number)
        request.mark = UNSENT
        kept = self._kept[number] = _Kept(request, size, timer)
        self.named.update(kept.names)
        self._size += size

    def let_go(self, number: int) -> None:
        """Keep a request no longer."""
        kept = self._kept.pop(number)
        self._size -= kept.size
        for name in kept.names:
            self.named[name] -= 1
            if not self.named[name]:
                del self.named[name]
        if kept.timer is not None:
            kept.timer.cancel()

    def keep_all(self, requests: Mapping[int, Request]) -> None:
        """Keep exactly these, in this order; those that were kept are among them."""
        for number, request in requests.items():
            if number not in self._kept:
                self.keep(number, request)
        self._kept = {number: self._kept[number] for number in requests}

    def must_wait(self, request: Request) -> bool:
        """Whether a new request has to wait for a model, or behind others that do."""
        return any(
            name in self._registry.unready or name in self.named
            for name in names_of(request.params)
        )

    def to_restore(self) -> list[str]:
        """Return the stale models that they name, in order."""
        named = (name for kept in self._kept.values() for name in kept.names)
        stale = ModelState.STALE
        return list(dict.fromkeys(n for n in named if self._registry.state_of(n) is stale))

    def free(self) -> list[int]:
        """Return those that may be sent, in order."""
        blocked: set[str] = set()
        free = []
        for number, kept in self._kept.items():
            is_free = not any(
                name in blocked or self._registry.state_of(name) is not ModelState.READY
                for name in kept.names
            )
            if is_free:
                free.append(number)
            else:
                blocked.update(kept.names)
        return free

    def naming(self, handle: str) -> Iterator[int]:
        """Yield those that name a model, in order; they may be let go meanwhile."""
        for number, kept in list(self._kept.items()):
            if handle in kept.names and number in self._kept:
                yield number

    def all(self) -> list[int]:
        """Return all of them, in order."""
        return list(self._kept)
