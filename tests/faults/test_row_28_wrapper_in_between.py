"""Row 28: a shell, or a tool such as npm or uv, stands between host and runtime."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.peer import Peer, in_shell, is_alive, wait_until

WRAPPERS = {
    "exec": "exec RUNTIME",
    "stays": "RUNTIME; true",
    "two deep": "sh -c 'RUNTIME; true'; :",
}
GONE_WITHIN_S = 5.0
"""The promise is 1 s on an idle machine."""


@pytest.mark.parametrize("script", WRAPPERS.values(), ids=WRAPPERS)
def test_the_end_of_the_input_still_ends_the_runtime(script: str) -> None:
    with Peer(command=in_shell(script)) as peer:
        assert peer.is_echoing()
        peer.close_input()
        assert list(peer.rest()) == []
        assert peer.exit_code() == 0
        assert not is_alive(peer.pid)


@pytest.mark.parametrize("script", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("engine", ["idle", "busy"])
def test_a_host_that_is_gone_ends_the_runtime_whatever_its_engine_does(
    script: str, engine: str
) -> None:
    with Peer(command=in_shell(script)) as peer:
        peer.engine_is_ready()
        if engine == "busy":
            peer.request("fault_block_engine", {"seconds": 60})
            assert peer.is_echoing()
        peer.close_output()
        peer.close_input()
        waited = wait_until(lambda: not is_alive(peer.pid), "the runtime is gone", GONE_WITHIN_S)
        assert waited < GONE_WITHIN_S, waited


def test_a_wrapper_that_is_killed_takes_the_runtime_with_it() -> None:
    """Its pipes are still open: the kernel, or a look at the parent's id, tells the runtime."""
    with Peer(command=in_shell("RUNTIME; true")) as peer:
        assert peer.process.pid != peer.pid
        peer.process.send_signal(signal.SIGKILL)
        wait_until(lambda: not is_alive(peer.pid), "the runtime is gone", GONE_WITHIN_S)


def test_a_signal_to_the_process_group_reaches_the_runtime() -> None:
    with Peer(command=in_shell("RUNTIME; true")) as peer:
        assert os.getpgid(peer.pid) == peer.process.pid
        os.killpg(peer.process.pid, signal.SIGTERM)
        assert list(peer.rest()) == []
        wait_until(lambda: not is_alive(peer.pid), "the runtime is gone", GONE_WITHIN_S)
