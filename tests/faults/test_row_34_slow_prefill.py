"""Row 34: a prefill that is slow but legal is told from an engine that is stuck."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.peer import CANCEL, END, EVENT, PONG, Peer, wait_until

PROMPT = "x" * 4_000
MANY = 1_000
"""More passes than any test needs."""


@pytest.fixture
def slow(chain_folder: Path) -> Iterator[tuple[Peer, str]]:
    """A runtime, and a model in it whose passes over a prompt begin when the test lets them."""
    with Peer() as peer:
        model = peer.load(chain_folder)
        peer.call("fault_slow_model", {"model": model})
        yield peer, model


def begin(peer: Peer, model: str) -> int:
    """Begin a generation and wait until it is in its prefill."""
    request = peer.request("generate", {"model": model, "prompt": PROMPT, "max_tokens": 4})
    wait_until(peer.is_in_prefill, "the prefill has begun")
    return request


def next_progress(peer: Peer, request: int) -> dict[str, Any]:
    """Return the next progress event of a request."""
    while True:
        message = peer.receive()
        if message[0] == EVENT and message[1] == "progress" and message[2]["request"] == request:
            event: dict[str, Any] = message[2]
            return event
        if message[0] not in (EVENT, PONG):
            peer.kept.append(message)


def is_younger(peer: Peer, moment: float) -> bool:
    """Whether the engine, which is at work, made its last progress after `moment`."""
    engine = peer.health()["engine"]
    assert engine["state"] == "busy"
    return bool(engine["progress_age_ms"] < (time.monotonic() - moment) * 1_000)


def test_every_chunk_is_reported_and_makes_the_progress_age_young_again(
    slow: tuple[Peer, str],
) -> None:
    peer, model = slow
    request = begin(peer, model)
    done: list[int] = []
    for _ in range(5):
        let_at = time.monotonic()
        assert not is_younger(peer, let_at)
        peer.call("fault_let_pass", {"count": 1})
        event = next_progress(peer, request)
        assert (event["stage"], event["total"]) == ("prefill", len(PROMPT))
        done.append(event["done"])
        wait_until(partial(is_younger, peer, let_at), "the chunk counts as progress")
    assert done == sorted(set(done)) and done[0] > 0 and done[-1] < len(PROMPT)
    peer.call("fault_let_pass", {"count": MANY})
    kind, _, end = peer.settled(request)
    assert (kind, end["usage"]["prompt_tokens"]) == (END, len(PROMPT))


def test_while_a_chunk_takes_long_whatever_needs_no_engine_is_answered(
    slow: tuple[Peer, str],
) -> None:
    peer, model = slow
    request = begin(peer, model)
    assert peer.call("count_tokens", {"model": model, "text": "abc"})["count"] == 3
    assert peer.is_echoing()
    assert peer.health()["in_flight"] == 1
    assert peer.take_kept(request) == [] and peer.process.poll() is None
    peer.call("fault_let_pass", {"count": MANY})
    assert peer.settled(request)[0] == END


def test_another_generation_goes_on_between_two_chunks(slow: tuple[Peer, str]) -> None:
    peer, model = slow
    neighbour = peer.request(
        "generate",
        {"model": model, "prompt": "z", "max_tokens": 10**5},
        {"credit": 10**6},
    )
    request = peer.request("generate", {"model": model, "prompt": PROMPT, "max_tokens": 4})
    tokens: list[int] = []
    for _ in range(6):
        peer.call("fault_let_pass", {"count": 1})
        next_progress(peer, request)
        # What came between this chunk and the one before it: both travel in their order.
        tokens.append(sum(message[2] for message in peer.take_kept(neighbour)))
    assert sum(tokens[1:]) > 0, tokens
    peer.send([CANCEL, neighbour])
    peer.call("fault_let_pass", {"count": MANY})
    assert peer.settled(neighbour)[2]["finish_reason"] == "cancelled"
    assert peer.settled(request)[0] == END


def test_a_cancel_in_a_slow_prefill_ends_it_at_once_and_the_work_at_the_next_chunk(
    slow: tuple[Peer, str],
) -> None:
    peer, model = slow
    request = begin(peer, model)
    peer.send([CANCEL, request])
    end = peer.settled(request)[2]
    assert (end["finish_reason"], end["usage"]["completion_tokens"]) == ("cancelled", 0)
    peer.call("fault_let_pass", {"count": 1})
    peer.becomes_idle()
