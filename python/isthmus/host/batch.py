"""Calls that may share one request: each keeps its own future and its own error.

A member is sent alone, being its own request, or in a batch, and settles once. A batch whose
members have all given up has nobody left to answer. Knows no lanes and no clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import IsthmusError, RemoteProtocolError, from_wire, own_copy
from .streams import cancelled_unsent

Item = TypeVar("Item")
T = TypeVar("T")

OnSettled = Callable[[bool], None]
"""Told once for each request of its members: whether it was answered, or ended otherwise."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[Item, T]):
    """An operation that exists for one item and for many.

    Attributes:
        method: Its method for one item; `batch_` goes before it for many.
        items: The parameter that holds the items of a batch.
        item: The parameter that one item is; None when its own fields are the parameters.
        size: Returns what an item weighs on the wire, about.
        read: Turns one result into the caller's value.
    """

    method: str
    items: str
    item: str | None
    size: Callable[[Item], int]
    read: Callable[[Any], T]

    def params(self, item: Item, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the params of a single call; the item last, where long ones are not copied."""
        own: Any = item if self.item is None else {self.item: item}
        return {"model": model, **options, **own}


class Member:
    """One call while it collects, alone or in a batch.

    Args:
        item: What it is about.
        size: What that weighs.
        future: What the caller waits for; cancelled when the caller gives up.
    """

    __slots__ = ("batch", "future", "item", "joined_at", "on_settled", "request", "size")
    has_received = False

    def __init__(self, item: Any, size: int, future: asyncio.Future[Any]) -> None:
        self.item = item
        self.size = size
        self.future = future
        self.joined_at = 0.0
        """When it began to collect; kept where there is a deadline."""
        self.request: int | None = None
        """Its id, when it is a request of its own."""
        self.batch: Batch | None = None
        """What carries it, when it shares a request."""
        self.on_settled: OnSettled | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it has a value or an error, or its caller has given up."""
        return self.future.done()

    def succeed(self, value: Any) -> None:
        """Settle with a result."""
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Settle with an error that nobody else has."""
        if not self.future.done():
            self.future.set_exception(error)

    def on_delta(self, count: int, payload: Any) -> None:
        """Ignore: the request is no stream."""

    def on_unsent(self) -> None:
        """It was cancelled before it was sent."""
        self.on_error(cancelled_unsent())

    def on_progress(self, payload: dict[str, Any]) -> None:
        """Ignore: there is no progress to report."""

    def on_value(self, value: Any) -> None:
        """Its own request was answered."""
        self.succeed(value)
        self._tell(True)

    def on_error(self, error: IsthmusError) -> None:
        """Its own request has failed."""
        self.fail(error)
        self._tell(False)

    def _tell(self, is_answered: bool) -> None:
        if self.on_settled is not None:
            self.on_settled(is_answered)


class Batch:
    """The request of several calls.

    Args:
        operation: What they have in common.
        members: The calls, in the order of their items.
        on_settled: Told when the runtime has settled it.
    """

    has_received = False

    def __init__(
        self, operation: Operation[Any, Any], members: Sequence[Member], on_settled: OnSettled
    ) -> None:
        self.request: int | None = None
        """Its id, once it has been sent."""
        self._operation = operation
        self._members = members
        self._on_settled = on_settled
        self._waiting = len(members)

    def leave(self) -> bool:
        """A member has given up; return whether it was the last that waited."""
        self._waiting -= 1
        return self._waiting == 0

    def on_delta(self, count: int, payload: Any) -> None:
        """Ignore: the request is no stream."""

    def on_unsent(self) -> None:
        """It was cancelled before it was sent."""
        self.on_error(cancelled_unsent())

    def on_progress(self, payload: dict[str, Any]) -> None:
        """Ignore: there is no progress to report."""

    def on_value(self, value: Any) -> None:
        """Give each member its own result or error."""
        results = value.get("results") if isinstance(value, dict) else None
        if not isinstance(results, list) or len(results) != len(self._members):
            message = "the runtime's answer to a batch has not one result for each of its calls"
            self.on_error(RemoteProtocolError(message, kind="message"))
            return
        for index, (member, result) in enumerate(zip(self._members, results, strict=True)):
            error = result.get("error") if isinstance(result, dict) else None
            if isinstance(error, dict):
                member.fail(from_wire(self._named_for_one(error, index)))
            else:
                member.succeed(result)
        # Last, so that what those who waited call next is in time for what leaves now.
        self._on_settled(True)

    def on_error(self, error: IsthmusError) -> None:
        """Give each member a copy of its own."""
        for member in self._members:
            member.fail(own_copy(error))
        self._on_settled(False)

    def _named_for_one(self, error: dict[str, Any], index: int) -> dict[str, Any]:
        """Name the parameter as the caller knows it: `text`, not `texts[17]`."""
        place, name = f"{self._operation.items}[{index}]", self._operation.item
        details = error.get("details")
        field = details.get("field") if isinstance(details, dict) else None
        if not isinstance(details, dict) or not isinstance(field, str):
            return error
        if not field.startswith(place):
            return error
        if name is None:
            place, name = f"{place}.", ""
        message = str(error.get("message", "")).replace(place, name, 1)
        own = {**details, "field": field.replace(place, name, 1)}
        return {**error, "message": message, "details": own}
