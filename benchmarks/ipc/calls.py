"""Calls without a model's work: a lone echo, many in flight, their cost, streams, a large message.

Every comparison is a ratio of two figures of the same round; the median over rounds is reported.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from ..harness import Figure, Spread
from ..processes import CAN_PIN, Subject, cpu_seconds, descendants, on_one_cpu
from . import subjects

SIZES: Final = (64, 2_048, 65_536)
DEPTHS: Final = (1, 10, 100, 1_000)
TEXT: Final = "The quick brown fox jumps over the lazy dog. "
LARGE_BYTES: Final = 16 * 1024 * 1024 - 1_024
"""16 MiB together with its envelope: the longest single frame."""

_WARM_UP_MS: Final = 200
_STREAM_CHUNKS: Final = 1_000
_LONG_STREAM_CHUNKS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    matrix_rounds: int
    lone_calls: int
    saturate_ms: int
    cost_calls: int
    large_times: int


QUICK: Final = Plan(4, 1, 200, 40, 50_000, 2)
FULL: Final = Plan(20, 8, 1_000, 200, 100_000, 5)


class Record:
    """Values by name, one a round; the first round is not kept."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[float]] = defaultdict(list)
        self.is_kept = False

    def add(self, name: str, value: float) -> None:
        """Keep a value of this round."""
        if self.is_kept:
            self._values[name].append(value)

    def spread(self, name: str) -> Spread:
        """Summarise the values of a name."""
        return Spread.of(self._values[name])

    def ratio(self, above: str, below: str) -> Spread:
        """Summarise the ratios of two names' values of the same rounds."""
        pairs = zip(self._values[above], self._values[below], strict=True)
        return Spread.of([one / other for one, other in pairs])

    def to_json(self) -> dict[str, dict[str, float]]:
        """Return every summary."""
        return {name: Spread.of(values).to_json() for name, values in self._values.items()}


Place = tuple[str, AbstractContextManager[None]]


def measure(plan: Plan) -> tuple[list[Figure], dict[str, Any]]:
    """Measure everything of this module; return figures and detail."""
    with (
        subjects.isthmus() as ours,
        subjects.isthmus(runtimeArgs=subjects.SINGLE_FRAME) as single,
        subjects.raw() as raw,
        subjects.textbook() as textbook,
        subjects.serial() as serial,
        subjects.serial("--inline") as inline,
    ):
        peers = {
            "isthmus": ours,
            "raw": raw,
            "textbook": textbook,
            "serial": serial,
            "serial_inline": inline,
        }
        _check_tokenize(ours, single, textbook)
        for name, subject in peers.items():
            _warm_up(name, subject)
        record = Record()
        for index in range(plan.rounds + 1):
            record.is_kept = index > 0
            for place, context in _places(list(peers.values())):
                with context:
                    _round(record, place, peers, plan, index)
                    if index <= plan.matrix_rounds and place == _MAIN_PLACE:
                        _matrix(record, place, peers, plan)
            _large(record, {"isthmus": ours, "single_frame": single}, plan)
        pausing = ours.ask("pausing", count=_LONG_STREAM_CHUNKS, every=100_000, ms=20)
    return _figures(record), {"calls": record.to_json(), "long_stream": pausing}


_MAIN_PLACE: Final = "pinned" if CAN_PIN else "free"


def _places(everyone: Sequence[Subject]) -> list[Place]:
    free: Place = ("free", nullcontext())
    return [("pinned", on_one_cpu(everyone)), free] if CAN_PIN else [free]


def _check_tokenize(ours: Subject, single: Subject, textbook: Subject) -> None:
    for subject in (ours, single):
        subject.ask("load", source="default")
    if ours.ask("ids", text=TEXT) != textbook.ask("ids", text=TEXT):
        raise SystemExit("the two tokenizers differ")


def _warm_up(name: str, subject: Subject) -> None:
    """Let the JIT settle: a host lives for hours, this run for seconds."""
    for kind in _LONE[name]:
        for depth in (1, 100):
            subject.ask("saturate", kind=kind, bytes=64, depth=depth, ms=_WARM_UP_MS)


def _round(record: Record, place: str, peers: dict[str, Subject], plan: Plan, index: int) -> None:
    """Measure each subject once; another one begins every time."""
    names = list(peers)
    for name in names[index % len(names) :] + names[: index % len(names)]:
        _lone(record, place, name, peers[name], plan)
        for kind in _SATURATED[name]:
            answer = peers[name].ask(
                "saturate", kind=kind, bytes=64, depth=100, ms=plan.saturate_ms
            )
            record.add(f"{place}/rps100/{kind}/{name}", answer["rps"])
        if name in ("isthmus", "textbook"):
            _cost(record, place, name, peers[name], plan)
        if name == "isthmus":
            chunks = peers[name].ask("stream", count=_STREAM_CHUNKS, times=10)["perChunk"]
            record.add(f"{place}/stream_us_per_chunk", Spread.of(chunks).median)


_LONE: Final = {
    "isthmus": ("bytes", "text", "tokenize"),
    "raw": ("bytes",),
    "textbook": ("text", "tokenize"),
    "serial": ("text",),
    "serial_inline": ("text",),
}
_SATURATED: Final = {**_LONE, "isthmus": ("text", "tokenize")}


def _lone(record: Record, place: str, name: str, subject: Subject, plan: Plan) -> None:
    for kind in _LONE[name]:
        for size in SIZES if kind != "tokenize" else SIZES[:1]:
            calls = plan.lone_calls // (2 if size == SIZES[-1] else 1)
            answer = subject.ask("lone", kind=kind, bytes=size, calls=calls)
            record.add(f"{place}/lone_p50_us/{kind}{size}/{name}", answer["p50"])
            record.add(f"{place}/lone_p99_us/{kind}{size}/{name}", answer["p99"])


def _cost(record: Record, place: str, name: str, subject: Subject, plan: Plan) -> None:
    """Add up what both sides use of the processor, for each request."""
    children = descendants(subject.pid)
    if not children:
        return
    before = sum(map(cpu_seconds, children))
    calls = plan.cost_calls if name == "isthmus" else plan.cost_calls // 5
    answer = subject.ask("cost", kind="text", bytes=64, depth=100, calls=calls)
    used = sum(map(cpu_seconds, children)) - before
    node, child = answer["cpuUs"] / answer["requests"], used * 1e6 / answer["requests"]
    record.add(f"{place}/cpu_us/node/{name}", node)
    record.add(f"{place}/cpu_us/python/{name}", child)
    record.add(f"{place}/cpu_us/both/{name}", node + child)


def _matrix(record: Record, place: str, peers: dict[str, Subject], plan: Plan) -> None:
    for size in SIZES:
        for depth in DEPTHS:
            for name, kind in (("isthmus", "text"), ("textbook", "text"), ("raw", "bytes")):
                ask = {"kind": kind, "bytes": size, "depth": depth, "ms": plan.saturate_ms}
                answer = peers[name].ask("saturate", **ask)
                record.add(f"{place}/rps/{size}B/{depth}/{name}", answer["rps"])


def _large(record: Record, both: dict[str, Subject], plan: Plan) -> None:
    for name, subject in both.items():
        answer = subject.ask("beside", bytes=LARGE_BYTES, times=plan.large_times)
        for key in ("p50", "p99", "max", "n", "travelMs"):
            record.add(f"beside_16mib/{key}/{name}", answer[key])


def _figures(record: Record) -> list[Figure]:
    place = _MAIN_PLACE

    def lone(size: int) -> float:
        key = f"{place}/lone_p50_us/bytes{size}"
        return record.ratio(f"{key}/isthmus", f"{key}/raw").median

    def rps(other: str) -> float:
        key = f"{place}/rps100/text"
        return record.ratio(f"{key}/isthmus", f"{key}/{other}").median

    figures = [
        Figure("lone_echo_vs_raw", max(lone(64), lone(2_048)), 1.7, "times"),
        Figure("echo64k_vs_raw", lone(65_536), 2.0, "times"),
        Figure("rps100_vs_textbook", rps("textbook"), 1.8, "times", is_least=True),
        Figure("rps100_vs_serial", rps("serial"), 18.0, "times", is_least=True),
        Figure(
            "stream_us_per_chunk", record.spread(f"{place}/stream_us_per_chunk").median, 1, "us"
        ),
        Figure(
            "echo_p99_during_16mib_vs_single_frame",
            record.ratio("beside_16mib/p99/isthmus", "beside_16mib/p99/single_frame").median,
            0.1,
            "times",
        ),
    ]
    if CAN_PIN:
        cost = record.spread(f"{place}/cpu_us/both/isthmus").median
        figures.insert(4, Figure("cpu_us_per_request", cost, 3.0, "us"))
    return figures
