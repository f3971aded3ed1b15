"""The rejection rule gives the model's own distribution, and seeds fix each verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isthmus.engine.draft import DraftItem, Proposal, Verdict, read_proposal
from isthmus.engine.sampling import Sampler, SamplingOptions
from isthmus.errors import InvalidRequest
from tests.python.engine.networks import Table, outcomes, verified

WORDS = 5
TARGET = np.array(
    [
        [0.05, 0.40, 0.25, 0.20, 0.10],
        [0.30, 0.10, 0.10, 0.10, 0.40],
        [0.15, 0.15, 0.50, 0.10, 0.10],
        [0.20, 0.20, 0.20, 0.20, 0.20],
        [0.60, 0.10, 0.10, 0.10, 0.10],
    ]
)
"""The model: the next token by the last one."""

DRAWN_FROM = np.array([0.30, 0.10, 0.35, 0.00, 0.25])
"""What drafts are drawn from, whatever came before; the model's fourth token is never drafted."""

ROUNDS = 6_000
BOUND_4 = 18.5
"""The 99.9 % bound of four degrees of freedom; the seeds are fixed."""


def proposed(draft: list[int]) -> Proposal:
    """Return DRAWN_FROM for each drafted token."""
    rows = [([0, 1, 2, 4], DRAWN_FROM[[0, 1, 2, 4]].tolist()) for _ in draft]
    return read_proposal(draft, rows, WORDS)


def sampled(options: dict[str, Any], has_proposal: bool) -> list[list[int]]:
    """Return what is emitted after token 0 for many drafts of two tokens, each with its seed."""
    rng = np.random.default_rng(17)
    items = []
    for seed in range(ROUNDS):
        draft = rng.choice(WORDS, 2, p=DRAWN_FROM).tolist()
        proposal = proposed(draft) if has_proposal else None
        items.append(
            DraftItem([0], draft, SamplingOptions(seed=seed, **options), 3, None, proposal)
        )
    results = outcomes(verified(Table(TARGET), items, vocab=WORDS))
    return [
        [*item.draft[:accepted], token]
        for item, (accepted, token) in zip(items, results, strict=True)
    ]


def expected_after(last: int, options: dict[str, Any]) -> Any:
    """Return the model's own distribution, with its filters."""
    logprobs = np.log(TARGET[last]).astype(np.float32)
    sampler = Sampler(SamplingOptions(**options), WORDS)
    kept, weights = sampler.weights(logprobs)
    probabilities = np.zeros(WORDS)
    probabilities[kept] = weights / weights.sum()
    return probabilities


def chi_squared(tokens: list[int], probabilities: Any) -> float:
    """Return Pearson's statistic; a token of probability 0 must not be there."""
    observed = np.bincount(tokens, minlength=WORDS)
    assert not observed[probabilities == 0].any()
    possible = probabilities > 0
    expected = len(tokens) * probabilities[possible]
    return float(((observed[possible] - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("has_proposal", [True, False], ids=["proposal", "certain"])
@pytest.mark.parametrize(
    "options",
    [{"temperature": 1.0}, {"temperature": 0.6}, {"temperature": 1.3, "top_k": 3}],
    ids=str,
)
def test_what_is_emitted_has_the_model_s_distribution(
    options: dict[str, Any], has_proposal: bool
) -> None:
    emitted = sampled(options, has_proposal)
    assert chi_squared([tokens[0] for tokens in emitted], expected_after(0, options)) < BOUND_4
    # A second token is there if the first was accepted, and a third if both were.
    for place in (1, 2):
        for last in (0, 2):
            tokens = [t[place] for t in emitted if len(t) > place and t[place - 1] == last]
            assert not tokens or chi_squared(tokens, expected_after(last, options)) < BOUND_4
    if has_proposal:
        # Leviathan et al.: a drafted token is accepted with probability sum(min(p, q)).
        accepted = sum(len(tokens) > 1 for tokens in emitted) / ROUNDS
        chance = np.minimum(expected_after(0, options), DRAWN_FROM).sum()
        assert abs(accepted - chance) < 4 * np.sqrt(chance * (1 - chance) / ROUNDS)


def test_a_proposal_equal_to_the_model_is_always_accepted() -> None:
    rows = [(list(range(WORDS)), TARGET[last].tolist()) for last in (0, 1)]
    items = []
    for seed in range(50):
        draft = [1, 4]
        proposal = read_proposal(draft, rows, WORDS)
        items.append(DraftItem([0], draft, SamplingOptions(1.0, seed=seed), 0, None, proposal))
    assert {accepted for accepted, _ in outcomes(verified(Table(TARGET), items, vocab=WORDS))} == {
        2
    }


def test_a_greedy_model_takes_no_notice_of_the_proposal() -> None:
    items = [DraftItem([0], [1, 4], SamplingOptions(), 0, None, proposed([1, 4]))]
    assert outcomes(verified(Table(TARGET), items, vocab=WORDS)) == [(2, 0)]


@pytest.mark.parametrize("has_proposal", [True, False], ids=["proposal", "certain"])
def test_another_seed_or_position_gives_other_verdicts(has_proposal: bool) -> None:
    def verdicts(seed: int, step: int) -> list[tuple[int, int]]:
        proposal = proposed([2, 2]) if has_proposal else None
        options = SamplingOptions(1.0, seed=seed)
        items = [DraftItem([0], [2, 2], options, i * step, None, proposal) for i in range(40)]
        return outcomes(verified(Table(TARGET), items, vocab=WORDS))

    assert verdicts(1, 1) == verdicts(1, 1)
    assert verdicts(1, 1) != verdicts(2, 1)
    assert len(set(verdicts(1, 1))) > 1 and len(set(verdicts(1, 0))) == 1


def test_a_token_that_the_model_masks_is_never_accepted() -> None:
    table = TARGET.copy()
    table[0, 2] = 0.0
    items = [
        DraftItem([0], [2], SamplingOptions(1.0, seed=seed), 0, 1, proposed([2]))
        for seed in range(50)
    ]
    results = verified(Table(table), items, vocab=WORDS)
    for result in results:
        assert isinstance(result, Verdict) and result.accepted == 0 and result.token != 2


ROWS: list[tuple[str, list[Any]]] = [
    ("one for each drafted token", [([1], [1.0])]),
    ("different ids", [([1, 1], [0.5, 0.5]), ([2], [1.0])]),
    ("different ids", [([1, 2], [0.5]), ([2], [1.0])]),
    ("ids from 0 to 4", [([1, 5], [0.5, 0.5]), ([2], [1.0])]),
    ("ids from 0 to 4", [([-1, 1], [0.5, 0.5]), ([2], [1.0])]),
    ("ids from 0 to 4", [([], []), ([2], [1.0])]),
    ("finite probabilities", [([1], [float("nan")]), ([2], [1.0])]),
    ("finite probabilities", [([1, 2], [1.0, -0.1]), ([2], [1.0])]),
    ("no probability", [([1], [1.0]), ([1], [1.0])]),
    ("no probability", [([1], [1.0]), ([2, 1], [0.0, 1.0])]),
]


@pytest.mark.parametrize(("reason", "rows"), ROWS, ids=str)
def test_a_proposal_that_the_draft_cannot_be_drawn_from_is_refused(
    reason: str, rows: list[Any]
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        read_proposal([1, 2], rows, WORDS)
    assert caught.value.details["field"] == "proposal"


def test_a_proposal_is_scaled_to_the_sum_1() -> None:
    proposal = read_proposal([1], [([1, 3], [3.0, 1.0])], WORDS)
    assert proposal.probabilities[0].tolist() == [0.75, 0.25]
