"""`check_draft`, also on lists.

A verdict is the target model's: how many drafted tokens it accepts, and the token that follows.
Requests for one model are verified together, in padded forward passes on the engine thread,
whatever frames they came in; each has its own verdict or error.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ...errors import InvalidRequest, IsthmusError, QueueFull
from ...limits import DRAFT_QUEUE_LIMIT, DRAFT_TOKENS_LIMIT, TOP_LOGPROBS_LIMIT
from ...models.load import LoadedModel
from ...multiplex.multiplexer import Outcome
from ..draft_operation import CheckDraft, DraftRequest
from ..params import Params
from ..prompts import prompt_ids
from ..requests import Call
from ..router import Router
from ..sampling_params import SEED_LIMIT, read_sampling
from ..services import Services

_ITEMS_LIMIT = 4_096
"""Items of one batch."""


def register(router: Router, services: Services) -> None:
    """Add the methods."""
    methods = DraftMethods(services)
    router.register("check_draft", run=methods.check)
    router.register("batch_check_draft", run=methods.check_batch)


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
        rows = _read_proposal(fields)
        proposal = None if rows is None else await self._proposal(model, draft, rows)
        field = next((name for name in ("ids", "messages") if name in fields), "prompt")
        prompt = await prompt_ids(self._services.text, model, fields)
        fields.done()
        _check_room(model, prompt, draft, field)
        return DraftRequest(call, prompt, draft, sampling, position, logprobs, proposal)

    async def _proposal(
        self, model: LoadedModel, draft: list[int], rows: list[tuple[list[int], list[float]]]
    ) -> Any:
        # Its imports are there since the model was loaded.
        from ...engine.draft_item import read_proposal

        return await self._services.text.pool.run(
            lambda: read_proposal(draft, rows, model.vocab_size)
        )

    async def _verify(
        self, call: Call, model: LoadedModel, requests: list[DraftRequest]
    ) -> list[Outcome]:
        # It may have been unloaded while the prompts were made.
        self._models.get(model.handle)
        services = self._services
        operation = model.operation(
            "check_draft",
            lambda: CheckDraft(
                services.engine,
                model,
                services.settings.prefill_chunk_tokens,
                services.resilience.of(model.handle, model.prior_failures).check_draft,
                services.faults,
            ),
        )
        multiplexer = self._services.multiplexer
        if multiplexer.pending(operation) + len(requests) > DRAFT_QUEUE_LIMIT:
            raise QueueFull(
                f"{DRAFT_QUEUE_LIMIT} drafts are already queued; try again later",
                retry_after_ms=1_000.0,
                phase="queue",
            )
        done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        with model.lease():  # also while it waits for the verification before it
            multiplexer.add(
                operation,
                requests,
                call,
                lambda outcomes: None if done.done() else done.set_result(outcomes),
            )
            return await done


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
