"""Any history of sessions gives the tokens that a model without any cache gives.

Generations, cancels, failures, forks, cuts, evictions, restarts and damaged files in any order; the
oracle evaluates each prompt anew. What is reused is a beginning that the same tenant had evaluated.
Chunks are small here, so that short texts have many.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from isthmus.sessions import chain, pieces
from tests.python.engine.networks import network
from tests.python.engine.session_rig import Rig, alone, text

RUNS = int(os.environ.get("ISTHMUS_SESSION_RUNS", "100"))
"""Histories; a thousand take some minutes."""

CHUNK = 16
PREFILL = 32
LONGEST = 160

SESSIONS = st.sampled_from(["a", "b", "c"])
TENANTS = st.sampled_from(["", "", "other"])
PLACES = st.floats(0, 1, exclude_max=True)


@cache
def expected(prompt: tuple[int, ...], count: int) -> list[int]:
    """Return what the model says to a prompt."""
    return alone(network("tiny"), list(prompt), count, PREFILL).ids


class Histories(RuleBasedStateMachine):
    """One folder, and one runtime after the other on it."""

    def __init__(self) -> None:
        super().__init__()
        self._patches = [
            mock.patch.object(module, "CHUNK_TOKENS", CHUNK) for module in (chain, pieces)
        ]
        for patch in self._patches:
            patch.start()
        self._loop = asyncio.new_event_loop()
        self._folder = Path(tempfile.mkdtemp(prefix="isthmus-histories-"))
        self._rig: Rig | None = None
        self._texts: list[list[int]] = []
        self._evaluated: dict[str, list[list[int]]] = {}

    @initialize(memory=st.sampled_from([2**40, 120_000]), disk=st.sampled_from([2**40, 300_000]))
    def start(self, memory: int, disk: int) -> None:
        """Begin, with much room or with little."""
        self._room = memory, disk
        self._begin()

    @rule(
        session=SESSIONS,
        tenant=TENANTS,
        seed=st.integers(0, 3),
        more=st.integers(1, 60),
        count=st.integers(1, 5),
        base=PLACES,
        kept=st.sampled_from([0.0, 0.4, 0.9, 1.0, 1.0, 1.0]),
        stops_after=st.sampled_from([None, None, None, 1, 2, 3]),
    )
    def generate(
        self,
        session: str,
        tenant: str,
        seed: int,
        more: int,
        count: int,
        base: float,
        kept: float,
        stops_after: int | None,
    ) -> None:
        """Go on from a text that there was, or from a part of it."""
        before: list[int] = []
        if self._texts:
            before = self._texts[int(base * len(self._texts))]
            before = before[: int(kept * len(before))]
        prompt = [*before, *text(seed, more)][:LONGEST]
        answer = self._run(
            self.rig.generate(session, prompt, count, scope=tenant, stops_after=stops_after)
        )
        assert answer.ids == expected(tuple(prompt), count)[: len(answer.ids)]
        known = self._evaluated.setdefault(tenant, [])
        assert answer.reused <= max((_shared(each, prompt) for each in known), default=0)
        whole = [*prompt, *answer.ids]
        known.append(whole)
        self._texts.append(whole)

    @rule(session=SESSIONS, tenant=TENANTS)
    def open(self, session: str, tenant: str) -> None:
        """Begin one, or look at it."""
        info = self._run(self.rig.open(session, tenant))
        assert info["tokens"] >= info["saved_tokens"] >= 0 or info["state"] == "hot"

    @rule(session=SESSIONS, tenant=TENANTS)
    def fail(self, session: str, tenant: str) -> None:
        """A generation that fails keeps nothing of its own."""
        if tenant == "" and self._texts:
            prompt = [*self._texts[-1], 7, 7, 7][:LONGEST]
            self._run(self.rig.fail(session, prompt))

    @rule(session=SESSIONS, to=SESSIONS, tenant=TENANTS)
    def fork(self, session: str, to: str, tenant: str) -> None:
        """Begin another where one is, in place of what it was."""
        if session != to:
            self._run(self.rig.delete(to, tenant))
            origin = self._run(self.rig.open(session, tenant))
            forked = self._run(self.rig.fork(session, to, tenant))
            assert forked["tokens"] == origin["tokens"]

    @rule(session=SESSIONS, tenant=TENANTS, tokens=st.integers(0, LONGEST))
    def truncate(self, session: str, tenant: str, tokens: int) -> None:
        """Forget the end of one."""
        info = self._run(self.rig.truncate(session, tokens, tenant))
        assert info["tokens"] <= tokens

    @rule(session=SESSIONS, tenant=TENANTS)
    def evict(self, session: str, tenant: str) -> None:
        """Let one leave memory."""
        self._run(self.rig.evict(session, tenant))

    @rule(session=SESSIONS, tenant=TENANTS)
    def delete(self, session: str, tenant: str) -> None:
        """Forget one."""
        self._run(self.rig.delete(session, tenant))
        assert self._run(self.rig.open(session, tenant))["tokens"] == 0

    @rule()
    def restart(self) -> None:
        """Another runtime comes."""
        self.rig.close()
        self._begin()

    @precondition(lambda self: self._rig is not None)
    @rule(which=PLACES, where=PLACES, way=st.sampled_from(["flip", "flip", "cut", "lose"]))
    def damage(self, which: float, where: float, way: str) -> None:
        """A file is damaged, while nothing is written."""
        self._run(self._settled())
        files = sorted(file for file in self._folder.rglob("*") if file.is_file())
        files = [file for file in files if file.name != "lock"]
        if not files:
            return
        file = files[int(which * len(files))]
        raw = bytearray(file.read_bytes())
        if way == "lose" or not raw:
            file.unlink()
            return
        place = int(where * len(raw))
        if way == "flip":
            raw[place] ^= 1 << (place % 8)
        else:
            del raw[place:]
        file.write_bytes(raw)

    def teardown(self) -> None:
        """End it."""
        if self._rig is not None:
            self._rig.close()
        self._loop.close()
        shutil.rmtree(self._folder)
        for patch in self._patches:
            patch.stop()

    @property
    def rig(self) -> Rig:
        """The runtime at hand."""
        assert self._rig is not None
        return self._rig

    async def _settled(self) -> None:
        for tenant in ("", "other"):
            for session in ("a", "b", "c"):
                await self.rig.save(session, tenant)

    def _begin(self) -> None:
        async def begin() -> Rig:
            memory, disk = self._room
            return Rig(network("tiny"), self._folder, PREFILL, memory, disk)

        self._rig = self._run(begin())

    def _run(self, scene):  # type: ignore[no-untyped-def]
        return self._loop.run_until_complete(asyncio.wait_for(scene, 60.0))


def _shared(first: list[int], second: list[int]) -> int:
    return chain.shared_tokens(np.array(first), np.array(second))


Histories.TestCase.settings = settings(
    max_examples=RUNS,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase
