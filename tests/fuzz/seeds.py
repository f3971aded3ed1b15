"""What the fuzzer begins with: the vectors that both languages are held to, and a dictionary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from isthmus.wire.codec import JsonCodec, MsgpackCodec
from isthmus.wire.frames import pack_header
from tests.fixtures.vectors import load_vectors
from tests.fuzz.invariants import CHECKS

_PLACES: Final = {name: index for index, (name, _) in enumerate(CHECKS)}
_CUTS: Final = b"cuts"
"""Four bytes that say where frames and lines are cut."""

DICTIONARY: Final = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xde\x00\x10",
    b"\xcf\x00\x1f\xff\xff\xff\xff\xff\xff",
    b"\xcf\x00\x20\x00\x00\x00\x00\x00\x00",
    b"\xd3\xff\xe0\x00\x00\x00\x00\x00\x01",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xca\x7f\x80\x00\x00",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xc7\x0c\xff",
    b"\xc1",
    b"\xed\xa0\x80",
    b"\xa9__proto__",
    b"\xabconstructor",
    b"\xa9prototype",
    b"\xabdeadline_ms",
    b"\xa6credit",
    b"\x91" * 32,
    b"\x81\xa1k" * 16,
    b"\x94\x01\x07\xa4echo\x81\xa4data",
    b"\x00\x00\x00\x01",
    b"\x00\x00\x02\x58",
    b"\xff\xff\xff\xff",
    b'{"$bin":"',
    b"[" * 32,
    b'"\\ud800"',
    b"1e999",
    b"9007199254740992",
    b"\n",
)


def seeds() -> Iterator[bytes]:
    """Yield inputs of every check."""
    payloads = [bytes.fromhex(vector["hex"]) for vector in load_vectors("codec")]
    messages = [vector["value"] for vector in load_vectors("messages")]
    packed = [MsgpackCodec().encode(message) for message in messages]
    for payload in [*payloads, *packed]:
        yield _seed("msgpack", payload)
        yield _seed("connection", pack_header(len(payload)) + payload)
    for message in messages:
        yield _seed("json", JsonCodec().encode(message))
        yield _seed("lines", _CUTS + JsonCodec().encode(message) + b"\n")
    for vector in load_vectors("frames"):
        data = b"".join(map(bytes.fromhex, vector["chunks"]))
        if len(data) < 4_096:
            yield _seed("frames", _CUTS + data)
            yield _seed("connection", data)
    yield _seed("pieces", bytes([1, 0, 3]) + b"abc" + bytes([1, 1, 2]) + b"de" + bytes([2, 2, 0]))


def write_seeds(folder: Path) -> int:
    """Write one file for each seed; return how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds():
        (folder / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    return len(list(folder.iterdir()))


def write_dictionary(file: Path) -> None:
    """Write the dictionary in libFuzzer's form."""
    lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in DICTIONARY)
    file.write_text("".join(f'"{line}"\n' for line in lines), "ascii")


def write_verdicts(corpus: Path, file: Path) -> int:
    """Write what this language makes of each payload of a corpus; return how many there are."""
    from tests.fuzz.invariants import verdict

    rows = []
    for entry in sorted(corpus.iterdir()):
        data = entry.read_bytes()
        if data and data[0] % len(CHECKS) in (_PLACES["msgpack"], _PLACES["json"]):
            rows.append({"hex": data[1:].hex(), "verdict": verdict(data[1:])})
    file.write_text(json.dumps(rows), "ascii")
    return len(rows)


def _seed(name: str, data: bytes) -> bytes:
    return bytes([_PLACES[name]]) + data
