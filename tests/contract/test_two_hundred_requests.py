"""200 random requests at once give each the tokens that it has alone in a process of its own."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from isthmus import host
from isthmus.errors import DeadlineExceeded
from isthmus.limits import RUNNING_LIMIT
from isthmus.models import BUILTIN_ROOT
from tests.contract.random_requests import ENDLESS, Case, Reader, random_cases
from tests.contract.waiting import settled
from tests.fixtures.oracle import Answer, ask_alone

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEED: Final = 20
COUNT: Final = 200
AT_ONCE: Final = RUNNING_LIMIT + 8
"""In flight; some of them wait in the queue."""

PAUSE_PINGS: Final = 40
"""How often the runtime is asked for its health while a slow reader reads nothing."""

DEADLINE_S: Final = 120.0
"""Never reached when all is well."""


class Floor:
    """Lets the next request in when others have moved on: every delta and every end counts."""

    def __init__(self) -> None:
        self.running = 0
        self._moves = 0
        self._moved = asyncio.Event()

    def move(self) -> None:
        """Something happened to a request."""
        self._moves += 1
        self._moved.set()

    async def wait(self, moves: int) -> None:
        """Wait until so many more things have happened, or nobody is left."""
        goal = self._moves + moves
        while self.running >= AT_ONCE or (self.running and self._moves < goal):
            self._moved.clear()
            await self._moved.wait()


class Play:
    """One case against a runtime.

    Args:
        case: What is requested.
        alone: What it gives alone.
        models: By the names that cases have for them, and the draft model.
        runtime: Where they are.
        floor: Told of everything that happens.
    """

    def __init__(
        self,
        case: Case,
        alone: Answer,
        models: dict[str, host.Model],
        runtime: host.Runtime,
        floor: Floor,
    ) -> None:
        self.case, self.alone = case, alone
        self.stop = ""
        if case.stop is not None:
            start, length = case.stop
            self.stop = alone.text[start : start + length]
        self.ids: list[int] = []
        self.result: host.GenerationResult | None = None
        self.error: DeadlineExceeded | None = None
        self._models, self._runtime, self._floor = models, runtime, floor

    async def run(self) -> None:
        """Request it, and read it as its reader does."""
        try:
            generation = self._start()
            if await self._read(generation):
                self.result = await generation
        except DeadlineExceeded as error:
            self.error = error
        finally:
            self._floor.running -= 1
            self._floor.move()

    def _start(self) -> host.Generation:
        case, options = self.case, dict(self.case.options)
        if options.pop("draft_model", False):
            options["draft_model"] = self._models["draft"]
        if case.wanted.response_format is not None:
            options["response_format"] = case.wanted.response_format
        if isinstance(case.wanted.prompt, str):
            options["prompt"] = case.wanted.prompt
        else:
            options["ids"] = case.wanted.prompt
        if self.stop:
            options["stop"] = [self.stop]
        is_late = case.reader is Reader.IS_LATE
        return self._models[case.model].generate(
            max_tokens=ENDLESS if is_late else case.wanted.max_tokens,
            ignore_eos=case.wanted.ignore_eos,
            deadline_ms=case.deadline_ms,
            **case.wanted.sampling,
            **options,
        )

    async def _read(self, generation: host.Generation) -> bool:
        """Read the deltas; return whether a result is to follow."""
        reader, has_acted = self.case.reader, False
        if reader is Reader.CANCELS and self.case.patience == 0:
            generation.cancel()
        async for delta in generation:
            self._floor.move()
            self.ids += delta.ids
            if has_acted or len(self.ids) < self.case.patience:
                continue
            has_acted = True
            if reader is Reader.LEAVES:
                return False
            if reader is Reader.CANCELS:
                generation.cancel()
            elif reader is Reader.IS_SLOW:
                for _ in range(PAUSE_PINGS):
                    await self._runtime.ping()
        return True

    @property
    def is_cut(self) -> bool:
        """Whether it ended before its end: by its reader, or by its deadline."""
        return self.result is None or self.result.finish_reason == "cancelled"

    def expected(self) -> Answer:
        """Return what it gives alone, up to its stop string."""
        assert self.result is not None
        if not self.stop:
            return self.alone
        text = self.alone.text[: self.alone.text.index(self.stop)]
        is_complete = None if self.alone.is_complete is None else False
        # How many tokens brought the stop string follows from the text: those that came count.
        return Answer(self.alone.ids[: len(self.result.ids)], text, "stop", is_complete)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plays(
    runtime: host.Runtime, model: host.Model, tiny: host.Model, tiny_folder: Path
) -> list[Play]:
    """All of them, played."""
    draft = await runtime.load_model("default-draft")
    models = {"chat": model, "tiny": tiny, "draft": draft}
    played = await play(runtime, models, tiny_folder, SEED)
    await draft.unload()
    return played


async def play(
    runtime: host.Runtime, models: dict[str, host.Model], tiny_folder: Path, seed: int
) -> list[Play]:
    """Play random cases, once the oracle has said what each gives alone."""
    cases = random_cases(seed, COUNT)
    folders = {"chat": BUILTIN_ROOT / "chat", "tiny": tiny_folder}
    alone = {
        name: iter(ask_alone(folder, [case.wanted for case in cases if case.model == name]))
        for name, folder in folders.items()
    }
    floor, rng = Floor(), random.Random(seed)
    played = [Play(case, next(alone[case.model]), models, runtime, floor) for case in cases]
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for each in played:
            await floor.wait(rng.choice((0, 0, 0, 1, 5, 20)))
            floor.running += 1
            group.create_task(each.run())
    return played


async def test_each_gives_the_tokens_that_it_gives_alone(plays: list[Play]) -> None:
    whole = [play for play in plays if not play.is_cut]
    assert len(whole) > COUNT // 2
    for play in whole:
        result = play.result
        assert result is not None
        made = Answer(result.ids, result.text, result.finish_reason, result.is_complete)
        assert made == play.expected(), play.case
        assert result.usage.completion_tokens == len(result.ids)


async def test_who_leaves_or_cancels_had_the_beginning_of_them(plays: list[Play]) -> None:
    cut = [play for play in plays if play.is_cut and play.error is None]
    assert {play.case.reader for play in cut} == {Reader.CANCELS, Reader.LEAVES}
    for play in cut:
        assert play.ids == play.alone.ids[: len(play.ids)], play.case
    assert len({len(play.ids) for play in cut}) > 2


async def test_a_deadline_that_passes_is_an_error_with_what_came_before_it(
    plays: list[Play],
) -> None:
    late = [play for play in plays if play.case.reader is Reader.IS_LATE]
    assert [play for play in plays if play.error is not None] == late
    for play in late:
        assert play.error is not None
        details: dict[str, Any] = play.error.details
        known = min(len(play.ids), len(play.alone.ids))
        assert play.ids[:known] == play.alone.ids[:known], play.case
        assert details["partial"]["ids"] == play.ids
        assert details["completion_tokens"] == len(play.ids)
        assert play.error.phase in ("queue", "prefill", "decode")


async def test_nothing_is_left_of_them(runtime: host.Runtime, plays: list[Play]) -> None:
    assert len(plays) == COUNT
    await settled(runtime)


async def test_passes_were_shared_prompts_reused_and_tokens_drafted(
    runtime: host.Runtime, plays: list[Play]
) -> None:
    results = [(play.case.model, play.result) for play in plays if play.result is not None]
    states = Counter(
        (model, result.batching["state"]) for model, result in results if result.batching
    )
    blas: Any = runtime.hello["blas"]
    if blas["path"] is not None:
        assert states["chat", "batched"] > COUNT // 8
    assert states["tiny", "alone"] > COUNT // 10
    assert sum(result.usage.cached_tokens > 0 for _, result in results) > COUNT // 10
    drafted = [result.speculation for _, result in results if result.speculation is not None]
    assert {each["kind"] for each in drafted if each["rounds"]} == {"draft_model", "prompt_lookup"}
