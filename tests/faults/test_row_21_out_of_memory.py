"""Row 21: a process that may not map what a model needs."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from tests.faults.peer import Peer, in_shell
from tests.faults.small_models import write_deep

MIB = 1024 * 1024
GIB = 1024 * MIB
MARGIN = 256 * MIB
"""What the runtime leaves to its threads."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of about 190 MB."""
    return write_deep(tmp_path_factory.mktemp("models") / "large", layers=8, width=768)


def mapped_bytes(peer: Peer) -> int:
    """Return the size of the runtime's address space."""
    pages = int(Path(f"/proc/{peer.pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def let_map(peer: Peer, more: int) -> None:
    """Limit the runtime to what it has mapped and so much more."""
    limit = mapped_bytes(peer) + more
    resource.prlimit(peer.pid, resource.RLIMIT_AS, (limit, limit))


def test_a_model_that_cannot_be_mapped_is_refused_again_and_again_and_nothing_crashes(
    large: Path,
) -> None:
    with Peer() as peer:
        model = peer.load("default")
        peer.generate(model, "warm", max_tokens=2)
        let_map(peer, MARGIN + 120 * MIB)
        for _ in range(5):
            error = peer.refusal("load_model", {"source": str(large), "kv_tokens": 1})
            assert error["code"] == "MEMORY_LIMIT"
            assert error["details"]["limit"] == "address_space"
            assert "RLIMIT_AS" in error["message"]
        draft = peer.load("default-draft")
        for handle in (model, draft):
            assert peer.generate(handle, "still", max_tokens=2)[1]["finish_reason"] == "length"
        assert peer.call("stats")["models"]["refused"] == 5


def test_what_nobody_uses_leaves_for_what_could_not_be_mapped_beside_it(
    large: Path, tmp_path: Path
) -> None:
    other = write_deep(tmp_path / "other", layers=8, width=768)
    with Peer() as peer:
        peer.generate(peer.load("default"), "warm", max_tokens=2)
        first = peer.call("load_model", {"source": str(large), "kv_tokens": 1})["model"]
        peer.call("unload_model", {"model": first})
        let_map(peer, MARGIN + 100 * MIB)
        second = peer.call("load_model", {"source": str(other), "kv_tokens": 1})["model"]
        assert peer.generate(second, "x", max_tokens=2)[1]["finish_reason"] == "length"
        assert peer.call("stats")["models"]["evictions"] == 1


def test_a_runtime_that_starts_under_a_limit_takes_its_budget_from_it() -> None:
    limit_kib = 4 * GIB // 1024
    with Peer(command=in_shell(f"ulimit -v {limit_kib}; exec RUNTIME")) as peer:
        model = peer.load("default")
        assert peer.generate(model, "x", max_tokens=2)[1]["finish_reason"] == "length"
        assert 0 < peer.call("stats")["models"]["budget_bytes"] < 3 * GIB
        assert b"RLIMIT_AS" in peer.stderr


def test_an_allocation_that_fails_all_the_same_ends_the_process_with_its_stack() -> None:
    limit_kib = 4 * GIB // 1024
    with Peer(command=in_shell(f"ulimit -v {limit_kib}; exec RUNTIME")) as peer:
        peer.engine_is_ready()
        peer.request("fault_allocate", {"bytes": 5 * GIB})
        assert peer.exit_code() in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGKILL)
        assert b"short of memory" in peer.stderr
        assert b"most recent call first" in peer.stderr
