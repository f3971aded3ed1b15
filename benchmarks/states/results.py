"""What was measured, by way of asking, context, side and state, and the ratios of it.

A ratio is one of two samples of the same round; the median over rounds is reported.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..harness import Spread, tidy
from .sides import Sample


class Way(NamedTuple):
    """How sessions are asked: so many at once, read as a stream or awaited whole."""

    at_once: int
    is_streamed: bool

    @property
    def name(self) -> str:
        """As it stands in tables and names."""
        return f"{'streamed' if self.is_streamed else 'whole'}-{self.at_once}"


class Key(NamedTuple):
    """Whose samples."""

    way: Way
    length: int
    side: str
    state: str


@dataclass(slots=True)
class Record:
    """Collects samples, one a round, and answers.

    Attributes:
        answers: What was answered in each state, by context and round.
        steps: What mlx-lm took for a cold prompt, by context and tokens of a pass, ms.
        compared: Pairs of answers.
        different: Those of them that were not the same.
        blas: In front of mlx, by side.
    """

    answers: dict[tuple[int, int], list[list[int]]] = field(default_factory=dict)
    steps: dict[int, dict[int, float]] = field(default_factory=dict)
    compared: int = 0
    different: list[str] = field(default_factory=list)
    blas: dict[str, str] = field(default_factory=dict)
    _samples: defaultdict[Key, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def add(self, key: Key, sample: Sample) -> None:
        """Keep a sample of the next round."""
        self._samples[key].append(sample)

    def compare(self, what: str, one: list[int], other: list[int]) -> None:
        """Compare the tokens of two answers."""
        self.compared += 1
        if one != other:
            self.different.append(what)

    def __iter__(self) -> Iterator[Key]:
        """Go through whose samples there are, the shortest contexts first."""
        return iter(sorted(self._samples, key=lambda key: (key.length, key.way.at_once)))

    def __contains__(self, key: Key) -> bool:
        """Whether there are samples."""
        return key in self._samples

    def spread(self, key: Key, part: str = "ttft_ms") -> Spread:
        """Summarise a part of the samples."""
        return Spread.of([getattr(sample, part) for sample in self._samples[key]])

    def ratio(self, above: Key, below: Key) -> float:
        """Return the median ratio of the times to the first token."""
        pairs = zip(self._samples[above], self._samples[below], strict=True)
        return Spread.of([one.ttft_ms / other.ttft_ms for one, other in pairs]).median

    def reasons(self) -> dict[str, int]:
        """Count why sequences were evaluated again, alone."""
        counts: dict[str, int] = {}
        for samples in self._samples.values():
            for reason in (sample.reason for sample in samples if sample.reason):
                counts[reason] = counts.get(reason, 0) + 1
        return counts

    def to_json(self) -> dict[str, Any]:
        """Return every summary."""
        parts = ("ttft_ms", "total_ms", "load_ms", "written_bytes", "read_bytes")
        counts = ("kept_tokens", "reused_tokens", "prefilled_tokens")
        return {
            f"{key.way.name}/{key.length}/{key.side}/{key.state}": {
                **{part: self.spread(key, part).to_json() for part in parts},
                **{part: tidy(self.spread(key, part).median) for part in counts},
            }
            for key in self
        }
