"""Row 12: a header promises more than the frame holds."""

from __future__ import annotations

import pytest

from tests.faults.peer import Peer, frame

MIB = 1 << 20
LIES = {
    "array32": b"\xdd\xff\xff\xff\xff",
    "map32": b"\xdf\xff\xff\xff\xff",
    "bin32": b"\xc6\xff\xff\xff\xff",
    "str32": b"\xdb\xff\xff\xff\xff",
    "array16": b"\xdc\xff\xff",
    "map16": b"\xde\xff\xff",
    "str8": b"\xd9\xff",
    "array of 15": b"\x9f",
    "uint64 cut short": b"\xcf\x00",
}
ECHO = b"\x94\x01\x07\xa4echo\x81\xa4data"


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize(("before", "request_id"), [(b"", None), (ECHO, 7)], ids=["bare", "echo"])
def test_it_is_a_decode_error_without_an_allocation(
    peer: Peer, name: str, before: bytes, request_id: int | None
) -> None:
    peer.engine_is_ready()
    resident = peer.resident_bytes()
    for _ in range(20):
        peer.send_bytes(frame(before + LIES[name]))
        assert peer.settled(request_id)[2]["code"] == "DECODE_ERROR"
    assert peer.resident_bytes() - resident < 4 * MIB
