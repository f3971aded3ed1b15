"""Whatever is asked, however it is mixed: each request settles once, and the next is served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.peer import Peer
from tests.faults.peer import read_ids as ids_of
from tests.faults.small_models import write_chain
from tests.python.runtime.in_process import TOKEN, InProcess
from tests.python.runtime.judge import (
    CANCEL,
    CREDIT,
    END,
    ERROR,
    PIECE,
    PING,
    REQUEST,
    Judge,
)
from tests.python.runtime.random_requests import PARAMS, WRONG, fill, requests

QUIET: Final = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PLENTY: Final = 2**20
"""Items that no bounded stream has."""
LONG: Final = 1_000
"""Items of a stream that is not waited for."""
PLACES: Final = st.integers(0, 30)
STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("request"), requests()),
        st.tuples(st.just("request"), requests()),
        st.tuples(st.just("in pieces"), requests()),
        st.tuples(st.just("again"), PLACES),
        st.tuples(st.just("cancel"), PLACES),
        st.tuples(st.just("credit"), st.tuples(PLACES, st.integers(1, 300) | st.just(PLENTY))),
        st.tuples(st.just("ping"), st.integers(0, 9)),
        st.tuples(st.just("garbage"), WRONG),
        st.tuples(st.just("turns"), st.integers(1, 20)),
    ),
    max_size=14,
)


class Mixed:
    """A host without manners: sends steps as they are drawn, and waits until all has settled."""

    def __init__(self, folder: Path) -> None:
        self.judge = Judge()
        self._folder = str(folder)
        self._handle = ""
        self._next = 0
        self._made: list[list[Any]] = []
        self._asked: dict[int, dict[str, Any]] = {}
        self._runtime = InProcess(self.see)
        self.answers: dict[int, Any] = {}

    def see(self, message: list[Any]) -> None:
        """Take a message of the runtime."""
        self.judge.see(message)
        if message[0] in (2, ERROR, END) and message[1] is not None:
            self.answers[message[1]] = message

    async def ask(self, method: str, params: dict[str, Any]) -> list[Any]:
        """Send one request and wait for its end."""
        request = self._send(method, params, None)
        await self._runtime.until(lambda: request not in self.judge.open)
        answer: list[Any] = self.answers[request]
        return answer

    async def prepare(self) -> None:
        """Have a model, whatever became of it."""
        answer = await self.ask("model_info", {"model": self._handle})
        if answer[0] == ERROR:
            answer = await self.ask("load_model", {"source": self._folder})
            assert answer[0] != ERROR, answer
            self._handle = answer[2]["model"]
        if "set_circuit" in self.names:
            await self.ask("set_circuit", {"model": self._handle, "state": "closed"})

    @property
    def names(self) -> list[str]:
        """The runtime's methods."""
        return self._runtime.runtime.server._router.names

    async def play(self, steps: list[tuple[str, Any]]) -> None:
        """Send steps, cancel what is left, and look whether the runtime still answers right."""
        await self.prepare()
        self._made.clear()
        for name, value in steps:
            await self._step(name, value)
        for request in self.judge.open:
            # Who was granted enough must not need a second grant.
            if self.judge.room(request) < LONG:
                self._grant(request, PLENTY)
        await self._runtime.until(lambda: all(is_endless(self._asked[i]) for i in self.judge.open))
        for request in self.judge.open:
            self._runtime.send([CANCEL, request])
        await self._runtime.until(lambda: not self.judge.open)
        await self.prepare()
        assert await self._tokens("abc") == [97, 98, 99]
        params = {"model": self._handle, "prompt": "b", "max_tokens": 3, "stream": False}
        answer = await self.ask("generate", params)
        assert ids_of(answer[2]["ids"]) == [TOKEN] * 3
        assert self._runtime.defects == [] and self._runtime.runtime.server.in_flight == 0

    def _grant(self, request: int, count: int) -> None:
        self.judge.grant(request, count)
        self._runtime.send([CREDIT, request, count])

    async def _tokens(self, text: str) -> list[int]:
        answer = await self.ask("tokenize", {"model": self._handle, "text": text})
        return ids_of(answer[2]["ids"])

    async def _step(self, name: str, value: Any) -> None:
        if name == "turns":
            for _ in range(value):
                await asyncio.sleep(0)
        elif name == "ping":
            before = len(self.judge.pongs)
            self._runtime.send([PING, value])
            assert self.judge.pongs[before:] == [value]
        elif name == "garbage":
            self._runtime.send(_garbage(value))
        elif name in ("request", "in pieces"):
            method, params, options = value
            self._send(method, params, options, name == "in pieces")
        elif self._made:
            self._step_about(name, value)

    def _step_about(self, name: str, value: Any) -> None:
        place, count = value if name == "credit" else (value, 0)
        message = self._made[place % len(self._made)]
        if name == "cancel":
            self._runtime.send([CANCEL, message[1]])
        elif name == "credit":
            self._grant(message[1], count)
        elif message[1] in self.judge.open:
            self.judge.expect(message[1], message[2], 0)
            self._runtime.send(message)

    def _send(
        self,
        method: str,
        params: dict[str, Any],
        options: dict[str, Any] | None,
        in_pieces: bool = False,
    ) -> int:
        self._next += 1
        params = fill(params, self._handle, self._folder)
        message = [REQUEST, self._next, method, params, *([] if options is None else [options])]
        self._made.append(message)
        self._asked[self._next] = params
        self.judge.expect(self._next, method, (options or {}).get("credit", 256))
        self._runtime.send(*(_cut(message) if in_pieces else [message]))
        return self._next

    def close(self) -> None:
        """End the runtime."""
        self._runtime.close()


def is_endless(params: dict[str, Any]) -> bool:
    """Whether it may go on for long; whatever else is asked must come to its end."""
    counts = (params.get("count"), params.get("max_tokens"))
    return any(type(count) is int and count > LONG for count in counts)


def _cut(message: list[Any]) -> list[list[Any]]:
    payload = msgpack.packb(message)
    parts = [payload[start : start + 9] for start in range(0, len(payload), 9)]
    return [[PIECE, 3, int(part is parts[-1]), part] for part in parts]


def _garbage(value: Any) -> Any:
    """A value that is no message of a request: those are counted."""
    if isinstance(value, list) and value and type(value[0]) is int:
        return [99, *value[1:]] if not (len(value) > 1 and type(value[1]) is int) else [99]
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of these tests."""
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return write_chain(tmp_path_factory.mktemp("fuzz") / "model", {}, chat_template=template)


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Iterator[Mixed]:
    """One runtime for all examples."""
    host = Mixed(folder)
    yield host
    host.close()


def test_every_method_is_asked(mixed: Mixed) -> None:
    assert set(mixed.names) <= set(PARAMS)


@settings(QUIET, max_examples=120)
@given(steps=STEPS)
def test_any_mixture_of_messages_settles_each_request_once(
    mixed: Mixed, steps: list[tuple[str, Any]]
) -> None:
    mixed._runtime.run(mixed.play(steps))


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """A runtime of its own process."""
    with Peer() as started:
        yield started


@settings(QUIET, max_examples=40)
@given(batch=st.lists(requests(), min_size=1, max_size=8))
def test_a_real_runtime_answers_each_and_lives(
    peer: Peer, folder: Path, batch: list[tuple[str, dict[str, Any], dict[str, Any] | None]]
) -> None:
    handle, judge = peer.load(folder), Judge()
    if "set_circuit" in peer.hello["methods"]:
        peer.call("set_circuit", {"model": handle, "state": "closed"})
    sent = []
    for method, params, options in batch:
        request = peer.request(method, fill(params, handle, str(folder)), options)
        judge.expect(request, method, (options or {}).get("credit", 256))
        sent.append(request)
    for request, (_, params, _) in zip(sent, batch, strict=True):
        judge.grant(request, PLENTY)
        peer.send([CREDIT, request, PLENTY], *([[CANCEL, request]] if is_endless(params) else []))
    for request in sent:
        while request in judge.open:
            judge.see(peer.next_of(request))
    handle = peer.load(folder)
    if "set_circuit" in peer.hello["methods"]:
        peer.call("set_circuit", {"model": handle, "state": "closed"})
    assert peer.generate(handle, "c", max_tokens=3)[0] == [99] * 3
    assert peer.kept == [] and peer.is_echoing()
