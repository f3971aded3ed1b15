"""Watches what a runtime answers: each request settles once, with what the protocol has."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from isthmus.errors import BY_CODE
from tests.python.runtime.random_requests import CODES

HELLO, REQUEST, RESULT, ERROR, DELTA, END, CANCEL, CREDIT, EVENT, PING, PONG, PIECE = range(12)
STREAMS: Final = frozenset(("generate", "stream_echo"))


class Judge:
    """Counts requests and their settlements, and looks at every message."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.settled: Counter[int] = Counter()
        self.methods: dict[int, str] = {}
        self.pongs: list[Any] = []
        self._credit: dict[int, float] = {}

    def expect(self, request: int, method: str, credit: object) -> None:
        """A request is sent."""
        self.asked[request] += 1
        self.methods.setdefault(request, method)
        if self.asked[request] == 1:
            self._credit[request] = credit if type(credit) is int else 256

    def grant(self, request: int, count: int) -> None:
        """A credit is sent."""
        self._credit[request] += count

    def room(self, request: int) -> float:
        """Return how many items more it may send."""
        return self._credit[request]

    @property
    def open(self) -> list[int]:
        """The ids with fewer settlements than requests."""
        return [request for request, count in self.asked.items() if self.settled[request] < count]

    def see(self, message: list[Any]) -> None:
        """Look at one message of the runtime.

        Raises:
            AssertionError: It may not be sent, or not now.
        """
        kind, *rest = message
        if kind == PONG:
            self.pongs.append(rest[0])
        elif kind == DELTA:
            self._see_delta(rest[0], rest[1])
        elif kind in (RESULT, ERROR, END):
            self._see_end(kind, rest[0], rest[1])
        else:
            assert kind in (HELLO, EVENT), message
            assert kind == HELLO or "request" not in rest[1] or rest[1]["request"] in self.open

    def _see_delta(self, request: int, count: int) -> None:
        assert request in self.open, "a delta after the end"
        assert self.methods[request] in STREAMS and count > 0
        self._credit[request] -= count
        assert self._credit[request] >= 0, "more than was granted"

    def _see_end(self, kind: int, request: int | None, value: Any) -> None:
        if kind == ERROR:
            check_error(value)
        if request is None:
            return
        self.settled[request] += 1
        assert self.settled[request] <= self.asked[request], f"{request} settles twice"
        if kind == RESULT and isinstance(value, dict) and "results" in value:
            for item in value["results"]:
                if "error" in item:
                    check_error(item["error"])


def check_error(error: dict[str, Any]) -> None:
    """Look at one error.

    Raises:
        AssertionError: It is none of the protocol's, or does not say what to do about.
    """
    assert error["code"] in CODES, error
    assert error["retryable"] is BY_CODE[error["code"]].retryable, error
    assert isinstance(error["message"], str) and error["message"], error
    if error["code"] == "INVALID_REQUEST":
        assert isinstance(error["details"]["field"], str), error
    if error["code"] == "DEADLINE_EXCEEDED":
        assert error["phase"], error
