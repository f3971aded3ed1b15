"""Row 6: the other side speaks another version of the protocol."""

from __future__ import annotations

import pytest

from tests.faults.peer import HELLO, Peer


@pytest.mark.parametrize("version", [99, None, "1"])
def test_the_runtime_names_both_versions_and_the_fix_and_answers_nothing(version: object) -> None:
    with Peer(greet=False) as peer:
        assert peer.receive()[1]["protocol"] == 1
        peer.send([HELLO, {"protocol": version, "host": "future/9"}], [1, 1, "echo", {"data": 1}])
        error = peer.next_of(None)[2]
        assert error["code"] == "VERSION_MISMATCH"
        assert repr(version) in error["message"] and "version 1" in error["message"]
        assert "install the same version" in error["message"]
        assert not [message for message in peer.rest() if message[0] == 2]
        assert peer.exit_code() == 0


def test_a_request_before_the_hello_is_refused() -> None:
    with Peer(greet=False) as peer:
        peer.receive()
        error = peer.refusal("echo", {"data": 1})
        assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", "hello")
        peer.send([HELLO, {"protocol": 1, "host": "late/1", "a later field": True}])
        assert peer.is_echoing()
