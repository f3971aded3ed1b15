"""Row 1: the input ends inside a frame."""

from __future__ import annotations

import pytest

from tests.faults.peer import ERROR, RESULT, Peer, pack

WHOLE = pack([1, 1, "echo", {"data": "x" * 100}])


@pytest.mark.parametrize("kept", [3, 4, len(WHOLE) // 2])
def test_the_runtime_says_that_the_input_ended_inside_a_frame_and_goes(kept: int) -> None:
    with Peer() as peer:
        pending = peer.request("fault_sleep", {"seconds": 0.2})
        peer.send_bytes(WHOLE[:kept])
        peer.close_input()
        kind, _, error = peer.next_of(None)
        assert (kind, error["code"]) == (ERROR, "REMOTE_PROTOCOL_ERROR")
        assert error["details"]["kind"] == "truncated"
        assert peer.settled(pending)[0] == RESULT
        assert list(peer.rest()) == []
        assert peer.exit_code() == 0
