"""Messages in, replies out: every request settles exactly once, whatever is sent."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import FrameTooLarge, InvalidRequest, RemoteProtocolError
from isthmus.limits import IN_FLIGHT_LIMIT
from isthmus.multiplex.multiplexer import Multiplexer
from isthmus.runtime.methods import basic
from isthmus.runtime.requests import Call
from isthmus.runtime.router import Router
from isthmus.runtime.server import Server
from isthmus.wire.codec import MsgpackCodec
from isthmus.wire.messages import PIECE

HELLO, REQUEST, RESULT, ERROR, DELTA, END, CANCEL, CREDIT, EVENT, PING, PONG = range(11)
WAIT_S = 10.0


class FakeWriter:
    """Keeps what is sent, as it would be decoded."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.flushes = 0
        self._codec = MsgpackCodec()

    def send(self, message: list[Any], request: int | None = None) -> None:
        """Take a message."""
        self.sent.append(self._codec.decode(self._codec.encode(message)))

    def flush(self) -> None:
        """Count."""
        self.flushes += 1


class Bench:
    """A server with methods that the test holds the strings of."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.writer = FakeWriter()
        self.gate = asyncio.Event()
        self.interrupts: list[str] = []
        router = Router()
        basic.register(router, self._room)
        router.register("wait", run=self._wait)
        router.register("listen", run=self._listen)
        router.register("fail", run=self._fail)
        router.register("inline_fail", inline=self._inline_fail)
        router.register("defer", begin=self._defer)
        router.register("raise_at_once", run=self._raise_at_once)
        hello = {"protocol": 1, "runtime": "test"}
        self.server = Server(
            MsgpackCodec(),
            self.writer,  # type: ignore[arg-type]
            router,
            group,
            hello,
            lambda: {"in_flight": 0},
            Multiplexer(group.create_task, asyncio.get_running_loop()),
        )

    async def _room(self) -> None:
        """Nothing is ever unread here."""

    async def _wait(self, call: Call, params: dict[str, Any]) -> None:
        await self.gate.wait()
        call.result("waited")

    def _defer(self, call: Call, params: dict[str, Any]) -> None:
        asyncio.get_running_loop().call_soon(call.result, "later")

    async def _listen(self, call: Call, params: dict[str, Any]) -> None:
        def interrupt(error: Exception) -> None:
            self.interrupts.append(type(error).__name__)
            call.end("interrupted")
            self.gate.set()

        call.on_interrupt = interrupt
        await self.gate.wait()

    async def _fail(self, call: Call, params: dict[str, Any]) -> None:
        if params.get("typed"):
            raise InvalidRequest("no", field="x")
        raise KeyError("defect")

    def _inline_fail(self, params: dict[str, Any]) -> object:
        raise KeyError("defect")

    def _raise_at_once(self, call: Call, params: dict[str, Any]) -> Any:
        raise InvalidRequest("at once", field="x")

    def receive(self, *messages: object) -> None:
        """Let messages arrive in one read."""
        for message in messages:
            self.server.on_payload(msgpack.packb(message))

    async def turns(self, count: int = 5) -> None:
        """Let tasks run."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def settled(self, request: int) -> list[Any]:
        """Wait until a request has settled; return its message."""
        async with asyncio.timeout(WAIT_S):
            while not (found := self.replies(request)):
                await asyncio.sleep(0)
        (reply,) = found
        return reply

    def replies(self, request: int | None) -> list[list[Any]]:
        """Return what settled a request."""
        kinds = (RESULT, ERROR, END)
        return [m for m in self.writer.sent if m[0] in kinds and m[1] == request]

    def code(self, request: int | None) -> str:
        """Return the code of the one error of a request."""
        (reply,) = self.replies(request)
        return str(reply[2]["code"])


@contextlib.asynccontextmanager
async def a_server(is_greeted: bool = True) -> AsyncIterator[Bench]:
    """A server in a task group of its own; who still waits at the end is let go."""
    async with asyncio.TaskGroup() as group:
        bench = Bench(group)
        if is_greeted:
            bench.receive([HELLO, {"protocol": 1}])
        try:
            yield bench
        finally:
            bench.gate.set()


async def test_the_first_frame_is_the_hello() -> None:
    async with a_server(is_greeted=False) as bench:
        bench.server.say_hello()
        assert bench.writer.sent == [[HELLO, {"protocol": 1, "runtime": "test"}]]


@pytest.mark.parametrize("method", ["echo", "stream_echo", "unknown"])
async def test_a_request_before_the_hello_is_refused(method: str) -> None:
    async with a_server(is_greeted=False) as bench:
        bench.receive([REQUEST, 1, method, {"data": 1}])
        assert bench.code(1) == "INVALID_REQUEST"
        bench.receive([HELLO, {"protocol": 1, "later": True}], [REQUEST, 1, "echo", {"data": 1}])
        assert bench.replies(1)[1:] == [[RESULT, 1, 1]]


@pytest.mark.parametrize("version", [2, 99, "1", None])
async def test_another_version_is_named_and_ends_the_connection(version: object) -> None:
    async with a_server(is_greeted=False) as bench:
        bench.receive([HELLO, {"protocol": version}])
        (error,) = bench.replies(None)
        assert error[2]["code"] == "VERSION_MISMATCH"
        assert repr(version) in error[2]["message"] and "version 1" in error[2]["message"]
        assert bench.server.closing.is_set() and bench.writer.flushes
        bench.receive([REQUEST, 1, "wait", {}])
        assert bench.code(1) == "INVALID_REQUEST"


async def test_an_inline_method_is_answered_in_the_read_itself() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "echo", {"data": {"a": [1]}}])
        assert bench.replies(1) == [[RESULT, 1, {"a": [1]}]]
        assert bench.server.in_flight == 0


async def test_elements_and_options_that_are_not_known_are_ignored() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "echo", {"data": 1}, {"later": 1}, "more"])
        assert bench.replies(1) == [[RESULT, 1, 1]]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ([REQUEST, 1, "unknown", {}], "UNKNOWN_METHOD"),
        ([REQUEST, 1, "x" * 5_000, {}], "UNKNOWN_METHOD"),
        ([REQUEST, 1, "echo", []], "INVALID_REQUEST"),
        ([REQUEST, 1, 5, {}], "INVALID_REQUEST"),
        ([REQUEST, 1, "echo"], "INVALID_REQUEST"),
        ([REQUEST, 1, "echo", {}, []], "INVALID_REQUEST"),
        ([REQUEST, 1, "wait", {}, {"deadline_ms": 0}], "INVALID_REQUEST"),
        ([REQUEST, 1, "wait", {}, {"credit": -1}], "INVALID_REQUEST"),
        ([REQUEST, 1, "echo", {"data": 1, "more": 2}], "INVALID_REQUEST"),
        ([REQUEST, 1, "stream_echo", {"count": -1}], "INVALID_REQUEST"),
        ([REQUEST, 1, "stream_echo", {}], "INVALID_REQUEST"),
        ([99, 1], "INVALID_REQUEST"),
        ([CREDIT, 1, 0], "INVALID_REQUEST"),
        ([REQUEST, 1, "fail", {"typed": True}], "INVALID_REQUEST"),
        ([REQUEST, 1, "raise_at_once", {}], "INVALID_REQUEST"),
        ([REQUEST, 1, "fail", {}], "INTERNAL"),
        ([REQUEST, 1, "inline_fail", {}], "INTERNAL"),
    ],
)
async def test_a_bad_request_fails_with_its_code_and_the_next_is_served(
    message: list[Any], code: str
) -> None:
    async with a_server() as bench:
        bench.receive(message)
        reply = await bench.settled(1)
        assert (reply[0], reply[2]["code"]) == (ERROR, code)
        bench.receive([REQUEST, 1, "echo", {"data": 2}])
        assert bench.replies(1)[1:] == [[RESULT, 1, 2]]


@pytest.mark.parametrize(
    "message",
    [None, 7, {}, [], ["x"], [True, 1], [99], [RESULT, 1, 1], [PONG, 1, {}], [6, "x"]],
    ids=repr,
)
async def test_what_belongs_to_no_request_is_answered_with_id_nil(message: object) -> None:
    async with a_server() as bench:
        bench.receive(message)
        assert bench.code(None) == "INVALID_REQUEST"


async def test_an_undecodable_payload_fails_the_request_that_it_shows() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 5, "wait", {}])
        good = msgpack.packb([REQUEST, 7, "echo", {"data": "ab"}])
        bench.server.on_payload(good.replace(b"ab", b"\xff\xfe"))
        bench.server.on_payload(b"\xc1")
        assert (bench.code(7), bench.code(None)) == ("DECODE_ERROR", "DECODE_ERROR")
        assert bench.server.in_flight == 1


async def test_a_depth_bomb_fails_alone() -> None:
    async with a_server() as bench:
        bench.server.on_payload(b"\x94\x01\x09\xa4echo\x81\xa4data" + b"\x91" * 40 + b"\xc0")
        assert bench.code(9) == "DEPTH_EXCEEDED"


async def test_a_duplicate_id_does_not_touch_the_first() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "wait", {}], [REQUEST, 1, "wait", {}], [REQUEST, 1, "echo", {}])
        duplicates = bench.replies(1)
        assert [reply[2]["code"] for reply in duplicates] == ["DUPLICATE_ID"] * 2
        assert all(reply[2]["details"]["duplicate"] is True for reply in duplicates)
        bench.gate.set()
        await bench.turns()
        assert bench.replies(1)[2:] == [[RESULT, 1, "waited"]]


async def test_an_id_may_be_used_again_once_its_request_is_settled() -> None:
    async with a_server() as bench:
        bench.gate.set()
        bench.receive([REQUEST, 1, "wait", {}])
        await bench.turns()
        bench.receive([REQUEST, 1, "wait", {}])
        await bench.turns()
        assert bench.replies(1) == [[RESULT, 1, "waited"]] * 2


async def test_a_cancelled_request_settles_once_and_its_task_ends() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "wait", {}])
        await bench.turns()
        bench.receive([CANCEL, 1], [CANCEL, 1])
        await bench.turns()
        assert bench.code(1) == "CANCELLED"
        assert bench.server.in_flight == 0 and not bench.gate.is_set()


async def test_a_request_and_its_cancel_in_one_read_leave_no_coroutine_behind() -> None:
    async with a_server() as bench:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bench.receive([REQUEST, 1, "wait", {}], [CANCEL, 1])
            await bench.turns()
        assert bench.code(1) == "CANCELLED" and not caught


async def test_a_method_that_listens_settles_its_cancel_itself() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "listen", {}])
        await bench.turns()
        bench.receive([CANCEL, 1])
        await bench.turns()
        assert bench.interrupts == ["Cancelled"]
        assert bench.replies(1) == [[END, 1, "interrupted"]]


@pytest.mark.parametrize("message", [[CANCEL, 42], [CREDIT, 42, 5]])
async def test_a_cancel_or_credit_for_nobody_is_ignored(message: list[int]) -> None:
    async with a_server() as bench:
        bench.receive(message)
        assert bench.writer.sent == []


async def test_a_deadline_settles_a_request_once() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "wait", {}, {"deadline_ms": 1}])
        reply = await bench.settled(1)
        assert (reply[2]["code"], reply[2]["phase"]) == ("DEADLINE_EXCEEDED", "running")
        bench.gate.set()
        await bench.turns()
        assert len(bench.replies(1)) == 1


async def test_what_a_method_began_settles_later_without_a_task() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "defer", {}])
        assert bench.replies(1) == [] and bench.server.in_flight == 1
        assert await bench.settled(1) == [RESULT, 1, "later"]


async def test_what_a_method_began_can_be_cancelled() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "defer", {}], [CANCEL, 1])
        assert bench.code(1) == "CANCELLED"
        await bench.turns()
        assert len(bench.replies(1)) == 1


async def test_a_stream_sends_no_more_than_its_credit() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "stream_echo", {"count": 10}, {"credit": 3}])
        await bench.turns()
        deltas = [m for m in bench.writer.sent if m[0] == DELTA]
        assert deltas == [[DELTA, 1, 3, [0, 1, 2]]]
        bench.receive([CREDIT, 1, 5])
        await bench.turns()
        bench.receive([CREDIT, 1, 100])
        assert await bench.settled(1) == [END, 1, {"count": 10}]
        deltas = [m for m in bench.writer.sent if m[0] == DELTA]
        assert [item for delta in deltas for item in delta[3]] == list(range(10))


async def test_a_grant_in_the_same_read_as_its_request_counts() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "stream_echo", {"count": 10}, {"credit": 3}], [CREDIT, 1, 7])
        assert await bench.settled(1) == [END, 1, {"count": 10}]


async def test_a_starved_stream_delays_no_other_request() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "stream_echo", {"count": 10}, {"credit": 0}])
        bench.receive([REQUEST, 2, "stream_echo", {"count": 10, "data": "x"}])
        assert await bench.settled(2) == [END, 2, {"count": 10}]
        bench.receive([CANCEL, 1])
        assert (await bench.settled(1))[2]["code"] == "CANCELLED"


async def test_a_ping_is_answered_with_the_health() -> None:
    async with a_server() as bench:
        bench.receive([PING, "any nonce"])
        assert bench.writer.sent == [[PONG, "any nonce", {"in_flight": 0}]]


async def test_requests_over_the_limit_are_told_when_to_come_back() -> None:
    async with a_server() as bench:
        calls = bench.server._calls
        calls.update(dict.fromkeys(range(10, 10 + IN_FLIGHT_LIMIT)))  # type: ignore[arg-type]
        bench.receive([REQUEST, 1, "wait", {}])
        calls.clear()
        (reply,) = bench.replies(1)
        assert reply[2]["code"] == "QUEUE_FULL" and reply[2]["retry_after_ms"] > 0


def in_pieces(message: object, channel: int = 1, size: int = 20) -> list[list[Any]]:
    """Cut a message into piece messages."""
    payload = msgpack.packb(message)
    parts = [payload[start : start + size] for start in range(0, len(payload), size)]
    return [
        [PIECE, channel, int(index == len(parts) - 1), part] for index, part in enumerate(parts)
    ]


async def test_a_request_may_come_in_pieces_between_other_messages() -> None:
    async with a_server() as bench:
        first, *rest = in_pieces([REQUEST, 1, "echo", {"data": "x" * 100}])
        bench.receive(first, [REQUEST, 2, "echo", {"data": 2}], *rest)
        assert [reply[1] for reply in bench.writer.sent] == [2, 1]
        assert bench.replies(1) == [[RESULT, 1, "x" * 100]]


async def test_an_abandoned_message_is_forgotten() -> None:
    async with a_server() as bench:
        pieces = in_pieces([REQUEST, 1, "echo", {"data": "x" * 100}])
        bench.receive(*pieces[:-1], [PIECE, 1, 2, b""])
        assert bench.writer.sent == []
        bench.receive(*pieces)
        assert bench.replies(1) == [[RESULT, 1, "x" * 100]]


@pytest.mark.parametrize("header", [b"\x94", b"\xdc\x00\x04", b"\xdd\x00\x00\x00\x04"])
async def test_a_piece_inside_a_piece_is_refused(header: bytes) -> None:
    async with a_server() as bench:
        inner = header + msgpack.packb([PIECE, 2, 1, b"\xc0"])[1:]
        bench.receive([PIECE, 1, 1, inner])
        assert bench.code(None) == "INVALID_REQUEST"
        bench.receive([REQUEST, 1, "echo", {"data": 1}])
        assert bench.replies(1) == [[RESULT, 1, 1]]


async def test_too_many_open_pieces_break_the_connection() -> None:
    async with a_server() as bench:
        with pytest.raises(RemoteProtocolError):
            for channel in range(100):
                bench.receive([PIECE, channel, 0, b"x"])


@pytest.mark.parametrize("error", [None, FrameTooLarge("x"), RemoteProtocolError("x")])
async def test_the_end_of_the_input_refuses_what_comes_and_lets_the_rest_settle(
    error: FrameTooLarge | RemoteProtocolError | None,
) -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "wait", {}])
        await bench.turns()
        bench.server.on_input_closed(error)
        assert [reply[2]["code"] for reply in bench.replies(None)] == (
            [error.code] if error else []
        )
        bench.receive([REQUEST, 2, "echo", {"data": 1}], [REQUEST, 3, "wait", {}])
        assert (bench.code(2), bench.code(3)) == ("CLOSING", "CLOSING")
        draining = asyncio.ensure_future(bench.server.drain(WAIT_S))
        await bench.turns()
        bench.gate.set()
        await asyncio.wait_for(draining, WAIT_S)
        assert bench.replies(1) == [[RESULT, 1, "waited"]]


async def test_the_drain_settles_who_does_not_end_in_time() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "wait", {}], [REQUEST, 2, "wait", {}])
        await bench.turns()
        bench.server.on_input_closed(None)
        await bench.server.drain(0)
        await bench.turns()
        assert (bench.code(1), bench.code(2)) == ("CLOSING", "CLOSING")
        assert bench.writer.flushes


async def test_the_runtime_says_that_it_goes() -> None:
    async with a_server() as bench:
        bench.server.on_input_closed(None)
        await bench.server.drain(0)
        (event,) = [message for message in bench.writer.sent if message[0] == EVENT]
        assert event[1] == "closing" and event[2]["reason"]


async def test_a_drain_without_readers_does_not_wait() -> None:
    async with a_server() as bench:
        bench.receive([REQUEST, 1, "wait", {}])
        await bench.turns()
        bench.server.on_output_closed()
        await asyncio.wait_for(bench.server.drain(3_600), WAIT_S)


IDS = st.integers(0, 3)
STEPS: st.SearchStrategy[Any] = st.lists(
    st.one_of(
        st.tuples(
            st.just(REQUEST),
            IDS,
            st.sampled_from(["wait", "listen", "fail", "defer", "nope"]),
            st.just({}),
        ),
        st.tuples(
            st.just(REQUEST),
            IDS,
            st.just("stream_echo"),
            st.just({"count": 4}),
            st.just({"credit": 2}),
        ),
        st.tuples(st.just(CANCEL), IDS),
        st.tuples(st.just(CREDIT), IDS, st.integers(1, 3)),
        st.sampled_from(["turn", "open"]),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None, database=None)
@given(STEPS)
def test_in_any_order_of_events_each_request_settles_exactly_once(steps: list[Any]) -> None:
    async def play() -> None:
        accepted = 0
        async with a_server() as bench:
            for step in steps:
                if step == "turn":
                    await bench.turns(1)
                elif step == "open":
                    bench.gate.set()
                else:
                    accepted += step[0] == REQUEST
                    bench.receive(list(step))
            bench.server.on_input_closed(None)
            bench.gate.set()
            await bench.turns(20)
            await bench.server.drain(0)
        settled = [m for m in bench.writer.sent if m[0] in (RESULT, ERROR, END)]
        assert len(settled) == accepted and bench.server.in_flight == 0

    asyncio.run(play())
