"""Row 7: kinds, methods and fields that nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.peer import RESULT, Peer

UNKNOWN: dict[str, tuple[list[Any], int | None, str]] = {
    "kind": ([99, 7, "echo", {}], 7, "INVALID_REQUEST"),
    "kind without an id": ([99], None, "INVALID_REQUEST"),
    "kind of the runtime": ([2, 7, 1], None, "INVALID_REQUEST"),
    "kind that is no integer": (["echo", 7], None, "INVALID_REQUEST"),
    "empty message": ([], None, "INVALID_REQUEST"),
    "request without params": ([1, 7, "echo"], 7, "INVALID_REQUEST"),
    "params that are no map": ([1, 7, "echo", [1]], 7, "INVALID_REQUEST"),
    "method that is no string": ([1, 7, 8, {}], 7, "INVALID_REQUEST"),
    "method": ([1, 7, "no_such_method", {}], 7, "UNKNOWN_METHOD"),
    "method named like an attribute": ([1, 7, "__class__", {}], 7, "UNKNOWN_METHOD"),
    "field": ([1, 7, "echo", {"data": 1, "dta": 2}], 7, "INVALID_REQUEST"),
    "options that are no map": ([1, 7, "echo", {}, 5], 7, "INVALID_REQUEST"),
    "deadline that is no number": ([1, 7, "echo", {}, {"deadline_ms": "1"}], 7, "INVALID_REQUEST"),
    "credit below 0": ([1, 7, "stream_echo", {"count": 1}, {"credit": -1}], 7, "INVALID_REQUEST"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_it_is_refused_on_its_own_and_the_connection_lives(peer: Peer, name: str) -> None:
    message, request, code = UNKNOWN[name]
    bystander = peer.request("fault_sleep", {"seconds": 0.01})
    peer.send(message)
    assert peer.settled(request)[2]["code"] == code
    assert peer.settled(bystander)[0] == RESULT


def test_the_unknown_field_is_named(peer: Peer, chat: str) -> None:
    error = peer.refusal("generate", {"model": chat, "prompt": "x", "temprature": 1.0})
    assert error["details"]["field"] == "temprature"


def test_what_a_later_version_may_add_is_ignored(peer: Peer) -> None:
    peer.send([1, 7, "echo", {"data": "kept"}, {"a later option": 1}, "a later element"])
    assert peer.settled(7)[2] == "kept"
    for message in ([6, 4_000_000], [7, 4_000_000, 10], [7, 4_000_000, 10, "later"]):
        peer.send(message)
    assert peer.is_echoing()
