"""A process that is killed while it saves leaves a sound beginning and nothing else behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from isthmus.sessions.chain import CHUNK_TOKENS
from tests.python.sessions.rig import Disk, evaluated, family, join, text

ROOT = Path(__file__).parents[3]
KILLS = 50
SYSTEM_CALLS = ("open", "write", "replace", "unlink")
TEXTS = [join(text(200, seed), text(2_400, seed=7)) for seed in range(3)]


def check(folder: Path) -> None:
    """Look at a folder as the next process does; all that is found there is compared."""
    disk = Disk(folder, quota_bytes=4_000_000)
    assert disk.store.mode == "writer"
    assert not list(folder.rglob(".new-*"))
    assert disk.size_bytes() == disk.store.tree.size_bytes <= 4_000_000
    for record in disk.store.sessions.values():
        ids = TEXTS[int(record.id[-1])]
        assert disk.store.kept_tokens(record) == record.tokens
        assert disk.read(ids) >= record.tokens
    assert disk.store.counts["corrupt_files"] == disk.store.counts["restore_failures"] == 0
    for number, ids in enumerate(TEXTS):
        length = 500 + number * 10
        assert disk.save(ids[:length], f"chat-{number}").reason is None
        assert disk.read(ids[:length]) == length
    disk.store.close()


def test_after_any_of_fifty_kills_what_is_there_is_sound_and_saving_goes_on(
    tmp_path: Path,
) -> None:
    random = Random(63)
    for _ in range(KILLS):
        command = [sys.executable, "-m", "tests.python.sessions.saver", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as saver:
            assert saver.stdout is not None
            for _ in range(random.randint(1, 12)):
                assert saver.stdout.readline() == b"saved\n"
            # It is at work on the next save by now, somewhere.
            saver.kill()
        check(tmp_path)


class Died(BaseException):
    """Where a process would have ended."""


@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_wherever_a_save_ends_what_is_there_is_sound(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill between any two system calls: nothing that comes after one is done."""
    for allowed in range(30):
        folder = tmp_path / str(allowed)
        disk = Disk(folder)
        for length in (200, 210, 220, 230):
            disk.save(TEXTS[0][:length], "chat-0")
        work = disk.store.save(
            family(), evaluated(TEXTS[0][: 3 * CHUNK_TOKENS]), disk.store.get(_name(disk))
        )
        with monkeypatch.context() as patched:
            die_after(patched, call, allowed)
            try:
                for _ in work:
                    pass
                is_done = True
            except Died:
                is_done = False
        disk.store.close()
        check(folder)
        if is_done:
            assert allowed > 2
            return
    raise AssertionError("a save of two chunks makes more calls than that")


def _name(disk: Disk) -> str:
    return next(iter(disk.store.sessions))


def die_after(patched: pytest.MonkeyPatch, call: str, allowed: int) -> None:
    """Let a system call work so many times; then nothing changes the disk any more."""
    calls = {name: getattr(os, name) for name in SYSTEM_CALLS}
    left, is_dead = [allowed], [False]

    def make(name: str) -> object:
        def called(*args: object, **options: object) -> object:
            if name == call:
                left[0] -= 1
                is_dead[0] |= left[0] < 0
            if is_dead[0]:
                raise Died
            return calls[name](*args, **options)

        return called

    for name in SYSTEM_CALLS:
        patched.setattr(os, name, make(name))
