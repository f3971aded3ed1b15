"""What is asked of every peer, and in which unit the answer comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ..processes import CAN_PIN

ECHO_BYTES: Final = 64
TEXTS: Final = 1_000
STREAM_CHUNKS: Final = 1_000

PINNED: Final = "pinned"
"""Both ends on one processor."""

FREE: Final = "free"
"""Wherever the system puts them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        sittings: How often every process is started anew: how its memory happens to lie can make
            all its figures better or worse.
        rounds: Those that are kept, of each sitting.
    """

    sittings: int
    rounds: int
    lone_calls: int
    saturate_ms: int
    lone_texts: int
    batches: int
    streams: int


QUICK: Final = Plan(
    sittings=1, rounds=4, lone_calls=300, saturate_ms=90, lone_texts=100, batches=1, streams=2
)
FULL: Final = Plan(
    sittings=3, rounds=5, lone_calls=1_000, saturate_ms=250, lone_texts=300, batches=2, streams=4
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured.

    Attributes:
        key: Its name in the tables.
        title: Its name for people, with the unit.
        operation: What the subject is asked.
        part: Which part of its answer is the value.
        parameters: With what it is asked; `texts` is a number here, and batches of as many texts
            with their ids take its place.
        is_rate: Whether more is better.
        is_parallel: Whether it is about both ends working at once, so that pinning would hide it.
    """

    key: str
    title: str
    operation: str
    part: str
    parameters: Callable[[Plan], dict[str, Any]]
    is_rate: bool = False
    is_parallel: bool = False

    @property
    def place(self) -> str:
        """Where its value in the tables comes from."""
        return PINNED if CAN_PIN and not self.is_parallel else FREE

    def name(self, peer: str, place: str | None = None) -> str:
        """Return what a peer's values are recorded under."""
        return f"{place or self.place}/{self.key}/{peer}"

    def is_ahead(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`."""
        return one > other if self.is_rate else one < other


MEASURES: Final = (
    Measure(
        "lone_echo_us",
        "lone echo, µs",
        "lone",
        "p50",
        lambda plan: {"kind": "text", "bytes": ECHO_BYTES, "calls": plan.lone_calls},
    ),
    Measure(
        "rps100",
        "echoes/s, 100 in flight",
        "saturate",
        "rps",
        lambda plan: {"kind": "text", "bytes": ECHO_BYTES, "depth": 100, "ms": plan.saturate_ms},
        is_rate=True,
    ),
    Measure(
        "lone_tokenize_us",
        "lone tokenize, µs",
        "tokenizeLone",
        "p50",
        lambda plan: {"texts": plan.lone_texts},
    ),
    Measure(
        "tokenize1000_ms",
        "1000 tokenize at once, ms",
        "tokenizeAll",
        "ms",
        lambda _: {"texts": TEXTS},
        is_parallel=True,
    ),
    Measure(
        "chunk_us",
        "a chunk of 1000, µs",
        "stream",
        "p50",
        lambda plan: {"count": STREAM_CHUNKS, "times": plan.streams},
    ),
)
