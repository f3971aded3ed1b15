"""Row 2: frames arrive split at every byte, or many in one chunk."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.wire.frames import FrameDecoder
from tests.faults.peer import Peer, frame, pack

payloads = st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60, database=None)
@given(payloads, st.data())
def test_every_way_to_cut_the_bytes_gives_the_same_payloads(
    sent: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(map(frame, sent))
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=20).map(sorted))
    decoder = FrameDecoder()
    edges = [0, *cuts, len(whole)]
    chunks = [whole[start:end] for start, end in itertools.pairwise(edges)]
    assert [payload for chunk in chunks for payload in decoder.feed(chunk)] == sent
    decoder.eof()


def test_every_single_cut_point_gives_the_same_payloads() -> None:
    sent = [b"a", b"b" * 5, b"c" * 300]
    whole = b"".join(map(frame, sent))
    for cut in range(len(whole) + 1):
        decoder = FrameDecoder()
        assert [*decoder.feed(whole[:cut]), *decoder.feed(whole[cut:])] == sent


def test_a_large_frame_in_single_bytes_takes_linear_work() -> None:
    """A decoder that joined at each byte would copy 128 GiB here."""
    payload = bytes(1 << 19)
    decoder = FrameDecoder()
    received = [got for byte in frame(payload) for got in decoder.feed(byte.to_bytes(1, "big"))]
    assert received == [payload]


def test_the_runtime_answers_the_same_to_single_bytes_and_to_one_chunk(peer: Peer) -> None:
    ids = range(100, 140)
    requests = b"".join(pack([1, request, "echo", {"data": request}]) for request in ids)
    for request in range(0, len(requests)):
        peer.send_bytes(requests[request : request + 1])
    assert [peer.settled(request)[2] for request in ids] == list(ids)
    peer.send_bytes(requests)
    assert [peer.settled(request)[2] for request in ids] == list(ids)
