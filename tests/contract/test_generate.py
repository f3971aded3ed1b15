"""What `generate` promises: text, stops, seeds, log-probabilities, cancels, deadlines, credit."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from isthmus import host
from isthmus.engine.scheduler import RUNNING_LIMIT
from isthmus.errors import DeadlineExceeded, InvalidRequest
from tests.contract.waiting import settled
from tests.fixtures.oracle import CHUNK_TOKENS

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = [{"role": "user", "content": "What is 2 + 2?"}]
LONG = [5] * 3_900
"""A prompt of some thirty chunks."""


async def deltas_of(generation: host.Generation) -> list[host.Delta]:
    """Return all deltas."""
    return [delta async for delta in generation]


async def test_deltas_add_up_to_the_result(model: host.Model) -> None:
    generation = model.generate("Once upon a time", max_tokens=30)
    deltas = await deltas_of(generation)
    result = await generation
    assert "".join(delta.text for delta in deltas) == result.text
    assert [token for delta in deltas for token in delta.ids] == result.ids
    assert result.usage.completion_tokens == len(result.ids)
    assert await model.detokenize(result.ids) == result.text
    assert deltas[0].ids and result.usage.cached_tokens == 0


async def test_not_streamed_it_gives_the_same_in_one_result(model: host.Model) -> None:
    streamed = await model.generate(messages=CHAT, logprobs=2)
    whole = model.generate(messages=CHAT, stream=False, logprobs=2)
    assert await deltas_of(whole) == []
    result = await whole
    assert (result.text, result.ids, result.stop) == (streamed.text, streamed.ids, streamed.stop)
    assert result.logprobs is not None and streamed.logprobs is not None
    assert [entry.id for entry in result.logprobs] == result.ids
    for ours, theirs in zip(result.logprobs, streamed.logprobs, strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)


async def test_a_prompt_its_messages_and_its_ids_are_the_same_prompt(model: host.Model) -> None:
    text = await model.apply_chat_template(CHAT)
    results = [
        await model.generate(text),
        await model.generate(messages=CHAT),
        await model.generate(ids=await model.tokenize(text)),
    ]
    assert len({tuple(result.ids) for result in results}) == 1
    assert len({result.usage.prompt_tokens for result in results}) == 1


async def test_it_says_why_it_ended(model: host.Model) -> None:
    answered = await model.generate(messages=CHAT, max_tokens=200)
    assert (answered.finish_reason, answered.stop) == ("stop", model.info.eos_token_ids[0])
    assert model.info.eos_token_ids[0] not in answered.ids
    cut = await model.generate(messages=CHAT, max_tokens=1)
    assert (cut.finish_reason, cut.stop, len(cut.ids)) == ("length", None, 1)
    on = await model.generate(messages=CHAT, max_tokens=200, ignore_eos=True)
    assert on.finish_reason == "length" and on.ids[: len(answered.ids)] == answered.ids


async def test_timing_and_usage_are_there(model: host.Model) -> None:
    result = await model.generate("Hello", max_tokens=5, ignore_eos=True)
    assert set(result.timing) == {
        *("queue_ms", "prefill_ms", "decode_ms", "ttft_ms"),
        *("tokens_per_second", "prefill_tokens_per_second"),
    }
    assert all(value >= 0 for value in result.timing.values())
    assert result.usage.prompt_tokens == await model.count_tokens("Hello")


async def test_text_ends_before_the_first_stop_string(model: host.Model) -> None:
    whole = await model.generate("Once upon a time", max_tokens=40, ignore_eos=True)
    for start, size in ((5, 1), (7, 3), (11, 6)):
        stop = whole.text[start : start + size]
        result = await model.generate(
            "Once upon a time", max_tokens=40, ignore_eos=True, stop=["\x00never", stop]
        )
        assert result.text == whole.text[: whole.text.index(stop)]
        assert (result.finish_reason, result.stop) == ("stop", stop)
        assert result.ids == whole.ids[: len(result.ids)]


async def test_a_stop_token_ends_it_and_is_not_among_the_ids(model: host.Model) -> None:
    whole = await model.generate("Once upon a time", max_tokens=20, ignore_eos=True)
    stop = whole.ids[6]
    result = await model.generate(
        "Once upon a time", max_tokens=20, ignore_eos=True, stop_token_ids=[stop]
    )
    assert result.ids == whole.ids[: whole.ids.index(stop)]
    assert (result.finish_reason, result.stop) == ("stop", stop)


async def test_log_probabilities_belong_to_their_tokens(model: host.Model) -> None:
    generation = model.generate("Once upon a time", max_tokens=12, logprobs=4)
    deltas = await deltas_of(generation)
    for delta in deltas:
        assert delta.logprobs is not None and [entry.id for entry in delta.logprobs] == delta.ids
    result = await generation
    for entry in result.logprobs or []:
        values = [value for _, value in entry.top]
        assert len(values) == 4 and values == sorted(values, reverse=True)
        assert entry.top[0] == (entry.id, entry.logprob) and entry.logprob <= 0
        assert sum(map(math.exp, values)) <= 1.0001
    bare = await model.generate("Once upon a time", max_tokens=3, logprobs=0)
    assert [entry.top for entry in bare.logprobs or []] == [()] * 3
    assert (await model.generate("Once", max_tokens=3)).logprobs is None


@pytest.mark.parametrize(
    "options",
    [{}, {"top_p": 0.9}, {"top_k": 20, "min_p": 0.01}, {"repetition_penalty": 1.2}],
    ids=str,
)
async def test_a_seed_gives_the_same_tokens_whoever_else_is_served(
    model: host.Model, options: dict[str, Any]
) -> None:
    def draw(seed: int | None = 7) -> host.Generation:
        seeded: Any = {} if seed is None else {"seed": seed}
        return model.generate(
            "Once upon a time", max_tokens=16, temperature=1.5, ignore_eos=True, **seeded, **options
        )

    alone = await draw()
    crowd = await asyncio.gather(*(draw(seed) for seed in (1, 7, None, 7, 2, None, 7, 3)))
    assert [crowd[index].ids for index in (1, 3, 6)] == [alone.ids] * 3
    assert len({tuple(crowd[index].ids) for index in (0, 1, 4, 7)}) > 1
    assert (await draw(crowd[2].seed)).ids == crowd[2].ids
    assert alone.seed == 7


async def test_a_logit_bias_forces_or_forbids_a_token(model: host.Model) -> None:
    forced = await model.generate("Hello", max_tokens=4, logit_bias={20: 1e6})
    assert forced.ids == [20] * 4
    first = (await model.generate("Hello", max_tokens=1, ignore_eos=True)).ids[0]
    other = await model.generate("Hello", max_tokens=1, ignore_eos=True, logit_bias={first: -1e6})
    assert other.ids[0] != first


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 11}, "presence_penalty"),
        ({"logit_bias": [[768, 1.0]]}, "logit_bias"),
        ({"logit_bias": [[1]]}, "logit_bias[0]"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": "abc"}, "stop"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop": ["x" * 1_025]}, "stop[0]"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**53 - 1 + 0.0}, "seed"),
        ({"logprobs": 21}, "logprobs"),
        ({"stream": 1}, "stream"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"unknown": 1}, "unknown"),
        ({"tools": []}, "tools"),
        ({"messages": CHAT}, "messages"),
    ],
    ids=str,
)
async def test_an_option_out_of_its_range_is_refused_by_name(
    model: host.Model, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await model.generate("Hello", **options)
    assert caught.value.details["field"] == field


@pytest.mark.parametrize(
    "prompt",
    [{}, {"prompt": ""}, {"ids": []}, {"ids": [5] * 4_096}],
    ids=["none", "empty", "no ids", "too long"],
)
async def test_a_prompt_that_cannot_be_continued_is_refused(model: host.Model, prompt: Any) -> None:
    with pytest.raises(InvalidRequest):
        await model.generate(**prompt)


async def test_a_character_of_several_tokens_comes_out_whole(party: host.Model) -> None:
    deltas = await deltas_of(party.generate(ids=[0x89], max_tokens=12))
    assert "".join(delta.text for delta in deltas) == "\U0001f389" * 3
    assert all(delta.text == "\U0001f389" * len(delta.text) for delta in deltas)
    assert sum(len(delta.ids) for delta in deltas) == 12


async def test_a_character_that_is_never_finished_comes_out_at_the_end(party: host.Model) -> None:
    deltas = await deltas_of(party.generate(ids=[0x89], max_tokens=6))
    text = "".join(delta.text for delta in deltas)
    assert text.startswith("\U0001f389") and text != "\U0001f389"
    assert "\ufffd" not in "".join(delta.text for delta in deltas[:-1])
    assert text[1:].strip("\ufffd") == ""


async def test_a_slow_reader_stops_its_own_producer_only(model: host.Model) -> None:
    slow = model.generate("Once", max_tokens=100, ignore_eos=True, credit=4)
    reading = aiter(slow)
    first = await anext(reading)
    fast = await model.generate("Once", max_tokens=100, ignore_eos=True)
    assert slow._stream.received <= 4 + len(first.ids)
    rest = [first, *[delta async for delta in reading]]
    assert [token for delta in rest for token in delta.ids] == fast.ids


@pytest_asyncio.fixture(loop_scope="session")
async def full(model: host.Model) -> AsyncIterator[list[host.Generation]]:
    """As many generations as may run, all waiting for their readers."""
    jobs = [model.generate("x", max_tokens=9, credit=0) for _ in range(RUNNING_LIMIT)]
    yield jobs
    for job in jobs:
        job.cancel()
    results = await asyncio.gather(*jobs)
    assert {result.finish_reason for result in results} == {"cancelled"}


async def test_cancelled_in_the_queue_it_settles_and_the_others_are_unharmed(
    model: host.Model, full: list[host.Generation]
) -> None:
    waiting = model.generate("x", max_tokens=9)
    waiting.cancel()
    result = await waiting
    assert (result.finish_reason, result.ids) == ("cancelled", [])
    assert not any(job._stream.is_settled for job in full)


async def test_a_deadline_in_the_queue_says_so(
    model: host.Model, full: list[host.Generation]
) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await model.generate("x", max_tokens=9, deadline_ms=50)
    assert caught.value.phase == "queue" and caught.value.details["completion_tokens"] == 0


async def test_a_long_prompt_tells_how_far_it_is() -> None:
    heard: list[dict[str, Any]] = []

    def listen(name: str, payload: Any) -> None:
        if name == "progress" and payload["stage"] == "prefill":
            heard.append(payload)

    options = ["--prefill-chunk-tokens", str(CHUNK_TOKENS)]
    async with await host.start(on_event=listen, runtime_args=options) as runtime:
        model = await runtime.load_model()
        await model.generate(ids=LONG, max_tokens=1)
    done = [progress["done"] for progress in heard]
    assert done and done == sorted(done) and {p["total"] for p in heard} == {len(LONG)}


async def test_cancelled_in_prefill_it_has_no_tokens(
    runtime: host.Runtime, model: host.Model
) -> None:
    generation = model.generate(ids=LONG, max_tokens=100)
    await runtime.ping()
    generation.cancel()
    result = await generation
    assert (result.finish_reason, result.ids) == ("cancelled", [])


async def test_a_deadline_in_prefill_says_so(model: host.Model) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await model.generate(ids=LONG, max_tokens=100, deadline_ms=20)
    assert caught.value.phase in ("queue", "prefill")


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelled_in_decode_it_keeps_what_it_has(model: host.Model, stream: bool) -> None:
    generation = model.generate("Once", max_tokens=3_000, ignore_eos=True, stream=stream)
    other = asyncio.ensure_future(_finished(model))
    if stream:
        await anext(aiter(generation))
    else:
        await model.generate("wait for a while", max_tokens=20, ignore_eos=True)
        generation.cancel()
        result = await generation
        assert result.finish_reason == "cancelled"
        assert 0 < result.usage.completion_tokens == len(result.ids) < 3_000
    assert len((await other).ids) == 20


async def _finished(model: host.Model) -> host.GenerationResult:
    return await model.generate("Once", max_tokens=20, ignore_eos=True)


async def test_a_deadline_in_decode_carries_the_token_count(
    runtime: host.Runtime, model: host.Model
) -> None:
    generation = model.generate("Once", max_tokens=9, ignore_eos=True, credit=2, deadline_ms=300)
    await settled(runtime)
    with pytest.raises(DeadlineExceeded) as caught:
        await generation
    assert caught.value.phase == "decode" and caught.value.details["completion_tokens"] == 2


async def test_a_request_and_its_cancel_in_one_write_end_as_cancelled(model: host.Model) -> None:
    for stream in (True, False):
        generation = model.generate("Once", max_tokens=50, ignore_eos=True, stream=stream)
        generation.cancel()
        assert (await generation).finish_reason == "cancelled"


async def test_a_cancelled_task_cancels_its_generation(
    runtime: host.Runtime, model: host.Model
) -> None:
    async def generate() -> None:
        await model.generate("Once", max_tokens=3_000, ignore_eos=True)

    task = asyncio.ensure_future(generate())
    await runtime.ping()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await settled(runtime)


async def test_leaving_a_stream_early_leaves_nothing_for_the_next(
    runtime: host.Runtime, model: host.Model
) -> None:
    expected = await model.generate("Once", max_tokens=20, ignore_eos=True)
    for _ in range(3):
        async for _delta in model.generate("Two", max_tokens=2_000, ignore_eos=True):
            break
    assert (await model.generate("Once", max_tokens=20, ignore_eos=True)).ids == expected.ids
    await settled(runtime)
