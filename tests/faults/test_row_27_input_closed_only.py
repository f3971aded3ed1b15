"""Row 27: the host closes the runtime's input and reads on."""

from __future__ import annotations

from pathlib import Path

from tests.faults.peer import ERROR, RESULT, Peer


def test_what_is_in_flight_ends_within_the_grace_and_the_exit_code_is_0() -> None:
    with Peer() as peer:
        pending = [peer.request("fault_sleep", {"seconds": 0.1 * n}) for n in range(4)]
        peer.close_input()
        assert [peer.settled(request)[0] for request in pending] == [RESULT] * 4
        assert list(peer.rest()) == []
        assert peer.exit_code() == 0


def test_what_takes_longer_than_the_grace_is_told_that_the_runtime_closes(
    chain_folder: Path,
) -> None:
    with Peer("--drain-grace-s", "0.2") as peer:
        model = peer.load(chain_folder)
        pending = [
            peer.request("fault_sleep", {"seconds": 600}),
            peer.request(
                "generate", {"model": model, "prompt": "a", "max_tokens": 100_000}, {"credit": 4}
            ),
            peer.request("stream_echo", {"count": 10}, {"credit": 1}),
        ]
        assert peer.is_echoing()
        peer.close_input()
        ends = [peer.settled(request) for request in pending]
        assert [(end[0], end[2]["code"]) for end in ends] == [(ERROR, "CLOSING")] * 3
        assert list(peer.rest()) == []
        assert peer.exit_code() == 0


def test_everything_written_is_flushed_before_it_goes() -> None:
    """Replies of 16 MB leave in pieces, far more than the pipe holds."""
    with Peer() as peer:
        data = bytes(2_000_000)
        pending = [peer.request("echo", {"data": data}) for _ in range(8)]
        peer.close_input()
        assert all(peer.settled(request)[2] == data for request in pending)
        assert peer.exit_code() == 0
