"""Row 36: one stream's reader is slow or stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.faults.peer import CREDIT, DELTA, END, Peer, read_ids
from tests.faults.ways import assert_batched

MIB = 1 << 20
COUNT = 100_000


def read_items(peer: Peer, request: int, count: int) -> list[int]:
    """Return the next `count` items of an echoed stream."""
    items: list[int] = []
    while len(items) < count:
        message = peer.next_of(request)
        assert message[0] == DELTA, message
        items += message[3]
    return items


def test_a_stream_without_credit_stops_and_the_others_go_on(peer: Peer) -> None:
    peer.engine_is_ready()
    before = peer.resident_bytes()
    slow = peer.request("stream_echo", {"count": COUNT}, {"credit": 100})
    fast = peer.request("stream_echo", {"count": COUNT}, {"credit": COUNT})
    assert read_items(peer, fast, COUNT) == list(range(COUNT))
    assert peer.next_of(fast)[0] == END
    assert read_items(peer, slow, 100) == list(range(100))
    assert peer.is_echoing()
    assert not [message for message in peer.kept if message[1] == slow]
    assert peer.resident_bytes() - before < 16 * MIB
    received = 100
    while received < COUNT:
        peer.send([CREDIT, slow, 20_000])
        step = min(20_000, COUNT - received)
        assert read_items(peer, slow, step) == list(range(received, received + step))
        received += step
    assert peer.next_of(slow) == [END, slow, {"count": COUNT}]


def test_a_generation_whose_reader_stops_holds_no_other_back(
    peer: Peer, chain_folder: Path
) -> None:
    model = peer.load(chain_folder)
    params = {"model": model, "prompt": "a", "max_tokens": 64}
    slow = peer.request("generate", params, {"credit": 4})
    assert len(peer.generate(model, "b", max_tokens=64)[0]) == 64
    stalled = [token for message in peer.take_kept(slow) for token in read_ids(message[3]["ids"])]
    assert stalled == [97] * 4
    peer.becomes_idle()
    peer.send([CREDIT, slow, 3], [CREDIT, slow, 10_000])
    ids: list[int] = []
    while (message := peer.next_of(slow))[0] == DELTA:
        ids += read_ids(message[3]["ids"])
    assert ids == [97] * 60
    assert message[2]["usage"]["completion_tokens"] == 64


def test_a_slow_reader_in_a_batch_of_eight_waits_alone_and_gets_all_of_it(
    peer: Peer, chain_folder: Path
) -> None:
    model = peer.load(chain_folder)
    params = {"model": model, "max_tokens": 64, "ignore_eos": True}
    slow = peer.request("generate", {**params, "prompt": "s"}, {"credit": 4})
    others = [peer.request("generate", {**params, "prompt": letter}) for letter in "abcdefg"]
    for request in others:
        end = peer.settled(request)[2]
        assert end["usage"]["completion_tokens"] == 64
        assert_batched(peer, end)
    stalled = [token for message in peer.take_kept(slow) for token in read_ids(message[3]["ids"])]
    assert stalled == [ord("s")] * 4
    # It comes and goes while others share their passes.
    others = [peer.request("generate", {**params, "prompt": letter}) for letter in "hi"]
    ids = list(stalled)
    while (message := grant_and_read(peer, slow, 5))[0] == DELTA:
        ids += read_ids(message[3]["ids"])
    assert ids == [ord("s")] * 64
    assert_batched(peer, message[2])
    for request, letter in zip(others, "hi", strict=True):
        ids = []
        while (message := peer.next_of(request))[0] == DELTA:
            ids += read_ids(message[3]["ids"])
        assert ids == [ord(letter)] * 64


def grant_and_read(peer: Peer, request: int, credit: int) -> list[Any]:
    """Give a stream a little credit and return what it says next."""
    peer.send([CREDIT, request, credit])
    return peer.next_of(request)


def test_a_host_that_reads_nothing_at_all_makes_the_runtime_hold_a_bounded_amount() -> None:
    with Peer() as peer:
        peer.engine_is_ready()
        before = peer.resident_bytes()
        data = bytes(1 * MIB)
        stream = peer.request(
            "stream_echo", {"count": 10_000, "data": data[:100_000]}, {"credit": 10**6}
        )
        for _ in range(20):
            peer.request("echo", {"data": data[:1_000]})
        peer.wait_until_stalled()
        assert peer.resident_bytes() - before < 64 * MIB
        peer.send([6, stream])
        assert peer.settled(stream)[2]["code"] == "CANCELLED"
