"""Speculation changes no token: whatever is drafted, and however it ends."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generation_stream

from isthmus.engine.constraint import compile_grammar, read_vocabulary
from isthmus.engine.generate import Sequence
from isthmus.engine.plan import Plan
from isthmus.engine.sampling import SamplingOptions
from isthmus.engine.speculate import Speculation, SpeculativeSequence
from isthmus.engine.speculation import SpeculationCosts
from isthmus.errors import NumericError
from isthmus.models import BUILTIN_ROOT
from isthmus.models.load import load_tokenizer
from isthmus.models.network import load_network
from tests.python.engine.networks import CHUNK_TOKENS, VOCAB_SIZE, Table, Watched, network

COUNT = 20
LIMIT = 5
PENALTIES: dict[str, Any] = {
    "repetition_penalty": 1.3,
    "presence_penalty": 0.5,
    "logit_bias": {5: 2.0},
}
SAMPLERS = {
    "greedy": SamplingOptions(),
    "temperature": SamplingOptions(temperature=0.8, seed=1),
    "top_p": SamplingOptions(temperature=1.0, top_p=0.9, seed=2),
    "top_k": SamplingOptions(temperature=0.7, top_k=20, seed=3),
    "min_p": SamplingOptions(temperature=1.2, min_p=0.05, frequency_penalty=0.3, seed=4),
    "penalties": SamplingOptions(**PENALTIES),
    "all": SamplingOptions(temperature=1.0, top_p=0.95, top_k=50, min_p=0.01, seed=5, **PENALTIES),
}
STORY = [(7 * place) % 60 + 100 for place in range(70)]
"""Goes round in circles, so that look-up finds something at once."""


@cache
def small() -> Any:
    """Return the built-in draft model."""
    return load_network(BUILTIN_ROOT / "draft", None, False)[0]


def wrong(inner: Any) -> Watched:
    """Return a network whose best token is the other one's worst."""
    return Watched(inner, lambda tokens, logits: -logits)


def stopped_clock() -> float:
    """Say that nothing takes any time: then as many tokens are drafted as are accepted."""
    return 0.0


def costs() -> SpeculationCosts:
    """Return costs that are known already, so that the first step may be a round."""
    known = SpeculationCosts()
    for _ in range(3):
        known.add_step(0.0)
    return known


def alone(model: Any, plan: Plan, vocab_size: int = VOCAB_SIZE) -> list[int]:
    """Return the tokens of a plain sequence."""
    return tokens_of(Sequence(model, vocab_size, plan, CHUNK_TOKENS, generation_stream))


def speculative(
    model: Any, plan: Plan, draft: Any | None, vocab_size: int = VOCAB_SIZE
) -> SpeculativeSequence:
    """Return a sequence that drafts whenever it may."""
    speculation = Speculation(draft, vocab_size, costs(), LIMIT)
    return SpeculativeSequence(
        *(model, vocab_size, plan, CHUNK_TOKENS, generation_stream, True),
        speculation,
        stopped_clock,
    )


def steps_of(sequence: Sequence, rooms: Callable[[], int] = lambda: COUNT) -> Iterator[list[int]]:
    """Run to the end; yield the tokens of each step, which are never more than there is room for.

    Args:
        rooms: Gives the room of each step.
    """
    while sequence.is_prefilling:
        sequence.prefill(CHUNK_TOKENS)
    while sequence.decoded < sequence.plan.max_tokens and not sequence.is_finished:
        sequence.room = rooms()
        taken = [token for token, _ in sequence.decode()]
        assert len(taken) <= sequence.room
        yield taken


def tokens_of(sequence: Sequence, rooms: Callable[[], int] = lambda: COUNT) -> list[int]:
    """Return all tokens."""
    return list(itertools.chain.from_iterable(steps_of(sequence, rooms)))


def report(sequence: Sequence) -> dict[str, Any]:
    """Return what it says of its drafts."""
    said: dict[str, Any] = sequence.report()["speculation"]
    return said


@pytest.mark.parametrize("draft", [small, lambda: None], ids=["draft model", "look-up"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_tokens_are_those_without_it_however_much_room_there_is(
    sampler: str, draft: Callable[[], Any]
) -> None:
    plan = Plan(STORY, SAMPLERS[sampler], COUNT)
    expected = alone(network("builtin"), plan)
    rng = random.Random(3)
    for rooms in (lambda: COUNT, lambda: 2, lambda: rng.randint(1, LIMIT + 1)):
        sequence = speculative(network("builtin"), plan, draft())
        assert tokens_of(sequence, rooms) == expected
        assert report(sequence)["rounds"] > 0
    sequence = speculative(network("builtin"), plan, draft())
    assert tokens_of(sequence, lambda: 1) == expected
    assert report(sequence)["rounds"] == 0


@pytest.mark.parametrize("name", ["builtin", "q4", "bf16"])
@pytest.mark.parametrize("sampler", ["greedy", "top_p", "all"])
def test_a_draft_that_is_always_right_saves_passes(name: str, sampler: str) -> None:
    plan = Plan(STORY, SAMPLERS[sampler], COUNT)
    watched = Watched(network(name))
    sequence = speculative(watched, plan, network(name))
    assert tokens_of(sequence) == alone(network(name), plan)
    said = report(sequence)
    # Rounding may make the two disagree now and then where logits are coarse.
    assert said["accepted"] >= 0.8 * said["drafted"] > 0
    assert (said["kind"], said["stopped"]) == ("draft_model", None)
    assert len(watched.calls) < COUNT // 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draft_that_is_always_wrong_changes_nothing(sampler: str) -> None:
    plan = Plan(STORY, replace(SAMPLERS[sampler], temperature=0.0), COUNT)
    sequence = speculative(network("builtin"), plan, wrong(network("builtin")))
    assert tokens_of(sequence) == alone(network("builtin"), plan)
    said = report(sequence)
    assert said["drafted"] > 0 and said["accepted"] == 0 and said["acceptance_rate"] == 0.0


def test_a_constraint_holds_for_drafted_tokens_too() -> None:
    wrapper = load_tokenizer(BUILTIN_ROOT / "chat", None)
    vocabulary = read_vocabulary(wrapper, VOCAB_SIZE, {0})
    grammar = compile_grammar(vocabulary, "start: /(ab|cd)[a-d]{9}( [0-9]{2}){3}/")
    for draft in (small(), wrong(small()), None):
        for options in (SAMPLERS["greedy"], SAMPLERS["all"]):
            plan = Plan(STORY, options, COUNT)
            expected = alone(network("builtin"), replace(plan, constraint=grammar.start()))
            again = replace(plan, constraint=grammar.start())
            sequence = speculative(network("builtin"), again, draft)
            assert tokens_of(sequence) == expected
            assert sequence.is_complete


@pytest.mark.parametrize("count", range(2, 10))
def test_a_drafted_token_may_be_the_last_of_a_constraint(count: int) -> None:
    wrapper = load_tokenizer(BUILTIN_ROOT / "chat", None)
    vocabulary = read_vocabulary(wrapper, VOCAB_SIZE, {0})
    prompt = list(wrapper.encode("Once upon a time"))
    told = alone(network("builtin"), Plan(prompt, SamplingOptions(), COUNT))[:count]
    grammar = compile_grammar(vocabulary, f"start: {json.dumps(wrapper.decode(told))}")
    plan = Plan(prompt, SamplingOptions(), COUNT, grammar.start())
    sequence = speculative(network("builtin"), plan, network("builtin"))
    assert tokens_of(sequence) == told
    assert sequence.is_complete and report(sequence)["accepted"] > 0


def test_a_target_whose_cache_cannot_be_cut_goes_on_without_drafts() -> None:
    plan = Plan(STORY[:4], SamplingOptions(), COUNT)
    expected = alone(network("sliding"), plan)
    rejected = speculative(network("sliding"), plan, wrong(network("sliding")))
    accepted = speculative(network("sliding"), plan, network("sliding"))
    for sequence, reason in ((rejected, "cache_not_trimmable"), (accepted, "speculation")):
        assert tokens_of(sequence) == expected
        assert report(sequence)["stopped"] == "cache_not_trimmable"
        assert sequence.report()["batching"] == {"state": "alone", "reason": reason}
        assert report(sequence)["rounds"] > 0


def test_a_draft_whose_cache_cannot_be_cut_drafts_no_more() -> None:
    plan = Plan(STORY[:4], SamplingOptions(), COUNT)
    sequence = speculative(network("builtin"), plan, network("sliding"))
    assert tokens_of(sequence) == alone(network("builtin"), plan)
    assert report(sequence)["stopped"] == "draft_cache_not_trimmable"


@pytest.mark.parametrize("lead", [8e-6, 0.1], ids=["near", "clear"])
def test_what_rounding_may_have_decided_is_decided_again_without_drafts(lead: float) -> None:
    ids = mx.arange(VOCAB_SIZE)
    row = mx.where(ids == 9, 50.0 + lead, mx.where(ids == 8, 50.0, 0.0))

    def change(tokens: mx.array, logits: mx.array) -> mx.array:
        # In a pass of several tokens the second best gains a little.
        return 0.0 * logits + mx.where((ids == 8) & (tokens.shape[1] > 1), row + 2e-5, row)

    rivals = Watched(network("builtin"), change)
    plan = Plan([11, 12], SamplingOptions(), COUNT)
    sequence = speculative(rivals, plan, rivals)
    assert tokens_of(sequence) == [9] * COUNT
    reason = "near_tie" if lead < 1e-5 else None
    assert report(sequence)["stopped"] == reason
    assert sequence.alone_reason == (reason or "speculation")


def spoiled_after(token: int) -> Watched:
    """Return the built-in model, whose logits are no numbers after one token."""

    def spoil(tokens: mx.array, logits: mx.array) -> mx.array:
        return mx.where((tokens == token)[..., None], mx.array(float("nan")), logits)

    return Watched(network("builtin"), spoil)


def new_tokens(plan: Plan) -> Iterator[list[int]]:
    """Yield what the built-in model gives up to each token that is new, but for the last one."""
    expected = alone(network("builtin"), plan)
    for end, token in enumerate(expected[:-1]):
        if token not in expected[:end]:
            yield expected[: end + 1]


def test_logits_that_break_within_a_round_fail_it_after_what_came_before() -> None:
    plan = Plan(STORY, SAMPLERS["top_p"], COUNT)
    were_within = []
    for before in itertools.islice(new_tokens(plan), 0, None, 2):
        target = spoiled_after(before[-1])
        sequence = speculative(target, plan, network("builtin"))
        found, passes = list[int](), 0
        with pytest.raises(NumericError) as caught:
            for step in steps_of(sequence):
                found, passes = [*found, *step], len(target.calls)
        assert found == before
        assert caught.value.details["completion_tokens"] == len(before)
        assert sequence.cache is not None and sequence.cache[0].offset >= sequence.evaluated
        # No other pass was needed to find out.
        were_within.append(len(target.calls) == passes)
        assert not were_within[-1] or sequence.cache[0].offset == sequence.evaluated
    assert any(were_within)


def test_a_draft_whose_logits_break_is_given_up() -> None:
    plan = Plan(STORY, SAMPLERS["temperature"], COUNT)
    before = next(new_tokens(plan))
    sequence = speculative(network("builtin"), plan, spoiled_after(before[-1]))
    assert tokens_of(sequence) == alone(network("builtin"), plan)
    assert report(sequence)["stopped"] == "draft_failed"


def test_a_draft_that_raises_is_given_up() -> None:
    def fail(tokens: mx.array, logits: mx.array) -> mx.array:
        raise RuntimeError("no drafts today")

    for prompt in (STORY, STORY * 10):
        plan = Plan(prompt, SAMPLERS["temperature"], COUNT)
        sequence = speculative(network("builtin"), plan, Watched(small(), fail))
        assert tokens_of(sequence) == alone(network("builtin"), plan)
        assert report(sequence)["stopped"] == "draft_failed"


class Counted:
    """A KV cache that knows only how many tokens it has."""

    state: tuple[()] = ()

    def __init__(self) -> None:
        self.offset = 0

    def is_trimmable(self) -> bool:
        """It is."""
        return True

    def trim(self, count: int) -> int:
        """Forget the last ones."""
        self.offset -= count
        return count


class CountedTable(Table):
    """A table whose cache must have been cut back to where its text is."""

    def make_cache(self) -> list[Counted]:
        """Return an empty cache."""
        return [Counted()]

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        """Return the logits."""
        cache[0].offset += tokens.shape[1]
        return super().__call__(tokens)


def test_drawn_tokens_follow_the_target_s_distribution_exactly() -> None:
    size, length, draws = 4, 3, 2_000
    rng = np.random.default_rng(9)
    target, draft = rng.dirichlet(np.ones(size), size), rng.dirichlet(np.ones(size), size)
    tables = CountedTable(target), CountedTable(draft)
    drawn: Counter[tuple[int, ...]] = Counter()
    said: Counter[str] = Counter()
    for seed in range(draws):
        plan = Plan([0], SamplingOptions(temperature=1.0, seed=seed), length)
        sequence = speculative(tables[0], plan, tables[1], size)
        drawn[tuple(tokens_of(sequence))] += 1
        said.update({name: report(sequence)[name] for name in ("drafted", "accepted")})
    assert 0.2 < said["accepted"] / said["drafted"] < 0.9
    statistic = 0.0
    for text in itertools.product(range(size), repeat=length):
        expected = draws * float(np.prod([target[a, b] for a, b in itertools.pairwise((0, *text))]))
        statistic += (drawn[text] - expected) ** 2 / expected
    # The 0.999 quantile of chi-squared with 4 ** 3 - 1 degrees of freedom.
    assert statistic < 103.4
