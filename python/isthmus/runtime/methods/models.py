"""`load_model`, `unload_model`, `list_models`, `model_info`."""

from __future__ import annotations

from typing import Any

from ...models.load import Source
from ..params import Params
from ..requests import Call
from ..router import Router
from ..services import Services


def register(router: Router, services: Services) -> None:
    """Add the methods."""
    methods = ModelMethods(services)
    router.register("load_model", run=methods.load)
    router.register("unload_model", run=methods.unload)
    router.register("list_models", inline=methods.list)
    router.register("model_info", inline=methods.info)


class ModelMethods:
    """Handles to models."""

    def __init__(self, services: Services) -> None:
        self._models = services.models

    async def load(self, call: Call, params: dict[str, Any]) -> None:
        """Load a model, with progress events, and return its info."""
        fields = Params(params)
        source = Source(
            source=fields.typed("source", str),
            revision=fields.typed("revision", str, None),
            adapter_path=fields.typed("adapter_path", str, None),
            trust_remote_code=fields.typed("trust_remote_code", bool, False),
            local_files_only=fields.typed("local_files_only", bool, False),
        )
        fields.done()

        def progress(stage: str, done: int, total: int, unit: str) -> None:
            call.event("progress", {"stage": stage, "done": done, "total": total, "unit": unit})

        model = await self._models.load(source, progress)
        if call.is_settled:
            await self._models.unload(model.handle)
        else:
            call.result(model.info())

    async def unload(self, call: Call, params: dict[str, Any]) -> None:
        """Give a reference back."""
        model = await self._models.unload(_handle(params))
        call.result({"unloaded": model.references <= 0, "references": max(model.references, 0)})

    def list(self, params: dict[str, Any]) -> object:
        """Return all loaded models."""
        Params(params).done()
        return {"models": [model.info() for model in self._models.list()]}

    def info(self, params: dict[str, Any]) -> object:
        """Return one model's info."""
        return self._models.get(_handle(params)).info()


def _handle(params: dict[str, Any]) -> str:
    fields = Params(params)
    handle = fields.typed("model", str)
    fields.done()
    return handle
