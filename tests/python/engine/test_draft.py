"""A draft's verdict is what generation would have done, whoever shares the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step

from isthmus.engine.draft import DraftBatch, DraftItem, Verdict, read_proposal
from isthmus.engine.sampling import SamplingOptions
from isthmus.errors import NumericError
from tests.python.engine.networks import (
    CHUNK_TOKENS,
    VOCAB_SIZE,
    Table,
    Watched,
    generated,
    network,
    outcomes,
    verified,
)

GREEDY = SamplingOptions()
SMALL_CHUNK = 12
"""Makes prompts of more tokens go into a cache."""

SAMPLINGS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.8},
    "hot": {"temperature": 1.6},
    "top_p": {"temperature": 1.0, "top_p": 0.9},
    "top_k": {"temperature": 0.9, "top_k": 20},
    "min_p": {"temperature": 1.2, "min_p": 0.02},
    "penalties": {
        "temperature": 0.7,
        "repetition_penalty": 1.3,
        "repetition_context_size": 6,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "penalty_context_size": 30,
        "logit_bias": {5: 2.0, 20: -3.0},
    },
    "greedy with penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.5},
}


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Compiling takes longer than these models run."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def prompts(count: int, seed: int = 3, longest: int = 30) -> list[list[int]]:
    """Return prompts of random tokens and mixed lengths."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest, count)
    return [rng.integers(5, VOCAB_SIZE, size).tolist() for size in sizes]


def drafts_of(continuation: list[int]) -> list[tuple[list[int], int]]:
    """Return drafts that go wrong at each position, and at none, with what is to be accepted."""
    drafts = []
    for right in range(len(continuation)):
        draft = list(continuation[:-1])
        if right < len(draft):
            draft[right] = (draft[right] + 1) % VOCAB_SIZE
        drafts.append((draft, right))
    return drafts


@pytest.mark.parametrize(
    ("name", "chunk"),
    [
        ("builtin", CHUNK_TOKENS),
        ("builtin", SMALL_CHUNK),
        ("tiny", SMALL_CHUNK),
        ("q4", CHUNK_TOKENS),
        ("sliding", SMALL_CHUNK),
    ],
)
def test_greedy_verdicts_are_mlx_lm_s_own_continuation(name: str, chunk: int) -> None:
    items, expected = [], []
    for prompt in prompts(5):
        steps = generate_step(mx.array(prompt), network(name), max_tokens=5)
        continuation = [int(token) for token, _ in steps]
        for draft, right in drafts_of(continuation):
            items.append(DraftItem(prompt, draft, GREEDY))
            expected.append((right, continuation[right]))
    assert outcomes(verified(network(name), items, chunk)) == expected


@pytest.mark.parametrize(
    ("name", "chunk"),
    [("builtin", CHUNK_TOKENS), ("tiny", SMALL_CHUNK), ("sliding", SMALL_CHUNK)],
    ids=["one pass", "cached", "sliding"],
)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_sampled_verdicts_are_what_generation_gives_with_the_same_seed(
    name: str, chunk: int, sampling: str
) -> None:
    items, expected = [], []
    for seed, prompt in enumerate(prompts(2, seed=11)):
        options = SamplingOptions(seed=seed, **SAMPLINGS[sampling])
        ids, _ = generated(network(name), prompt, options, 7)
        for position in (0, 2):
            rest = ids[position : position + 5]
            for draft, right in drafts_of(rest):
                item = DraftItem(prompt + ids[:position], draft, options, position)
                items.append(item)
                expected.append((right, rest[right]))
    assert outcomes(verified(network(name), items, chunk)) == expected


def mixed_items(seed: int) -> list[DraftItem]:
    """Return drafts of many kinds, most of which are partly right."""
    rng = np.random.default_rng(seed)
    items = []
    kinds = [{}, *SAMPLINGS.values()]
    for index, prompt in enumerate(prompts(24, seed)):
        options = SamplingOptions(seed=index, **kinds[index % len(kinds)])
        count = int(rng.integers(1, 6))
        draft, _ = generated(network("builtin"), prompt, GREEDY, count)
        proposal = None
        if index % 3 == 0:
            rows = [([token, (token + 7) % VOCAB_SIZE], [0.6, 0.4]) for token in draft]
            proposal = read_proposal(draft, rows, VOCAB_SIZE)
        shown = 2 if index % 4 == 0 else None
        items.append(DraftItem(prompt, draft, options, index, shown, proposal))
    return items


@pytest.mark.parametrize(
    ("name", "chunk"),
    [
        ("builtin", CHUNK_TOKENS),
        ("builtin", SMALL_CHUNK),
        ("tiny", CHUNK_TOKENS),
        ("q4", SMALL_CHUNK),
        ("bf16", SMALL_CHUNK),
        ("sliding", SMALL_CHUNK),
    ],
)
def test_who_shares_the_batch_changes_no_verdict(name: str, chunk: int) -> None:
    items = mixed_items(5)
    alone = [outcomes(verified(network(name), [item], chunk))[0] for item in items]
    together = verified(network(name), items, chunk)
    backwards = verified(network(name), items[::-1], chunk)
    assert outcomes(together) == alone == outcomes(backwards)[::-1]
    if name == "builtin":
        assert len({accepted for accepted, _ in alone}) > 2


@pytest.mark.parametrize("sampling", ["greedy with penalties", "temperature", "top_p"])
def test_log_probabilities_are_those_that_generation_reports(sampling: str) -> None:
    items, expected = [], []
    for seed, prompt in enumerate(prompts(4, seed=2)):
        options = SamplingOptions(seed=seed, **SAMPLINGS[sampling])
        ids, shown = generated(network("builtin"), prompt, options, 4)
        for draft, right in drafts_of(ids):
            items.append(DraftItem(prompt, draft, options, 0, 3))
            expected.append(shown[: right + 1])
    for single in (False, True):
        groups = [[item] for item in items] if single else [items]
        results = [result for group in groups for result in verified(network("builtin"), group)]
        for result, reference in zip(results, expected, strict=True):
            assert isinstance(result, Verdict) and result.logprobs is not None
            assert [entry["id"] for entry in result.logprobs] == [e["id"] for e in reference]
            for ours, theirs in zip(result.logprobs, reference, strict=True):
                assert ours["logprob"] == pytest.approx(theirs["logprob"], abs=1e-3)
                assert [token for token, _ in ours["top"]] == [t for t, _ in theirs["top"]]


def test_drafts_of_one_prompt_evaluate_it_once() -> None:
    watched = Watched(network("builtin"))
    prompt = np.random.default_rng(1).integers(5, VOCAB_SIZE, 40).tolist()
    items = [DraftItem(prompt, [token, 9], GREEDY) for token in range(16)]
    shared = outcomes(verified(watched, items))
    assert watched.calls == [(1, 39), (16, 3)]
    assert shared == [outcomes(verified(network("builtin"), [item]))[0] for item in items]


def test_steps_stay_near_the_chunk() -> None:
    watched = Watched(network("tiny"))
    items = [DraftItem(prompt, [7, 8], GREEDY) for prompt in prompts(20, longest=60)]
    verified(watched, items, 16)
    assert all(rows * columns <= 16 or 1 in (rows, columns) for rows, columns in watched.calls)
    assert max(columns for _, columns in watched.calls) <= 16


def test_prompts_and_drafts_of_one_token_can_be_verified() -> None:
    for name in ("builtin", "sliding"):
        items = [DraftItem([token], [3], GREEDY) for token in range(5, 9)]
        alone = [outcomes(verified(network(name), [item]))[0] for item in items]
        assert outcomes(verified(network(name), items)) == alone
        assert outcomes(verified(network(name), items * 30, 3)) == alone * 30


POISON = 700


def poisoned(tokens: mx.array, logits: mx.array) -> mx.array:
    """Return logits that are NaN behind one token."""
    return mx.where((tokens == POISON)[..., None], mx.array(float("nan")), logits)


@pytest.mark.parametrize("chunk", [CHUNK_TOKENS, 3], ids=["one pass", "cached"])
def test_logits_that_are_not_finite_fail_their_item_alone(chunk: int) -> None:
    items = [
        DraftItem([5, 6, 7, 8], [9, 10], GREEDY),
        DraftItem([5, 6, 7, POISON], [9, 10], GREEDY),
        # Its poison lies behind the first mismatch: nobody needs those logits.
        DraftItem([5, 6, 7, 9], [9, POISON], GREEDY),
        DraftItem([5, 6, 8, POISON], [9], SamplingOptions(temperature=1.0, top_p=0.9)),
    ]
    results = verified(Watched(network("tiny"), poisoned), items, chunk)
    assert [type(result) for result in results] == [Verdict, NumericError, Verdict, NumericError]
    healthy = outcomes(verified(network("tiny"), items, chunk))
    assert outcomes(results[::2]) == healthy[::2] and healthy[2][0] == 0
    (alone,) = verified(Watched(network("tiny"), poisoned), items[1:2], chunk)
    assert isinstance(alone, NumericError) and "not finite" in alone.message


def test_a_bias_that_masks_every_token_is_an_error() -> None:
    bias = dict.fromkeys(range(VOCAB_SIZE), float("-inf"))
    item = DraftItem([5], [6], SamplingOptions(logit_bias=bias))
    assert isinstance(verified(network("tiny"), [item])[0], NumericError)


def test_what_rounding_may_have_decided_is_decided_alone() -> None:
    table = np.full((4, 4), 0.1)
    table[0] = [0.1, 0.4, 0.4 * (1 + 1e-6), 0.1]
    table[1] = [0.7, 0.1, 0.1, 0.1]

    def wobble(tokens: mx.array, logits: mx.array) -> mx.array:
        # In a batch the two best change places.
        return logits + mx.array([0.0, 2e-6, 0.0, 0.0]) if tokens.shape[0] > 1 else logits

    watched = Watched(Table(table), wobble)
    near, clear = DraftItem([3, 0], [1], GREEDY), DraftItem([3, 1], [0], GREEDY)
    assert outcomes(verified(watched, [near], vocab=4)) == [(0, 2)]
    watched.calls.clear()
    assert outcomes(verified(watched, [near, clear], vocab=4))[0] == (0, 2)
    assert [rows for rows, _ in watched.calls] == [2, 1, 1]


@pytest.mark.parametrize("name", ["builtin", "sliding"])
def test_items_that_nobody_waits_for_are_skipped(name: str) -> None:
    watched = Watched(network(name))
    if name == "sliding":
        watched.make_cache = network(name).make_cache  # type: ignore[attr-defined]
    items = [DraftItem(prompt + [9] * 20, [7], GREEDY) for prompt in prompts(6)]
    wanted = set(range(6))
    batch = DraftBatch(watched, VOCAB_SIZE, items, 16, wanted.__contains__)
    wanted -= {1, 4}
    assert not batch.step()
    wanted -= {0, 2, 3}
    while not batch.step():
        pass
    assert isinstance(batch.results[5], Verdict)
    assert [batch.results[index] for index in (1, 4)] == [None, None]
    assert max((rows for rows, _ in watched.calls[1:]), default=1) == 1


def test_a_step_when_nobody_waits_does_nothing_and_ends_it() -> None:
    watched = Watched(network("tiny"))
    items = [DraftItem(prompt, [7], GREEDY) for prompt in prompts(6)]
    wanted = True
    batch = DraftBatch(watched, VOCAB_SIZE, items, 8, lambda index: wanted)
    assert not batch.step()
    wanted, done = False, len(watched.calls)
    assert batch.step() and batch.step() and len(watched.calls) == done
