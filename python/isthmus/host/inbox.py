"""Messages to a host: replies go to whoever waits, events to whoever listens.

Replies that nobody waits for, or to what was not sent, are counted and dropped. The caller's own
code is never run from here: it must not be able to break the reading of the wire.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from ..errors import IsthmusError, from_wire
from ..wire.messages import Kind
from .pings import Pings
from .requests import UNSENT, Replays, Request

OnEvent = Callable[[str, Any], object]
"""Told of each event that belongs to no request, and of errors of the connection as `error`."""

_RESULT: Final = int(Kind.RESULT)
_ERROR: Final = int(Kind.ERROR)
_DELTA: Final = int(Kind.DELTA)
_END: Final = int(Kind.END)
_EVENT: Final = int(Kind.EVENT)
_PONG: Final = int(Kind.PONG)


class Inbox:
    """Takes the messages of one connection.

    Args:
        requests: Its unsettled requests; a settled one is taken out.
        pings: Its unanswered pings.
        replays: Counts the errors.
        loop: Runs the caller's code.
        on_event: The caller's, told of events.
    """

    def __init__(
        self,
        requests: dict[int, Request],
        pings: Pings,
        replays: Replays,
        loop: asyncio.AbstractEventLoop,
        on_event: OnEvent | None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.on_closing: Callable[[], object] = lambda: None
        """Told when the runtime says that it ends."""
        self.on_engine_dead: Callable[[str], object] = lambda message: None
        """Told when the runtime says that its engine has ended, and why."""
        self._requests = requests
        self._pings = pings
        self._replays = replays
        self._loop = loop
        self._on_event = on_event

    def receive(self, kind: int, message: list[Any]) -> None:
        """Take a message."""
        first = message[1]
        if kind == _DELTA:
            request = self._find(first)
            if request is not None:
                request.pending.on_delta(message[2], message[3])
        elif kind in (_RESULT, _END):
            request = self._requests.get(first)
            if request is None or request.mark == UNSENT:
                self.counters["ignored"] += 1
                return
            del self._requests[first]
            try:
                request.pending.on_value(message[2])
            except BaseException:
                # The connection breaks now, and settles what is here.
                self._requests[first] = request
                raise
        elif kind == _ERROR:
            self._on_error(first, from_wire(message[2]))
        elif kind == _EVENT:
            self._on_named_event(first, message[2])
        elif kind == _PONG:
            self._pings.answered(first, message[2])
        else:
            self.counters["ignored"] += 1

    def _on_named_event(self, name: str, payload: Any) -> None:
        fields = payload if isinstance(payload, dict) else {}
        number = fields.get("request")
        if name == "progress" and number is not None:
            request = self._find(number)
            if request is not None:
                request.pending.on_progress(payload)
        elif name == "closing":
            self.on_closing()
        elif name == "engine_dead":
            self.on_engine_dead(str(fields.get("message") or "its engine has died"))
        self._tell(name, payload)

    def _on_error(self, number: int | None, error: IsthmusError) -> None:
        if number is None:
            self._tell("error", error)
            return
        request = self._find(number)
        if request is not None:
            self._replays.errors += 1
            del self._requests[number]
            request.pending.on_error(error)

    def _tell(self, name: str, payload: Any) -> None:
        if self._on_event is not None:
            self._loop.call_soon(self._on_event, name, payload)

    def _find(self, number: int) -> Request | None:
        request = self._requests.get(number)
        if request is None or request.mark == UNSENT:
            self.counters["ignored"] += 1
            return None
        return request
