"""Row 13: keys, types and bytes that one language would take and the other not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.peer import Peer, frame

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "codec.json").read_text())
REFUSED = [vector for vector in VECTORS if "error" in vector and vector["hex"]]


@pytest.mark.parametrize("vector", REFUSED, ids=lambda vector: vector["name"])
def test_the_runtime_refuses_what_the_vectors_say_both_ends_refuse(
    peer: Peer, vector: dict[str, Any]
) -> None:
    peer.send_bytes(frame(bytes.fromhex(vector["hex"])))
    assert peer.settled(None)[2]["code"] == vector["error"]


@pytest.mark.parametrize("key", ["__proto__", "constructor", "prototype"])
def test_a_key_that_reaches_an_objects_prototype_fails_its_request_alone(
    peer: Peer, key: str
) -> None:
    raw = key.encode()
    peer.send_bytes(
        frame(b"\x94\x01\x07\xa4echo\x81\xa4data\x81" + bytes([0xA0 | len(raw)]) + raw + b"\x01")
    )
    assert peer.settled(7)[2]["code"] == "DECODE_ERROR"
