"""Row 5: the bytes are no frames at all."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.faults.peer import Peer


@pytest.mark.parametrize(
    "garbage",
    [random.Random(5).randbytes(1 << 20), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ids=["random bytes", "an HTTP request"],
)
def test_the_runtime_shows_how_the_garbage_began_and_does_not_resynchronise(
    garbage: bytes,
) -> None:
    with Peer() as peer:
        with contextlib.suppress(BrokenPipeError):
            peer.send_bytes(garbage)
        error = peer.next_of(None)[2]
        assert error["code"] == "FRAME_TOO_LARGE"
        assert bytes.fromhex(error["details"]["head"]) == garbage[:32]
        assert garbage[:4].hex(" ") in error["message"]
        assert list(peer.rest()) == []
        assert peer.exit_code() == 0


def test_frames_of_garbage_are_refused_one_by_one(peer: Peer) -> None:
    rng = random.Random(6)
    for _ in range(200):
        payload = b"\xc1" + rng.randbytes(rng.randrange(1, 64))
        peer.send_bytes(len(payload).to_bytes(4, "big") + payload)
        assert peer.next_of(None)[2]["code"] == "DECODE_ERROR"
