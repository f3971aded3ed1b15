"""What the fault tests share: one sound runtime, and models whose behaviour is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.peer import Peer
from tests.faults.small_models import write_chain, write_deep


@pytest.fixture(scope="session")
def shared_peer() -> Iterator[Peer]:
    """A runtime for tests that must not harm it."""
    with Peer() as peer:
        yield peer


@pytest.fixture
def peer(shared_peer: Peer) -> Iterator[Peer]:
    """The shared runtime; the test fails if it does not answer afterwards."""
    for model in shared_peer.call("list_models", {})["models"]:
        # What the last test had fail is nothing to this one.
        if model["references"]:
            shared_peer.call("set_circuit", {"model": model["model"], "state": "closed"})
    yield shared_peer
    assert shared_peer.is_echoing()


@pytest.fixture(scope="session")
def chat(shared_peer: Peer) -> str:
    """The built-in model's handle in the shared runtime."""
    return str(shared_peer.call("load_model", {"source": "default"})["model"])


@pytest.fixture(scope="session")
def chain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that repeats the last token of its prompt for ever."""
    return write_chain(tmp_path_factory.mktemp("models") / "chain", {})


@pytest.fixture(scope="session")
def deep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights whose prefill takes long."""
    return write_deep(tmp_path_factory.mktemp("models") / "deep")
