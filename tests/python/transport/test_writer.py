"""Small messages overtake large ones, a request's messages keep their order, nobody is flooded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import LocalProtocolError
from isthmus.limits import FRAME_LIMIT_BYTES, MESSAGE_LIMIT_BYTES, OPEN_PIECES_LIMIT
from isthmus.limits import WRITE_WATERMARK_BYTES as WATERMARK
from isthmus.transport.writer import OrderedWriter
from isthmus.wire.codec import JsonCodec, MsgpackCodec
from isthmus.wire.frames import FrameDecoder
from isthmus.wire.messages import PIECE, PieceAssembler, PieceFlag

PIECE_BYTES = 100


class FakeSink:
    """A transport that keeps what is written until it is read, and pauses its writer as asyncio's
    and uvloop's do: above the watermark, not at it."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self.writes: list[bytes] = []
        self.unread = 0
        self._pause, self._resume = pause, resume
        self._is_paused = False

    def writelines(self, parts: list[bytes | memoryview]) -> None:
        """Take bytes that come in parts."""
        self.write(b"".join(parts))

    def write(self, data: bytes) -> None:
        """Take bytes."""
        self.writes.append(data)
        self.unread += len(data)
        if self.unread > WATERMARK and not self._is_paused:
            self._is_paused = True
            self._pause()

    def get_write_buffer_size(self) -> int:
        """Return what is unread."""
        return self.unread

    def read_all(self) -> None:
        """Let the other side read."""
        self.unread = 0
        if self._is_paused:
            self._is_paused = False
            self._resume()


class Bench:
    """A writer on a fake sink."""

    def __init__(self, piece_bytes: int = PIECE_BYTES, is_attached: bool = True) -> None:
        self.writer = OrderedWriter(MsgpackCodec(), asyncio.get_running_loop(), piece_bytes)
        self.sink = FakeSink(self.writer.pause, self.writer.resume)
        if is_attached:
            self.writer.attach(self.sink)

    def frames(self) -> list[Any]:
        """Return the messages of all frames, pieces as they are."""
        payloads = FrameDecoder().feed(b"".join(self.sink.writes))
        return [MsgpackCodec().decode(payload) for payload in payloads]

    def messages(self) -> list[Any]:
        """Return all messages, those in pieces where their last piece is."""
        assembler = PieceAssembler(MESSAGE_LIMIT_BYTES, OPEN_PIECES_LIMIT)
        whole = []
        for message in self.frames():
            if message[0] == PIECE:
                payload = assembler.add(*message[1:])
                message = MsgpackCodec().decode(payload) if payload is not None else None
            if message is not None:
                whole.append(message)
        return whole


async def test_the_messages_of_one_turn_leave_in_one_write() -> None:
    bench = Bench()
    for number in range(5):
        bench.writer.send([9, number])
    assert bench.sink.writes == []
    await asyncio.sleep(0)
    assert len(bench.sink.writes) == 1
    assert bench.messages() == [[9, number] for number in range(5)]


async def test_held_messages_leave_when_they_are_flushed() -> None:
    bench = Bench()
    bench.writer.hold()
    bench.writer.send([9, 1])
    await asyncio.sleep(0)
    assert bench.sink.writes == []
    bench.writer.flush()
    assert bench.messages() == [[9, 1]]


async def test_what_is_sent_before_the_sink_is_there_comes_first() -> None:
    bench = Bench(is_attached=False)
    bench.writer.send([0, {}])
    await asyncio.sleep(0)
    bench.writer.attach(bench.sink)
    assert bench.messages() == [[0, {}]]


async def test_a_message_at_the_limit_stays_whole_and_one_over_it_goes_in_pieces() -> None:
    bench = Bench()
    overhead = len(MsgpackCodec().encode([2, 1, b""]))
    bench.writer.send([2, 1, b"x" * (PIECE_BYTES - overhead)], 1)
    bench.writer.send([2, 2, b"x" * (PIECE_BYTES - overhead + 1)], 2)
    bench.writer.flush()
    assert [frame[0] for frame in bench.frames()] == [2, PIECE, PIECE]


async def test_pieces_carry_their_message_in_order_and_end_with_the_last_flag() -> None:
    bench = Bench()
    bench.writer.send([2, 1, b"abc" * 100], 1)
    bench.writer.flush()
    pieces = bench.frames()
    assert [piece[2] for piece in pieces] == [PieceFlag.MORE] * (len(pieces) - 1) + [PieceFlag.LAST]
    assert {len(piece[3]) for piece in pieces[:-1]} == {PIECE_BYTES}
    assert len({piece[1] for piece in pieces}) == 1
    assert MsgpackCodec().decode(b"".join(piece[3] for piece in pieces)) == [2, 1, b"abc" * 100]


async def test_a_small_message_overtakes_a_large_one() -> None:
    bench = Bench()
    bench.writer.send([2, 1, b"x" * 1_000], 1)
    bench.writer.send([2, 2, "small"], 2)
    bench.writer.flush()
    assert [message[1] for message in bench.messages()] == [2, 1]


async def test_a_request_s_own_messages_never_overtake_each_other() -> None:
    bench = Bench()
    bench.writer.send([4, 1, 1, b"x" * 1_000], 1)
    bench.writer.send([5, 1, {}], 1)
    bench.writer.send([5, 2, {}], 2)
    bench.writer.flush()
    assert [(message[0], message[1]) for message in bench.messages()] == [(5, 2), (4, 1), (5, 1)]


async def test_pieces_wait_for_room_and_small_messages_do_not() -> None:
    bench = Bench(piece_bytes=64 * 1024)
    bench.writer.send([2, 1, b"x" * 10 * WATERMARK], 1)
    bench.writer.flush()
    assert WATERMARK < bench.sink.unread < 2 * WATERMARK
    written = len(bench.sink.writes)
    bench.writer.send([9, 1])
    bench.writer.flush()
    assert len(bench.sink.writes) == written + 1
    while bench.sink.unread:
        bench.sink.read_all()
        assert bench.sink.unread < 2 * WATERMARK
    assert [message[0] for message in bench.messages()] == [9, 2]


async def test_a_buffer_that_is_full_to_the_byte_does_not_stop_the_pieces_for_ever() -> None:
    bench = Bench(piece_bytes=64 * 1024)
    overhead = len(MsgpackCodec().encode([PIECE, 1, 0, b"x" * 64 * 1024])) + 4 - 64 * 1024
    bench.sink.unread = WATERMARK - (64 * 1024 + overhead)
    bench.writer.send([2, 1, b"x" * 2 * WATERMARK], 1)
    bench.writer.flush()
    while bench.sink.unread:
        bench.sink.read_all()
    assert len(bench.messages()) == 1


async def test_who_waits_for_room_is_told_of_it() -> None:
    bench = Bench(piece_bytes=64 * 1024)
    told = []
    bench.writer.on_drained = lambda: told.append(bench.writer.backlog_bytes)
    bench.writer.send([2, 1, b"x" * 2 * WATERMARK], 1)
    bench.writer.flush()
    assert bench.writer.backlog_bytes > WATERMARK
    while bench.sink.unread:
        bench.sink.read_all()
    assert told and bench.writer.backlog_bytes == 0


async def test_a_producer_that_asks_for_room_waits_until_nothing_is_held_back() -> None:
    bench = Bench(piece_bytes=64 * 1024)
    await asyncio.wait_for(bench.writer.room(), 10)
    bench.writer.send([2, 1, b"x" * 2 * WATERMARK], 1)
    bench.writer.flush()
    waiting = asyncio.ensure_future(bench.writer.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    while bench.sink.unread:
        bench.sink.read_all()
    await asyncio.wait_for(waiting, 10)


async def test_who_waits_for_room_waits_no_longer_when_it_is_closed() -> None:
    bench = Bench(piece_bytes=64 * 1024)
    bench.writer.send([2, 1, b"x" * 2 * WATERMARK], 1)
    bench.writer.flush()
    waiting = asyncio.ensure_future(bench.writer.room())
    await asyncio.sleep(0)
    bench.writer.close()
    await asyncio.wait_for(waiting, 10)


async def test_two_large_messages_have_channels_of_their_own() -> None:
    bench = Bench()
    bench.writer.send([2, 1, b"x" * 300], 1)
    bench.writer.send([2, 2, b"y" * 300], 2)
    bench.writer.flush()
    assert len({frame[1] for frame in bench.frames()}) == 2
    assert [message[1] for message in bench.messages()] == [1, 2]


async def test_a_value_that_cannot_travel_leaves_nothing_in_the_queue() -> None:
    bench = Bench()
    with pytest.raises(LocalProtocolError):
        bench.writer.send([2, 1, object()], 1)
    bench.writer.flush()
    assert bench.sink.writes == [] and bench.writer.backlog_bytes == 0


async def test_a_message_over_the_limit_is_refused_here() -> None:
    bench = Bench()
    with pytest.raises(LocalProtocolError) as caught:
        bench.writer.send([2, 1, bytes(MESSAGE_LIMIT_BYTES)], 1)
    assert caught.value.details["limit"] == MESSAGE_LIMIT_BYTES
    assert bench.writer.backlog_bytes == 0


async def test_a_json_line_has_no_pieces_and_the_limit_of_a_frame() -> None:
    writer = OrderedWriter(JsonCodec(), asyncio.get_running_loop())
    sink = FakeSink(writer.pause, writer.resume)
    writer.attach(sink)
    writer.send([2, 1, "x" * 200_000], 1)
    writer.flush()
    assert sink.writes[0].count(b"\n") == 1 and sink.writes[0].startswith(b'[2,1,"xxx')
    with pytest.raises(LocalProtocolError):
        writer.send([2, 2, "x" * FRAME_LIMIT_BYTES], 2)


async def test_nothing_is_written_once_it_is_closed() -> None:
    bench = Bench()
    bench.writer.send([2, 1, b"x" * 1_000], 1)
    bench.writer.close()
    bench.writer.send([9, 1])
    bench.writer.flush()
    bench.writer.resume()
    assert bench.sink.writes == []


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 400)) | st.sampled_from(["flush", "read"]),
        max_size=30,
    )
)
def test_whatever_happens_every_message_arrives_in_its_request_s_order(steps: list[Any]) -> None:
    async def play() -> None:
        bench = Bench()
        sent: list[Any] = []
        for step in steps:
            if step == "flush":
                bench.writer.flush()
            elif step == "read":
                bench.sink.read_all()
            else:
                message = [4, step[0], len(sent) + 1, bytes(step[1])]
                sent.append(message)
                bench.writer.send(list(message), step[0])
        bench.writer.flush()
        while bench.sink.unread:
            bench.sink.read_all()
        arrived = bench.messages()
        assert sorted(arrived) == sorted(sent)
        for request in range(4):
            assert [m for m in arrived if m[1] == request] == [m for m in sent if m[1] == request]
        assert bench.writer.backlog_bytes == 0

    asyncio.run(play())
