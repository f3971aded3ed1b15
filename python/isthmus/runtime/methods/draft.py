"""`check_draft`, also on lists, and `check_draft_compatibility`.

A verdict is the target model's: how many drafted tokens it accepts, and the token that follows.
Requests for one model are verified together, in padded forward passes on the engine thread,
whatever frames they came in; each has its own verdict or error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...engine.thread import EngineThread
from ...errors import InvalidRequest, IsthmusError, ModelNotLoaded, QueueFull
from ...limits import DRAFT_QUEUE_LIMIT, DRAFT_TOKENS_LIMIT, TOP_LOGPROBS_LIMIT
from ...models.load import LoadedModel
from ...multiplex.multiplexer import Outcome
from ..params import Params
from ..prompts import prompt_ids
from ..requests import Call
from ..router import Router
from ..sampling_params import SEED_LIMIT, read_sampling
from ..services import Services

_BATCH_TOKENS = 262_144
"""Tokens of one verification: bounds how long those that come next wait."""

_ITEMS_LIMIT = 4_096
"""Items of one batch."""

_DEFAULT_DRAFT_TOKENS = 4


def register(router: Router, services: Services) -> None:
    """Add the methods."""
    methods = DraftMethods(services)
    router.register("check_draft", run=methods.check)
    router.register("batch_check_draft", run=methods.check_batch)
    router.register("check_draft_compatibility", run=methods.compatibility)


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What a caller wants verified, as far as it can be read without the engine."""

    call: Call
    prompt: list[int]
    draft: list[int]
    sampling: dict[str, Any]
    position: int
    logprobs: int | None
    proposal: list[tuple[list[int], list[float]]] | None


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

    async def compute(self, items: Sequence[DraftRequest]) -> list[Outcome]:
        """Verify on the engine thread."""
        network = self._model.network
        if network is None:
            raise ModelNotLoaded(
                f"{self._model.handle} was unloaded before the draft was verified; load it again",
                model=self._model.handle,
            )
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
        self._places: list[int] = []
        self.outcomes: list[Outcome] = [None] * len(items)

    def step(self) -> bool:
        """Do one unit of work; return whether it is done."""
        if self._batch is None:
            self._open()
        is_done: bool = self._batch.step()
        if is_done:
            for place, result in zip(self._places, self._batch.results, strict=True):
                self.outcomes[place] = result
        return is_done

    def _open(self) -> None:
        from ...engine.draft import DraftBatch, DraftItem, read_proposal
        from ...engine.sampling import SamplingOptions

        items = []
        for place, request in enumerate(self._items):
            try:
                rows = request.proposal
                proposal = rows and read_proposal(request.draft, rows, self._vocab_size)
            except InvalidRequest as error:
                self.outcomes[place] = error
                continue
            self._places.append(place)
            items.append(
                DraftItem(
                    prompt=request.prompt,
                    draft=request.draft,
                    sampling=SamplingOptions(**request.sampling),
                    position=request.position,
                    logprobs=request.logprobs,
                    proposal=proposal or None,
                )
            )
        calls = [self._items[place].call for place in self._places]
        self._batch = DraftBatch(
            self._network,
            self._vocab_size,
            items,
            self._chunk_tokens,
            lambda index: not calls[index].is_settled,
        )


class DraftMethods:
    """Verification of drafts."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._models = services.models

    async def check(self, call: Call, params: dict[str, Any]) -> None:
        """Answer with the verdict on one draft."""
        fields = Params(params)
        model = self._models.get(fields.typed("model", str))
        request = await self._read(call, model, fields)
        (outcome,) = await self._verify(call, model, [request])
        if isinstance(outcome, IsthmusError):
            raise outcome
        call.result(_show(request, outcome))

    async def check_batch(self, call: Call, params: dict[str, Any]) -> None:
        """Answer with the verdict on each draft."""
        fields = Params(params)
        model = self._models.get(fields.typed("model", str))
        items = fields.typed("items", list)
        fields.done()
        if len(items) > _ITEMS_LIMIT:
            raise InvalidRequest(f"`items` has more than {_ITEMS_LIMIT} items", field="items")
        requests = await asyncio.gather(
            *(self._read_item(call, model, index, item) for index, item in enumerate(items))
        )
        good = [request for request in requests if isinstance(request, DraftRequest)]
        outcomes = iter(await self._verify(call, model, good) if good else [])
        results = []
        for request in requests:
            outcome = next(outcomes) if isinstance(request, DraftRequest) else request
            if isinstance(outcome, IsthmusError):
                results.append({"error": outcome.to_wire()})
            elif isinstance(request, DraftRequest):
                results.append(_show(request, outcome))
        call.result({"results": results})

    async def compatibility(self, call: Call, params: dict[str, Any]) -> None:
        """Answer whether one model can draft for another, and whether that can pay."""
        from ...text.compatibility import compare

        fields = Params(params)
        target = self._models.get(fields.typed("model", str))
        draft = self._models.get(fields.typed("draft_model", str))
        draft_tokens = fields.integer("draft_tokens", 1, DRAFT_TOKENS_LIMIT, _DEFAULT_DRAFT_TOKENS)
        is_measured = fields.typed("measure", bool, True)
        fields.done()
        found = await self._services.text.pool.run(
            lambda: compare(target.tokenizer, draft.tokenizer)
        )
        answer: dict[str, Any] = {
            "is_compatible": found.is_compatible,
            "differences": list(found.differences),
            "shared_tokens": found.shared_tokens,
            "vocab_sizes": [found.target_vocab, found.draft_vocab],
            "draft_tokens": draft_tokens,
            "costs": None,
            "break_even_acceptance": None,
            "can_pay": None,
        }
        if found.is_compatible and is_measured:
            answer |= await self._measure(target, draft, draft_tokens)
        call.result(answer)

    async def _measure(
        self, target: LoadedModel, draft: LoadedModel, draft_tokens: int
    ) -> dict[str, Any]:
        """Return what speculation costs, and from which acceptance rate on it pays."""
        # One of them may have been unloaded while the tokenizers were compared.
        for model in (target, draft):
            self._models.get(model.handle)
        work = _Measurement(target, draft, draft_tokens)
        await self._services.engine.run_steps(work)
        return work.answer

    async def _read_item(
        self, call: Call, model: LoadedModel, index: int, item: object
    ) -> DraftRequest | IsthmusError:
        place = f"items[{index}]"
        try:
            if not isinstance(item, dict):
                raise InvalidRequest(f"{place} must be a map", field=place)
            return await self._read(call, model, Params(item))
        except InvalidRequest as error:
            field = error.details.get("field", place)
            if field != place:
                error.details["field"] = f"{place}.{field}"
            return error
        except IsthmusError as error:
            return error

    async def _read(self, call: Call, model: LoadedModel, fields: Params) -> DraftRequest:
        draft = fields.token_ids("draft")
        model.tokenizer.check(draft, "draft")
        if not 0 < len(draft) <= DRAFT_TOKENS_LIMIT:
            raise InvalidRequest(
                f"`draft` must have 1 to {DRAFT_TOKENS_LIMIT} token ids, not {len(draft)}",
                field="draft",
            )
        sampling = read_sampling(fields, model)
        position = fields.integer("position", 0, SEED_LIMIT, 0)
        logprobs = fields.integer("logprobs", 0, TOP_LOGPROBS_LIMIT, None)
        proposal = _read_proposal(fields)
        field = next((name for name in ("ids", "messages") if name in fields), "prompt")
        prompt = await prompt_ids(self._services.text, model, fields)
        fields.done()
        _check_room(model, prompt, draft, field)
        return DraftRequest(call, prompt, draft, sampling, position, logprobs, proposal)

    async def _verify(
        self, call: Call, model: LoadedModel, requests: list[DraftRequest]
    ) -> list[Outcome]:
        # It may have been unloaded while the prompts were made.
        self._models.get(model.handle)
        operation = model.operations.get("check_draft")
        if operation is None:
            chunk = self._services.settings.prefill_chunk_tokens
            operation = CheckDraft(self._services.engine, model, chunk)
            model.operations["check_draft"] = operation
        multiplexer = self._services.multiplexer
        if multiplexer.pending(operation) + len(requests) > DRAFT_QUEUE_LIMIT:
            raise QueueFull(
                f"{DRAFT_QUEUE_LIMIT} drafts are already queued; try again later",
                retry_after_ms=1_000.0,
                phase="queue",
            )
        done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        multiplexer.add(
            operation,
            requests,
            call,
            lambda outcomes: None if done.done() else done.set_result(outcomes),
        )
        return await done


class _Measurement:
    """What a step of each model costs, measured on the engine thread."""

    def __init__(self, target: LoadedModel, draft: LoadedModel, draft_tokens: int) -> None:
        self._networks = target.network, draft.network
        self._vocab_size = min(target.vocab_size, draft.vocab_size)
        self._draft_tokens = draft_tokens
        self._work: Any = None
        self.answer: dict[str, Any] = {}

    def step(self) -> bool:
        """Do one unit of work; return whether it is done."""
        from ...engine.verify_cost import CostMeasurement, break_even_acceptance

        if self._work is None:
            self._work = CostMeasurement(*self._networks, self._vocab_size, self._draft_tokens)
        if not self._work.step():
            return False
        costs = self._work.costs
        break_even = break_even_acceptance(self._draft_tokens, costs)
        self.answer = {
            "costs": {
                "target_step_ms": costs.target_step_ms,
                "verify_ms": costs.verify_ms,
                "draft_step_ms": costs.draft_step_ms,
            },
            "break_even_acceptance": break_even,
            "can_pay": break_even is not None,
        }
        return True


def _read_proposal(fields: Params) -> list[tuple[list[int], list[float]]] | None:
    """Read the distributions that a draft was drawn from: a map `{ids, probs}` for each token."""
    if "proposal" not in fields:
        return None
    rows = []
    for index, row in enumerate(fields.items("proposal", dict, DRAFT_TOKENS_LIMIT)):
        entry = Params(row)
        ids = entry.token_ids("ids")
        probs = entry.typed("probs", list)
        entry.done()
        if any(type(value) not in (int, float) for value in probs):
            raise InvalidRequest(
                f"proposal[{index}].probs must be numbers", field=f"proposal[{index}].probs"
            )
        rows.append((ids, [float(value) for value in probs]))
    return rows


def _check_room(model: LoadedModel, prompt: list[int], draft: list[int], field: str) -> None:
    if not prompt:
        raise InvalidRequest("the prompt has no tokens", field=field)
    context = model.verified.context_length
    if context is not None and len(prompt) + len(draft) > context:
        raise InvalidRequest(
            f"the prompt has {len(prompt)} tokens and the draft {len(draft)}, the model's context "
            f"{context}; shorten them",
            field=field,
            prompt_tokens=len(prompt),
            context_length=context,
        )


def _show(request: DraftRequest, verdict: Any) -> dict[str, Any]:
    shown = {
        "accepted": verdict.accepted,
        "token": verdict.token,
        "prompt_tokens": len(request.prompt),
        "seed": request.sampling["seed"],
    }
    if verdict.logprobs is not None:
        shown["logprobs"] = verdict.logprobs
    return shown
