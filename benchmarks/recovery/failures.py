"""What injected failures cost a caller, with the layer and without.

One runtime, the model `default-draft`, generations of one token, one after the other. A share of
them fails before its token. With the layer the failure is one that passes, which the runtime tries
again by itself. Without it, the failure is one that the runtime hands to its caller, who does what
callers without a layer do: rests 100 ms and asks again, as often as the layer would. Both sides
take turns in short rounds.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

from isthmus.errors import IsthmusError
from isthmus.host import Model, Runtime, start
from isthmus.limits import RETRY_ATTEMPTS

from ..harness import tidy

RATES: Final = (0.0, 0.05, 0.10, 0.20)
"""Shares of the attempts that fail."""

_NAIVE_WAIT_S: Final = 0.1
"""The fixed rest of a caller without the layer."""

_ROUND_CALLS: Final = 25


@dataclass(slots=True)
class Side:
    """What one side has met at one rate."""

    seconds: list[float] = field(default_factory=list)
    lost: int = 0

    @property
    def mean_ms(self) -> float:
        """Mean time of a call, from when its caller asks until it has an answer or gives up."""
        return sum(self.seconds) / len(self.seconds) * 1_000

    @property
    def completed(self) -> float:
        """Share of the calls that were answered."""
        return 1 - self.lost / len(self.seconds)


Sides = dict[tuple[float, bool], Side]
"""By the rate, and whether it is with the layer."""


def measure(rounds: int) -> tuple[Sides, dict[str, Any]]:
    """Return what each side met, and the runtime's counters of retries."""
    return asyncio.run(_measure(rounds))


def penalty_ms(sides: Sides, rate: float, is_layered: bool) -> float:
    """Return how much longer a call takes on average than where nothing fails, which is the same
    for both sides."""
    sound_ms = (sides[0.0, True].mean_ms + sides[0.0, False].mean_ms) / 2
    return sides[rate, is_layered].mean_ms - sound_ms


def table(sides: Sides) -> list[dict[str, float]]:
    """Return a row for each rate."""
    rows = []
    for rate in RATES:
        row = {"failing": rate}
        for name, is_layered in (("with", True), ("without", False)):
            side = sides[rate, is_layered]
            row |= {
                f"completed_{name}": tidy(side.completed),
                f"mean_ms_{name}": tidy(side.mean_ms),
                f"penalty_ms_{name}": tidy(penalty_ms(sides, rate, is_layered)),
            }
        rows.append(row)
    return rows


async def _measure(rounds: int) -> tuple[Sides, dict[str, Any]]:
    sides: Sides = {(rate, way): Side() for rate in RATES for way in (True, False)}
    # The fault is armed for each round anew, with a seed of its own.
    async with await start(runtime_args=("--faults",)) as runtime:
        model = await runtime.load_model("default-draft")
        for index in range(rounds + 1):
            order = list(sides)
            # Each has its turn at each place: the machine is not the same all the time.
            turn = index % len(order)
            for rate, is_layered in order[turn:] + order[:turn]:
                side = Side()
                await _arm(runtime, rate, is_layered, index)
                for _ in range(_ROUND_CALLS):
                    await _call(model, side, is_layered)
                if index > 0:
                    kept = sides[rate, is_layered]
                    kept.seconds += side.seconds
                    kept.lost += side.lost
        retries = (await runtime.stats())["retries"]
    return sides, dict(retries)


async def _arm(runtime: Runtime, rate: float, is_layered: bool, seed: int) -> None:
    await runtime.clear_faults()
    code = "UNAVAILABLE" if is_layered else "INTERNAL"
    if rate:
        await runtime.inject_fault(f"engine.token:fail:code={code},probability={rate},seed={seed}")


async def _call(model: Model, side: Side, is_layered: bool) -> None:
    attempts = 1 if is_layered else RETRY_ATTEMPTS
    began = time.perf_counter()
    for left in reversed(range(attempts)):
        try:
            await model.generate("Isthmus", max_tokens=1, ignore_eos=True)
            break
        except IsthmusError:
            if left == 0:
                side.lost += 1
            else:
                await asyncio.sleep(_NAIVE_WAIT_S)
    side.seconds.append(time.perf_counter() - began)
