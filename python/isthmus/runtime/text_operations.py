"""The text operations of each loaded model, made once, and how a coroutine uses them."""

from __future__ import annotations

from typing import Any

from ..limits import ALONE_BYTES, INLINE_TEXT_CHARS
from ..models.load import LoadedModel
from ..multiplex.multiplexer import Multiplexer
from ..text.batch import Decode, Encode, Render, Result, TextPool


class TextOperations:
    """Finds or makes operations.

    Args:
        pool: Runs them.
        multiplexer: Batches them.
    """

    def __init__(self, pool: TextPool, multiplexer: Multiplexer) -> None:
        self.pool = pool
        self._multiplexer = multiplexer

    def encode(self, model: LoadedModel, result: Result, special: bool, text: str) -> Encode:
        """Return the operation for a text: a long one shares no batch with short ones."""
        key = (result.value, special, len(text) > ALONE_BYTES)
        operation: Encode | None = model.operations.get(key)
        if operation is None:
            label = f"{result.value} {model.handle}"
            operation = Encode(self.pool, model.tokenizer, result, special, label)
            model.operations[key] = operation
        return operation

    def decode(self, model: LoadedModel, skip_special_tokens: bool) -> Decode:
        """Return the operation for ids."""
        key = ("detokenize", skip_special_tokens)
        operation: Decode | None = model.operations.get(key)
        if operation is None:
            label = f"detokenize {model.handle}"
            operation = Decode(self.pool, model.tokenizer, skip_special_tokens, label)
            model.operations[key] = operation
        return operation

    async def render(
        self, model: LoadedModel, messages: list[dict[str, Any]], variables: dict[str, Any]
    ) -> str:
        """Return a conversation as text, rendered with whatever else has arrived."""
        operation: Render | None = model.operations.get("render")
        if operation is None:
            label = f"apply_chat_template {model.handle}"
            operation = model.operations["render"] = Render(self.pool, model.tokenizer, label)
        return str(await self._multiplexer.call(operation, (messages, variables)))

    async def ids(self, model: LoadedModel, text: str, special: bool) -> list[int]:
        """Return the ids of one text: a short one at once, a long one off the event loop."""
        if len(text) <= INLINE_TEXT_CHARS:
            return model.tokenizer.encode(text, special)
        operation = self.encode(model, Result.IDS, special, text)
        ids: list[int] = (await self._multiplexer.call(operation, text)).tolist()
        return ids
