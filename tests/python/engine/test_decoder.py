"""Whoever shares a pass, a stream or a cache: the tokens are those of the sequence alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import pytest

from isthmus.engine import decoder as module
from isthmus.engine.decoder import Decoder
from isthmus.engine.generate import Sequence
from isthmus.engine.plan import Plan
from isthmus.engine.sampling import SamplingOptions
from isthmus.errors import NumericError
from isthmus.limits import PREFILL_SLICE_TOKENS
from tests.python.engine.networks import CHUNK_TOKENS, VOCAB_SIZE, Watched, network

COUNT = 20
SAMPLERS = [
    SamplingOptions(),
    SamplingOptions(temperature=0.8, seed=1),
    SamplingOptions(temperature=1.0, top_p=0.9, seed=2),
    SamplingOptions(temperature=0.7, top_k=20, seed=3),
    SamplingOptions(repetition_penalty=1.3, presence_penalty=0.5, logit_bias={5: 2.0}),
    SamplingOptions(temperature=0.9, min_p=0.05, frequency_penalty=0.3, seed=4),
]
PROMPTS = [[(7 * row + place) % 700 + 5 for place in range(3 + 9 * row)] for row in range(6)]


@pytest.fixture(autouse=True)
def pays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Batch wherever weights are of fp32, whatever BLAS there is."""
    monkeypatch.setattr(module, "batching_pays", lambda is_fp32: is_fp32)
    yield


def decoder_of(model: Any, is_fp32: bool = True, cache_bytes: int = 0) -> Decoder:
    """Return a decoder."""
    return Decoder(model, VOCAB_SIZE, is_fp32, CHUNK_TOKENS, cache_bytes)


def plans(**options: Any) -> list[Plan]:
    """Return a plan for each prompt, each with another sampler."""
    return [
        Plan(prompt, sampling, COUNT, **options)
        for prompt, sampling in zip(PROMPTS, SAMPLERS, strict=True)
    ]


class Run:
    """Sequences on a decoder, driven as the scheduler drives them."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.sequences: list[Sequence] = []
        self.ids: dict[Sequence, list[int]] = {}
        self.failures: dict[Sequence, Exception] = {}
        self.paused: set[Sequence] = set()
        self.largest_batch = 0

    def add(self, plan: Plan) -> Sequence:
        """Open a sequence."""
        sequence = self.decoder.open(plan)
        self.sequences.append(sequence)
        self.ids[sequence] = []
        return sequence

    def step(self) -> bool:
        """Do one unit of work; return whether there was any."""
        live = [
            sequence
            for sequence in self.sequences
            if sequence.cache is not None or self._rows(sequence)
        ]
        waiting = [sequence for sequence in live if sequence.is_prefilling]
        if waiting:
            self._fail(self.decoder.prefill(waiting, CHUNK_TOKENS))
            return True
        ready = [sequence for sequence in live if sequence not in self.paused]
        if not ready:
            return False
        for sequence, result in self.decoder.decode(ready):
            if isinstance(result, Exception):
                self._fail([(sequence, result)])
                continue
            self.ids[sequence] += [token for token, _ in result]
            if len(self.ids[sequence]) >= sequence.plan.max_tokens:
                self.close(sequence)
        self.largest_batch = max([self.largest_batch, *self._sizes()])
        return True

    def close(self, sequence: Sequence, is_sound: bool = True) -> None:
        """End a sequence."""
        self.decoder.close(sequence, is_sound)
        self.sequences.remove(sequence)

    def all(self) -> list[list[int]]:
        """Run to the end; return the tokens in the order of the plans."""
        while self.step():
            pass
        return list(self.ids.values())

    def _fail(self, failures: list[tuple[Sequence, Exception]]) -> None:
        for sequence, error in failures:
            self.failures[sequence] = error
            self.close(sequence, is_sound=False)

    def _rows(self, sequence: Sequence) -> bool:
        return any(sequence in batch.rows for batch in self.decoder._batches)

    def _sizes(self) -> list[int]:
        return [len(batch.rows) for batch in self.decoder._batches]


def together(decoder: Decoder, wanted: list[Plan]) -> Run:
    """Run all of them at once."""
    run = Run(decoder)
    for plan in wanted:
        run.add(plan)
    run.all()
    return run


def alone(model: Any, wanted: list[Plan]) -> list[list[int]]:
    """Run one after the other, each on a decoder of its own."""
    return [together(decoder_of(model), [plan]).all()[0] for plan in wanted]


@pytest.mark.parametrize("name", ["builtin", "sliding", "bf16"])
def test_a_batch_of_any_samplers_gives_each_its_own_tokens(name: str) -> None:
    run = together(decoder_of(network(name)), plans())
    assert run.largest_batch >= len(PROMPTS) - 1 and not run.failures
    assert list(run.ids.values()) == alone(network(name), plans())
    assert all(sequence.was_batched for sequence in run.ids)


def test_in_16_bits_equals_are_told_apart_as_by_mlx_lm() -> None:
    # It compares log-probabilities, whose rounding makes equals of what was not.
    wanted = [Plan(prompt, SamplingOptions(), 2 * COUNT) for prompt in PROMPTS]
    run = together(decoder_of(network("bf16")), wanted)
    assert all(sequence.was_batched for sequence in run.ids)
    assert list(run.ids.values()) == alone(network("bf16"), wanted)


@pytest.mark.parametrize("name", ["q4", "bf16"])
def test_where_batching_does_not_pay_each_runs_alone_and_says_so(name: str) -> None:
    run = together(decoder_of(network(name), is_fp32=False), plans())
    assert run.largest_batch == 0
    assert list(run.ids.values()) == alone(network(name), plans())
    reports = [sequence.report()["batching"] for sequence in run.ids]
    assert reports == [{"state": "alone", "reason": "does_not_pay"}] * len(PROMPTS)


def test_who_asks_to_be_alone_is_alone() -> None:
    run = together(decoder_of(network("builtin")), [*plans(), plans(may_batch=False)[1]])
    assert run.largest_batch >= len(PROMPTS) - 1
    assert list(run.ids)[-1].report()["batching"] == {"state": "alone", "reason": "requested"}
    assert list(run.ids.values())[-1] == list(run.ids.values())[1]


def test_short_prompts_are_evaluated_together() -> None:
    watched = Watched(network("builtin"))
    run = Run(decoder_of(watched))
    for plan in plans():
        run.add(plan)
    watched.calls.clear()
    run.step()
    # All but the last token of each, padded to the longest.
    assert watched.calls == [(len(PROMPTS), len(PROMPTS[-1]) - 1)]


@pytest.mark.parametrize("seed", range(4))
def test_joining_leaving_pausing_and_cancelling_changes_nobody_elses_tokens(seed: int) -> None:
    rng = random.Random(seed)
    expected = alone(network("builtin"), plans())
    run = Run(decoder_of(network("builtin")))
    waiting, places, cut = plans(), dict[Sequence, int](), set[int]()
    while waiting or run.sequences:
        event = rng.random()
        if waiting and (event < 0.2 or not run.sequences):
            plan = waiting.pop()
            places[run.add(plan)] = len(waiting)
        elif event < 0.3 and run.sequences:
            run.paused ^= {rng.choice(run.sequences)}
        elif event < 0.32 and run.sequences:
            sequence = rng.choice(run.sequences)
            cut.add(places[sequence])
            run.close(sequence)
        elif not run.step():
            run.paused.clear()
    for sequence, place in places.items():
        ids = run.ids[sequence]
        assert ids == (expected[place][: len(ids)] if place in cut else expected[place])
    assert not run.failures


def changed_in_company(
    change: Callable[[mx.array], mx.array],
) -> Callable[[mx.array, mx.array], mx.array]:
    """Return a change of the logits of batches only."""

    def apply(tokens: mx.array, logits: mx.array) -> mx.array:
        return change(logits) if tokens.shape[0] > 1 else logits

    return apply


def rivals(lead: float, rounding: float) -> Callable[[mx.array, mx.array], mx.array]:
    """Return a change that makes 9 the best token by a lead over 8, from which a batch takes."""
    ids = mx.arange(VOCAB_SIZE)
    row = mx.where(ids == 9, 50.0 + lead, mx.where(ids == 8, 50.0, 0.0))
    rounded = mx.where(ids == 8, row + rounding, row)

    def apply(tokens: mx.array, logits: mx.array) -> mx.array:
        return 0.0 * logits + (rounded if tokens.shape[0] > 1 else row)

    return apply


def test_what_rounding_may_have_decided_is_decided_again_alone() -> None:
    watched = Watched(network("builtin"), rivals(lead=8e-6, rounding=2e-5))
    run = together(decoder_of(watched), plans()[:1] * 2)
    assert list(run.ids.values()) == [[9] * COUNT] * 2
    reports = [sequence.report()["batching"] for sequence in run.ids]
    assert reports == [{"state": "batched", "reason": "near_tie"}] * 2


def test_what_is_further_apart_than_rounding_stays_in_the_batch() -> None:
    watched = Watched(network("builtin"), rivals(lead=0.1, rounding=2e-5))
    run = together(decoder_of(watched), plans()[:1] * 2)
    assert list(run.ids.values()) == [[9] * COUNT] * 2
    assert all(sequence.alone_reason is None for sequence in run.ids)


def test_a_row_whose_logits_are_not_finite_fails_alone() -> None:
    marked = 3

    def spoil(logits: mx.array) -> mx.array:
        rows = mx.arange(logits.shape[0])[:, None, None] == marked
        return mx.where(rows, mx.array(float("nan")), logits)

    watched = Watched(network("builtin"), changed_in_company(spoil))
    run = Run(decoder_of(watched))
    sequences = [run.add(plan) for plan in plans()]
    while not run.failures:
        run.step()
    (failed,) = run.failures
    assert isinstance(run.failures[failed], NumericError)
    # The others go on; no row has the marked number among so few.
    for sequence in sequences[marked:]:
        if sequence in run.sequences and sequence is not failed:
            run.close(sequence)
    expected = alone(network("builtin"), plans())
    run.all()
    for place, sequence in enumerate(sequences[:marked]):
        if sequence is not failed:
            assert run.ids[sequence] == expected[place]


@pytest.mark.parametrize("width", [1, 2], ids=["in a step", "in the prompts"])
def test_what_fails_together_is_done_again_alone(width: int) -> None:
    inner = network("builtin")

    class Picky(Watched):
        """Refuses batches of steps, or of prompts."""

        def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
            """Refuse."""
            if tokens.shape[0] > 1 and min(tokens.shape[1], 2) == width:
                raise RuntimeError("no batches here")
            return super().__call__(tokens, cache)

    run = together(decoder_of(Picky(inner)), plans())
    assert not run.failures
    assert list(run.ids.values()) == alone(inner, plans())
    assert {sequence.alone_reason for sequence in run.ids} == {"failed"}


def test_a_prompt_that_begins_like_another_is_evaluated_from_where_they_part() -> None:
    decoder = decoder_of(network("builtin"), cache_bytes=2**28)
    first = Plan(PROMPTS[-1], SamplingOptions(), COUNT)
    ids = together(decoder, [first]).all()[0]
    longer = Plan([*PROMPTS[-1], *ids[:5], 9, 8, 7], SamplingOptions(), COUNT)
    run = together(decoder, [longer])
    (sequence,) = run.ids
    assert sequence.cached == len(PROMPTS[-1]) + 5
    assert run.all() == alone(network("builtin"), [longer])


def test_what_a_batch_evaluated_serves_prompts_too() -> None:
    decoder = decoder_of(network("builtin"), cache_bytes=2**28)
    ids = together(decoder, plans()).all()
    longer = [
        Plan([*prompt, *tokens[:-1], 9], SamplingOptions(), 5)
        for prompt, tokens in zip(PROMPTS, ids, strict=True)
    ]
    run = together(decoder, longer)
    for sequence, prompt in zip(run.ids, PROMPTS, strict=True):
        assert sequence.cached == len(prompt) + COUNT - 1
    assert list(run.ids.values()) == alone(network("builtin"), longer)


def test_a_prompt_cut_short_keeps_what_it_evaluated() -> None:
    decoder = decoder_of(network("builtin"), cache_bytes=2**28)
    plan = Plan(PROMPTS[-1], SamplingOptions(), COUNT)
    cut = decoder.open(plan)
    assert not decoder.prefill([cut], 20)
    decoder.close(cut)
    again = decoder.open(plan)
    assert again.cached == again.prefilled == 20


def test_a_failed_generation_keeps_nothing() -> None:
    decoder = decoder_of(network("builtin"), cache_bytes=2**28)
    sequence = decoder.open(Plan(PROMPTS[-1], SamplingOptions(), COUNT))
    decoder.prefill([sequence], CHUNK_TOKENS)
    decoder.close(sequence, is_sound=False)
    assert len(decoder.prompts) == 0


def test_who_does_not_want_it_neither_takes_nor_leaves_a_cache() -> None:
    decoder = decoder_of(network("builtin"), cache_bytes=2**28)
    private = Plan(PROMPTS[-1], SamplingOptions(), COUNT, may_reuse=False)
    together(decoder, [private])
    assert len(decoder.prompts) == 0
    together(decoder, [Plan(PROMPTS[-1], SamplingOptions(), COUNT)])
    assert decoder.open(private).cached == 0


def test_a_slow_prompt_is_cut_into_short_chunks_when_others_wait() -> None:
    decoder = decoder_of(network("builtin"))
    assert decoder.limit_tokens(False) == CHUNK_TOKENS
    assert decoder.limit_tokens(True) == PREFILL_SLICE_TOKENS
    decoder.took(100, 0.1)
    assert decoder.limit_tokens(True) == 50
    decoder.took(100, 1_000.0)
    assert PREFILL_SLICE_TOKENS <= decoder.limit_tokens(True) < 50
    decoder.took(10**9, 0.1)
    assert decoder.limit_tokens(True) == CHUNK_TOKENS


def test_very_different_lengths_share_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORT_CONTEXT", 16)
    run = Run(decoder_of(network("builtin")))
    long = [5 + place % 700 for place in range(100)]
    wanted = [
        Plan(prompt, SamplingOptions(), 6) for prompt in (PROMPTS[0], PROMPTS[1], long, [9, *long])
    ]
    for plan in wanted:
        run.add(plan)
    ids = run.all()
    assert run.largest_batch == 2
    assert ids == alone(network("builtin"), wanted)


def test_rows_that_join_at_the_same_time_are_told_apart_by_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SHORT_CONTEXT", 2)
    decoder = decoder_of(network("builtin"))
    lengths = (4, 60, 5, 61)
    rows = [decoder.open(Plan([7] * length, SamplingOptions(), 5)) for length in lengths]
    for row in rows:
        row.prefill(CHUNK_TOKENS)
    decoder.decode(rows)
    found = sorted([len(row.plan.prompt) for row in batch.rows] for batch in decoder._batches)
    assert found == [[4, 5], [60, 61]]
