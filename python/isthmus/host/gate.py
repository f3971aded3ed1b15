"""Who may be sent, and who waits: for a process, for a model of it, or behind others that do.

A call that names a model which the present process has not loaded has it loaded again, once for all
who wait, and they follow in order; what cannot be loaded fails its callers, and only them. A model
that nobody has is given back here. Requests are sent by whoever owns the gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, Protocol

from ..errors import DeadlineExceeded, IsthmusError, LocalProtocolError, own_copy
from ..wire.codec import Codec
from .kept import KeptRequests
from .loading import Restoring, Unloading
from .registry import ModelRegistry, ModelState
from .requests import Request, handles_of

_UNLOAD: Final = "unload_model"
_GONE: Final = (ModelState.STALE, ModelState.LOST)


class Sender(Protocol):
    """What a gate asks of its connection."""

    @property
    def is_sending(self) -> bool:
        """Whether a process takes requests."""
        ...

    def write(self, number: int, request: Request) -> None:
        """Send a request; raise, and send nothing, when it cannot be sent."""
        ...

    def begin(self, method: str, params: dict[str, Any], pending: Restoring) -> None:
        """Send a request of the host's own."""
        ...

    def find(self, number: int) -> Request:
        """Return an unsettled request."""
        ...

    def forget(self, number: int) -> None:
        """A request has settled."""
        ...


class Gate:
    """Keeps the requests of one connection that cannot be sent yet.

    Args:
        sender: Sends them.
        registry: Knows the models.
        codec: Says whether a request can travel.
        loop: Has the time and timers.
    """

    def __init__(
        self,
        sender: Sender,
        registry: ModelRegistry,
        codec: Codec,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.kept = KeptRequests(loop, codec, registry, self._on_late)
        self.restored = 0
        """Models that were loaded again."""
        self._sender = sender
        self._registry = registry

    def hold(self, number: int, request: Request) -> bool:
        """Keep a new request; return whether it is unsettled.

        Raises:
            LocalProtocolError: Its params cannot travel.
            QueueFull: Too many wait.
            ModelLoadFailed: It names a model that is not loaded again by itself.
        """
        if self._is_unload_of_nothing(request) and request.params["model"] not in self.kept.named:
            self._unload_here(request)
            return False
        handles = handles_of(request.params)
        for handle in handles:
            if self._registry.state_of(handle) is ModelState.LOST:
                raise self._registry.loss(handle)
        self.kept.accept(number, request)
        if self._sender.is_sending:
            self._restore(handle for handle in handles if self._is_stale(handle))
        return True

    def release(self) -> None:
        """Send what may be sent, and have the models loaded that the others wait for."""
        if not self._sender.is_sending:
            return
        self.settle_unloads()
        self._restore(self.kept.to_restore())
        for number in self.kept.free():
            if number not in self.kept:
                continue
            request = self._sender.find(number)
            self.kept.let_go(number)
            try:
                self._sender.write(number, request)
            except LocalProtocolError as error:
                self._sender.forget(number)
                request.pending.on_error(error)

    def settle(self, number: int, error: IsthmusError) -> None:
        """Keep a request no longer: it fails."""
        request = self._sender.find(number)
        self.kept.let_go(number)
        self._sender.forget(number)
        request.pending.on_error(error)

    def cancel(self, number: int) -> None:
        """The caller of a request that was not sent waits no more."""
        request = self._sender.find(number)
        self.kept.let_go(number)
        self._sender.forget(number)
        request.pending.on_unsent()

    def settle_all(self, error: IsthmusError) -> None:
        """All that are kept fail, each with an error of its own."""
        for number in self.kept.all():
            if number in self.kept:
                self.settle(number, own_copy(error))

    def lose(self, handle: str) -> None:
        """A process has ended while it loaded this model again."""
        self._registry.lost(handle)
        self._fail_naming(handle, self._registry.loss(handle))

    def recheck(self, handle: str) -> None:
        """A caller's load of a lost model has settled: it is back, or lost as before."""
        if self._registry.state_of(handle) is ModelState.LOST:
            self._fail_naming(handle, self._registry.loss(handle))
        self.release()

    def settle_unloads(self) -> None:
        """Give back models that are in no process and that nobody calls before."""
        named: set[str] = set()
        for number in self.kept.all():
            request = self._sender.find(number)
            handles = handles_of(request.params)
            if self._is_unload_of_nothing(request) and not named.intersection(handles):
                self.kept.let_go(number)
                self._sender.forget(number)
                self._unload_here(request)
            else:
                named.update(handles)

    def _restore(self, handles: Iterable[str]) -> None:
        for handle in handles:
            params = self._registry.begin_restoring(handle)
            restoring = Restoring(handle, self._on_restored, self._on_not_restored)
            self._sender.begin("load_model", params, restoring)

    def _on_restored(self, handle: str) -> None:
        self.restored += 1
        self._registry.restored(handle)
        self.release()

    def _on_not_restored(self, handle: str, error: IsthmusError) -> None:
        self._registry.not_restored(handle)
        self._fail_naming(handle, error)
        self.release()

    def _fail_naming(self, handle: str, error: IsthmusError) -> None:
        for number in self.kept.naming(handle):
            request = self._sender.find(number)
            if self._is_unload_of_nothing(request):
                self.kept.let_go(number)
                self._sender.forget(number)
                self._unload_here(request)
            else:
                self.settle(number, own_copy(error))

    def _is_unload_of_nothing(self, request: Request) -> bool:
        handle = request.params.get("model")
        return (
            request.method == _UNLOAD
            and type(handle) is str
            and self._registry.state_of(handle) in _GONE
        )

    def _unload_here(self, request: Request) -> None:
        handle = request.params["model"]
        result = self._registry.unload_result(handle)
        if not isinstance(request.pending, Unloading):
            self._registry.given_back(handle)
        request.pending.on_value(result)

    def _is_stale(self, handle: str) -> bool:
        return self._registry.state_of(handle) is ModelState.STALE

    def _on_late(self, number: int) -> None:
        message = "the deadline passed before the request could be sent"
        self.settle(number, DeadlineExceeded(message, phase="queue"))
