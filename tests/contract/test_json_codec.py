"""The JSON codec, spoken by hand: one message a line."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.waiting import WAIT_S

pytestmark = pytest.mark.asyncio(loop_scope="session")

LINE_LIMIT = 32 * 1024 * 1024


class Hand:
    """A JSON runtime and whoever types to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def type(self, *lines: str | list[Any]) -> None:
        """Write lines, or messages as lines."""
        assert self.process.stdin is not None
        for line in lines:
            text = line if isinstance(line, str) else json.dumps(line)
            self.process.stdin.write(text.encode() + b"\n")

    async def read(self) -> Any:
        """Return the next message."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), WAIT_S)
        return json.loads(line) if line else None

    async def read_until(self, request: int) -> list[Any]:
        """Return the messages up to the one that settles a request."""
        messages = [await self.read()]
        while not (messages[-1][0] in (2, 3, 5) and messages[-1][1] == request):
            messages.append(await self.read())
        return messages

    async def ask(self, request: int, method: str, params: dict[str, Any]) -> Any:
        """Return the message that settles a request."""
        self.type([1, request, method, params])
        return (await self.read_until(request))[-1]


@contextlib.asynccontextmanager
async def typing(*arguments: str) -> AsyncIterator[Hand]:
    """Start a runtime that speaks JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "isthmus", "runtime", "--codec", "json", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT,
    )
    hand = Hand(process)
    try:
        yield hand
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hand() -> AsyncIterator[Hand]:
    """A greeted runtime."""
    async with typing() as started:
        kind, hello = await started.read()
        assert (kind, hello["protocol"], hello["codec"]) == (0, 1, "json")
        started.type([0, {"protocol": 1, "host": "hand"}])
        yield started


async def test_values_and_binary_come_back(hand: Hand) -> None:
    data = {
        "text": "ü🎉",
        "list": [1, 2.5, None, True],
        "raw": {"$bin": base64.b64encode(b"\xff\x00").decode()},
    }
    assert await hand.ask(1, "echo", {"data": data}) == [2, 1, data]


async def test_tokens_are_arrays_of_integers(hand: Hand) -> None:
    events = []
    hand.type([1, 2, "load_model", {"source": "default"}])
    *events, loaded = await hand.read_until(2)
    handle = loaded[2]["model"]
    assert {event[0] for event in events} == {8}
    assert {event[1] for event in events} == {"progress", "model_loaded"}
    tokenized = await hand.ask(3, "tokenize", {"model": handle, "text": "hello"})
    ids = tokenized[2]["ids"]
    assert ids and all(type(token) is int for token in ids)
    assert (await hand.ask(4, "detokenize", {"model": handle, "ids": ids}))[2] == {"text": "hello"}
    hand.type(
        [1, 5, "generate", {"model": handle, "ids": ids, "max_tokens": 5, "ignore_eos": True}]
    )
    *deltas, end = await hand.read_until(5)
    assert end[0] == 5 and end[2]["usage"]["completion_tokens"] == 5
    assert sum(delta[2] for delta in deltas) == len([t for d in deltas for t in d[3]["ids"]]) == 5


async def test_a_large_value_is_one_line(hand: Hand) -> None:
    data = "x" * 1_000_000
    assert await hand.ask(6, "echo", {"data": data}) == [2, 6, data]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("nonsense", "DECODE_ERROR"),
        ("[1, 7", "DECODE_ERROR"),
        ("{}", "INVALID_REQUEST"),
        ("[99]", "INVALID_REQUEST"),
        ("[" * 40 + "]" * 40, "DEPTH_EXCEEDED"),
        ('[1, 7, "echo", {"data": {"__proto__": 1}}]', "DECODE_ERROR"),
    ],
)
async def test_a_bad_line_is_answered_and_the_next_is_served(
    hand: Hand, line: str, code: str
) -> None:
    hand.type(line, "", "   ")
    kind, _, error = await hand.read()
    assert (kind, error["code"]) == (3, code)
    assert await hand.ask(8, "echo", {"data": 1}) == [2, 8, 1]


async def test_credit_cancel_and_ping_work_as_ever(hand: Hand) -> None:
    hand.type([1, 9, "stream_echo", {"count": 5}, {"credit": 2}])
    assert await hand.read() == [4, 9, 2, [0, 1]]
    hand.type([7, 9, 1])
    assert await hand.read() == [4, 9, 1, [2]]
    hand.type([6, 9])
    assert (await hand.read())[2]["code"] == "CANCELLED"
    hand.type([9, "nonce"])
    kind, nonce, health = await hand.read()
    assert (kind, nonce) == (10, "nonce") and "engine" in health


async def test_a_line_over_the_limit_ends_the_connection() -> None:
    async with typing("--frame-limit-bytes", "1000") as hand:
        assert (await hand.read())[0] == 0
        hand.type([0, {"protocol": 1}], "x" * 2_000)
        kind, request, error = await hand.read()
        assert (kind, request, error["code"]) == (3, None, "FRAME_TOO_LARGE")
        assert (await hand.read())[:2] == [8, "closing"]
        assert await hand.read() is None


async def test_another_version_is_named_and_ends_the_connection() -> None:
    async with typing() as hand:
        await hand.read()
        hand.type([0, {"protocol": 2}])
        kind, request, error = await hand.read()
        assert (kind, request, error["code"]) == (3, None, "VERSION_MISMATCH")
        assert error["details"] == {"host": 2, "runtime": 1}
