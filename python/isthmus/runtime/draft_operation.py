"""The verification of drafts as one operation of a model: many at once, on the engine thread.

Each batch is one guarded call: it has one permit of the model's breaker, and is tried again as a
whole after a failure that passes. Of the drafts of a batch some may fail alone; the batch counts as
failed when at least half of those that the model answered for did.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.thread import EngineThread
from ..errors import Cancelled, DeadlineExceeded, InternalError
from ..faults import Faults, Point
from ..models.load import LoadedModel
from ..multiplex.multiplexer import Outcome
from ..resilience.guard import Guard, Weight, weigh
from .requests import Call

_BATCH_TOKENS = 262_144
"""Tokens of one verification: bounds how long those that come next wait."""


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What a caller wants verified, as far as it can be read without the engine."""

    call: Call
    prompt: list[int]
    draft: list[int]
    sampling: dict[str, Any]
    position: int
    logprobs: int | None
    proposal: Any
    """`engine.draft.Proposal`, or None."""


class CheckDraft:
    """The operation of one model.

    Outcomes: `engine.draft.Verdict`, or an error.
    """

    batch_cost = _BATCH_TOKENS

    def __init__(
        self,
        engine: EngineThread,
        model: LoadedModel,
        chunk_tokens: int,
        guard: Guard,
        faults: Faults | None,
    ) -> None:
        self._engine = engine
        self._model = model
        self._chunk_tokens = chunk_tokens
        self._guard = guard
        self._faults = faults
        self.label = f"check_draft {model.handle}"

    def cost(self, item: DraftRequest) -> int:
        """Return the number of tokens."""
        return len(item.prompt) + len(item.draft)

    def now(self, items: Sequence[DraftRequest], cost: int) -> None:
        """Leave it to the engine."""
        return None

    def begin(self, items: Sequence[DraftRequest]) -> asyncio.Future[list[Outcome]]:
        """Verify on the engine thread."""
        return asyncio.ensure_future(self._verify(items))

    async def _verify(self, items: Sequence[DraftRequest]) -> list[Outcome]:
        for item in items:
            item.call.phase = "queue"
        try:
            with self._model.lease():
                work = await self._guard.call(lambda: self._attempt(items), measure=_seconds)
        except (_Failed, _Unjudged) as error:
            return error.outcomes
        return work.outcomes

    async def _attempt(self, items: Sequence[DraftRequest]) -> _Verification:
        """Verify once.

        Raises:
            _Failed: At least half of what the model answered for failed.
            _Unjudged: It answered for none: all were cancelled, or wrong.
            Exception: Of the batch as a whole.
        """
        model = self._model
        work = _Verification(
            model.network,
            model.vocab_size,
            items,
            self._chunk_tokens,
            None if self._faults is None else self._strike,
        )
        await self._engine.run_steps(work)
        outcomes, now = work.outcomes, time.monotonic()
        weights = [
            _weigh(item, outcome, now, work.seconds)
            for item, outcome in zip(items, outcomes, strict=True)
        ]
        failed, answered = weights.count(Weight.FAILURE), weights.count(None)
        if failed and failed >= answered:
            raise _Failed(outcomes)
        if not answered:
            raise _Unjudged(outcomes)
        return work

    def _strike(self) -> None:
        assert self._faults is not None
        self._faults.strike(Point.DRAFT, self._model.handle)


class _Failed(InternalError):
    """A batch that counts as failed, with what came of each draft."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__("at least half of a batch of drafts failed")
        self.outcomes = outcomes


class _Unjudged(Cancelled):
    """A batch that says nothing of the model, with what came of each draft."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__("nothing of a batch of drafts was verified")
        self.outcomes = outcomes


def _weigh(item: DraftRequest, outcome: Outcome, now: float, seconds: float) -> Weight | None:
    """Return what a draft's outcome says of the model; None that it answered."""
    if isinstance(outcome, Exception):
        return weigh(outcome)
    if not item.call.is_settled:
        return None
    deadline_at = item.call.deadline_at
    if deadline_at is None or now < deadline_at:
        return Weight.NEUTRAL
    return weigh(DeadlineExceeded("the draft was late", phase=item.call.phase), seconds)


class _Verification:
    """One batch on the engine thread."""

    def __init__(
        self,
        network: Any,
        vocab_size: int,
        items: Sequence[DraftRequest],
        chunk_tokens: int,
        before: Callable[[], None] | None,
    ) -> None:
        self._network = network
        self._vocab_size = vocab_size
        self._items = items
        self._chunk_tokens = chunk_tokens
        self._before = before
        self._batch: Any = None
        self._began_at = self._stepped_at = 0.0

    @property
    def outcomes(self) -> list[Outcome]:
        """Verdicts and errors, once it is done."""
        return list(self._batch.results)

    @property
    def seconds(self) -> float:
        """How long it has run, since its first step."""
        return self._stepped_at - self._began_at

    def step(self) -> bool:
        """Do one unit of work; return whether it is done."""
        if self._batch is None:
            self._began_at = time.monotonic()
            for item in self._items:
                if not item.call.is_settled:
                    item.call.phase = "running"
            if self._before is not None:
                self._before()
            self._open()
        is_done = bool(self._batch.step())
        self._stepped_at = time.monotonic()
        return is_done

    def _open(self) -> None:
        from ..engine.draft import DraftBatch, DraftItem
        from ..engine.sampling import SamplingOptions

        items = [
            DraftItem(
                prompt=request.prompt,
                draft=request.draft,
                sampling=SamplingOptions(**request.sampling),
                position=request.position,
                logprobs=request.logprobs,
                proposal=request.proposal,
            )
            for request in self._items
        ]
        self._batch = DraftBatch(
            self._network,
            self._vocab_size,
            items,
            self._chunk_tokens,
            lambda index: not self._items[index].call.is_settled,
        )


def _seconds(work: _Verification) -> float:
    return work.seconds
