"""The same bytes give the same frames, wherever they are cut."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import FrameTooLarge, IsthmusError, RemoteProtocolError
from isthmus.wire.frames import FrameDecoder, pack_header
from isthmus.wire.lines import LineDecoder, encode_line
from tests.fixtures.vectors import load_vectors

MANY = settings(max_examples=300, deadline=None, database=None)
VECTORS = load_vectors("frames")


def framed(payload: bytes) -> bytes:
    """Return a frame."""
    return pack_header(len(payload)) + payload


PAYLOADS = st.lists(st.binary(min_size=1, max_size=40), max_size=8)
LINES = st.lists(
    st.binary(min_size=1, max_size=40)
    .map(lambda data: data.replace(b"\n", b"."))
    .filter(bytes.strip),
    max_size=8,
)


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    """Yield `data` in parts."""
    bounds = [0, *sorted(min(index, len(data)) for index in at), len(data)]
    for start, end in itertools.pairwise(bounds):
        yield data[start:end]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_vectors_give_their_frames_and_errors(vector: dict[str, Any]) -> None:
    decoder, frames, code = FrameDecoder(vector["limit"]), [], None
    try:
        for chunk in vector["chunks"]:
            for payload in decoder.feed(bytes.fromhex(chunk)):
                frames.append(payload.hex())  # noqa: PERF401 -- kept when the next one raises
        if vector.get("eof"):
            decoder.eof()
    except IsthmusError as error:
        code = error.code
    assert (frames, code) == (vector["frames"], vector.get("error"))


@MANY
@given(PAYLOADS, st.lists(st.integers(0, 400), max_size=20))
def test_any_cut_of_the_bytes_gives_the_same_frames(payloads: list[bytes], at: list[int]) -> None:
    decoder = FrameDecoder()
    data = b"".join(map(framed, payloads))
    assert [frame for part in cut(data, at) for frame in decoder.feed(part)] == payloads
    decoder.eof()


@MANY
@given(PAYLOADS.filter(bool), st.integers(1, 43))
def test_an_end_inside_a_frame_is_seen(payloads: list[bytes], missing: int) -> None:
    decoder = FrameDecoder()
    data = b"".join(map(framed, payloads))
    kept = data[: len(data) - min(missing, len(payloads[-1]) + 3)]
    assert list(decoder.feed(kept)) == payloads[:-1]
    with pytest.raises(RemoteProtocolError) as caught:
        decoder.eof()
    assert caught.value.details["kind"] == "truncated"


@MANY
@given(st.lists(st.binary(max_size=60), max_size=20))
def test_random_bytes_never_raise_anything_untyped(parts: list[bytes]) -> None:
    decoder = FrameDecoder(1_000)
    try:
        for part in parts:
            list(decoder.feed(part))
        decoder.eof()
    except (FrameTooLarge, RemoteProtocolError):
        pass


def test_a_frame_over_the_limit_takes_no_memory() -> None:
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge) as caught:
            list(decoder.feed(b"\xff\xff\xff\xff"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert caught.value.details["length"] == 2**32 - 1


def test_a_refusal_shows_how_the_input_began() -> None:
    with pytest.raises(FrameTooLarge) as caught:
        list(FrameDecoder().feed(b"Traceback (most recent call last):"))
    assert caught.value.details["head"] == b"Traceback (most recent call last"[:32].hex()


@MANY
@given(LINES, st.lists(st.integers(0, 400), max_size=20))
def test_any_cut_of_the_bytes_gives_the_same_lines(payloads: list[bytes], at: list[int]) -> None:
    decoder = LineDecoder()
    data = b"".join(map(encode_line, payloads))
    assert [line for part in cut(data, at) for line in decoder.feed(part)] == payloads
    decoder.eof()


def test_blank_lines_are_skipped() -> None:
    assert list(LineDecoder().feed(b"\n  \n[9,1]\r\n\n")) == [b"[9,1]\r"]


@pytest.mark.parametrize(
    "parts", [[b"x" * 11 + b"\n"], [b"x" * 6, b"x" * 5]], ids=["whole", "growing"]
)
def test_a_line_over_the_limit_is_refused(parts: list[bytes]) -> None:
    decoder = LineDecoder(10)
    with pytest.raises(FrameTooLarge):
        for part in parts:
            list(decoder.feed(part))


def test_lines_before_a_refused_one_are_delivered() -> None:
    decoder, lines = LineDecoder(10), []
    with pytest.raises(FrameTooLarge):
        for line in decoder.feed(b"good\n" + b"x" * 11):
            lines.append(line)  # noqa: PERF402 -- kept when the next one raises
    assert lines == [b"good"]


def test_an_end_inside_a_line_is_seen() -> None:
    decoder = LineDecoder()
    assert list(decoder.feed(b"half")) == []
    with pytest.raises(RemoteProtocolError):
        decoder.eof()
