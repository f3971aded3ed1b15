"""The ways in which the engine generates: what happens to a request must not depend on them."""

from __future__ import annotations

from typing import Any, Final

from tests.faults.peer import Peer

WAYS: Final = ("alone", "in a batch", "by look-up", "by a draft", "with a format")


def options_of(way: str, model: str) -> dict[str, Any]:
    """Return the params that make a chain of letters be generated in this way."""
    options: dict[str, dict[str, Any]] = {
        "alone": {"batch": False},
        "in a batch": {},
        "by look-up": {"speculation": {"prompt_lookup": True}},
        "by a draft": {"speculation": {"draft_model": model}},
        "with a format": {"response_format": {"type": "regex", "pattern": "[a-z]*"}},
    }
    return options[way]


def can_batch(peer: Peer) -> bool:
    """Whether generations of fp32 models share passes there: on a CPU a BLAS is needed."""
    is_linux = peer.hello["platform"].startswith("linux")
    return not is_linux or peer.hello["blas"]["path"] is not None


def assert_batched(peer: Peer, end: dict[str, Any]) -> None:
    """Check that an ended generation shared passes, where that pays."""
    state = "batched" if can_batch(peer) else "alone"
    assert end["batching"]["state"] == state, end["batching"]
