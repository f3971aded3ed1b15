"""What models and sessions ask of their runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from ..limits import STREAM_CREDIT
from .batch import Item, Operation
from .streams import Stream

T = TypeVar("T")


class Caller(Protocol):
    """Takes the requests of a model or a session."""

    async def call(
        self, method: str, params: Mapping[str, Any], *, deadline_ms: float | None = None
    ) -> Any:
        """Send a request and return its result."""
        ...

    async def call_one(
        self,
        operation: Operation[Item, T],
        item: Item,
        model: str,
        options: Mapping[str, Any],
        deadline_ms: float | None = None,
    ) -> T:
        """Make a call that may share its frame with others."""
        ...

    async def unload(self, handle: str, *, evict: bool) -> bool:
        """Give a model's handle back."""
        ...

    def stream(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        deadline_ms: float | None = None,
        credit: int = STREAM_CREDIT,
    ) -> Stream:
        """Send a request that answers in deltas."""
        ...
