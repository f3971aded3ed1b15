"""Row 63: the disk is full, gone, too small, not to be written, or written by somebody else."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from isthmus import host
from tests.faults.conversations import (
    KEPT,
    TOKENS,
    chunks,
    counted,
    keeping,
    leftovers,
    on_disk,
    prompt,
    records,
    said,
    uncached,
    written_bytes,
)

HUGE_BYTES = 2**60
QUOTA_BYTES = 5_000_000
"""Room for one conversation and a part of a second."""

RUNTIME = shlex.join([sys.executable, "-P", "-m", "isthmus", "runtime"])
LIMITED = ["sh", "-c", f'ulimit -f 8; PYTHONDONTWRITEBYTECODE=1 exec {RUNTIME} "$@"', "sh"]
"""A runtime that cannot write a file of more than 4 KiB, as on a disk that is full. Nor may Python
then: it would leave the beginnings of compiled modules, which break every later start."""


async def serves_without_disk(runtime: host.Runtime, path: Path) -> str:
    """Check that turns are answered and go on from memory; return why they are not saved."""
    model = await runtime.load_model()
    session = await runtime.sessions.open("a", model=model)
    ids = prompt(1)
    answer = await said(session, ids)
    assert (answer.state, answer.reused) == ("cold", 0)
    assert answer.ids == await uncached(model, ids)
    saved = await session.save()
    assert (saved.saved, saved.tokens, saved.written_bytes) == (False, 0, 0)
    longer = [*ids, *answer.ids, *prompt(2, 50)]
    again = await said(session, longer)
    assert (again.state, again.reused) == ("hot", KEPT)
    assert again.ids == await uncached(model, longer)
    assert not (await session.evict()).evicted
    assert await counted(runtime, "save_failures") >= 2
    assert not path.is_dir() or (chunks(path), leftovers(path)) == ([], [])
    assert saved.reason
    return saved.reason


async def test_a_disk_that_is_full_is_served_without(tmp_path: Path) -> None:
    sessions = host.SessionOptions(dir=tmp_path)
    async with await host.start(command=LIMITED, sessions=sessions, restart=None) as runtime:
        assert "cannot be written" in await serves_without_disk(runtime, tmp_path)


async def test_what_must_stay_free_of_the_disk_stays_free(tmp_path: Path) -> None:
    async with keeping(tmp_path, free_disk_bytes=HUGE_BYTES) as runtime:
        reason = await serves_without_disk(runtime, tmp_path)
    assert "--session-free-disk-bytes" in reason


async def test_a_quota_that_no_file_fits_in_saves_nothing(tmp_path: Path) -> None:
    async with keeping(tmp_path, disk_bytes=1_000) as runtime:
        assert "--session-disk-bytes" in await serves_without_disk(runtime, tmp_path)


async def test_a_folder_that_cannot_be_made_is_served_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "sessions"
    async with keeping(path) as runtime:
        assert str(path) in await serves_without_disk(runtime, path)
        assert (await runtime.sessions.stats())["mode"] == "memory"


async def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "sessions"
    async with keeping(path) as runtime:
        model = await runtime.load_model()
        session = await runtime.sessions.open("a", model=model)
        first = await on_disk(session, prompt(1))
        shutil.rmtree(path)
        answer = await said(session, prompt(1))
        assert answer.ids == first.ids == await uncached(model, prompt(1))
        assert (answer.state, answer.reused) == ("cold", 0)
        # The save that finds that it has vanished may fail, not the one after it.
        await session.save()
        for number in (1, 2):
            session = await runtime.sessions.open(f"b{number}", model=model)
            await said(session, prompt(number))
            saved = await session.save()
        assert saved.saved and (await session.evict()).evicted
        assert (await said(session, prompt(2))).state == "warm"
        assert len(records(path)) >= 1


async def test_an_overfilled_quota_is_kept(tmp_path: Path) -> None:
    async with keeping(tmp_path, disk_bytes=QUOTA_BYTES) as runtime:
        model = await runtime.load_model()
        for number in range(4):
            session = await runtime.sessions.open(f"s{number}", model=model)
            await said(session, prompt(number))
            assert (await session.save()).saved
            assert await counted(runtime, "disk_bytes") == written_bytes(tmp_path) <= QUOTA_BYTES
            assert (await session.evict()).evicted
        assert await counted(runtime, "evicted_files") > 0
        for number in (0, 3):
            session = await runtime.sessions.open(f"s{number}", model=model)
            answer = await said(session, prompt(number))
            assert answer.ids == await uncached(model, prompt(number))
            assert await counted(runtime, "disk_bytes") <= QUOTA_BYTES


async def test_a_pinned_session_leaves_no_room_and_loses_nothing(tmp_path: Path) -> None:
    async with keeping(tmp_path, disk_bytes=QUOTA_BYTES) as runtime:
        model = await runtime.load_model()
        pinned = await runtime.sessions.open("pinned", model=model, pin=True)
        await on_disk(pinned, prompt(1))
        other = await runtime.sessions.open("other", model=model)
        await said(other, prompt(2))
        saved = await other.save()
        assert not saved.saved and "pinned" in str(saved.reason)
        assert written_bytes(tmp_path) <= QUOTA_BYTES
        answer = await said(pinned, prompt(1))
        assert (answer.state, answer.reused) == ("warm", TOKENS - 1)


async def test_a_quota_that_was_lowered_between_starts_is_kept(tmp_path: Path) -> None:
    async with keeping(tmp_path) as runtime:
        model = await runtime.load_model()
        for number in (1, 2):
            session = await runtime.sessions.open(f"s{number}", model=model)
            await on_disk(session, prompt(number))
    assert written_bytes(tmp_path) > QUOTA_BYTES
    async with keeping(tmp_path, disk_bytes=QUOTA_BYTES) as runtime:
        model = await runtime.load_model()
        # The latest used one stays.
        session = await runtime.sessions.open("s2", model=model)
        assert written_bytes(tmp_path) <= QUOTA_BYTES
        assert await counted(runtime, "evicted_files") > 0
        answer = await said(session, prompt(2))
        assert answer.ids == await uncached(model, prompt(2))
        assert (answer.state, answer.reused) == ("warm", TOKENS - 1)
        session = await runtime.sessions.open("s1", model=model)
        answer = await said(session, prompt(1))
        assert answer.ids == await uncached(model, prompt(1))
        assert answer.reused < TOKENS - 1


async def test_a_second_runtime_reads_what_the_first_one_writes(tmp_path: Path) -> None:
    async with keeping(tmp_path) as first:
        model = await first.load_model()
        session = await first.sessions.open("a", model=model)
        answer = await on_disk(session, prompt(1))
        async with keeping(tmp_path) as second:
            other = await second.load_model()
            twin = await second.sessions.open("a", model=other)
            assert (await second.sessions.stats())["mode"] == "reader"
            assert (twin.info.state, twin.info.tokens) == ("warm", KEPT)
            read = await said(twin, prompt(1))
            assert (read.ids, read.state, read.reused) == (answer.ids, "warm", TOKENS - 1)
            # What is written while it runs is found, too.
            later = await first.sessions.open("b", model=model)
            answer = await on_disk(later, prompt(2))
            read = await said(await second.sessions.open("b", model=other), prompt(2))
            assert (read.ids, read.state, read.reused) == (answer.ids, "warm", TOKENS - 1)
            own = await second.sessions.open("c", model=other)
            assert (await said(own, prompt(3))).ids == await uncached(other, prompt(3))
            before = set(chunks(tmp_path))
            saved = await own.save()
            assert not saved.saved and "another runtime" in str(saved.reason)
            assert await counted(second, "save_failures") > 0
            assert set(chunks(tmp_path)) == before
            await first.close()
            # Nobody else writes any more.
            await said(own, prompt(4))
            assert (await own.save()).saved
            assert (await second.sessions.stats())["mode"] == "writer"


@pytest.mark.parametrize("kept", [True, False], ids=["with a folder", "without one"])
async def test_memory_for_one_conversation_has_the_other_read_or_evaluated(
    tmp_path: Path, kept: bool
) -> None:
    async with keeping(tmp_path if kept else None, memory_bytes=8_000_000) as runtime:
        model = await runtime.load_model()
        answers = {}
        for number in (1, 2):
            session = await runtime.sessions.open(f"s{number}", model=model)
            answers[number] = await said(session, prompt(number))
            if kept:
                assert (await session.save()).saved
        stats = await runtime.sessions.stats()
        assert stats["hot"] == 1 and stats["hot_bytes"] <= stats["hot_limit_bytes"] <= 8_000_000
        session = await runtime.sessions.open("s1", model=model)
        assert session.info.state == ("warm" if kept else "cold")
        again = await said(session, prompt(1))
        expected = ("warm", TOKENS - 1) if kept else ("cold", 0)
        assert (again.state, again.reused) == expected
        assert again.ids == answers[1].ids == await uncached(model, prompt(1))
        assert await counted(runtime, "restores") == int(kept)


async def test_without_any_memory_each_turn_is_read_from_disk(tmp_path: Path) -> None:
    async with keeping(tmp_path, memory_bytes=0) as runtime:
        model = await runtime.load_model()
        session = await runtime.sessions.open("a", model=model)
        first = await said(session, prompt(1))
        assert (await session.refresh()).state in ("warm", "cold")
        assert (await session.save()).saved
        again = await said(session, prompt(1))
        assert (again.ids, again.state, again.reused) == (first.ids, "warm", TOKENS - 1)
        assert await counted(runtime, "hot") == 0
