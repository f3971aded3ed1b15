"""A model's tokens as grammars are compiled against: the bytes of each, and those that end a text.

Made once for each model, off the event loop. Not known here: grammars, MLX.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from .grammar import refused

if TYPE_CHECKING:
    from llguidance import LLTokenizer

Bits = np.ndarray[Any, np.dtype[np.uint8]]


class Vocabulary:
    """A model's tokens, as grammars are compiled against; one for each model.

    Args:
        tokenizer: llguidance's.
        size: Its ids are below this; those without a text are never allowed.
        end_tokens: Ids that end a text. They are never part of one.
    """

    def __init__(self, tokenizer: LLTokenizer, size: int, end_tokens: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.end_tokens = frozenset(end_tokens)
        self.ends = _bits_of(self.end_tokens, size)
        """A bit for each end token."""


def read_vocabulary(wrapper: Any, size: int, end_tokens: Collection[int]) -> Vocabulary:
    """Read the vocabulary of what mlx-lm loaded; up to a second for 150,000 tokens.

    Args:
        wrapper: mlx-lm's `TokenizerWrapper`.
        size: Columns of the model's logits.
        end_tokens: The model's end tokens.

    Raises:
        InvalidRequest: The tokenizer is not one of the tokenizers library, or nothing ends a text.
    """
    from llguidance import LLTokenizer

    ends = sorted(token for token in end_tokens if 0 <= token < size)
    backend = getattr(wrapper._tokenizer, "backend_tokenizer", None)
    if backend is None or not ends:
        lack = "no tokenizer.json" if backend is None else "no end token"
        raise refused(f"this model has {lack}, which constrained output needs")
    columns = max(size, backend.get_vocab_size())
    try:
        tokenizer = LLTokenizer(backend.to_str(), n_vocab=columns, eos_token=ends)
    except Exception as error:  # llguidance reads the file anew, and knows fewer kinds
        raise refused(f"this model's tokenizer is of an unknown kind: {error}") from error
    return Vocabulary(tokenizer, columns, ends)


def _bits_of(tokens: Collection[int], size: int) -> Bits:
    """Return bits in the order of llguidance's masks."""
    flags = np.zeros(size, dtype=np.uint8)
    flags[list(tokens)] = 1
    return np.packbits(flags, bitorder="little")
