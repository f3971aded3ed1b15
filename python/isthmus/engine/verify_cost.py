"""Whether speculation pays: what passes cost on this machine, and the speed-up that follows.

Verifying k drafted tokens costs one pass of k + 1 rows, which may be far dearer than a pass of one.
So the costs are measured, with short caches, and the rest is arithmetic: the expected speed-up of
Leviathan et al. 2023 (arXiv 2211.17192), and the acceptance from which it exceeds 1. Measuring is
called on the engine thread only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import mlx.core as mx
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

from .speculation import expected_tokens

_CONTEXT_TOKENS: Final = 16
"""Tokens in the caches while it is measured: enough that attention has something to do."""

_REPEATS: Final = 7
"""Measured rounds after the first, which is dropped: it compiles and allocates."""

_BISECTIONS: Final = 50
"""Halvings of the acceptance: the rest is below what a double tells apart."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians in milliseconds: of one token of the target, of verifying a draft with the target,
    and of one token of the draft model."""

    target_step_ms: float
    verify_ms: float
    draft_step_ms: float


class CostMeasurement:
    """Measures the passes of speculation, one in a step.

    Args:
        target_network: The mlx-lm model that verifies.
        draft_network: The one that drafts.
        vocab_size: Token ids below this are fed to both.
        draft_tokens: Drafted tokens of a round, at least one.
        repeats: Rounds that count.
        clock: Seconds.
    """

    def __init__(
        self,
        target_network: Any,
        draft_network: Any,
        vocab_size: int,
        draft_tokens: int,
        repeats: int = _REPEATS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._networks = (target_network, target_network, draft_network)
        self._widths = (1, draft_tokens + 1, 1)
        self._vocab_size = vocab_size
        self._repeats = repeats
        self._clock = clock
        self._work = self._measure()
        self.costs: Costs | None = None
        """The result, once `step` has returned True."""

    def step(self) -> bool:
        """Do one pass; return whether all is done."""
        with mx.stream(generation_stream):
            next(self._work, None)
        return self.costs is not None

    def _measure(self) -> Iterator[None]:
        caches = []
        for network in self._networks:
            caches.append(make_prompt_cache(network))
            self._pass(network, caches[-1], _CONTEXT_TOKENS)
            yield
        times: tuple[list[float], ...] = ([], [], [])
        for _ in range(self._repeats + 1):
            for kind, network in enumerate(self._networks):
                started = self._clock()
                self._pass(network, caches[kind], self._widths[kind])
                times[kind].append((self._clock() - started) * 1_000)
                # A cache that cannot be cut back grows by the few tokens that are measured.
                if can_trim_prompt_cache(caches[kind]):
                    trim_prompt_cache(caches[kind], self._widths[kind])
                if kind < 2 or len(times[kind]) <= self._repeats:
                    yield
        self.costs = Costs(*(median(kept[1:]) for kept in times))

    def _pass(self, network: Any, cache: list[Any], tokens: int) -> None:
        ids = mx.array([[token % self._vocab_size for token in range(tokens)]])
        mx.eval(mx.argmax(network(ids, cache=cache), axis=-1), [entry.state for entry in cache])


def expected_speedup(acceptance: float, draft_tokens: int, costs: Costs) -> float:
    """Return how many times faster speculation emits tokens than the target alone.

    Args:
        acceptance: Chance that a drafted token is accepted, from 0 to 1.
        draft_tokens: Drafted tokens of a round.
    """
    round_ms = draft_tokens * costs.draft_step_ms + costs.verify_ms
    return expected_tokens(acceptance, draft_tokens) * costs.target_step_ms / round_ms


def break_even_acceptance(draft_tokens: int, costs: Costs) -> float | None:
    """Return the acceptance from which speculation is no slower, from 0 to 1; None if it always
    is."""
    if expected_speedup(1.0, draft_tokens, costs) < 1.0:
        return None
    if expected_speedup(0.0, draft_tokens, costs) >= 1.0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if expected_speedup(middle, draft_tokens, costs) < 1.0:
            low = middle
        else:
            high = middle
    return high
