"""Training and scoring of the built-in chat model and its draft.

Two entries: `train_default` makes both models from a seed, `evaluate_builtin` scores a folder.
Importing this package needs neither torch nor MLX; torch is the optional extra `train`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from ...errors import IsthmusError
from .scores import KindScore, Scores

__all__ = ["KindScore", "Scores", "TrainingUnavailable", "evaluate_builtin", "train_default"]

Report = Callable[[str], None]


class TrainingUnavailable(IsthmusError):
    """The optional extra `train` is not installed."""


def train_default(output: Path, minutes: float, seed: int, report: Report) -> Scores:
    """Train the chat model and its draft and write them to `output/chat` and `output/draft`.

    Args:
        output: A folder, made if missing; `scores.json` is written there too.
        minutes: Time for both trainings together; tokenizer, export and scoring come on top.
        seed: Decides the data and the first weights.
        report: Receives lines of progress.

    Raises:
        TrainingUnavailable: torch is missing.
    """
    if find_spec("torch") is None:
        raise TrainingUnavailable("training needs torch: run pip install 'isthmus[train]'")
    from .run import train_and_export

    return train_and_export(output, minutes, seed, report)


def evaluate_builtin(folder: Path) -> Scores:
    """Score the models in `folder/chat` and `folder/draft` on the held-out questions."""
    from .evaluate import evaluate_builtin as evaluate

    return evaluate(folder)
