"""Asks every peer everything, interleaved round by round; the first round is not kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from ..ipc.calls import Record
from ..processes import CAN_PIN, Subject, on_one_cpu
from ..texts import Batch, Texts
from .entrant import Entrant
from .measures import ECHO_BYTES, FREE, MEASURES, PINNED, TEXTS, Measure, Plan
from .roster import OURS, PEERS

_WARM_UP_MS: Final = 400
_WARM_UP_TEXTS: Final = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has found: all values by name, and the entrants with their failures."""

    record: Record
    entrants: list[Entrant]


def run(plan: Plan) -> Outcome:
    """Measure every peer."""
    texts, record = Texts(), Record()
    entrants = [Entrant(peer) for peer in (OURS, *PEERS)]
    for _ in range(plan.sittings):
        with _running(entrants):
            _sitting(record, entrants, plan, texts)
    return Outcome(record, entrants)


def _sitting(record: Record, entrants: Sequence[Entrant], plan: Plan, texts: Texts) -> None:
    """Measure in all rounds while the same processes are alive."""
    for entrant in entrants:
        _warm_up(entrant, texts.batch(_WARM_UP_TEXTS))
    for index in range(plan.rounds + 1):
        record.is_kept = index > 0
        first = index % len(entrants)
        turned = [*entrants[first:], *entrants[:first]]
        for place in (PINNED, FREE) if CAN_PIN else (FREE,):
            batches = [texts.batch(TEXTS) for _ in range(plan.batches)]
            _round(Round(record, place, plan, batches), turned)


@contextmanager
def _running(entrants: Sequence[Entrant]) -> Iterator[None]:
    """Start all of them at once; one that does not come up only carries its reason."""
    try:
        for entrant in entrants:
            entrant.start()
        for entrant in entrants:
            if not entrant.is_floor:
                entrant.ask("ready")
        yield
    finally:
        for entrant in entrants:
            entrant.close()


def _warm_up(entrant: Entrant, batch: Batch) -> None:
    """Let the JIT settle: a host lives for hours, this run for seconds."""
    kind = entrant.echo_kind
    for depth in (100, 1):
        entrant.ask("saturate", kind=kind, bytes=ECHO_BYTES, depth=depth, ms=_WARM_UP_MS)
    if not entrant.is_floor:
        entrant.ask("tokenizeAll", texts=batch.texts, ids=batch.ids)
        entrant.ask("stream", count=_WARM_UP_TEXTS, times=2)


@dataclass(frozen=True, slots=True)
class Round:
    """One round in one place, the same for every entrant."""

    record: Record
    place: str
    plan: Plan
    batches: Sequence[Batch]

    def measure(self, entrant: Entrant, measure: Measure) -> None:
        """Ask one entrant one thing and keep its value."""
        for parameters in self._parameters(entrant, measure):
            answer = entrant.ask(measure.operation, **parameters)
            if answer is not None:
                name = measure.name(entrant.peer.name, self.place)
                self.record.add(name, answer[measure.part])

    def _parameters(self, entrant: Entrant, measure: Measure) -> list[dict[str, Any]]:
        chosen = measure.parameters(self.plan)
        if "kind" in chosen:
            return [{**chosen, "kind": entrant.echo_kind}]
        if "texts" in chosen:
            batches = self.batches if measure.is_parallel else self.batches[:1]
            return [batch.first(chosen["texts"]) for batch in batches]
        return [chosen]


def _round(this: Round, entrants: Sequence[Entrant]) -> None:
    """Measure each entrant once."""
    alive = _alive(entrants)
    with on_one_cpu(alive) if this.place == PINNED else nullcontext():
        for entrant in entrants:
            for measure in MEASURES[:2] if entrant.is_floor else MEASURES:
                if this.place == FREE or not measure.is_parallel:
                    this.measure(entrant, measure)
        # One that has ended in between can no longer be moved.
        alive[:] = _alive(entrants)


def _alive(entrants: Sequence[Entrant]) -> list[Subject]:
    return [entrant.subject for entrant in entrants if entrant.subject is not None]
