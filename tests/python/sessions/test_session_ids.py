"""Whatever an id is, nothing outside the folder is touched, and no two sessions are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import PathRefused
from isthmus.runtime.params import Params
from isthmus.runtime.session_params import read_session
from isthmus.sessions.record import SessionRecord
from isthmus.sessions.reference import SessionReference
from tests.python.sessions.rig import Disk, evaluated, family, finish, text
from tests.python.sessions.strategies import MANY

REFUSED = [
    "",
    ".",
    "..",
    "...",
    "../up",
    "..\\up",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "C:\\x",
    "C:x",
    "..%2fup",
    "a\0b",
    "a\n",
    "\n",
    "a b",
    "~",
    "$HOME",
    "é",
    "\uff0e\uff0e",
    "\u202ea",
    "a" * 129,
    "a" * 300,
    "x" * 4_096,
]
TAKEN = [
    "a",
    "A",
    "a.b",
    "..a",
    "a..",
    ".hidden",
    "-rf",
    "CON",
    "con",
    "nul.txt",
    "lock",
    "v1",
    "Chat",
    "chat",
    "cHat",
    "a" * 128,
    "A" * 128,
]


def reference(session: object, tenant: str | None = None) -> SessionReference:
    """Return what a call that names a session so is about."""
    fields = {"id": session} | ({} if tenant is None else {"tenant": tenant})
    return read_session(Params({"session": fields}))


@pytest.mark.parametrize("session", REFUSED, ids=lambda session: repr(session)[:20])
def test_an_id_with_other_characters_is_refused(session: str) -> None:
    with pytest.raises(PathRefused) as caught:
        reference(session)
    assert caught.value.details["field"] == "session.id"


@given(session=st.text(max_size=140))
@MANY
def test_any_text_is_refused_or_a_hash_on_disk(session: str) -> None:
    try:
        name = reference(session).name
    except PathRefused:
        return
    assert len(name) == 64 and set(name) <= set("0123456789abcdef")


def test_ids_and_tenants_that_are_taken_are_told_apart() -> None:
    names = {reference(session, tenant).name for session in TAKEN for tenant in (None, "a", "A")}
    assert len(names) == 3 * len(TAKEN)


def test_nothing_outside_the_folder_changes(tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("alive")
    outside = sorted(tmp_path.iterdir())
    disk = Disk(tmp_path / "sessions")
    for number, session in enumerate(TAKEN):
        named = reference(session, "../../tenant")
        record = SessionRecord(named.id, named.scope)
        saved = finish(disk.store.save(family(), evaluated(text(20, number)), record))
        assert saved.reason is None
    disk.restart()
    assert sorted(record.id for record in disk.store.sessions.values()) == sorted(TAKEN)
    assert len(disk.pieces()) == len(TAKEN)
    assert sorted(path for path in tmp_path.iterdir() if path != disk.path) == outside
    assert (tmp_path / "canary").read_text() == "alive"
    assert [path.name for path in disk.path.iterdir()] == ["v1"]
