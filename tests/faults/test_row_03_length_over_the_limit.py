"""Row 3: a header announces more than the limit."""

from __future__ import annotations

import pytest

from tests.faults.peer import ERROR, RESULT, Peer

MIB = 1 << 20


@pytest.mark.parametrize("length", [0xFFFFFFFF, 16 * MIB + 1])
def test_it_is_refused_from_the_header_before_memory_is_taken(length: int) -> None:
    with Peer() as peer:
        peer.engine_is_ready()
        pending = peer.request("fault_sleep", {"seconds": 0.5})
        assert peer.is_echoing()
        before = peer.resident_bytes()
        peer.send_bytes(length.to_bytes(4, "big"))
        kind, _, error = peer.next_of(None)
        assert peer.resident_bytes() - before < MIB
        assert (kind, error["code"]) == (ERROR, "FRAME_TOO_LARGE")
        assert error["details"]["length"] == length
        assert peer.settled(pending)[0] == RESULT
        assert list(peer.rest()) == []
        assert peer.exit_code() == 0


def test_a_frame_of_exactly_the_limit_is_taken() -> None:
    with Peer() as peer:
        payload = b"\x94\x01\x05\xa4echo\x81\xa4data\xc6"
        length = 16 * MIB
        body = length - len(payload) - 4
        peer.send_bytes(length.to_bytes(4, "big") + payload + body.to_bytes(4, "big") + bytes(body))
        kind, _, value = peer.settled(5)
        assert (kind, len(value)) == (RESULT, body)


def test_a_frame_of_length_zero_is_refused() -> None:
    with Peer() as peer:
        peer.send_bytes(bytes(4))
        error = peer.next_of(None)[2]
        assert (error["code"], error["details"]["kind"]) == ("REMOTE_PROTOCOL_ERROR", "empty")
        assert peer.exit_code() == 0
