"""Row 29: nobody reads the runtime's output any more."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.faults.peer import Peer, cpu_seconds, is_alive, wait_until

GONE_WITHIN_S = 5.0
CPU_SECONDS = 2.0
"""An endless loop of failing writes would use up `GONE_WITHIN_S`."""


@pytest.mark.parametrize("state", ["idle", "busy", "streaming", "generating"])
def test_it_exits_once_and_does_not_spin(state: str, chain_folder: Path) -> None:
    with Peer() as peer:
        peer.engine_is_ready()
        if state == "busy":
            peer.request("fault_block_engine", {"seconds": 60})
        elif state == "streaming":
            peer.request("stream_echo", {"count": 10**9}, {"credit": 10**9})
        elif state == "generating":
            model = peer.load(chain_folder)
            peer.request(
                "generate", {"model": model, "prompt": "a", "max_tokens": 10**5}, {"credit": 10**6}
            )
        if state != "streaming":
            assert peer.is_echoing()
        before = cpu_seconds(peer.pid)
        peer.close_output()
        with contextlib.suppress(BrokenPipeError):
            peer.request("echo", {"data": "nobody hears"})
        wait_until(lambda: not is_alive(peer.pid), "the runtime is gone", GONE_WITHIN_S)
        assert cpu_seconds(peer.pid) - before < CPU_SECONDS
        assert peer.exit_code() == 0
        assert b"Traceback" not in peer.stderr
