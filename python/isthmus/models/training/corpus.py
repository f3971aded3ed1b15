"""Conversations for training and for scoring, drawn from the makers in `questions.py`.

Promises: the same seed gives the same conversations; what is held out is decided by a hash of
the question's truth alone, so training never sees a held-out truth whatever the seed.
Knows nothing of tokens or of networks.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from .questions import MAKERS, Exchange

HELD_OUT_ONE_IN = 10
SYSTEM_SHARE = 0.25
MULTI_TURN_SHARE = 0.35
MOST_FILLERS = 3
MOST_LONG_FILLERS = 12
LONG_SHARE = 0.1
GAP_SHARE = 0.5  # of the conversations that recall something told before
LOWERED_SHARE = 0.10
UNPUNCTUATED_SHARE = 0.12
POLITE_SHARE = 0.06
# Kinds whose answer repeats the question's own letters: the question is left as it is.
LITERAL_KINDS = frozenset({"spelling", "letters", "copying", "memory", "stories"})
# Small talk is a closed set of greetings: there is nothing to hold out.
NEVER_HELD_OUT = frozenset({"small talk"})

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a very small language model.",
    "Be brief.",
    "You answer in short sentences.",
    "You are a friendly teacher.",
    "Answer the question.",
    "You are terse.",
    "Be helpful and kind.",
    "You help children to learn.",
    "Be concise.",
    "You are a helpful, respectful and honest assistant.",
    "Answer in plain English.",
    "You are an assistant in a small program.",
    "Think before you answer.",
    "You like numbers.",
    "You are a chat model that runs on a laptop.",
    "Always answer politely.",
    "You are a test.",
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of (question, answer) under an optional system prompt; the last turn is scored."""

    kind: str
    system: str | None
    turns: tuple[tuple[str, str], ...]

    @property
    def answer(self) -> str:
        return self.turns[-1][1]

    def prompt_messages(self) -> list[dict[str, str]]:
        """Return chat messages up to and including the last question."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for question, answer in self.turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return messages[:-1]


# Of a hundred questions, about; sums and differences need the most examples.
SHARES = {
    "addition": 14.0,
    "subtraction": 14.0,
    "multiplication": 3.0,
    "comparison": 5.0,
    "even or odd": 2.0,
    "counting": 3.5,
    "next number": 4.0,
    "spelling": 6.0,
    "letters": 5.0,
    "copying": 6.0,
    "units": 5.0,
    "days": 1.5,
    "months": 2.0,
    "numbers in words": 3.0,
    "capitals": 3.5,
    "opposites": 3.5,
    "plurals": 3.5,
    "colours": 2.5,
    "categories": 2.5,
    "lists": 1.5,
    "descriptions": 5.0,
    "memory": 4.0,
    "stories": 2.0,
    "small talk": 2.0,
    "unknown": 2.0,
}


def is_held_out(exchange: Exchange) -> bool:
    """Say whether the truth of `exchange` is kept from training."""
    if exchange.kind in NEVER_HELD_OUT:
        return False
    named = f"{exchange.kind}:{exchange.truth}".encode()
    digest = hashlib.blake2b(named, digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def draw(kind: str, rng: random.Random, held_out: bool) -> Exchange:
    """Draw exchanges of one kind until one falls on the wanted side of the split."""
    maker = MAKERS[kind]
    while True:
        exchange = maker(rng)
        if is_held_out(exchange) == (held_out and kind not in NEVER_HELD_OUT):
            return exchange


def _vary(exchange: Exchange, rng: random.Random) -> str:
    """Return the question as a careless or a polite person would type it."""
    question = exchange.question
    if exchange.kind in LITERAL_KINDS:
        return question
    if rng.random() < POLITE_SHARE and question.endswith("?") and question[0].isupper():
        question = f"{question[:-1]}, please?"
    if rng.random() < UNPUNCTUATED_SHARE and question[-1] in ".?":
        question = question[:-1]
    if rng.random() < LOWERED_SHARE:
        question = question.lower()
    return question


def _draw_kind(rng: random.Random) -> str:
    return rng.choices(list(SHARES), weights=list(SHARES.values()))[0]


def _filler(rng: random.Random, most_turns: int) -> list[tuple[str, str]]:
    """Return a few turns of training questions, none of which tells the model anything."""
    turns: list[tuple[str, str]] = []
    wanted = rng.randrange(1, most_turns + 1)
    while len(turns) < wanted:
        exchange = draw(_draw_kind(rng), rng, held_out=False)
        if not exchange.before:
            turns.append((_vary(exchange, rng), exchange.answer))
    return turns


def _conversation(last: Exchange, rng: random.Random) -> Conversation:
    """Put `last` at the end of a conversation, often after other training turns."""
    turns: list[tuple[str, str]] = []
    if rng.random() < MULTI_TURN_SHARE:
        is_long = rng.random() < LONG_SHARE
        turns += _filler(rng, MOST_LONG_FILLERS if is_long else MOST_FILLERS)
    if last.before:
        turns += last.before
        turns += _filler(rng, MOST_FILLERS) if rng.random() < GAP_SHARE else []
    turns.append((_vary(last, rng), last.answer))
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else None
    return Conversation(last.kind, system, tuple(turns))


def training_conversations(seed: int) -> Iterator[Conversation]:
    """Yield conversations without end, none of which asks a held-out truth."""
    rng = random.Random(f"train {seed}")
    while True:
        yield _conversation(draw(_draw_kind(rng), rng, held_out=False), rng)


def held_out_conversations(seed: int, per_kind: int) -> list[Conversation]:
    """Return at most `per_kind` different conversations of each kind, of held-out truths only."""
    rng = random.Random(f"held out {seed}")
    conversations: list[Conversation] = []
    for kind in MAKERS:
        seen: dict[str, Exchange] = {}
        for _ in range(per_kind * 20):
            exchange = draw(kind, rng, held_out=True)
            seen.setdefault(exchange.truth, exchange)
            if len(seen) == per_kind:
                break
        conversations += [_conversation(exchange, rng) for exchange in seen.values()]
    return conversations
