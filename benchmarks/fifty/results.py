"""What the passes come to: for each model, number at once and side, its passes by round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, NamedTuple

from ..harness import percentile, tidy
from .sides import Answer, Pass


class Key(NamedTuple):
    """Whose passes."""

    model: str
    at_once: int
    side: str


@dataclass(frozen=True, slots=True)
class Summary:
    """All answers of a key in numbers; the throughput is the median over rounds."""

    response_ms: dict[str, float]
    ttft_ms: dict[str, float]
    first_text_ms: dict[str, float]
    answer_tokens_per_s: dict[str, float]
    tokens_per_s: float
    wall_s: float
    answers: int
    tokens: int
    bytes_sent: int
    bytes_received: int
    prompt_tokens_cached: float

    def to_json(self) -> dict[str, Any]:
        """Return it for the detail."""
        return {name: getattr(self, name) for name in self.__slots__}


class Results:
    """Collects passes; the questions of one model, number at once and round are the same for every
    side and in the same order."""

    def __init__(self) -> None:
        self._passes: defaultdict[Key, list[Pass]] = defaultdict(list)

    def add(self, key: Key, done: Pass) -> None:
        """Keep a pass of the next round."""
        self._passes[key].append(done)

    def __iter__(self) -> Iterator[Key]:
        """Go through whose passes there are, in the order they came."""
        return iter(self._passes)

    def throughput(self, key: Key) -> float:
        """Return tokens a second of all answers together, the median over rounds."""
        return median(each.tokens / each.wall_s for each in self._passes[key])

    def values(self, key: Key, read: Callable[[Answer], float]) -> list[float]:
        """Return a value of every answer of every round."""
        return [read(answer) for each in self._passes[key] for answer in each.answers]

    def by_question(self, key: Key) -> dict[str, list[float]]:
        """Return what each question took, in the order in which they were asked; medians over
        rounds."""
        rows = list(zip(*(each.answers for each in self._passes[key]), strict=True))
        return {
            "response_ms": [tidy(median(answer.response_ms for answer in row)) for row in rows],
            "ttft_ms": [tidy(median(answer.ttft_ms for answer in row)) for row in rows],
            "tokens_per_s": [tidy(median(map(_rate, row))) for row in rows],
        }

    def summary(self, key: Key) -> Summary:
        """Summarise the passes of a key."""
        passes = self._passes[key]
        rates = self.values(key, _rate)
        return Summary(
            response_ms=spread(self.values(key, lambda answer: answer.response_ms)),
            ttft_ms=spread(self.values(key, lambda answer: answer.ttft_ms)),
            first_text_ms=spread(self.values(key, lambda answer: answer.first_text_ms)),
            answer_tokens_per_s=spread(rates),
            tokens_per_s=tidy(self.throughput(key)),
            wall_s=tidy(median(each.wall_s for each in passes)),
            answers=len(rates),
            tokens=sum(each.tokens for each in passes),
            bytes_sent=sum(each.bytes_sent for each in passes),
            bytes_received=sum(each.bytes_received for each in passes),
            prompt_tokens_cached=tidy(fmean(self.values(key, lambda each: each.cached_tokens))),
        )


def _rate(answer: Answer) -> float:
    return answer.tokens * 1e3 / answer.response_ms


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the mean, the median and the two high percentiles."""
    return {
        "mean": tidy(fmean(values)),
        "median": tidy(median(values)),
        "p95": tidy(percentile(values, 0.95)),
        "p99": tidy(percentile(values, 0.99)),
    }


class Equality:
    """Counts the greedy answers whose ids are those of `stream_generate`."""

    def __init__(self) -> None:
        self._counts: dict[Key, tuple[int, int]] = {}

    def add(self, key: Key, ids: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> None:
        """Compare the answers of a key with the right ones."""
        pairs = list(zip(ids, right, strict=True))
        self.count(key, sum(one == other for one, other in pairs), len(pairs))

    def count(self, key: Key, equal: int, total: int) -> None:
        """Count answers of a key that have been compared elsewhere."""
        self._counts[key] = (equal, total)

    def share(self, sides: Sequence[str]) -> float:
        """Return the share of equal answers of some sides, all models and numbers together."""
        counts = [count for key, count in self._counts.items() if key.side in sides]
        return sum(equal for equal, _ in counts) / sum(total for _, total in counts)

    def to_json(self) -> dict[str, str]:
        """Return what was counted."""
        return {
            f"{key.model}/{key.at_once}/{key.side}": f"{equal} of {total}"
            for key, (equal, total) in self._counts.items()
        }
