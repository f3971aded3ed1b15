"""Row 16: libraries write to standard output."""

from __future__ import annotations

import pytest

from tests.faults.peer import RESULT, Peer
from tests.fixtures.faulty_runtime import NOISE

WAYS = 8
"""print, sys.stdout, os.write, printf, a subprocess, a warning, a progress bar (twice)."""


@pytest.mark.parametrize("method", ["fault_noise", "fault_noise_on_engine"])
def test_no_byte_of_it_is_on_the_wire_and_all_of_it_in_the_log(method: str) -> None:
    with Peer() as peer:
        for request in range(3):
            peer.request(method, request=request)
        bystander = peer.request("echo", {"data": "clean"})
        answers = [peer.settled(request) for request in (0, 1, 2, bystander)]
        assert [answer[0] for answer in answers] == [RESULT] * 4
        peer.close_input()
        assert list(peer.rest()) == []
        assert peer.exit_code() == 0
        # A warning and the same warning again: Python shows the first only.
        assert peer.stderr.count(NOISE.encode()) >= 3 * (WAYS - 2)
