"""Row 67: SIGINT and SIGTERM reach the whole process group, as a Ctrl-C in a terminal does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.peer import RESULT, Peer, in_shell, is_alive, runtime_command, wait_until


def test_a_ctrl_c_leaves_the_runtime_to_its_host(chain_folder: Path) -> None:
    with Peer() as peer:
        model = peer.load(chain_folder)
        pending = peer.request("fault_sleep", {"seconds": 0.3})
        generation = peer.request("generate", {"model": model, "prompt": "a", "max_tokens": 200})
        for _ in range(5):
            os.killpg(peer.process.pid, signal.SIGINT)
            assert peer.is_echoing()
        assert peer.settled(pending)[0] == RESULT
        assert peer.settled(generation)[2]["finish_reason"] == "length"
        peer.close_input()
        assert peer.exit_code() == 0
        assert b"Traceback" not in peer.stderr


def test_a_ctrl_c_while_it_starts_leaves_no_traceback() -> None:
    """From the moment on at which the wire is claimed."""
    with Peer(greet=False) as peer:
        entry = Path(f"/proc/{peer.process.pid}/fd/0")
        wait_until(lambda: os.readlink(entry) == os.devnull, "the wire is claimed")
        for _ in range(20):
            os.killpg(peer.process.pid, signal.SIGINT)
        peer.greet()
        assert peer.is_echoing()
        assert b"Traceback" not in peer.stderr


@pytest.mark.parametrize("with_end", [True, False])
def test_sigterm_drains_what_is_in_flight_and_the_exit_code_is_0(with_end: bool) -> None:
    with Peer() as peer:
        pending = peer.request("fault_sleep", {"seconds": 0.3})
        assert peer.is_echoing()
        os.killpg(peer.process.pid, signal.SIGTERM)
        if with_end:
            peer.close_input()
        assert peer.settled(pending)[0] == RESULT
        assert list(peer.rest()) == []
        assert peer.exit_code() == 0
        assert b"Traceback" not in peer.stderr


def test_a_request_after_sigterm_is_told_that_the_runtime_closes() -> None:
    with Peer() as peer:
        pending = peer.request("fault_sleep", {"seconds": 0.5})
        assert peer.is_echoing()
        os.killpg(peer.process.pid, signal.SIGTERM)
        wait_until(lambda: peer.answer_code("echo", {"data": 1}) == "CLOSING", "it closes")
        assert peer.settled(pending)[0] == RESULT


def test_the_exit_code_is_kept_behind_a_shell_that_a_ctrl_c_reaches() -> None:
    """The shell waits for the runtime and then dies of the signal, as shells do."""
    with Peer(command=in_shell("trap '' INT; RUNTIME; exit $?")) as peer:
        os.killpg(peer.process.pid, signal.SIGINT)
        assert peer.is_echoing()
        peer.close_input()
        assert peer.exit_code() == 0
        assert not is_alive(peer.pid)


def test_the_command_that_users_run_behaves_the_same() -> None:
    module = [runtime_command()[0], "-m", "isthmus", "runtime"]
    with Peer(command=module) as peer:
        os.killpg(peer.process.pid, signal.SIGINT)
        assert peer.is_echoing()
        os.killpg(peer.process.pid, signal.SIGTERM)
        assert peer.exit_code() == 0
        assert b"Traceback" not in peer.stderr
