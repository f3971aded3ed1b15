"""What drafting is worth: the embedded model with the embedded draft model, greedily.

Plain and speculative answers in turns, through Isthmus from Node and with mlx-lm in its process;
end tokens stop neither, so that both are as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..ipc.subjects import BUILTIN
from . import questions as fifty
from .questions import Question
from .results import Equality, Key
from .sides import NODE, in_process, node

_DRAFT: Final = BUILTIN.parent / "draft"


@dataclass(frozen=True, slots=True)
class Gains:
    """Tokens a second with drafts over those without."""

    ours: float
    mlx_lm: float
    detail: dict[str, Any]


def measure(equality: Equality, count: int, tokens: int) -> Gains:
    """Measure both with the first `count` questions; ours must give the same ids either way."""
    direct, ours = in_process(), node()
    try:
        first = Question(fifty.texts()[0], [], None)
        ids = direct.start(BUILTIN, first)["ids"]
        ours.start(BUILTIN, Question(first.text, ids, None))
        prompts = direct.operate("prompts", questions=fifty.texts()[:count])["ids"]
        asked = [{"ids": prompt} for prompt in prompts]
        wanted = {"questions": asked, "maxTokens": tokens, "draft": str(_DRAFT)}
        theirs = direct.operate("speculate", **wanted)
        mine = ours.operate("speculate", source=str(BUILTIN), options=ours.options, **wanted)
    finally:
        direct.close()
        ours.close()
    equality.count(Key("speculation", 1, NODE), mine["equal"], count)
    return Gains(_gain(mine), _gain(theirs), {"ours": mine, "mlx_lm": theirs})


def _gain(rates: dict[str, Any]) -> float:
    return float(rates["speculative"] / rates["plain"])
