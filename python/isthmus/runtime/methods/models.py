"""`load_model`, `unload_model`, `list_models`, `model_info`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, Final

from ...errors import InvalidRequest
from ...limits import (
    CONTEXT_LIMIT,
    MODEL_HANDLE_CHARS,
    MODEL_IDLE_TIMEOUT_LIMIT_MS,
    MODEL_REFERENCES_LIMIT,
)
from ...models.cache import Unloaded
from ...models.load import LoadOptions, Source
from ..params import Params
from ..requests import Call
from ..router import Router
from ..services import Services

_HANDLE: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MODEL_HANDLE_CHARS}}}")


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
        options = _read_options(fields)
        fields.done()

        def progress(stage: str, done: int, total: int, unit: str) -> None:
            call.event("progress", {"stage": stage, "done": done, "total": total, "unit": unit})

        model = await self._models.load(source, progress, options)
        if call.is_settled:
            self._models.undo(model, options)
        else:
            call.result(model.info(options.handle))

    def unload(self, call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Give a reference back, before anything that comes later is looked at."""
        fields = Params(params)
        handle = fields.typed("model", str)
        evict = fields.typed("evict", bool, False)
        fields.done()
        return self._unloaded(call, self._models.unload(handle, evict))

    async def _unloaded(self, call: Call, left: Unloaded) -> None:
        if left.release is not None:
            await asyncio.shield(left.release)
        call.result(
            {
                "unloaded": left.references == 0,
                "references": left.references,
                "resident": left.is_resident,
            }
        )

    def list(self, params: dict[str, Any]) -> object:
        """Return all models in memory."""
        Params(params).done()
        return {"models": [model.info() for model in self._models.list()]}

    def info(self, params: dict[str, Any]) -> object:
        """Return one model's info."""
        fields = Params(params)
        handle = fields.typed("model", str)
        fields.done()
        return self._models.get(handle).info(handle)


def _read_options(fields: Params) -> LoadOptions:
    handle = fields.typed("handle", str, None)
    if handle is not None and not _HANDLE.fullmatch(handle):
        raise InvalidRequest(
            f"`handle` must be 1 to {MODEL_HANDLE_CHARS} letters, digits and . _ -", field="handle"
        )
    idle_timeout_s = None
    if "idle_timeout_ms" in fields:
        idle_timeout_s = fields.number("idle_timeout_ms", 0, MODEL_IDLE_TIMEOUT_LIMIT_MS, 0) / 1e3
    return LoadOptions(
        pin=fields.typed("pin", bool, None),
        idle_timeout_s=idle_timeout_s,
        replace=fields.typed("replace", str, None),
        kv_tokens=fields.integer("kv_tokens", 1, CONTEXT_LIMIT, None),
        handle=handle,
        references=fields.integer("references", 1, MODEL_REFERENCES_LIMIT, 1),
        prior_failures=fields.integer("prior_failures", 0, CONTEXT_LIMIT, 0),
    )
