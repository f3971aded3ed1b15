"""How many tokens to draft, and drafts from the text so far; plain arithmetic, no model, no clock.

The length of a draft follows measured costs and the generation's running acceptance: of all lengths
the one that emits most tokens a second, by the expected tokens of a round of Leviathan et al. 2023
(arXiv 2211.17192). Where none beats a plain step there are plain steps, and a probing round now and
then, which together may cost a small share of the time. Prompt look-up (Saxena 2023) drafts what
followed the last time that the text went as it goes now. Given the same inputs the answers are the
same.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from statistics import median_low
from typing import Final

_SAMPLES: Final = 9
"""Measured times whose median counts: few, because costs grow with the context."""

_TRUSTED_SAMPLES: Final = 3
"""Samples from which a median leaves out an outlier."""

_MARGIN: Final = 1.05
"""How much faster than plain steps speculation has to be expected to be."""

_FIRST_DRAFT: Final = 2
"""Drafted tokens of the first round; later ones at most double what was measured."""

_PRIOR_ACCEPTED: Final = 3.2
_PRIOR_REJECTED: Final = 0.8
"""What a generation begins with: as if four of five tokens had been accepted."""

_MEMORY: Final = 0.9
"""Weight of the past, for each round: about the last ten rounds count."""

_ROUNDS_WITHOUT_STEP: Final = 32
"""After so many rounds a plain step is measured again: its cost changes with the machine's load,
and all is compared with it."""

_PROBE_DISTANCE: Final = 16
"""Plain tokens before the first probing round; the distance doubles with each that fails."""

_PROBE_SHARE: Final = 0.03
"""Of a generation's time, that probing rounds may lose."""


def expected_tokens(acceptance: float, draft_tokens: int) -> float:
    """Return how many tokens a round emits: (1 - a^(k+1)) / (1 - a), Leviathan et al. 2023,
    theorem 3.8.

    Args:
        acceptance: Chance that a drafted token is accepted, from 0 to 1.
        draft_tokens: Drafted tokens of a round, k.
    """
    tokens = power = 1.0
    for _ in range(draft_tokens):
        power *= acceptance
        tokens += power
    return tokens


class SpeculationCosts:
    """What steps and rounds of a pair of target and draft take; shared by its generations.

    Medians of the last samples, in seconds. A pass of as many rows as were not measured yet is
    taken to lie on a line through the plain step.

    Attributes:
        step_s: Of a plain step; None while too few are measured.
        most_drafted: Drafted tokens of the longest measured round.
    """

    def __init__(self) -> None:
        self.step_s: float | None = None
        self.most_drafted = 0
        self._steps = _samples()
        self._draft_steps = _samples()
        self._draft_bound_s = math.inf
        self._slopes = _samples()
        self._passes: defaultdict[int, deque[float]] = defaultdict(_samples)

    def add_step(self, seconds: float) -> None:
        """Take the time of a plain step."""
        self._steps.append(seconds)
        if len(self._steps) >= _TRUSTED_SAMPLES:
            self.step_s = median_low(self._steps)

    def add_round(
        self, drafted: int, draft_seconds: float, verify_seconds: float, has_caught_up: bool
    ) -> None:
        """Take the times of a round.

        Args:
            has_caught_up: Whether drafting was all that the draft had to do; otherwise its time is
                no more than a bound, because it had tokens to evaluate first.
        """
        draft_step = draft_seconds / drafted
        if has_caught_up or draft_step < self.draft_step_s:
            self._draft_steps.append(draft_step)
        self._draft_bound_s = min(self._draft_bound_s, draft_step)
        self._passes[drafted].append(verify_seconds)
        if self.step_s is not None:
            self._slopes.append(max(verify_seconds - self.step_s, 0.0) / drafted)
        self.most_drafted = max(self.most_drafted, drafted)

    @property
    def draft_step_s(self) -> float:
        """Of one drafted token; 0 while it is not known."""
        return median_low(self._draft_steps) if self._draft_steps else 0.0

    @property
    def draft_bound_s(self) -> float:
        """Of one drafted token, at most."""
        return self.draft_step_s if self._draft_steps else self._draft_bound_s

    @property
    def row_s(self) -> float:
        """Of one more row in a pass of the target; 0 while it is not known."""
        return median_low(self._slopes) if self._slopes else 0.0

    def round_s(self, drafted: int) -> float:
        """Of a round; not before a plain step is known."""
        assert self.step_s is not None
        passes = self._passes.get(drafted, ())
        if len(passes) >= _TRUSTED_SAMPLES:
            verify_s = median_low(passes)
        else:
            verify_s = self.step_s + drafted * self.row_s
        return drafted * self.draft_step_s + verify_s


class DraftLength:
    """Says for one generation how many tokens to draft.

    Args:
        costs: Of the pair of target and draft.
        limit: Most drafted tokens of a round.

    Attributes:
        rounds: Rounds with a draft, so far.
        drafted: Their drafted tokens.
        accepted: Those of them that were accepted.
    """

    def __init__(self, costs: SpeculationCosts, limit: int) -> None:
        self.rounds = self.drafted = self.accepted = 0
        self._costs = costs
        self._limit = limit
        self._hits, self._misses = _PRIOR_ACCEPTED, _PRIOR_REJECTED
        self._tokens, self._seconds = 0, 0.0
        self._plain_tokens = 0
        self._rounds_since_step = 0
        self._is_probing = False
        self._distance = _PROBE_DISTANCE
        self._wait = 0
        self._lost_s = 0.0

    @property
    def acceptance_rate(self) -> float:
        """The share of all drafted tokens that was accepted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def speedup(self) -> float | None:
        """Tokens a second of this generation, as a multiple of plain steps; None while there is
        nothing to compare."""
        if self._costs.step_s is None or self._seconds <= 0.0:
            return None
        return self._tokens * self._costs.step_s / self._seconds

    def next(self, room: int) -> int:
        """Return how many tokens to draft in the next round, up to `room`; 0 is a plain step."""
        self._is_probing = False
        most = min(room, self._limit)
        if most < 1 or self._costs.step_s is None:
            return 0
        if self._rounds_since_step >= _ROUNDS_WITHOUT_STEP:
            return 0
        if self._costs.most_drafted == 0:
            return min(_FIRST_DRAFT, most)
        fastest = self._fastest(min(most, 2 * self._costs.most_drafted))
        if fastest == 0 and self._may_probe(self._costs.step_s):
            self._is_probing = True
            return 1
        return fastest

    def plain(self, seconds: float) -> None:
        """Take note that a plain step took so long."""
        self._costs.add_step(seconds)
        self._rounds_since_step = 0
        self._took(1, seconds)
        self._plain_tokens += 1

    def round(
        self, drafted: int, accepted: int, draft_seconds: float, verify_seconds: float
    ) -> None:
        """Take note of a round; one without a draft counts as a plain step of unknown cost."""
        seconds = draft_seconds + verify_seconds
        self._took(accepted + 1, seconds)
        if drafted == 0:
            self._plain_tokens += 1
            return
        has_caught_up = self.rounds > 0 and self._plain_tokens == 0
        self._costs.add_round(drafted, draft_seconds, verify_seconds, has_caught_up)
        self.rounds += 1
        self.drafted += drafted
        self.accepted += accepted
        self._hits = _MEMORY * self._hits + accepted
        self._misses = _MEMORY * self._misses + (accepted < drafted)
        self._rounds_since_step += 1
        self._plain_tokens = 0
        if self._is_probing and accepted < drafted:
            self._distance = self._wait = 2 * self._distance
        else:
            # A probe that succeeds is followed by the next one at once.
            self._distance = _PROBE_DISTANCE
            self._wait = 0 if self._is_probing else _PROBE_DISTANCE
        if self._is_probing and self._costs.step_s is not None:
            self._lost_s += max(seconds - (accepted + 1) * self._costs.step_s, 0.0)

    def _took(self, tokens: int, seconds: float) -> None:
        self._tokens += tokens
        self._seconds += seconds

    def _fastest(self, most: int) -> int:
        """Return the draft length that is expected to emit most tokens a second."""
        acceptance = self._hits / (self._hits + self._misses)
        step_s = self._costs.step_s
        assert step_s is not None
        fastest, rate = 0, _MARGIN / max(step_s, 1e-9)
        for drafted in range(1, most + 1):
            round_s = max(self._costs.round_s(drafted), 1e-9)
            if expected_tokens(acceptance, drafted) / round_s > rate:
                fastest, rate = drafted, expected_tokens(acceptance, drafted) / round_s
        return fastest

    def _may_probe(self, step_s: float) -> bool:
        """Whether it is time for a probing round, and the time that it may lose is at hand."""
        if self._plain_tokens < self._wait:
            return False
        # The draft evaluates first what was emitted without it; its rows may cost as the target's.
        rows_s = self._plain_tokens * self._costs.draft_bound_s
        catching_up_s = rows_s * min(self._costs.row_s / max(step_s, 1e-9), 1.0)
        loss_s = self._costs.round_s(1) - step_s + catching_up_s
        return self._lost_s + loss_s <= _PROBE_SHARE * self._seconds


class PromptLookup:
    """Drafts from the text so far, by where its last few tokens stood before.

    Args:
        tokens: The text.
    """

    _LENGTHS: Final = (3, 2)
    """Tokens that have to agree, the more the better."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add what was emitted; the same work for each token, however long the text is."""
        for token in tokens:
            # What ends before this token has a continuation now.
            for length in self._LENGTHS:
                if len(self._tokens) >= length:
                    self._next[tuple(self._tokens[-length:])] = len(self._tokens)
            self._tokens.append(token)

    def propose(self, count: int) -> list[int]:
        """Return up to `count` tokens that followed the last earlier time; none if it is new.

        A continuation that reaches the end of the text goes on from its own beginning.
        """
        for length in self._LENGTHS:
            if len(self._tokens) < length:
                continue
            start = self._next.get(tuple(self._tokens[-length:]))
            if start is not None:
                period = len(self._tokens) - start
                return [self._tokens[start + place % period] for place in range(count)]
        return []


def _samples() -> deque[float]:
    return deque(maxlen=_SAMPLES)
