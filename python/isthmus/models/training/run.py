"""From a seed to two scored model folders: tokenizer, chat model, draft, export, scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from .corpus import training_conversations
from .evaluate import evaluate_builtin
from .export import export_model
from .scores import SCORES_FILE, Scores
from .tokenizer import train_tokenizer
from .train import LoopFigures, train_chat, train_draft

TOKENIZER_CONVERSATIONS = 20_000
DRAFT_SHARE = 0.17  # of the minutes


def corpus_texts(seed: int) -> Iterator[str]:
    """Yield the texts that the tokenizer learns its merges from."""
    for conversation in islice(training_conversations(seed), TOKENIZER_CONVERSATIONS):
        for question, answer in conversation.turns:
            yield question
            yield answer


def default_tokenizer(seed: int) -> Tokenizer:
    """Train the tokenizer on the first training conversations of `seed`."""
    return train_tokenizer(corpus_texts(seed))


def _figures(minutes: float, seed: int, chat: LoopFigures, draft: LoopFigures) -> dict[str, float]:
    return {
        "seed": seed,
        "minutes": minutes,
        "chat_steps": chat.steps,
        "chat_tokens": chat.tokens,
        "chat_loss": round(chat.loss, 4),
        "draft_steps": draft.steps,
        "draft_tokens": draft.tokens,
        "draft_divergence": round(draft.loss, 4),
    }


def train_and_export(
    output: Path, minutes: float, seed: int, report: Callable[[str], None]
) -> Scores:
    """Do all steps; see `train_default` for the arguments."""
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = default_tokenizer(seed)
    chat, chat_figures = train_chat(tokenizer, minutes * (1 - DRAFT_SHARE), seed, report)
    export_model(chat, tokenizer, output / "chat")
    draft, draft_figures = train_draft(chat, tokenizer, minutes * DRAFT_SHARE, seed, report)
    export_model(draft, tokenizer, output / "draft")
    report("scoring on the held-out questions")
    scores = evaluate_builtin(output, _figures(minutes, seed, chat_figures, draft_figures))
    scores.save(output / SCORES_FILE)
    for line in scores.lines():
        report(line)
    return scores
