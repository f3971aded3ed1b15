"""Who is asked when: rounds in which every side goes through the states, interleaved.

A round has one cold prefill of each context and side, then the hot turn on what it left; then all
sides' processes are ended and started again, and the warm turn follows. What was written lies in
the page cache. The sides begin in turns, and so do short and long contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .models import Written
from .results import Key, Record, Way
from .sides import FLOOR, NODE, PYTHON, Floor, Isthmus, Side
from .talks import COLD, HOT, STATES, WARM, Talk, talk

STREAMED: Final = Way(1, True)
_OUR_STEP: Final = 512
_MLX_LM_STEP: Final = 2_048


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of one model.

    Attributes:
        lengths: Tokens of the contexts.
        rounds: Besides the first one, which is not kept.
        max_tokens: Of each answer.
        steps: Prompt tokens of a cold pass of mlx-lm: the runtime's and its own default. The one
            that is faster for a context counts.
        has_python: Whether the Python host is asked, too.
        ways: Other ways of asking, from Node.
        way_rounds: Of each of them.
        way_lengths: Of the contexts, those that are asked in other ways.
    """

    lengths: tuple[int, ...]
    rounds: int
    max_tokens: int
    steps: tuple[int, ...] = (_OUR_STEP, _MLX_LM_STEP)
    has_python: bool = False
    ways: tuple[Way, ...] = ()
    way_rounds: int = 0
    way_lengths: tuple[int, ...] = ()


class Sitting:
    """All rounds with one model.

    Args:
        record: Takes what was measured.
        model: What answers.
        plan: What is asked.
        folder: For everybody's files.
    """

    def __init__(self, record: Record, model: Written, plan: Plan, folder: Path) -> None:
        self._record = record
        self._model = model
        self._plan = plan
        self._folder = folder

    def run(self) -> None:
        """Start the sides, measure, end them."""
        names = (NODE, PYTHON) if self._plan.has_python else (NODE,)
        with ExitStack() as stack:
            floor = Floor(self._place("floor"), self._model, self._plan.max_tokens)
            stack.callback(floor.close)
            ours = []
            for number, name in enumerate(names):
                folder = self._place(f"sessions-{number}")
                ours.append(Isthmus(name, folder, self._model, self._plan.max_tokens))
                stack.callback(ours[-1].close)
            self._record.blas |= {side.name: side.blas for side in (*ours, floor)}
            self._choose_steps(floor)
            for index in range(self._plan.rounds + 1):
                self._round([*ours, floor], floor, index)
            for index in range(self._plan.way_rounds):
                self._ways(ours[0], index)

    def _place(self, name: str) -> Path:
        return self._folder / f"{self._model.name}-{name}"

    def _choose_steps(self, floor: Floor) -> None:
        for length in self._plan.lengths:
            self._record.steps[length] = floor.choose_step(talk(length, -1), self._plan.steps)

    def _round(self, everybody: Sequence[Side], floor: Floor, index: int) -> None:
        order = everybody if index % 2 else everybody[::-1]
        lengths = self._plan.lengths if index % 2 else self._plan.lengths[::-1]
        talks = {(side.name, each): talk(each, index) for side in everybody for each in lengths}
        for length in lengths:
            for side in order:
                self._turn(side, COLD, talks[side.name, length], index)
                self._turn(side, HOT, talks[side.name, length], index)
        for side in order:
            side.restart()
        for length in lengths:
            for side in order:
                self._turn(side, WARM, talks[side.name, length], index)
            self._compare([talks[side.name, length] for side in everybody], index)
            if index == 0:
                self._check_uncached(floor, talks[FLOOR, length])
        for side in everybody:
            side.forget([talks[side.name, length] for length in lengths])

    def _turn(self, side: Side, state: str, asked: Talk, index: int) -> None:
        (sample,) = side.turn(state, [asked])
        if index > 0:
            self._record.add(Key(STREAMED, asked.length, side.name, state), sample)

    def _compare(self, talks: Sequence[Talk], index: int) -> None:
        """Compare every answer with those of the first side, and keep them."""
        first = talks[0]
        self._record.answers[first.length, index] = first.answers
        for other in talks[1:]:
            for state, one, same in zip(STATES, first.answers, other.answers, strict=True):
                self._record.compare(f"{first.name}/{state}", one, same)

    def _check_uncached(self, floor: Floor, done: Talk) -> None:
        """Have mlx-lm answer what was answered on a cache without one."""
        answers = self._record.answers[done.length, 0]
        prompt = talk(done.length, 0)
        for state, answer in zip(STATES, answers, strict=True):
            if state != COLD:
                found = floor.uncached(prompt.prompt, done.length)
                self._record.compare(f"{done.name}/{state} uncached", found, answer)
            prompt.answered(answer)

    def _ways(self, node: Side, index: int) -> None:
        """Ask in other ways what was asked before, each way as a tenant that has nothing yet."""
        asked = [
            (way, [talk(length, seed, f"{way.name}-{index}") for seed in self._seeds(way, index)])
            for way in self._plan.ways
            for length in self._plan.way_lengths
        ]
        for way, talks in asked:
            self._turn_way(node, COLD, way, talks)
            self._turn_way(node, HOT, way, talks)
        node.restart()
        for way, talks in asked:
            self._turn_way(node, WARM, way, talks)
            node.forget(talks)

    def _seeds(self, way: Way, index: int) -> list[int]:
        """Return which rounds' conversations are asked at once."""
        return [(index + number) % self._plan.rounds + 1 for number in range(way.at_once)]

    def _turn_way(self, node: Side, state: str, way: Way, talks: list[Talk]) -> None:
        samples = node.turn(state, talks, way.is_streamed)
        for sample in samples:
            self._record.add(Key(way, talks[0].length, node.name, state), sample)
        for each in talks:
            known = self._record.answers[each.length, each.seed][STATES.index(state)]
            self._record.compare(f"{each.name}/{state}", each.answers[-1], known)
