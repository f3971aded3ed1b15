"""Row 14: text that is no valid Unicode."""

from __future__ import annotations

import pytest

from tests.faults.peer import Peer, frame, pack

BROKEN = {
    "ff fe": b"\xff\xfe",
    "lone surrogate": b"\xed\xa0\x80",
    "surrogate pair in UTF-8": b"\xed\xa0\xbd\xed\xb8\x80",
    "cut short": b"\xf0\x9f\x98",
    "overlong": b"\xc0\xaf",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
}


def with_text(request: int, text: bytes) -> bytes:
    """Return an echo request whose data is `text`, whatever its bytes."""
    return frame(
        b"\x94\x01" + bytes([request]) + b"\xa4echo\x81\xa4data" + bytes([0xA0 | len(text)]) + text
    )


@pytest.mark.parametrize("name", BROKEN)
def test_only_the_request_that_holds_it_fails(peer: Peer, name: str) -> None:
    peer.send_bytes(
        pack([1, 1, "echo", {"data": "before"}])
        + with_text(2, BROKEN[name])
        + pack([1, 3, "echo", {"data": "after"}])
    )
    assert peer.settled(1)[2] == "before"
    assert peer.settled(2)[2]["code"] == "DECODE_ERROR"
    assert peer.settled(3)[2] == "after"


def test_sound_text_of_every_plane_comes_back_as_it_was(peer: Peer, chat: str) -> None:
    text = "a\0é中👩‍👩‍👧 \uffff\U0010ffff"
    assert peer.call("echo", {"data": text}) == text
    ids = peer.call("tokenize", {"model": chat, "text": text})["ids"]
    assert peer.call("detokenize", {"model": chat, "ids": ids})["text"] == text
