"""What a request waits for settles once; a stream's reader grants credit and cancels."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from isthmus.errors import Cancelled, InvalidRequest, IsthmusError, RuntimeExited
from isthmus.host.generation import Generation
from isthmus.host.streams import Reply, Stream
from isthmus.wire.codec import token_ids

WAIT_S = 10.0
END = {
    "finish_reason": "stop",
    "stop": 0,
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 0},
    "timing": {"ttft_ms": 1.0},
    "seed": 5,
    "batching": {"state": "alone", "reason": None},
    "speculation": None,
    "is_complete": None,
    "tool_calls": None,
}


class FakeWire:
    """Keeps what a stream asks for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def cancel(self, request: int) -> None:
        """Note it."""
        self.asked.append(("cancel", request))

    def grant(self, request: int, count: int) -> None:
        """Note it."""
        self.asked.append(("grant", count))


def a_stream(window: int = 256) -> tuple[Stream, FakeWire]:
    """Return a stream that has been sent with id 7."""
    wire = FakeWire()
    stream = Stream(wire, window)
    stream.request = 7
    return stream, wire


async def all_of(stream: Stream) -> list[Any]:
    """Read a stream to its end."""
    return [payload async for payload in stream.read()]


async def test_payloads_are_read_in_order_and_then_the_end() -> None:
    stream, wire = a_stream()
    reading = asyncio.ensure_future(all_of(stream))
    for number in range(3):
        stream.on_delta(1, number)
        await asyncio.sleep(0)
    stream.on_value("end")
    assert await asyncio.wait_for(reading, WAIT_S) == [0, 1, 2]
    assert stream.end == "end" and wire.asked == []


async def test_what_arrived_before_an_error_is_read_before_it_is_raised() -> None:
    stream, _ = a_stream()
    stream.on_delta(2, "ab")
    stream.on_error(RuntimeExited("gone"))
    read = []
    with pytest.raises(RuntimeExited) as caught:
        async for payload in stream.read():
            read.append(payload)  # noqa: PERF401 -- kept when the next one raises
    assert read == ["ab"] and caught.value.details["received"] == 2


async def test_it_settles_once_and_ignores_what_comes_after() -> None:
    stream, _ = a_stream()
    stream.on_value("end")
    stream.on_error(RuntimeExited("late"))
    stream.on_delta(1, "late")
    stream.on_value("later")
    assert await all_of(stream) == [] and stream.end == "end" and stream.error is None


async def test_credit_is_granted_back_in_halves_of_the_window() -> None:
    stream, wire = a_stream(window=10)
    for _ in range(12):
        stream.on_delta(1, "x")
    stream.on_delta(7, "y")
    reading = stream.read()
    for _ in range(13):
        await anext(reading)
    assert wire.asked == [("grant", 5), ("grant", 5), ("grant", 9)]
    await reading.aclose()


async def test_what_nobody_reads_is_not_granted_back() -> None:
    stream, wire = a_stream(window=2)
    for _ in range(10):
        stream.on_delta(1, "x")
    assert wire.asked == []


@pytest.mark.parametrize("way", ["break", "raise", "task"])
async def test_leaving_early_cancels_once(way: str) -> None:
    stream, wire = a_stream()
    stream.on_delta(1, "x")

    async def leave() -> None:
        reading = stream.read()
        try:
            async for _ in reading:
                if way == "break":
                    break
                if way == "raise":
                    raise KeyError
        finally:
            await reading.aclose()

    task = asyncio.ensure_future(leave())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if way == "task":
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    stream.on_delta(1, "late")
    stream.cancel()
    assert wire.asked == [("cancel", 7)] and await_nothing(stream)


def await_nothing(stream: Stream) -> bool:
    """Whether nothing is kept for a reader who has gone."""
    return not stream._arrived


async def test_a_settled_stream_is_not_cancelled() -> None:
    stream, wire = a_stream()
    stream.on_value("end")
    stream.cancel()
    stream.abandon()
    assert wire.asked == []


async def test_a_stream_has_one_reader_at_a_time() -> None:
    stream, wire = a_stream()
    first = asyncio.ensure_future(all_of(stream))
    await asyncio.sleep(0)
    with pytest.raises(InvalidRequest):
        await all_of(stream)
    assert wire.asked == []
    stream.on_delta(1, "x")
    stream.on_value("end")
    assert await asyncio.wait_for(first, WAIT_S) == ["x"]


async def test_a_reply_settles_once() -> None:
    reply = Reply()
    reply.on_delta(1, "no stream")
    reply.on_value(1)
    reply.on_value(2)
    reply.on_error(RuntimeExited("late"))
    assert await reply.future == 1


async def test_a_value_for_somebody_who_left_is_handed_to_the_heir() -> None:
    left: list[Any] = []
    reply = Reply(on_abandoned=left.append)
    reply.future.cancel()
    reply.on_value("late")
    assert left == ["late"]


async def test_a_value_that_its_caller_was_cancelled_before_taking_is_handed_to_the_heir() -> None:
    left: list[Any] = []
    taken, failed = Reply(on_abandoned=left.append), Reply(on_abandoned=left.append)
    taken.on_value("in time")
    failed.on_error(RuntimeExited("it has ended"))
    for reply in (taken, failed):
        reply.abandon()
    assert left == ["in time"]


async def test_progress_is_told_before_the_result_and_its_defects_stay_outside() -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def defect(payload: dict[str, Any]) -> None:
        raise KeyError(payload["done"])

    told: list[Any] = []
    good, bad = Reply(told.append), Reply(defect)
    for reply in (good, bad):
        reply.on_progress({"done": 1})
        reply.on_value("done")
    waiting = asyncio.gather(good.future, bad.future)
    assert await waiting == ["done", "done"]
    assert told == [{"done": 1}]
    assert len(reported) == 1


def delta(text: str, *ids: int) -> dict[str, Any]:
    """Return a payload of generate."""
    return {"text": text, "ids": token_ids(list(ids)).tobytes()}


async def test_a_generation_can_be_iterated_and_then_awaited() -> None:
    stream, _ = a_stream()
    generation = Generation(stream)
    stream.on_delta(1, delta("a", 1))
    stream.on_delta(2, delta("b", 2, 3))
    stream.on_value(END)
    assert [(piece.text, piece.ids) async for piece in generation] == [("a", [1]), ("b", [2, 3])]
    result = await generation
    assert (result.text, result.ids, result.finish_reason) == ("ab", [1, 2, 3], "stop")
    assert (result.usage.completion_tokens, result.seed, result.logprobs) == (2, 5, None)


async def test_a_result_without_deltas_has_its_text_in_the_end() -> None:
    stream, _ = a_stream()
    stream.on_value(
        {**END, **delta("whole", 4), "logprobs": [{"id": 4, "logprob": -1.0, "top": [[4, -1.0]]}]}
    )
    result = await Generation(stream)
    assert (result.text, result.ids) == ("whole", [4])
    assert result.logprobs is not None and result.logprobs[0].top == ((4, -1.0),)


async def test_a_cancelled_generation_ends_with_what_it_has() -> None:
    stream, wire = a_stream()
    generation = Generation(stream)
    stream.on_delta(1, delta("a", 1))
    generation.cancel()
    stream.on_delta(1, delta("b", 2))
    stream.on_value({**END, "finish_reason": "cancelled"})
    result = await generation
    assert (result.text, result.finish_reason) == ("ab", "cancelled")
    assert wire.asked == [("cancel", 7)]


async def test_a_task_that_is_cancelled_cancels_the_generation_it_awaits() -> None:
    stream, wire = a_stream()
    waiting = asyncio.ensure_future(Generation(stream)._result())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert wire.asked == [("cancel", 7)]


async def test_breaking_out_of_a_generation_cancels_it() -> None:
    stream, wire = a_stream()
    stream.on_delta(1, delta("a", 1))
    async for _ in Generation(stream):
        break
    gc.collect()
    async with asyncio.timeout(WAIT_S):
        while not wire.asked:
            await asyncio.sleep(0)
    assert wire.asked == [("cancel", 7)]


async def test_a_generation_that_is_let_go_is_cancelled() -> None:
    stream, wire = a_stream()
    generation = Generation(stream)
    del generation
    gc.collect()
    await asyncio.sleep(0)
    assert wire.asked == [("cancel", 7)]


async def test_a_failed_generation_raises_its_error_every_time_it_is_awaited() -> None:
    stream, _ = a_stream()
    generation = Generation(stream)
    stream.on_error(Cancelled("no"))
    for _ in range(2):
        with pytest.raises(IsthmusError):
            await generation
