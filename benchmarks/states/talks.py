"""Conversations that are made anew for each round: a context of its own, then turns that end alike.

    cold    context + suffix
    hot     ... + the answer + suffix
    warm    ... + the answer + suffix

So each state evaluates the same suffix, on top of what the one before has left, and nothing is left
of earlier rounds that could be reused. Token ids are drawn at random; a seed gives the same ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

COLD: Final = "cold"
HOT: Final = "hot"
WARM: Final = "warm"
STATES: Final = (COLD, HOT, WARM)
"""In the order in which a conversation is asked."""

SUFFIX_TOKENS: Final = 24
VOCABULARY: Final = range(300, 8_192)
"""Words only: no bytes, no special tokens."""

_SUFFIX: Final = random.Random(11).choices(VOCABULARY, k=SUFFIX_TOKENS)


def tokens(count: int, seed: object) -> list[int]:
    """Return random token ids."""
    return random.Random(str(seed)).choices(VOCABULARY, k=count)


@dataclass(slots=True)
class Talk:
    """A conversation as one side has it.

    Attributes:
        length: Tokens of its first prompt.
        seed: What it was drawn from.
        name: Of its session, or of its cache.
        tenant: Whose session it is.
        prompt: What is asked next: all of it from the first token.
        kept: Tokens of the prompt that the cache holds after the last answer.
        answers: What was answered, in the order of STATES.
    """

    length: int
    seed: int
    name: str
    tenant: str | None
    prompt: list[int]
    kept: int = 0
    answers: list[list[int]] = field(default_factory=list)

    @property
    def fresh(self) -> list[int]:
        """What is to be evaluated of the prompt."""
        return self.prompt[self.kept :]

    def answered(self, ids: list[int]) -> None:
        """Go on to the next turn."""
        self.answers.append(ids)
        # The last token of an answer was not evaluated.
        self.kept = len(self.prompt) + len(ids) - 1
        self.prompt = [*self.prompt, *ids, *_SUFFIX]


def talk(length: int, seed: int, tenant: str | None = None) -> Talk:
    """Begin a conversation; the same length and seed give the same one."""
    context = tokens(length - SUFFIX_TOKENS, (length, seed))
    name = f"{tenant or 'talk'}-{length}-{seed}"
    return Talk(length, seed, name, tenant, [*context, *_SUFFIX])
