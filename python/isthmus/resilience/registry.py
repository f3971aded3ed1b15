"""Each model's breaker and bulkhead, for as long as its handle lives, and what all models share.

A model is known by its handle. What belongs to handles that are gone is dropped when the next model
comes, so that the registry never holds more than the models that are loaded and one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..limits import GENERATE_QUEUE_LIMIT, GENERATIONS_LIMIT
from .admission import Bulkhead
from .breaker import Breaker, Transition
from .guard import Guard
from .options import BreakerOptions
from .retry import Retrier


@dataclass(frozen=True, slots=True)
class ModelGuards:
    """What guards the calls of one model."""

    breaker: Breaker
    generate: Guard
    check_draft: Guard


class Resilience:
    """Guards the calls of all models.

    Args:
        is_loaded: Whether a handle is one of a model.
        wait_ms: About how long until one of the generations under way has ended.
        listener: Told of the changes of a model's breaker, with its handle.
        options: Of the breakers.
        retrier: Tries again.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        is_loaded: Callable[[str], bool],
        wait_ms: Callable[[], float],
        listener: Callable[[str, Transition], None] | None = None,
        options: BreakerOptions | None = None,
        retrier: Retrier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.retrier = retrier or Retrier(clock=clock)
        self._is_loaded = is_loaded
        self._wait_ms = wait_ms
        self._listener = listener
        self._options = options or BreakerOptions()
        self._clock = clock
        self._whole = Bulkhead(GENERATIONS_LIMIT, wait_ms, "generations of all models")
        self._guards: dict[str, ModelGuards] = {}

    def of(self, handle: str, prior_failures: int = 0) -> ModelGuards:
        """Return what guards a model, made on its first use.

        Args:
            handle: Of the model.
            prior_failures: Calls of it that ended a runtime before this one.
        """
        return self._guards.get(handle) or self._make(handle, prior_failures)

    def stats(self) -> dict[str, Any]:
        """Return the protocol's `breakers` and `retries`."""
        return {
            "breakers": {
                handle: guards.breaker.snapshot()
                for handle, guards in self._guards.items()
                if self._is_loaded(handle)
            },
            "retries": self.retrier.stats(),
        }

    def _make(self, handle: str, prior_failures: int) -> ModelGuards:
        for gone in [known for known in self._guards if not self._is_loaded(known)]:
            del self._guards[gone]
        breaker = Breaker(
            self._options, self._clock, lambda change: self._tell(handle, change), handle
        )
        breaker.record_failures(prior_failures)
        bulkhead = Bulkhead(
            GENERATE_QUEUE_LIMIT, self._wait_ms, f"generations of {handle}", self._whole
        )
        guards = self._guards[handle] = ModelGuards(
            breaker,
            Guard(self.retrier, breaker, bulkhead, clock=self._clock),
            Guard(self.retrier, breaker, clock=self._clock),
        )
        return guards

    def _tell(self, handle: str, change: Transition) -> None:
        if self._listener is not None:
            self._listener(handle, change)
