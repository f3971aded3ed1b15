"""Row 10: request ids up to 2^32 - 1 are integers on the wire, larger ones are refused."""

from __future__ import annotations

import pytest

from tests.faults.peer import DELTA, END, RESULT, Peer

LAST = 2**32 - 1


@pytest.mark.parametrize("request_id", [0, 127, 128, 65_536, 2**31, LAST - 1, LAST])
def test_an_id_comes_back_as_the_integer_that_was_sent(peer: Peer, request_id: int) -> None:
    peer.request("echo", {"data": "x"}, request=request_id)
    kind, received, value = peer.receive()
    assert (kind, received, type(received), value) == (RESULT, request_id, int, "x")
    peer.request("stream_echo", {"count": 1}, request=request_id)
    assert [peer.next_of(request_id)[0] for _ in range(2)] == [DELTA, END]


@pytest.mark.parametrize("request_id", [LAST + 1, 2**53 - 1, -1, 1.0, float(LAST), "1", None])
def test_anything_else_is_no_id(peer: Peer, request_id: object) -> None:
    peer.send([1, request_id, "echo", {"data": 1}])
    assert peer.settled(None)[2]["code"] == "INVALID_REQUEST"


def test_ids_may_wrap_over_those_in_use(peer: Peer) -> None:
    peer.request("fault_sleep", {"seconds": 0.1}, request=0)
    for request in (LAST - 1, LAST, 1, 2):
        peer.request("echo", {"data": request}, request=request)
    assert [peer.settled(request)[2] for request in (LAST - 1, LAST, 1, 2)] == [
        LAST - 1,
        LAST,
        1,
        2,
    ]
    assert peer.settled(0)[0] == RESULT
