"""Row 18: a hundred megabytes on standard error."""

from __future__ import annotations

import os

from tests.faults.peer import Peer

MIB = 1 << 20
FLOOD_BYTES = 100 * 10**6


def test_the_runtime_writes_it_all_and_keeps_none_of_it() -> None:
    with Peer() as peer:
        peer.engine_is_ready()
        before = peer.resident_bytes()
        assert peer.call("fault_flood_stderr", {"bytes": FLOOD_BYTES}) == {"done": True}
        assert peer.resident_bytes() - before < 4 * MIB
        assert len(peer.stderr) >= FLOOD_BYTES
        assert peer.is_echoing()


def test_nobody_reading_standard_error_does_not_end_the_runtime() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with Peer(stderr=writer) as peer:
        os.close(writer)
        assert peer.refusal("fault_kill_engine")["code"] == "ENGINE_DEAD"  # which is logged
        assert peer.is_echoing()
