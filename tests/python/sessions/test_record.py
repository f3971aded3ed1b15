"""The record of a session comes back as it was, or not at all."""

from __future__ import annotations

import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.sessions.checked import BadFile
from isthmus.sessions.record import SessionRecord, read_record
from isthmus.sessions.reference import FORMATS, scope_of, session_name
from tests.python.models.strategies import JSON
from tests.python.sessions.strategies import MANY

HEX = st.binary(max_size=32).map(bytes.hex)
RECORDS = st.builds(
    SessionRecord,
    id=st.text(st.characters(codec="utf-8"), max_size=20),
    scope=HEX,
    kv=st.sampled_from(list(FORMATS)),
    pin=st.booleans(),
    root=HEX,
    tip=HEX,
    tokens=st.integers(0, 2**40),
    used_at=st.floats(0, 1e12),
)
RECORD = SessionRecord("chat", scope_of("tenant"), "q8", True, "ab" * 32, "cd" * 32, 300, 1.5)
FILE = RECORD.to_bytes()


def sealed(content: object) -> bytes:
    """Return a file with a valid checksum."""
    text = orjson.dumps(content)
    return b"%08x %s\n" % (zlib.crc32(text), text)


@given(record=RECORDS)
@MANY
def test_a_record_comes_back_as_it_was(record: SessionRecord) -> None:
    assert read_record(record.to_bytes(), record.name) == record


def test_every_flipped_bit_is_noticed() -> None:
    for place in range(len(FILE)):
        for bit in range(8):
            file = bytearray(FILE)
            file[place] ^= 1 << bit
            with pytest.raises(BadFile):
                read_record(bytes(file), RECORD.name)


def test_a_shorter_or_longer_file_is_bad_but_for_the_last_newline() -> None:
    assert read_record(FILE[:-1], RECORD.name) == RECORD
    for file in [*(FILE[:length] for length in range(len(FILE) - 1)), FILE + b"\n", FILE * 2]:
        with pytest.raises(BadFile):
            read_record(file, RECORD.name)


def test_the_record_of_another_session_is_bad() -> None:
    with pytest.raises(BadFile, match="another session"):
        read_record(FILE, session_name("chat", ""))


@given(field=st.sampled_from(list(SessionRecord.__slots__)), value=JSON)
@MANY
def test_any_value_under_a_valid_checksum_is_taken_or_bad(field: str, value: object) -> None:
    content = orjson.loads(FILE.split(b" ", 1)[1]) | {field: value}
    try:
        file = sealed(content)
    except (TypeError, orjson.JSONEncodeError):  # an integer that no JSON has
        return
    try:
        record = read_record(file, RECORD.name)
    except BadFile:
        return
    assert type(getattr(record, field)) is type(getattr(RECORD, field))


@pytest.mark.parametrize(
    "content",
    [None, 3, [], "text", {}, {"id": "chat"}, {"id": "chat", "scope": "", "more": 1}],
    ids=repr,
)
def test_other_content_under_a_valid_checksum_is_bad(content: object) -> None:
    with pytest.raises(BadFile):
        read_record(sealed(content), RECORD.name)


@given(raw=st.binary(max_size=64))
@MANY
def test_any_bytes_are_bad(raw: bytes) -> None:
    with pytest.raises(BadFile):
        read_record(raw, RECORD.name)


def test_names_are_hashes_that_tell_sessions_and_tenants_apart() -> None:
    scopes = ["", scope_of(None), scope_of("a"), scope_of("b")]
    names = {session_name(session, scope) for session in ("x", "X", "y") for scope in scopes}
    assert len(names) == 9
    assert all(len(name) == 64 and int(name, 16) for name in names)
    assert "tenant" not in FILE.decode()
