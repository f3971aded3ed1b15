"""Whatever is wrong with the disk is told in the outcome, and counted; nothing of it raises."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from isthmus.sessions.directory import SessionDirectory
from isthmus.sessions.record import SessionRecord
from isthmus.sessions.store import Saved
from tests.python.sessions.rig import (
    STATEFUL,
    Clock,
    Disk,
    chunk_bytes,
    evaluated,
    family,
    finish,
    join,
    read_and_compare,
    text,
)

ROOT = Path(__file__).parents[3]
CHAT = SessionRecord("chat", "").name


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "sessions")


def failed(disk: Disk, saved: Saved, reason: str, times: int = 1) -> None:
    """A save has failed, said why, and was counted."""
    assert saved.reason is not None and reason in saved.reason
    assert disk.store.counts["save_failures"] == times
    assert not list(disk.path.rglob(".new-*"))


def test_a_full_disk_is_told_and_the_next_save_with_room_works(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.save(text(256))
    with monkeypatch.context() as patched:
        patched.setattr(SessionDirectory, "free_bytes", lambda _: 1_000)
        saved = disk.save(text(900))
    failed(disk, saved, "the disk has 1000 bytes free")
    assert saved.tokens == disk.store.sessions[CHAT].tokens == 256
    assert disk.read(text(900)) == 256
    assert disk.save(text(900)).reason is None


def test_room_on_the_disk_is_made_by_evicting_what_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, free_bytes=2 * chunk_bytes())
    capacity = 6 * chunk_bytes()
    monkeypatch.setattr(SessionDirectory, "free_bytes", lambda _: capacity - disk.size_bytes())
    for seed in range(10):
        assert disk.save(text(256, seed), f"chat-{seed}").reason is None
        assert capacity - disk.size_bytes() >= 2 * chunk_bytes()
    assert [disk.read(text(256, seed)) for seed in range(10)] == [0] * 6 + [256] * 4


def test_nothing_is_evicted_when_that_would_not_make_room_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, free_bytes=10**12)
    monkeypatch.setattr(SessionDirectory, "free_bytes", lambda _: 10**13)
    disk.save(text(600))
    monkeypatch.setattr(SessionDirectory, "free_bytes", lambda _: 10**11)
    failed(disk, disk.save(text(600, seed=1), "other"), "--session-free-disk-bytes")
    assert disk.read(text(600)) == 600


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_write_that_fails_halfway_leaves_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    disk.save(text(256))
    before, write = disk.files(), os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) < 1_000:
            raise OSError(code, os.strerror(code))
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        saved = disk.save(text(900))
    assert disk.files() == before
    assert saved.reason is not None and os.strerror(code) in saved.reason
    assert disk.save(text(900)).reason is None


def test_a_limit_on_the_size_of_files_is_told(tmp_path: Path) -> None:
    program = """
        import resource, sys
        from pathlib import Path
        from tests.python.sessions.rig import Disk, text
        disk = Disk(Path(sys.argv[1]))
        disk.save(text(100))
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        saved = disk.save(text(900))
        assert saved.reason and "cannot be written" in saved.reason, saved
        assert saved.tokens == 100 == disk.read(text(900))
        assert disk.store.counts["save_failures"] == 1
        assert not list(disk.path.rglob(".new-*"))
    """
    command = [sys.executable, "-B", "-c", textwrap.dedent(program), str(tmp_path / "sessions")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert Disk(tmp_path / "sessions").read(text(900)) == 100


def test_a_folder_that_cannot_be_made_is_told_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    disk = Disk(tmp_path / "file" / "sessions")
    assert disk.store.mode == "memory"
    failed(disk, disk.save(text(300)), "cannot be written")
    assert disk.read(text(300)) == 0
    (tmp_path / "file").unlink()
    assert disk.save(text(300)).reason is None
    assert disk.store.mode == "writer"


@pytest.mark.parametrize("what", ["sessions", "sessions/v1", "sessions/v1/chunks"])
def test_a_folder_that_vanishes_is_told_and_made_again(tmp_path: Path, what: str) -> None:
    disk = Disk(tmp_path / "sessions")
    disk.save(text(300))
    shutil.rmtree(tmp_path / what)
    saved = disk.save(text(600))
    failed(disk, saved, "has vanished")
    assert saved.tokens == 0
    assert disk.read(text(600)) == 0
    assert disk.save(text(600)).tokens == 600
    assert disk.read(text(600)) == 600


def test_a_folder_that_vanishes_during_a_save_is_told(disk: Disk) -> None:
    work = disk.store.save(family(), evaluated(text(900)), SessionRecord("chat", ""))
    next(work)
    shutil.rmtree(disk.path)
    saved = finish(work)
    failed(disk, saved, "has vanished")
    assert saved.tokens == 0
    assert disk.save(text(900)).tokens == 900


def test_a_folder_that_vanishes_before_a_read_gives_nothing(disk: Disk) -> None:
    disk.save(text(300))
    held = disk.store.find(family(), text(300), 300)
    shutil.rmtree(disk.path)
    assert disk.store.read(held, evaluated(text(300)).arrays).tokens == 0
    assert disk.store.counts["restore_failures"] == 1
    assert disk.read(text(300)) == 0
    assert disk.store.delete(CHAT)


def test_a_folder_that_another_has_made_anew_meanwhile_is_not_written(disk: Disk) -> None:
    disk.save(text(300))
    shutil.rmtree(disk.path)
    other = Disk(disk.path)
    assert other.store.mode == "writer"
    failed(disk, disk.save(text(300)), "has vanished")
    failed(disk, disk.save(text(300)), "another runtime writes", times=2)
    assert disk.store.mode == "reader"


def test_a_second_store_reads_and_writes_once_the_first_has_closed(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 0.0  # so that no change looks old
    first, second = Disk(tmp_path, clock), Disk(tmp_path, clock)
    assert (first.store.mode, second.store.mode) == ("writer", "reader")
    first.save(text(300))
    assert second.read(text(300)) == 300
    assert second.store.get(CHAT) is not None
    failed(second, second.save(text(600), "mine"), "another runtime writes")
    first.save(text(600))
    first.store.delete(CHAT)
    assert second.read(text(600)) == 0
    assert second.store.get(CHAT) is None
    first.store.close()
    assert second.save(text(600)).tokens == 600
    assert second.store.mode == "writer"
    assert second.size_bytes() == second.store.tree.size_bytes


def test_a_change_is_seen_that_leaves_the_times_of_the_folders_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Disk(tmp_path), Disk(tmp_path)
    time_ns = int(first.clock.now * 1e9)
    monkeypatch.setattr(SessionDirectory, "stamp", lambda _: (time_ns, time_ns))
    assert second.read(text(300)) == 0
    first.save(text(300))
    assert second.read(text(300)) == 300


def test_a_reader_leaves_what_is_damaged_to_the_writer(tmp_path: Path) -> None:
    first, second = Disk(tmp_path), Disk(tmp_path)
    first.save(text(300))
    second.restart()
    flip(first.files()[0])
    before = sorted(tmp_path.rglob("*"))
    assert second.read(text(300)) < 300
    assert second.store.counts["corrupt_files"] == 1
    assert sorted(tmp_path.rglob("*")) == before


def flip(file: Path, place: int = -1) -> None:
    """Damage a file."""
    raw = bytearray(file.read_bytes())
    raw[place] ^= 1
    file.write_bytes(raw)


def test_a_quota_that_was_lowered_is_held_to_from_the_start(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for seed in range(6):
        disk.save(text(512, seed), f"chat-{seed}")
    disk.restart(quota_bytes=5 * chunk_bytes())
    assert disk.size_bytes() == disk.store.tree.size_bytes <= 5 * chunk_bytes()
    assert disk.read(text(512, seed=5)) == 512
    assert disk.read(text(512, seed=0)) == 0


def test_ten_times_the_quota_leaves_the_last_and_never_more_than_the_quota(
    tmp_path: Path,
) -> None:
    quota = 4 * chunk_bytes() + 1_000
    disk = Disk(tmp_path, quota_bytes=quota)
    for seed in range(20):
        work = disk.store.save(
            family(), evaluated(text(512, seed)), SessionRecord(f"chat-{seed}", "")
        )
        for _ in work:
            assert disk.size_bytes() <= quota
        assert disk.read(text(512, seed)) == 512
    assert [disk.read(text(512, seed)) for seed in (19, 18, 17, 0)] == [512, 512, 0, 0]
    sizes = {record.id: record.tokens for record in disk.store.sessions.values()}
    assert sizes["chat-0"] == 0 and sizes["chat-18"] == 512


def test_what_is_pinned_stays_and_what_finds_no_room_is_told(tmp_path: Path) -> None:
    disk = Disk(tmp_path, quota_bytes=3 * chunk_bytes() - 1)
    assert disk.save(text(512), pin=True).reason is None
    for _ in range(3):
        saved = disk.save(text(256, seed=1), "other")
        assert saved.reason is not None and "quota" in saved.reason
    assert disk.read(text(512)) == 512
    disk.store.delete(CHAT)
    assert disk.save(text(256, seed=1), "other").reason is None


def test_what_a_reader_holds_stays_until_it_was_read(tmp_path: Path) -> None:
    disk = Disk(tmp_path, quota_bytes=2 * chunk_bytes())
    disk.save(text(256))
    held = disk.store.find(family(), text(256), 256)
    disk.store.delete(CHAT)
    assert disk.save(text(512, seed=1), "other").tokens == 256
    assert disk.store.read(held, evaluated(text(256)).arrays).tokens == 256
    assert disk.save(text(512, seed=1), "other").tokens == 512


def test_a_damaged_piece_is_put_aside_and_what_comes_before_it_is_used(disk: Disk) -> None:
    disk.save(text(700))
    flip(next(file for file in disk.files() if file.name.endswith("-256-512.safetensors")))
    assert disk.read(text(700)) == 256
    counts = disk.store.stats()
    assert (counts["corrupt_files"], counts["restore_failures"]) == (1, 1)
    assert len(list((disk.path / "v1" / "damaged").iterdir())) == 1
    saved = disk.save(text(700))
    assert saved.tokens == 700 and saved.written_bytes == chunk_bytes()
    assert disk.read(text(700)) == 700


def test_a_damaged_tip_leaves_the_session_with_what_comes_before(disk: Disk) -> None:
    disk.save(text(700))
    flip(next(file for file in disk.files() if file.name.endswith("-512-700.safetensors")))
    assert disk.read(text(700)) == 512
    assert disk.store.kept_tokens(disk.store.sessions[CHAT]) == 512
    disk.restart()
    assert disk.store.sessions[CHAT].tokens == 512
    disk.store.delete(CHAT)
    assert disk.files() == []


def test_a_deleted_piece_is_as_if_it_had_never_been(disk: Disk) -> None:
    disk.save(text(700))
    disk.files()[0].unlink()
    assert disk.read(text(700)) < 700
    assert disk.save(text(700)).tokens == 700
    assert disk.read(text(700)) == 700
    assert disk.size_bytes() == disk.store.tree.size_bytes


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_lost_state_is_as_if_it_had_never_been(disk: Disk, how: str) -> None:
    kin = family(layout=STATEFUL)
    finish(disk.store.save(kin, evaluated(text(700), STATEFUL, [300, 700]), None))
    key = disk.store.find(kin, text(700), 700)
    assert key.match.tip is not None
    disk.store.release(key)
    state = disk.chunks / f"{key.match.tip.piece.key.hex()}.state.safetensors"
    if how == "flip":
        flip(state)
    elif how == "cut":
        os.truncate(state, 100)
    else:
        state.unlink()
    assert disk.read(text(700), kin) == 300
    assert disk.size_bytes() == disk.store.tree.size_bytes
    disk.save(text(700), kin=kin)
    assert disk.read(text(700), kin) == 700


def test_a_state_stays_when_what_it_follows_is_written_anew(disk: Disk) -> None:
    kin = family(layout=STATEFUL)
    finish(disk.store.save(kin, evaluated(text(300), STATEFUL, [280, 300]), None))
    next(disk.chunks.glob("*-256-280.safetensors")).unlink()
    disk.restart()
    finish(disk.store.save(kin, evaluated(text(300), STATEFUL, []), None))
    assert next(disk.chunks.glob("*-256-300.safetensors"))
    assert disk.size_bytes() == disk.store.tree.size_bytes
    assert disk.read(text(300), kin) == 300


def test_a_file_with_other_tokens_than_its_name_says_is_damaged(disk: Disk) -> None:
    disk.save(text(100))
    tip = disk.store.tree.nodes[bytes.fromhex(disk.store.sessions[CHAT].tip)]
    other, raw = evaluated(text(100, seed=1)), np.zeros(tip.size_bytes, np.uint8)
    family().format.encode(tip.piece, other.ids, other.arrays, raw)
    disk.files()[0].write_bytes(raw.tobytes())
    disk.restart()
    assert disk.read(text(100)) == 0
    assert disk.store.counts["corrupt_files"] == 1


def test_what_was_put_aside_counts_and_goes_first(tmp_path: Path) -> None:
    quota = 3 * chunk_bytes()
    disk = Disk(tmp_path, quota_bytes=quota)
    disk.save(text(512))
    flip(next(file for file in disk.files() if file.name.endswith("-256-512.safetensors")))
    disk.read(text(512))
    assert disk.store.stats()["disk_bytes"] == disk.size_bytes() == 2 * chunk_bytes()
    disk.save(join(text(256), text(512, seed=1)))
    assert disk.size_bytes() == quota
    assert disk.store.counts["evicted_files"] == 0
    assert not list((tmp_path / "v1" / "damaged").iterdir())


def test_a_damaged_record_is_removed_and_its_text_is_found_all_the_same(disk: Disk) -> None:
    disk.save(text(300))
    flip(disk.path / "v1" / "sessions" / CHAT)
    disk.restart()
    assert disk.store.sessions == {}
    assert disk.store.counts["corrupt_files"] == 1
    assert read_and_compare(disk.store, text(300), family()) == 300
