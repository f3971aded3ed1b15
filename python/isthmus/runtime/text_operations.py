"""The text operations of each loaded model, made once, and how a coroutine uses them."""

from __future__ import annotations

from typing import Any

from ..limits import ALONE_BYTES, INLINE_TEXT_CHARS
from ..models.load import LoadedModel
from ..multiplex.multiplexer import Multiplexer
from ..text.batch import Decode, Encode, Render, Result
from ..text.pool import TextPool


class TextOperations:
    """Finds or makes operations.

    Args:
        pool: Runs them.
        multiplexer: Batches them.
    """

    def __init__(self, pool: TextPool, multiplexer: Multiplexer) -> None:
        self.pool = pool
        self._multiplexer = multiplexer

    def encode(self, model: LoadedModel, result: Result, special: bool, is_long: bool) -> Encode:
        """Return the operation for texts; long ones share no batch with short ones."""
        return model.operation(
            (result.value, special, is_long),
            lambda: Encode(
                self.pool, model.tokenizer, result, special, f"{result.value} {model.handle}"
            ),
        )

    def decode(self, model: LoadedModel, skip_special_tokens: bool) -> Decode:
        """Return the operation for ids."""
        return model.operation(
            ("detokenize", skip_special_tokens),
            lambda: Decode(
                self.pool, model.tokenizer, skip_special_tokens, f"detokenize {model.handle}"
            ),
        )

    async def render(
        self, model: LoadedModel, messages: list[dict[str, Any]], variables: dict[str, Any]
    ) -> str:
        """Return a conversation as text, rendered with whatever else has arrived.

        Raises:
            InvalidRequest: There is no template, or it refuses the messages.
            DeadlineExceeded: The template does not end.
        """
        operation = model.operation(
            "apply_chat_template",
            lambda: Render(self.pool, model.tokenizer, f"apply_chat_template {model.handle}"),
        )
        return str(await self._multiplexer.call(operation, (messages, variables)))

    async def ids(self, model: LoadedModel, text: str, special: bool) -> list[int]:
        """Return the ids of one text: a short one at once, a long one off the event loop."""
        if len(text) <= INLINE_TEXT_CHARS:
            return model.tokenizer.encode(text, special)
        operation = self.encode(model, Result.IDS, special, is_long(text))
        ids: list[int] = (await self._multiplexer.call(operation, text)).tolist()
        return ids


def is_long(text: str) -> bool:
    """Whether a text would keep those beside it waiting."""
    return len(text) > ALONE_BYTES
