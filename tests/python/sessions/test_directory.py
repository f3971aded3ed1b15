"""Files have names of our own, are whole or not there, and no others are touched."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from isthmus.sessions.checked import BadFile
from isthmus.sessions.chunkfile import Piece
from isthmus.sessions.directory import SessionDirectory
from isthmus.sessions.record import SessionRecord
from tests.python.sessions.rig import Disk, family, text

KEY, PARENT = "ab" * 32, "cd" * 32
PIECE = Piece(bytes.fromhex(KEY), bytes.fromhex(PARENT), 0, 256)
NAME = f"{KEY}-{PARENT}-0-256.safetensors"
CONTENT = np.arange(100, dtype=np.uint8)

FOREIGN = [
    "notes.txt",
    "piece.safetensors",
    f"{KEY}-{PARENT}-0-257.safetensors",
    f"{KEY}-{PARENT}-0-9999999999.safetensors",
    f"{KEY}-{PARENT}-200-300.safetensors",
    f"{KEY}-{PARENT}-256-256.safetensors",
    f"{KEY}-{PARENT}-9-3.safetensors",
    f"{KEY}-{PARENT}-00-256.safetensors",
    f"{KEY}-{PARENT}--1-256.safetensors",
    f"{KEY.upper()}-{PARENT}-0-256.safetensors",
    f"{KEY}-{PARENT}-0-256.safetensors.bak",
    f"x{KEY}.state.safetensors",
]


@pytest.fixture
def folder(tmp_path: Path) -> SessionDirectory:
    directory = SessionDirectory(tmp_path / "sessions")
    directory.prepare()
    assert directory.lock()
    return directory


def chunks(folder: SessionDirectory) -> Path:
    return folder.path / "v1" / "chunks"


def listing(path: Path) -> dict[str, bytes | str | None]:
    """Return all that is below a folder, with its content."""
    found: dict[str, bytes | str | None] = {}
    for each in sorted(path.rglob("*")):
        name = str(each.relative_to(path))
        if each.is_symlink():
            found[name] = os.readlink(each)
        else:
            found[name] = each.read_bytes() if each.is_file() else None
    return found


def read(folder: SessionDirectory) -> bytes:
    raw = np.zeros(len(CONTENT), np.uint8)
    folder.read_piece(PIECE, raw)
    return raw.tobytes()


@pytest.mark.parametrize("is_synced", [False, True])
def test_what_was_written_is_found_and_read(tmp_path: Path, is_synced: bool) -> None:
    folder = SessionDirectory(tmp_path, is_synced)
    folder.prepare()
    folder.write_piece(PIECE, CONTENT)
    folder.write_state(PIECE.key, CONTENT[:10])
    folder.write_session(KEY, b"record")
    found = folder.scan()
    assert [(piece, size) for piece, size, _ in found.pieces] == [(PIECE, 100)]
    assert (found.states, found.sessions) == ({PIECE.key: 10}, (KEY,))
    assert read(folder) == CONTENT.tobytes()
    assert folder.read_state(PIECE.key, 10).tobytes() == CONTENT[:10].tobytes()
    assert folder.read_session(KEY) == b"record"
    assert folder.read_head(PIECE, 7) == CONTENT[:7].tobytes()


def test_files_are_for_their_owner_alone(folder: SessionDirectory) -> None:
    folder.write_piece(PIECE, CONTENT)
    for path in (folder.path / "v1", chunks(folder), chunks(folder) / NAME):
        assert os.stat(path).st_mode & 0o077 == 0


@pytest.mark.parametrize("size_bytes", [0, 99, 101])
def test_a_file_of_another_size_is_bad(folder: SessionDirectory, size_bytes: int) -> None:
    folder.write_piece(PIECE, CONTENT)
    os.truncate(chunks(folder) / NAME, size_bytes)
    with pytest.raises(BadFile, match="bytes instead of"):
        read(folder)


def test_a_file_that_shrinks_while_it_is_read_is_bad(
    folder: SessionDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_piece(PIECE, CONTENT)
    fstat = os.fstat

    def shrinking(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        os.truncate(chunks(folder) / NAME, 50)
        return status

    monkeypatch.setattr(os, "fstat", shrinking)
    raw = np.zeros(50, np.uint8)
    with pytest.raises(BadFile):
        folder.read_piece(PIECE, np.concatenate([raw, raw]))


def test_links_are_not_followed(folder: SessionDirectory, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT.tobytes())
    (chunks(folder) / NAME).symlink_to(secret)
    (folder.path / "v1" / "sessions" / KEY).symlink_to(secret)
    found = folder.scan()
    assert (found.pieces, found.sessions) == ((), ())
    for reading in (lambda: read(folder), lambda: folder.read_session(KEY)):
        with pytest.raises(OSError):
            reading()
    folder.write_piece(PIECE, CONTENT[::-1].copy())
    folder.remove_session(KEY)
    assert secret.read_bytes() == CONTENT.tobytes()
    assert read(folder) == CONTENT[::-1].tobytes()


@pytest.mark.parametrize("name", ["v1", "v1/chunks", "v1/sessions", "v1/damaged", "v1/lock"])
def test_a_link_in_place_of_a_folder_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    path, elsewhere = tmp_path / "sessions", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (path / name).parent.mkdir(parents=True)
    (path / name).symlink_to(elsewhere if name != "v1/lock" else elsewhere / "file")
    disk = Disk(path)
    assert disk.store.mode == "memory"
    assert disk.save(text(300)).reason is not None
    assert list(elsewhere.iterdir()) == []


def test_a_pipe_or_a_folder_in_place_of_a_file_is_bad_and_nobody_waits(
    folder: SessionDirectory,
) -> None:
    os.mkfifo(folder.path / "v1" / "sessions" / KEY)
    (folder.path / "v1" / "sessions" / PARENT).mkdir()
    (chunks(folder) / NAME).mkdir()
    found = folder.scan()
    assert (found.pieces, found.sessions) == ((), ())
    for reading in (
        lambda: read(folder),
        lambda: folder.read_session(KEY),
        lambda: folder.read_session(PARENT),
    ):
        with pytest.raises(BadFile, match="no regular file"):
            reading()


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "sessions", quota_bytes=100_000)
    folders = [disk.path, disk.path / "v0", *(disk.path / "v1").iterdir(), tmp_path]
    (disk.path / "v0").mkdir()
    for folder in filter(os.path.isdir, folders):
        for name in FOREIGN:
            (folder / name).write_text("not ours")
    before = listing(tmp_path)
    disk.restart()
    for seed in range(4):
        disk.save(text(300, seed), f"chat-{seed}")
        disk.read(text(300, seed))
        disk.store.delete(SessionRecord(f"chat-{seed}", "").name)
    disk.restart()
    assert len(disk.store.tree) == 0
    for file in disk.files():
        assert file.name in FOREIGN
    assert listing(tmp_path) == before


def test_the_writer_removes_what_a_killed_one_left_and_a_reader_does_not(
    folder: SessionDirectory,
) -> None:
    for name in ("chunks", "sessions"):
        (folder.path / "v1" / name / ".new-123-4").write_bytes(b"half")
    reader = SessionDirectory(folder.path)
    assert not reader.lock()
    reader.scan()
    assert len(list(folder.path.rglob(".new-*"))) == 2
    folder.scan()
    assert list(folder.path.rglob(".new-*")) == []


def test_damaged_files_are_kept_up_to_sixteen_of_them(folder: SessionDirectory) -> None:
    for number in range(1, 21):
        piece = Piece(PIECE.key, PIECE.parent, 0, number)
        folder.write_piece(piece, CONTENT)
        folder.put_aside(piece)
    damaged = folder.path / "v1" / "damaged"
    assert len(list(damaged.iterdir())) == 16
    assert folder.scan().pieces == ()
    assert folder.damaged_bytes == 1_600
    (damaged / "notes.txt").write_text("mine")
    folder.forget_damaged()
    assert [file.name for file in damaged.iterdir()] == ["notes.txt"]
    assert folder.damaged_bytes == 0


def test_the_lock_is_one_holders_until_it_lets_go(folder: SessionDirectory) -> None:
    other = SessionDirectory(folder.path)
    assert not other.lock() and not other.is_locked()
    assert folder.lock() and folder.is_locked()
    folder.unlock()
    assert not folder.is_locked()
    assert other.lock() and other.is_locked()
    (folder.path / "v1" / "lock").unlink()
    assert not other.is_locked()


def test_a_lock_that_fails_leaves_no_file_open(
    folder: SessionDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(38, "no locks here")

    monkeypatch.setattr("fcntl.flock", fails)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(OSError, match="no locks"):
        SessionDirectory(folder.path).lock()
    assert len(os.listdir("/dev/fd")) == before


def test_names_on_disk_tell_nothing_of_what_a_user_said(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.save(text(300), "a-telling-name", kin=family("the model"))
    assert not any("telling" in name for name in listing(tmp_path))
