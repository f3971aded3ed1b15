"""The store beside its promises: conversations that grow, part, fork, shrink and end, a disk that
rots, a quota that is reached, and processes that die, in any order.

Whatever happens: what is read is what was evaluated, the sizes add up, and the quota holds. As long
as nothing was damaged or evicted, all of a session is there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from isthmus.sessions.chain import TokenIds
from isthmus.sessions.layout import Layout
from isthmus.sessions.record import SessionRecord
from isthmus.sessions.store import Saved
from tests.python.sessions.rig import (
    LAYOUT,
    STATEFUL,
    Disk,
    chunk_bytes,
    evaluated,
    family,
    finish,
    join,
    text,
)

NAMES = st.sampled_from("abc")
LENGTHS = st.sampled_from([1, 3, 20, 100, 255, 256, 257, 300, 600])
SEEDS = st.integers(0, 3)
PLACES = st.floats(0, 1)


class StoreMachine(RuleBasedStateMachine):
    """Drives a store as the worker does: one save at a time, and anything between its steps."""

    layout: Layout = LAYOUT

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.kin = family(layout=self.layout)
        self.texts: dict[str, TokenIds] = {}
        """What sessions were last saved with."""
        self.whole: set[str] = set()
        """Those of which nothing was lost."""
        self.saving: tuple[str, TokenIds, Generator[None, None, Saved]] | None = None
        self.is_size_known = True
        self.damaged: set[Path] = set()
        """Files that were damaged, and may not have been noticed."""
        self.evicted = 0

    @initialize(chunks=st.sampled_from([3, 6, 100]))
    def open(self, chunks: int) -> None:
        self.disk = Disk(self.folder, quota_bytes=chunks * chunk_bytes(self.kin))

    def _record(self, name: str) -> SessionRecord:
        return self.disk.store.sessions.get(SessionRecord(name, "").name, SessionRecord(name, ""))

    def _next_text(self, name: str, place: float, length: int, seed: int) -> TokenIds:
        """Return a text that goes on where another was left, or begins anew."""
        before = self.texts.get(name, text(0))
        return join(before[: round(place * len(before))], text(length, seed))

    def _has_lost(self) -> None:
        """Something was taken away: what is pinned alone is sure to be there."""
        self.whole = {name for name in self.whole if self._record(name).pin}

    @precondition(lambda self: self.saving is None)
    @rule(name=NAMES, of=NAMES, place=st.just(1.0) | PLACES, length=LENGTHS, seed=SEEDS)
    def begin_save(self, name: str, of: str, place: float, length: int, seed: int) -> None:
        ids = self._next_text(of, place, length, seed)[:1_500]
        work = evaluated(ids, self.layout)
        self.saving = name, ids, self.disk.store.save(self.kin, work, self._record(name))

    @precondition(lambda self: self.saving)
    @rule()
    def go_on_with_the_save(self) -> None:
        assert self.saving is not None
        try:
            next(self.saving[2])
        except StopIteration as end:
            self._saved(end.value)

    @precondition(lambda self: self.saving)
    @rule()
    def finish_the_save(self) -> None:
        assert self.saving is not None
        self._saved(finish(self.saving[2]))

    def _saved(self, saved: Saved) -> None:
        assert self.saving is not None
        name, ids, _ = self.saving
        self.saving = None
        self._note_evictions()
        self.texts[name] = ids[: saved.tokens]
        self.whole.discard(name)
        assert (saved.tokens == len(ids)) == (saved.reason is None)
        assert self._record(name).tokens == saved.tokens
        if saved.reason is None and not self.damaged:
            self.whole.add(name)

    def _note_evictions(self) -> None:
        if self.disk.store.counts["evicted_files"] > self.evicted:
            self.evicted = self.disk.store.counts["evicted_files"]
            self._has_lost()

    @rule(name=NAMES, is_pinned=st.booleans())
    def pin(self, name: str, is_pinned: bool) -> None:
        if self._record(name).tip and (self.saving is None or self.saving[0] != name):
            self.disk.store.put(replace(self._record(name), pin=is_pinned))

    @rule(name=NAMES, to=NAMES)
    def fork(self, name: str, to: str) -> None:
        if self._record(to).tip or not self._record(name).tip:
            return
        before = self.disk.files()
        self.disk.store.put(replace(self._record(name), id=to, pin=False))
        assert self.disk.files() == before
        self.texts[to] = self.texts[name]
        if name in self.whole:
            self.whole.add(to)

    @rule(name=NAMES, place=PLACES)
    def truncate(self, name: str, place: float) -> None:
        tokens = round(place * self._record(name).tokens)
        self.disk.store.truncate(self._record(name).name, tokens)
        assert self._record(name).tokens in (0, tokens)
        self.texts[name] = self.texts.get(name, text(0))[:tokens]
        if self.layout.has_states:
            self.whole.discard(name)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.disk.store.delete(self._record(name).name)
        self.texts.pop(name, None)
        self.whole.discard(name)

    @rule(name=NAMES, of=NAMES, place=PLACES, seed=SEEDS)
    def read_another_text(self, name: str, of: str, place: float, seed: int) -> None:
        ids = self._next_text(of, place, 50, seed)
        found = self.disk.read(ids, self.kin)
        shared = round(place * len(self.texts.get(of, ())))
        if of in self.whole and not self.layout.has_states:
            assert found >= shared

    @rule(name=NAMES)
    def read(self, name: str) -> None:
        ids = self.texts.get(name, text(0))
        found = self.disk.read(ids, self.kin)
        assert found == len(ids) or name not in self.whole

    @rule(number=st.integers(0, 100), place=PLACES, how=st.sampled_from(["flip", "cut", "gone"]))
    def damage(self, number: int, place: float, how: str) -> None:
        files = self.disk.files()
        if not files:
            return
        file = files[number % len(files)]
        raw = bytearray(file.read_bytes())
        at = round(place * (len(raw) - 1))
        if how == "flip" and raw:
            raw[at] ^= 1 << number % 8
            file.write_bytes(raw)
        elif how == "cut":
            file.write_bytes(raw[:at])
        else:
            file.unlink()
        self.damaged.add(file)
        self.whole.clear()
        self.is_size_known = False

    @rule(does_die=st.booleans())
    def restart(self, does_die: bool) -> None:
        if self.saving is not None:
            if does_die:
                self.saving[2].close()
                self.saving = None
            else:
                self.finish_the_save()
        before = self.disk.store.sessions
        self._restart()
        assert self.disk.store.sessions == before or self.evicted

    def _restart(self) -> None:
        self.disk.restart()
        self.evicted = self.disk.store.counts["evicted_files"]
        if self.evicted:
            self._has_lost()
        self.is_size_known = True
        self.damaged = {file for file in self.damaged if file.exists()}

    @precondition(lambda self: self.saving is None)
    @rule(name=NAMES)
    def damage_a_record(self, name: str) -> None:
        file = self.folder / "v1" / "sessions" / SessionRecord(name, "").name
        if not file.exists():
            return
        file.write_bytes(file.read_bytes()[:-5])
        self._restart()
        assert not self._record(name).tip
        assert not file.exists()
        self.texts.pop(name, None)
        self.whole.discard(name)

    @invariant()
    def the_quota_holds(self) -> None:
        if hasattr(self, "disk"):
            assert self.disk.size_bytes() <= self.disk.options.quota_bytes

    @invariant()
    def sizes_add_up(self) -> None:
        if hasattr(self, "disk") and self.is_size_known:
            assert self.disk.size_bytes() == self.disk.store.stats()["disk_bytes"]

    @invariant()
    def nothing_temporary_stays(self) -> None:
        assert not list(self.folder.glob("v1/*/.new-*"))

    @invariant()
    def only_a_save_holds_something(self) -> None:
        if hasattr(self, "disk"):
            holders = sum(node.holders for node in self.disk.store.tree.nodes.values())
            assert holders <= (self.saving is not None)

    def teardown(self) -> None:
        """Every text that is left can be saved again, and is whole then."""
        if hasattr(self, "disk"):
            if self.saving is not None:
                self.saving[2].close()
                self.saving = None
            for name, ids in self.texts.items():
                saved = finish(
                    self.disk.store.save(self.kin, evaluated(ids, self.layout), self._record(name))
                )
                found = self.disk.read(ids, self.kin)
                if found < len(ids):  # damaged: it is put aside, and written anew
                    saved = self._save_until_sound(name, ids)
                    found = self.disk.read(ids, self.kin)
                assert found == len(ids) or saved.reason is not None
            self.disk.store.close()
        shutil.rmtree(self.folder)

    def _save_until_sound(self, name: str, ids: TokenIds) -> Saved:
        """Save and read until nothing damaged is found any more: each time, one file at least is
        put aside."""
        for _ in range(20):
            saved = finish(
                self.disk.store.save(self.kin, evaluated(ids, self.layout), self._record(name))
            )
            if saved.reason is not None or self.disk.read(ids, self.kin) == len(ids):
                return saved
        raise AssertionError("the same damage is found again and again")


class StatefulStoreMachine(StoreMachine):
    """The same with a model that has states."""

    layout = STATEFUL


SETTINGS: Any = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
StoreMachine.TestCase.settings = SETTINGS
StatefulStoreMachine.TestCase.settings = SETTINGS
TestStore = StoreMachine.TestCase
TestStatefulStore = StatefulStoreMachine.TestCase


def test_the_numbers_of_a_wrong_token_would_be_noticed() -> None:
    one, other = evaluated(text(300)), evaluated(text(300, seed=1))
    same = one.arrays[0] == other.arrays[0]
    assert np.mean(same.all(axis=(0, 2))) < 0.05
