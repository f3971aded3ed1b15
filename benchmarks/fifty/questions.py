"""The fifty questions, and whether an answer to one of them is right.

About a third are of the kind that the embedded model was taught; they name what a right answer
holds. The others are what anybody might ask; what a model says to them is not judged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from ..harness import ROOT

_FILE: Final = ROOT / "benchmarks" / "questions.json"

END: Final = "<|end|>"
"""What the embedded model writes where its answer is complete."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, as text and as the prompt that the chat template makes of it.

    Attributes:
        expected: What a right answer holds; None where it cannot be checked.
    """

    text: str
    ids: list[int]
    expected: str | None

    def to_wire(self) -> dict[str, Any]:
        """Return what a side is asked with."""
        return {"text": self.text, "ids": self.ids}

    def is_answered_by(self, text: str) -> bool:
        """Whether an answer, up to its end, holds what was expected."""
        return self.expected is not None and self.expected in text.split(END)[0]


def texts() -> list[str]:
    """Return the questions in order."""
    return [entry["question"] for entry in _entries()]


def questions(prompts: list[list[int]]) -> list[Question]:
    """Return the questions with their prompts."""
    return [
        Question(entry["question"], ids, entry.get("answer"))
        for entry, ids in zip(_entries(), prompts, strict=True)
    ]


def _entries() -> list[dict[str, str]]:
    return list(json.loads(_FILE.read_text()))
