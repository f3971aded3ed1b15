"""The figures that describe a trained built-in model, and their JSON form.

Knows nothing of how they are measured; `evaluate.py` measures, `export.py` stores.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

SCORES_FILE = "scores.json"


@dataclass(frozen=True, slots=True)
class KindScore:
    """How many held-out questions of one kind were answered word for word."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked


@dataclass(frozen=True, slots=True)
class Scores:
    """Held-out scores of the chat model under greedy decoding, and what its draft is worth.

    `acceptance_rate` is the share of proposed draft tokens that the chat model accepted;
    `training` holds seed, minutes, steps, tokens and losses, or is empty when only scored.
    """

    kinds: dict[str, KindScore]
    acceptance_rate: float
    from_draft_share: float
    chat_parameters: int
    draft_parameters: int
    training: dict[str, float] = field(default_factory=dict)

    @property
    def right(self) -> int:
        return sum(score.right for score in self.kinds.values())

    @property
    def asked(self) -> int:
        return sum(score.asked for score in self.kinds.values())

    @property
    def overall(self) -> float:
        """Return the share of all held-out questions that were answered correctly."""
        return self.right / self.asked

    def lines(self) -> list[str]:
        """Return the score table, one line a kind, for a terminal."""
        rows = [
            f"{kind:18} {score.right:4} of {score.asked:4}  {score.share:6.1%}"
            for kind, score in self.kinds.items()
        ]
        total = f"{'all':18} {self.right:4} of {self.asked:4}  {self.overall:6.1%}"
        return [*rows, total, f"draft tokens accepted: {self.acceptance_rate:.1%}"]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def save(self, path: Path) -> None:
        """Write the scores as JSON."""
        kinds = {
            kind: {**asdict(score), "share": round(score.share, 4)}
            for kind, score in self.kinds.items()
        }
        document = {
            "overall": round(self.overall, 4),
            "right": self.right,
            "asked": self.asked,
            "acceptance_rate": round(self.acceptance_rate, 4),
            "from_draft_share": round(self.from_draft_share, 4),
            "chat_parameters": self.chat_parameters,
            "draft_parameters": self.draft_parameters,
            "training": self.training,
            "kinds": kinds,
        }
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
