"""Text operations for many items at once.

Short work is done on the event loop, where waking a thread would cost more; the rest goes to a
thread and from there to the tokenizer's own threads, which run without the GIL. A text that is long
on its own shares no batch with short ones. Every item has its own result or error.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

from ..errors import DeadlineExceeded, InvalidRequest
from ..limits import INLINE_TEXT_CHARS, TEMPLATE_DEADLINE_S
from .ids import count_token_ids, read_token_ids
from .pool import TextPool
from .tokenizer import TextTokenizer

T = TypeVar("T")

BATCH_COST: Final = 1_000_000
"""Characters or ids of one batch: bounds how long those that come next wait."""

_RENDER_MESSAGES: Final = 256
"""Messages of the conversations that are rendered in one go."""

_INLINE_ITEMS: Final = 256
"""Items that are handled on the event loop in one go: empty ones have a price, too."""

_FEW: Final = 2
"""Texts that are encoded one by one: the tokenizer's own threads, which sleep, are awoken for a
batch, and that takes longer than so many short texts."""


class Result(Enum):
    """What encoding a text gives."""

    IDS = "tokenize"
    COUNT = "count_tokens"
    PIECES = "tokenize_pieces"


class Encode:
    """Texts to ids, counts or pieces.

    Outcomes: an `array` of ids, an integer, or `Pieces`.
    """

    batch_cost = BATCH_COST

    def __init__(
        self,
        pool: TextPool,
        tokenizer: TextTokenizer,
        result: Result,
        add_special_tokens: bool,
        label: str,
    ) -> None:
        self._pool = pool
        self._tokenizer = tokenizer
        self._result = result
        self._special = add_special_tokens
        self.label = label

    def cost(self, item: str) -> int:
        """Return the number of characters."""
        return len(item)

    def now(self, items: Sequence[str], cost: int) -> list[Any] | None:
        """Encode short texts."""
        if not _belongs_on_loop(items, cost):
            return None
        if len(items) <= _FEW and self._result is not Result.PIECES:
            ids = [array("I", self._tokenizer.encode(text, self._special)) for text in items]
            return ids if self._result is Result.IDS else list(map(len, ids))
        return self._encode(items)

    def begin(self, items: Sequence[str]) -> asyncio.Future[list[Any]]:
        """Encode in a thread."""
        return self._pool.run(lambda: self._encode(items))

    def _encode(self, items: Sequence[str]) -> list[Any]:
        texts = list(items)
        if self._result is Result.PIECES:
            return list(self._tokenizer.encode_pieces(texts, self._special))
        if self._result is Result.COUNT:
            return list(self._tokenizer.count_batch(texts, self._special))
        return list(self._tokenizer.encode_batch(texts, self._special))


class Decode:
    """Ids, in wire form, to texts."""

    batch_cost = BATCH_COST

    def __init__(
        self, pool: TextPool, tokenizer: TextTokenizer, skip_special_tokens: bool, label: str
    ) -> None:
        self._pool = pool
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self.label = label

    def cost(self, item: tuple[str, object]) -> int:
        """Return the number of ids."""
        return count_token_ids(item[1])

    def now(self, items: Sequence[tuple[str, object]], cost: int) -> list[Any] | None:
        """Decode few ids."""
        return self._decode(items) if _belongs_on_loop(items, cost) else None

    def begin(self, items: Sequence[tuple[str, object]]) -> asyncio.Future[list[Any]]:
        """Decode in a thread."""
        return self._pool.run(lambda: self._decode(items))

    def _decode(self, items: Sequence[tuple[str, object]]) -> list[Any]:
        outcomes: list[Any] = []
        good: list[list[int]] = []
        for name, value in items:
            try:
                ids = read_token_ids(name, value)
                self._tokenizer.check(ids, name)
            except InvalidRequest as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
                good.append(ids)
        texts = iter(self._tokenizer.decode_batch(good, self._skip))
        return [next(texts) if outcome is None else outcome for outcome in outcomes]


class Render:
    """Conversations to texts, with the model's chat template.

    An item is the messages and the template's variables.
    """

    batch_cost = _RENDER_MESSAGES

    def __init__(self, pool: TextPool, tokenizer: TextTokenizer, label: str) -> None:
        self._pool = pool
        self._tokenizer = tokenizer
        self.label = label

    def cost(self, item: tuple[list[dict[str, Any]], dict[str, Any]]) -> int:
        """Return the number of messages."""
        return len(item[0])

    def now(self, items: Sequence[Any], cost: int) -> None:
        """Never on the event loop: a template is a program."""
        return None

    def begin(
        self, items: Sequence[tuple[list[dict[str, Any]], dict[str, Any]]]
    ) -> asyncio.Future[list[Any]]:
        """Render in the templates' thread; one that does not end is an error of its own."""
        return asyncio.ensure_future(self._render_all(items))

    async def _render_all(self, items: Sequence[Any]) -> list[Any]:
        renderings = [partial(self._render, *item) for item in items]
        outcomes: list[Any] = []
        while len(outcomes) < len(items):
            outcomes += await self._pool.run_templates(renderings[len(outcomes) :])
            if len(outcomes) < len(items):
                # The rest of these comes after whoever waits for the thread.
                outcomes.append(_too_slow())
        return outcomes

    def _render(self, messages: list[dict[str, Any]], variables: dict[str, Any]) -> Any:
        try:
            return self._tokenizer.render(messages, variables)
        except InvalidRequest as error:
            return error


def _too_slow() -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the model's chat template did not end within {TEMPLATE_DEADLINE_S:g} s; send `ids` or "
        "`prompt` instead of messages",
        phase="template",
    )


def _belongs_on_loop(items: Sequence[Any], cost: int) -> bool:
    """Whether work is so little that waking a thread for it would cost more."""
    return cost <= INLINE_TEXT_CHARS and len(items) <= _INLINE_ITEMS
