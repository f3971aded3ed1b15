"""Random requests: any prompt, sampler and option, and a reader who may leave, be slow or be late.

The same seed gives the same requests. Knows nothing of runtimes; what a request should give is the
oracle's to say.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tests.fixtures.oracle import PENALTIES, Request
from tests.fixtures.prompts import PROMPTS

STORY_TOKENS: Final = (40, 90, 150, 260)
"""Lengths of the beginnings that several prompts share; the last takes several chunks."""

LENGTHS: Final = (1, 5, 12, 24, 40)
SPECULATED_LENGTHS: Final = (12, 40, 60)
"""Of completions; drafts begin after the first few plain steps."""

ENDLESS: Final = 3_500
"""Tokens that take longer than any deadline here."""

SAMPLERS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {"temperature": 0.8},
    {"temperature": 1.5},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 20},
    {"temperature": 1.2, "min_p": 0.05},
    {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "min_p": 0.01},
)
FORMATS: Final[tuple[dict[str, Any], ...]] = (
    {"type": "choice", "choices": ["yes", "no", "not that I know"]},
    {"type": "regex", "pattern": "[A-Z][a-z]{3,9}( [a-z]{2,9}){1,4}\\."},
    {"type": "json_object"},
    {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "number": {"type": "integer"}},
            "required": ["name", "number"],
            "additionalProperties": False,
        },
    },
)


class Reader(Enum):
    """What becomes of a request."""

    READS = "reads to the end"
    IS_SLOW = "stops reading for a while, with little credit"
    CANCELS = "cancels after some tokens, and reads on"
    LEAVES = "leaves the stream after some tokens"
    IS_LATE = "has a deadline that passes"


@dataclass(frozen=True, slots=True)
class Case:
    """A request and its reader.

    Attributes:
        model: `chat` or `tiny`.
        wanted: What the oracle is asked.
        stop: Where in the whole text the stop string lies, and its length; None for none.
        options: All that must not change a token.
        patience: Tokens after which the reader stops, cancels or leaves.
        deadline_ms: Of a request that is late.
    """

    model: str
    wanted: Request
    reader: Reader
    stop: tuple[int, int] | None
    options: dict[str, Any]
    patience: int
    deadline_ms: float | None


def random_cases(seed: int, count: int) -> list[Case]:
    """Return so many requests."""
    rng = random.Random(seed)
    stories = [[rng.randrange(5, 700) for _ in range(tokens)] for tokens in STORY_TOKENS]
    return [_case(rng, stories) for _ in range(count)]


def _case(rng: random.Random, stories: list[list[int]]) -> Case:
    weights = {
        Reader.READS: 12,
        Reader.IS_SLOW: 3,
        Reader.CANCELS: 3,
        Reader.LEAVES: 1,
        Reader.IS_LATE: 2,
    }
    (reader,) = rng.choices(list(weights), list(weights.values()))
    is_late = reader is Reader.IS_LATE
    has_format = rng.random() < 0.15 and not is_late
    options = _options(rng, reader)
    lengths = SPECULATED_LENGTHS if "max_draft_tokens" in options else LENGTHS
    wanted = Request(
        prompt=_prompt(rng, stories),
        max_tokens=rng.choice(lengths),
        sampling=_sampling(rng),
        # One that ends by itself might end before its deadline.
        ignore_eos=is_late or rng.random() < 0.5,
        response_format=rng.choice(FORMATS)
        if has_format and reader is not Reader.IS_LATE
        else None,
    )
    has_stop = rng.random() < 0.2 and not is_late
    return Case(
        model="chat" if rng.random() < 0.75 else "tiny",
        wanted=wanted,
        reader=reader,
        stop=(rng.randrange(12), rng.randint(1, 6)) if has_stop else None,
        options=options,
        patience=rng.choice((0, 0, 1, 3, 9)),
        deadline_ms=rng.choice((1.0, 5.0, 30.0, 120.0)) if is_late else None,
    )


def _prompt(rng: random.Random, stories: list[list[int]]) -> str | list[int]:
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(PROMPTS)
    tail = [rng.randrange(5, 700) for _ in range(rng.choice((1, 2, 7, 30)))]
    if kind < 0.5:
        return tail
    story = rng.choice(stories)
    return [*story[: rng.choice((len(story), len(story) // 2))], *tail]


def _sampling(rng: random.Random) -> dict[str, Any]:
    chosen = dict(rng.choice(SAMPLERS))
    if chosen:
        chosen["seed"] = rng.randrange(2**53)
    if rng.random() < 0.3:
        chosen |= rng.choice((PENALTIES, {"repetition_penalty": 1.2}, {"logit_bias": {9: 3.0}}))
    return chosen


def _options(rng: random.Random, reader: Reader) -> dict[str, Any]:
    """Return options that change no token."""
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options |= rng.choice(({"prompt_lookup": True}, {"draft_model": True}))
        options["max_draft_tokens"] = rng.choice((1, 4, 8))
    if rng.random() < 0.2:
        options["priority"] = rng.randint(-5, 5)
    if rng.random() < 0.1:
        options["batch"] = False
    if rng.random() < 0.15:
        options["cache_prompt"] = False
    if rng.random() < 0.1:
        options["logprobs"] = 2
    if reader is Reader.READS and rng.random() < 0.3:
        options["stream"] = False
    if reader is Reader.IS_SLOW:
        options["credit"] = rng.choice((1, 2, 5))
    return options
