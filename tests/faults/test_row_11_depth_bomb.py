"""Row 11: a message nests without end."""

from __future__ import annotations

import pytest

from tests.faults.peer import Peer, frame

MIB = 1 << 20
ECHO = b"\x94\x01\x07\xa4echo\x81\xa4data"
"""A request of id 7 up to its data, which is at depth 3."""
BEGINNINGS = {"arrays": b"\x91", "maps": b"\x81\xa1k", "both": b"\x91\x81\xa1k"}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_million_levels_fail_that_request_alone_and_take_no_memory(peer: Peer, kind: str) -> None:
    peer.engine_is_ready()
    before = peer.resident_bytes()
    peer.send_bytes(frame(ECHO + BEGINNINGS[kind] * 10**6 + b"\xc0"))
    assert peer.settled(7)[2]["code"] == "DEPTH_EXCEEDED"
    assert peer.resident_bytes() - before < 16 * MIB


def test_a_million_levels_without_a_request_are_refused_without_an_id(peer: Peer) -> None:
    peer.send_bytes(frame(b"\x91" * 10**6))
    assert peer.settled(None)[2]["code"] == "DEPTH_EXCEEDED"


@pytest.mark.parametrize(("levels", "is_fine"), [(30, True), (31, False), (500, False)])
def test_the_limit_is_32_with_the_message_itself(peer: Peer, levels: int, is_fine: bool) -> None:
    """The message and its params are two levels."""
    peer.send_bytes(frame(ECHO + b"\x91" * levels + b"\xc0"))
    value = peer.settled(7)[2]
    assert is_fine == isinstance(value, list)
    assert is_fine or value["code"] == "DEPTH_EXCEEDED"
