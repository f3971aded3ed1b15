"""`check_draft_compatibility`: whether a model can draft for another, and whether that can pay."""

from __future__ import annotations

from typing import Any, Final

from ...limits import DRAFT_TOKENS_LIMIT
from ...models.load import LoadedModel
from ...text.compatibility import compare
from ..params import Params
from ..requests import Call
from ..router import Router
from ..services import Services

_DEFAULT_DRAFT_TOKENS: Final = 4


def register(router: Router, services: Services) -> None:
    """Add the method."""
    router.register("check_draft_compatibility", run=CompatibilityMethod(services).run)


class CompatibilityMethod:
    """Compares two loaded models."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._models = services.models

    async def run(self, call: Call, params: dict[str, Any]) -> None:
        """Answer whether one model can draft for another, and whether that can pay."""
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
        with target.lease(), draft.lease():
            await self._services.engine.run_steps(work)
        return work.answer


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
