"""The verification of drafts as one operation of a model: many at once, on the engine thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.thread import EngineThread
from ..errors import ModelNotLoaded
from ..models.load import LoadedModel
from ..multiplex.multiplexer import Outcome
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

    def __init__(self, engine: EngineThread, model: LoadedModel, chunk_tokens: int) -> None:
        self._engine = engine
        self._model = model
        self._chunk_tokens = chunk_tokens
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
        network = self._model.network
        if network is None:
            raise ModelNotLoaded(
                f"{self._model.handle} was unloaded before the draft was verified; load it again",
                model=self._model.handle,
            )
        for item in items:
            item.call.phase = "queue"
        work = _Verification(network, self._model.vocab_size, items, self._chunk_tokens)
        await self._engine.run_steps(work)
        return work.outcomes


class _Verification:
    """One batch on the engine thread."""

    def __init__(
        self, network: Any, vocab_size: int, items: Sequence[DraftRequest], chunk_tokens: int
    ) -> None:
        self._network = network
        self._vocab_size = vocab_size
        self._items = items
        self._chunk_tokens = chunk_tokens
        self._batch: Any = None

    @property
    def outcomes(self) -> list[Outcome]:
        """Verdicts and errors, once it is done."""
        return list(self._batch.results)

    def step(self) -> bool:
        """Do one unit of work; return whether it is done."""
        if self._batch is None:
            for item in self._items:
                item.call.phase = "running"
            self._open()
        return bool(self._batch.step())

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
