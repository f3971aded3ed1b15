"""Row 17: a library reads standard input."""

from __future__ import annotations

from tests.faults.peer import Peer, pack


def test_it_meets_the_end_at_once_and_the_wire_loses_nothing() -> None:
    with Peer() as peer:
        # One write: what follows the first request already waits in the pipe.
        peer.send_bytes(
            pack([1, 1, "fault_read_input", {}])
            + b"".join(pack([1, 2 + i, "echo", {"data": i}]) for i in range(50))
        )
        assert peer.settled(1)[2] == {"line": None, "cat": b""}
        assert [peer.settled(2 + i)[2] for i in range(50)] == list(range(50))
