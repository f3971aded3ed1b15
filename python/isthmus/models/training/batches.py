"""Packing of encoded conversations into rows of equal length.

Promises: a conversation is never cut unless it alone is longer than a row; only the
assistant's tokens and the end token after them are marked to be learnt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .corpus import Conversation, training_conversations
from .tokenizer import ASSISTANT, END_ID, PAD_ID, SPECIAL_TOKENS, render

POOL_CONVERSATIONS = 256
ASSISTANT_ID = SPECIAL_TOKENS.index(ASSISTANT)

Encoded = tuple[list[int], list[bool]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Token rows (rows, length + 1) and which of them are to be predicted, same shape."""

    tokens: Tensor
    is_learnt: Tensor

    @property
    def inputs(self) -> Tensor:
        return self.tokens[:, :-1]

    @property
    def learnt_targets(self) -> Tensor:
        return self.tokens[:, 1:][self.learnt]

    @property
    def learnt(self) -> Tensor:
        return self.is_learnt[:, 1:]


def conversation_text(conversation: Conversation) -> str:
    """Render a whole conversation, its last answer and end token included."""
    answer = {"role": "assistant", "content": conversation.answer}
    return render([*conversation.prompt_messages(), answer], add_generation_prompt=False)


def _mark(tokens: list[int]) -> list[bool]:
    marks, is_answer = [], False
    for token in tokens:
        marks.append(is_answer)
        if token == ASSISTANT_ID:
            is_answer = True
        elif token == END_ID:
            is_answer = False
    return marks


def _encoded(tokenizer: Tokenizer, seed: int) -> Iterator[list[Encoded]]:
    conversations = training_conversations(seed)
    while True:
        texts = [conversation_text(each) for each in islice(conversations, POOL_CONVERSATIONS)]
        rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        yield [(tokens, _mark(tokens)) for tokens in rows]


class RowPacker:
    """Fills rows with conversations from a pool, the first that still fits each time."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._source = _encoded(tokenizer, seed)
        self._pool: list[Encoded] = []

    def _take(self, room: int) -> Encoded | None:
        for index, (tokens, _) in enumerate(self._pool[:32]):
            if len(tokens) <= room:
                return self._pool.pop(index)
        return None

    def _row(self, length: int) -> Encoded:
        if len(self._pool) < POOL_CONVERSATIONS:
            self._pool += next(self._source)
        first_tokens, first_marks = self._pool.pop(0)
        tokens, marks = first_tokens[:length], first_marks[:length]
        while (found := self._take(length - len(tokens))) is not None:
            tokens, marks = tokens + found[0], marks + found[1]
        missing = length - len(tokens)
        return tokens + [PAD_ID] * missing, marks + [False] * missing

    def batch(self, rows: int, length: int) -> Batch:
        """Return the next batch; `length` counts the inputs, so rows hold one token more."""
        packed = [self._row(length + 1) for _ in range(rows)]
        return Batch(
            torch.tensor([tokens for tokens, _ in packed]),
            torch.tensor([marks for _, marks in packed]),
        )
