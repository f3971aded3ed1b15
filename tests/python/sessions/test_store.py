"""What is found is what was evaluated, shared is stored once, and a turn writes what is new."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isthmus.sessions.chain import CHUNK_TOKENS
from isthmus.sessions.record import SessionRecord
from isthmus.sessions.store import PIECES_OF_A_CHUNK, SessionStore, StoreOptions
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
    room_for,
    same_states,
    states_of,
    text,
)

CHAT = SessionRecord("chat", "").name


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "sessions")


@pytest.mark.parametrize("length", [1, 255, 256, 257, 511, 512, 700])
def test_what_was_saved_is_read_bit_for_bit(disk: Disk, length: int) -> None:
    saved = disk.save(text(length))
    assert (saved.tokens, saved.reason) == (length, None)
    assert disk.read(text(length)) == length
    assert disk.read(text(2_000)) == length


@pytest.mark.parametrize("form", ["q8", "k8v4", "q4"])
def test_what_was_saved_in_fewer_bits_is_read_within_a_step(disk: Disk, form: str) -> None:
    kin = family(form=form)
    disk.save(text(300), kin=kin)
    assert disk.read(text(300), kin) == 300


def test_the_record_says_where_a_session_ends(disk: Disk) -> None:
    disk.save(text(300))
    record = disk.store.get(CHAT)
    assert record is not None
    assert (record.tokens, record.used_at) == (300, disk.clock.now)
    assert disk.store.kept_tokens(record) == 300
    assert disk.store.disk_bytes(record) == disk.size_bytes()


def test_an_empty_text_can_be_saved(disk: Disk) -> None:
    assert disk.save(text(0)).tokens == 0
    assert disk.files() == []


def test_a_restart_finds_all_of_it(disk: Disk) -> None:
    disk.save(text(700))
    disk.restart()
    assert disk.read(text(700)) == 700
    assert disk.store.sessions[CHAT].tokens == 700


def test_other_models_formats_and_tenants_find_nothing(disk: Disk) -> None:
    disk.save(text(300))
    assert disk.read(text(300), family("other model")) == 0
    assert disk.read(text(300), family(form="q8")) == 0


def test_a_text_that_parts_inside_a_chunk_uses_the_chunk_up_to_there(disk: Disk) -> None:
    disk.save(text(600))
    other = join(text(410), text(300, seed=9))
    assert disk.read(other) == 410
    assert disk.read(text(100)) == 100


def test_a_part_of_a_chunk_is_found_after_a_restart(disk: Disk) -> None:
    disk.save(text(600))
    disk.restart()
    assert disk.read(join(text(410), text(300, seed=9))) == 410


def test_no_more_is_found_than_is_asked_for(disk: Disk) -> None:
    disk.save(text(600))
    held = disk.store.find(family(), text(600), 599)
    assert held.tokens == 599
    assert disk.store.read(held, room_for(599)).tokens == 599


@pytest.mark.parametrize("start", range(0, CHUNK_TOKENS, 15))
def test_a_turn_of_a_chunk_writes_little_more_than_a_chunk(disk: Disk, start: int) -> None:
    for turn in range(4):
        length = start + turn * CHUNK_TOKENS
        written = disk.save(text(length)).written_bytes
        assert written <= 1.1 * chunk_bytes() or turn == 0
    assert disk.read(text(2_000)) == start + 3 * CHUNK_TOKENS


def test_a_save_of_what_is_there_writes_nothing(disk: Disk) -> None:
    disk.save(text(600))
    assert disk.save(text(600)).written_bytes == 0
    assert disk.save(text(600), session="another").written_bytes == 0


@pytest.mark.parametrize("tokens", [8, 13, 16, 31, 40])
def test_short_turns_leave_few_files_and_write_at_most_three_times_the_data(
    disk: Disk, tokens: int
) -> None:
    written = 0
    for length in range(tokens, 4 * CHUNK_TOKENS + 1, tokens):
        written += disk.save(text(length)).written_bytes
        chunks = -(-length // CHUNK_TOKENS)
        assert len(disk.files()) <= chunks * PIECES_OF_A_CHUNK
    # Each file has a header besides, of a kilobyte; these chunks are far smaller than real ones.
    headers = (4 * CHUNK_TOKENS // tokens) * 2_048
    assert written <= 3 * 4 * chunk_bytes() + headers
    assert disk.read(text(2_000)) == length


def test_turns_of_one_token_leave_few_files_too(disk: Disk) -> None:
    for length in range(1, 300):
        disk.save(text(length))
        assert len(disk.files()) <= (1 + length // CHUNK_TOKENS) * PIECES_OF_A_CHUNK
    assert disk.read(text(300)) == 299


def test_a_shared_beginning_is_stored_once(disk: Disk) -> None:
    start = text(5 * CHUNK_TOKENS)
    disk.save(join(start, text(10, seed=1)), session="one")
    before = disk.size_bytes()
    saved = disk.save(join(start, text(10, seed=2)), session="two")
    assert saved.written_bytes < chunk_bytes() / 10
    assert disk.size_bytes() == before + saved.written_bytes


def test_a_fork_writes_no_content_and_each_side_goes_on_alone(disk: Disk) -> None:
    disk.save(text(300))
    before = disk.files()
    disk.store.put(SessionRecord("fork", "", **_ends(disk)))
    assert disk.files() == before
    disk.save(join(text(300), text(50, seed=1)), session="chat")
    disk.save(join(text(300), text(50, seed=2)), session="fork")
    assert disk.read(join(text(300), text(50, seed=1))) == 350
    assert disk.read(join(text(300), text(50, seed=2))) == 350


def _ends(disk: Disk) -> dict[str, object]:
    record = disk.store.sessions[CHAT]
    return {"root": record.root, "tip": record.tip, "tokens": record.tokens}


def test_deleting_removes_what_nobody_shares_and_nothing_else(disk: Disk) -> None:
    start = text(2 * CHUNK_TOKENS)
    disk.save(join(start, text(100, seed=1)), session="one")
    before = disk.files()
    disk.save(join(start, text(700, seed=2)), session="two")
    assert disk.store.delete(SessionRecord("two", "").name)
    assert disk.files() == before
    assert disk.store.delete(SessionRecord("one", "").name)
    assert disk.files() == []
    assert not disk.store.delete(SessionRecord("one", "").name)
    disk.restart()
    assert disk.store.sessions == {}


def test_another_text_in_a_session_replaces_what_it_had(disk: Disk) -> None:
    disk.save(text(700, seed=1))
    disk.save(text(300, seed=2))
    assert disk.read(text(700, seed=1)) == 0
    assert disk.read(text(300, seed=2)) == 300
    assert len(disk.files()) == 2


def test_a_session_that_is_cut_goes_on_from_there(disk: Disk) -> None:
    disk.save(text(700))
    disk.store.truncate(CHAT, 400)
    assert disk.store.sessions[CHAT].tokens == 400
    assert len(disk.files()) == 2
    longer = join(text(400), text(30, seed=3))
    assert disk.save(longer).reason is None
    assert disk.read(longer) == 430
    disk.store.truncate(CHAT, 0)
    assert disk.files() == []
    assert disk.store.sessions[CHAT].tokens == 0


def test_cutting_a_session_does_not_take_from_its_fork(disk: Disk) -> None:
    disk.save(text(700))
    disk.store.put(SessionRecord("fork", "", **_ends(disk)))
    disk.store.truncate(CHAT, 100)
    assert disk.read(text(700)) == 700


def test_cutting_to_more_than_there_is_changes_nothing(disk: Disk) -> None:
    disk.save(text(300))
    record = disk.store.sessions[CHAT]
    disk.store.truncate(CHAT, 300)
    disk.store.truncate("nobody", 3)
    assert disk.store.sessions[CHAT] is record


def test_a_session_that_was_not_used_for_long_is_forgotten_unless_it_is_pinned(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path, ttl_s=60)
    disk.save(text(300, seed=1), session="old")
    disk.save(text(300, seed=2), session="pinned", pin=True)
    disk.clock.now += 50
    disk.save(text(300, seed=3), session="new")
    disk.clock.now += 20
    disk.restart()
    assert sorted(record.id for record in disk.store.sessions.values()) == ["new", "pinned"]
    assert disk.store.counts["expired_sessions"] == 1
    assert disk.read(text(300, seed=1)) == 0
    assert disk.size_bytes() == disk.store.tree.size_bytes
    disk.clock.now += 50
    disk.store.expire()
    assert [record.id for record in disk.store.sessions.values()] == ["pinned"]


def test_states_are_kept_with_what_they_follow(disk: Disk) -> None:
    kin = family(layout=STATEFUL)
    disk.save(text(300), kin=kin)
    disk.restart()
    held = disk.store.find(kin, text(400), 400)
    restored = disk.store.read(held, room_for(300, STATEFUL))
    assert restored.tokens == 300 and restored.states is not None
    same_states(restored.states, states_of(text(300)))


def test_where_a_model_has_states_a_text_is_found_only_up_to_one(disk: Disk) -> None:
    kin = family(layout=STATEFUL)
    work = evaluated(text(700), STATEFUL, states_at=[300, 700])
    finish(disk.store.save(kin, work, None))
    assert disk.read(text(699), kin) == 300
    assert disk.read(text(700), kin) == 700
    assert disk.read(text(299), kin) == 0
    assert disk.size_bytes() == disk.store.tree.size_bytes


def test_deleting_a_session_removes_its_states(disk: Disk) -> None:
    disk.save(text(300), kin=family(layout=STATEFUL))
    disk.store.delete(CHAT)
    assert disk.files() == []


def test_numbers_that_cannot_be_quantised_are_not_saved_and_hold_nothing(disk: Disk) -> None:
    kin = family(form="q8")
    work = evaluated(text(600))
    work.arrays[1][0, 400, 0] = np.nan
    saved = finish(disk.store.save(kin, work, SessionRecord("chat", "", kv="q8")))
    assert saved.tokens == 256
    assert saved.reason is not None and "q8" in saved.reason
    assert disk.store.counts["save_failures"] == 1
    assert disk.read(text(600), kin) == 256
    assert all(node.holders == 0 for node in disk.store.tree.nodes.values())


def test_a_save_that_is_given_up_halfway_holds_nothing(disk: Disk) -> None:
    work = disk.store.save(family(), evaluated(text(900)), SessionRecord("chat", ""))
    next(work)
    next(work)
    work.close()
    assert all(node.holders == 0 for node in disk.store.tree.nodes.values())
    assert read_and_compare(disk.store, text(900), family()) == 512


def test_without_a_folder_nothing_is_kept_and_a_save_says_so() -> None:
    store = SessionStore(StoreOptions(None, 10**9, 0, 60.0), Clock())
    store.open()
    saved = finish(store.save(family(), evaluated(text(300)), SessionRecord("chat", "")))
    assert saved.tokens == 0
    assert saved.reason is not None and "--session-dir" in saved.reason
    assert read_and_compare(store, text(300), family()) == 0
    assert store.stats()["mode"] == "memory" and store.stats()["directory"] is None
    store.close()
