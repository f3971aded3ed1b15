"""Texts to tokenize, no two alike, and the ids that are right for them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Final

from tokenizers import Tokenizer

from .harness import ROOT
from .ipc.subjects import BUILTIN

TOKENIZER: Final = BUILTIN / "tokenizer.json"
CHARACTERS: Final = 200

_STEP: Final = 131
"""How far into the prose each text begins after the one before it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts and their ids."""

    texts: list[str]
    ids: list[list[int]]

    def both(self) -> dict[str, Any]:
        """Return what a subject is asked with."""
        return {"texts": self.texts, "ids": self.ids}

    def first(self, number: int) -> dict[str, Any]:
        """Return as many as a subject is asked for."""
        return {"texts": self.texts[:number], "ids": self.ids[:number]}


class Texts:
    """Stretches of English prose; a number in front keeps a cache from knowing one again."""

    def __init__(self) -> None:
        self._prose = " ".join((ROOT / "LICENSE").read_text().split())
        self._tokenizer = Tokenizer.from_file(str(TOKENIZER))
        self._numbers = count()

    def batch(self, number: int) -> Batch:
        """Return `number` texts that nobody has seen."""
        texts = [self._text(serial) for serial in islice(self._numbers, number)]
        return Batch(texts, [self._tokenizer.encode(text).ids for text in texts])

    def long(self, characters: int) -> tuple[str, int]:
        """Return a text of so many characters that nobody has seen, and its number of tokens."""
        repeats = characters // len(self._prose) + 1
        text = f"{next(self._numbers)} {self._prose * repeats}"[:characters]
        return text, len(self._tokenizer.encode_batch_fast([text])[0])

    def _text(self, serial: int) -> str:
        start = serial * _STEP % (len(self._prose) - CHARACTERS)
        return f"{serial} {self._prose[start:]}"[:CHARACTERS]
