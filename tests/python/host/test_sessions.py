"""Sessions as a host has them: what travels, what comes back, and what a restart changes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from isthmus import host
from isthmus.errors import InvalidRequest, RuntimeExited, SessionBusy, StartFailed
from isthmus.wire.codec import token_ids
from tests.python.host.fakes import ERROR
from tests.python.host.kept import BACKOFF_MS, ENDED, KeptBench, kept

INFO = {
    "id": "chat",
    "state": "hot",
    "tokens": 12,
    "saved_tokens": 8,
    "memory_bytes": 4_096,
    "disk_bytes": 2_048,
    "kv": "q8",
    "pin": True,
    "busy": False,
    "used_at": 1_760_000_000.5,
}
GIVEN = {"kv": "q8", "pin": True, "tenant": "acme", "when_busy": "fail"}
NAMING = {"id": "chat", "tenant": "acme", "when_busy": "fail"}
CACHE = {
    "state": "warm",
    "reused_tokens": 10,
    "prefilled_tokens": 2,
    "load_ms": 1.5,
    "prefill_ms": 3.0,
}
SAVED = {"saved": True, "tokens": 12, "written_bytes": 640, "reason": None}


@pytest.fixture
def bench() -> Iterator[KeptBench]:
    """A runtime that is kept as by default."""
    with kept() as one:
        yield one


def open_session(bench: KeptBench, **options: Any) -> host.Session:
    """Open the session `chat` of a model `m1`."""
    model = bench.load("m1")
    opening = bench.runtime.sessions.open("chat", model=model, **options)
    session: host.Session = settled(bench, opening, INFO)
    return session


def settled(bench: KeptBench, call: Coroutine[Any, Any, Any], value: object) -> Any:
    """Make a call, answer it and return what it gives."""
    task = bench.start(call)
    bench.answer(value)
    return task.result()


async def whole(source: host.Model | host.Session, *prompt: str, **options: Any) -> Any:
    """Generate to the end."""
    return await source.generate(*prompt, **options)


def last(bench: KeptBench) -> tuple[str, dict[str, Any]]:
    """Return method and params of what arrived last."""
    _, method, params = bench.process.requests[-1]
    return method, params


def test_an_open_sends_its_id_and_nothing_that_was_not_given(bench: KeptBench) -> None:
    session = open_session(bench)
    assert last(bench) == ("open_session", {"model": "m1", "session": {"id": "chat"}})
    assert session.id == "chat" and session.model.info.model == "m1"


def test_an_open_sends_all_that_was_given(bench: KeptBench) -> None:
    open_session(bench, **GIVEN, deadline_ms=50.0)
    assert last(bench) == ("open_session", {"model": "m1", "session": {"id": "chat", **GIVEN}})
    assert bench.process.messages[-1][4] == {"deadline_ms": 50.0}


def test_what_is_given_as_false_travels(bench: KeptBench) -> None:
    open_session(bench, pin=False)
    assert last(bench)[1]["session"] == {"id": "chat", "pin": False}


def test_the_info_of_an_open_is_kept_and_keys_that_nobody_knows_are_ignored(
    bench: KeptBench,
) -> None:
    model = bench.load("m1")
    answer = {**INFO, "from_the_future": 1}
    session = settled(bench, bench.runtime.sessions.open("chat", model=model), answer)
    assert session.info == host.SessionInfo(**cast(Any, INFO))
    with pytest.raises(AttributeError):
        session.info.tokens = 1


def test_a_session_that_is_busy_says_so(bench: KeptBench) -> None:
    session = open_session(bench, when_busy="fail")
    call = bench.start(session.truncate(3))
    number = bench.process.requests[-1][0]
    bench.process.say((ERROR, number, {"code": "SESSION_BUSY", "message": "no"}))
    bench.turn()
    assert isinstance(bench.error(call), SessionBusy) and session.info.tokens == 12


def test_the_options_of_a_session_travel_with_each_of_its_generations(bench: KeptBench) -> None:
    session = open_session(bench, **GIVEN)
    for prompt in ("one", "two"):
        running = bench.start(whole(session, prompt))
        expected = {"model": "m1", "session": {"id": "chat", **GIVEN}, "prompt": prompt}
        assert last(bench) == ("generate", expected)
        bench.end()
        assert running.result().finish_reason == "stop"


def test_a_session_generates_with_all_that_its_model_takes(bench: KeptBench) -> None:
    session, draft = open_session(bench), bench.load("m2")
    options: dict[str, Any] = {
        "ids": [1, 2],
        "draft_model": draft,
        "max_draft_tokens": 3,
        "logit_bias": {5: 1.0},
        "stop": ["."],
        "deadline_ms": 70.0,
        "credit": 4,
    }
    sent = []
    for source in (session.model, session):
        running = bench.start(whole(source, **options))
        sent.append((last(bench)[1], bench.process.messages[-1][4]))
        bench.end()
        assert isinstance(running.result(), host.GenerationResult)
    (plain, its_options), (params, same_options) = sent
    assert params == {**plain, "session": {"id": "chat"}} and same_options == its_options
    assert plain["ids"] == bytes(token_ids([1, 2])) and plain["logit_bias"] == [[5, 1.0]]
    assert plain["speculation"] == {"draft_model": "m2", "max_draft_tokens": 3}
    assert inspect.signature(host.Session.generate) == inspect.signature(host.Model.generate)


@pytest.mark.parametrize("cache", [CACHE, None])
def test_a_result_says_where_its_cache_came_from(bench: KeptBench, cache: object) -> None:
    session = open_session(bench)
    running = bench.start(whole(session, "x"))
    bench.end({**ENDED, "cache": cache})
    assert running.result().cache == cache


def test_a_runtime_that_says_nothing_of_caches_is_understood(bench: KeptBench) -> None:
    model = bench.load("m1")
    running = bench.start(whole(model, "x"))
    bench.end({name: value for name, value in ENDED.items() if name != "cache"})
    assert running.result().cache is None


def test_what_was_cancelled_before_it_was_sent_had_no_cache(bench: KeptBench) -> None:
    session = open_session(bench)
    bench.die()

    async def begin() -> host.GenerationResult:
        generation = session.generate("x")
        generation.cancel()
        return await generation

    result = bench.start(begin()).result()
    assert (result.finish_reason, result.cache) == ("cancelled", None)
    bench.advance(BACKOFF_MS)


@pytest.mark.parametrize(
    ("call", "method", "params", "wire", "result"),
    [
        (lambda s: s.save(), "save_session", {}, SAVED, host.SaveResult(True, 12, 640, None)),
        (
            lambda s: s.save(),
            "save_session",
            {},
            {"saved": False, "tokens": 0, "written_bytes": 0, "reason": "no room.", "odd": 1},
            host.SaveResult(False, 0, 0, "no room."),
        ),
        (
            lambda s: s.evict(),
            "evict_session",
            {},
            {"evicted": True, "freed_bytes": 9, "odd": 1},
            host.EvictResult(True, 9),
        ),
        (
            lambda s: s.truncate(5),
            "truncate_session",
            {"tokens": 5},
            {**INFO, "tokens": 5},
            host.SessionInfo(**cast(Any, {**INFO, "tokens": 5})),
        ),
        (lambda s: s.delete(), "delete_session", {}, {"deleted": True}, True),
        (lambda s: s.delete(), "delete_session", {}, {"deleted": False}, False),
    ],
)
def test_its_other_calls_name_the_session_and_no_model(
    bench: KeptBench,
    call: Callable[[host.Session], Coroutine[Any, Any, Any]],
    method: str,
    params: dict[str, Any],
    wire: object,
    result: object,
) -> None:
    session = open_session(bench, **GIVEN)
    assert settled(bench, call(session), wire) == result
    assert last(bench) == (method, {"session": NAMING, **params})


def test_what_was_not_given_is_not_named_either(bench: KeptBench) -> None:
    session = open_session(bench, kv="q4")
    settled(bench, session.save(), SAVED)
    assert last(bench) == ("save_session", {"session": {"id": "chat"}})


def test_a_truncated_and_a_refreshed_session_has_its_new_info(bench: KeptBench) -> None:
    session = open_session(bench, **GIVEN)
    assert settled(bench, session.truncate(5), {**INFO, "tokens": 5}) is session.info
    assert session.info.tokens == 5
    assert settled(bench, session.refresh(), {**INFO, "state": "warm"}) is session.info
    assert session.info.state == "warm"
    assert last(bench) == ("open_session", {"model": "m1", "session": {"id": "chat", **GIVEN}})


def test_a_fork_is_a_session_of_its_own_with_its_origin_s_options(bench: KeptBench) -> None:
    session = open_session(bench, **GIVEN)
    fork = settled(bench, session.fork("other"), {**INFO, "id": "other", "tokens": 7})
    assert last(bench) == ("fork_session", {"session": NAMING, "to": "other"})
    assert (fork.id, fork.info.tokens, fork.model) == ("other", 7, session.model)
    for source, name in ((fork, "other"), (session, "chat")):
        running = bench.start(whole(source, "x"))
        expected = {"model": "m1", "session": {"id": name, **GIVEN}, "prompt": "x"}
        assert last(bench) == ("generate", expected)
        bench.end()
        assert running.done()
    settled(bench, fork.save(), SAVED)
    assert last(bench)[1] == {"session": {**NAMING, "id": "other"}}


def test_a_fork_to_a_session_that_exists_is_the_runtime_s_to_refuse(bench: KeptBench) -> None:
    session = open_session(bench)
    call = bench.start(session.fork("chat"))
    number = bench.process.requests[-1][0]
    bench.process.say((ERROR, number, {"code": "INVALID_REQUEST", "message": "it exists"}))
    bench.turn()
    assert isinstance(bench.error(call), InvalidRequest) and session.id == "chat"


def test_sessions_are_listed_in_the_runtime_s_order(bench: KeptBench) -> None:
    sessions = bench.runtime.sessions
    wire = {"sessions": [{**INFO, "id": "b"}, {**INFO, "id": "a"}]}
    assert [info.id for info in settled(bench, sessions.list(), wire)] == ["b", "a"]
    assert last(bench) == ("list_sessions", {})
    assert settled(bench, sessions.list(tenant="acme"), {"sessions": []}) == []
    assert last(bench) == ("list_sessions", {"tenant": "acme"})


def test_a_session_can_be_deleted_without_being_opened(bench: KeptBench) -> None:
    sessions = bench.runtime.sessions
    assert settled(bench, sessions.delete("old"), {"deleted": True}) is True
    assert last(bench) == ("delete_session", {"session": {"id": "old"}})
    assert settled(bench, sessions.delete("old", tenant="acme"), {"deleted": False}) is False
    assert last(bench) == ("delete_session", {"session": {"id": "old", "tenant": "acme"}})


def test_the_counters_of_sessions_come_as_they_are(bench: KeptBench) -> None:
    wire = {"directory": None, "mode": "memory", "sessions": 2, "from_the_future": 1}
    assert settled(bench, bench.runtime.sessions.stats(), wire) == wire
    assert last(bench) == ("session_stats", {})


@pytest.mark.parametrize(
    "method",
    [
        "open_session",
        "save_session",
        "evict_session",
        "list_sessions",
        "session_stats",
    ],
)
def test_what_may_run_twice_is_sent_to_the_next_process(bench: KeptBench, method: str) -> None:
    params = {"session": {"id": "chat"}}
    call = bench.start(bench.runtime.call(method, params))
    bench.follow()
    assert last(bench) == (method, params) and not call.done()
    bench.answer({})
    assert call.result() == {}


@pytest.mark.parametrize(
    "call", [lambda s: s.fork("other"), lambda s: s.truncate(5), lambda s: s.delete()]
)
def test_what_a_late_repeat_could_harm_is_not_repeated(
    bench: KeptBench, call: Callable[[host.Session], Coroutine[Any, Any, Any]]
) -> None:
    session = open_session(bench)
    task = bench.start(call(session))
    assert bench.follow().requests == []
    assert isinstance(bench.error(task), RuntimeExited)


def test_a_session_goes_on_in_the_next_process_without_a_new_open(bench: KeptBench) -> None:
    session = open_session(bench, **GIVEN)
    bench.follow()
    running = bench.start(whole(session, "x"))
    assert bench.process.methods == ["load_model"]
    bench.answer({})
    expected = {"model": "m1", "session": {"id": "chat", **GIVEN}, "prompt": "x"}
    assert last(bench) == ("generate", expected)
    bench.end()
    assert running.result().finish_reason == "stop"


def test_no_call_overtakes_one_of_its_session_that_waits_for_its_model(bench: KeptBench) -> None:
    session = open_session(bench)
    namesakes = bench.runtime.sessions.delete("chat", tenant="acme")
    bench.follow()
    running, delete = bench.start(whole(session, "x")), bench.start(session.delete())
    other = bench.start(namesakes)
    assert bench.process.methods == ["load_model", "delete_session"]
    assert last(bench)[1] == {"session": {"id": "chat", "tenant": "acme"}}
    bench.answer({"deleted": True})
    assert other.result() and not delete.done()
    bench.answer({}, 0)
    assert bench.process.methods[2:] == ["generate", "delete_session"]
    bench.end(index=2)
    bench.answer({"deleted": True})
    assert running.done() and delete.result()


def test_a_call_behind_a_generation_whose_model_cannot_be_loaded_is_sent(
    bench: KeptBench,
) -> None:
    session = open_session(bench)
    bench.follow()
    running, delete = bench.start(whole(session, "x")), bench.start(session.delete())
    number = bench.process.requests[0][0]
    bench.process.say((ERROR, number, {"code": "MEMORY_LIMIT", "message": "no"}))
    bench.turn()
    assert bench.error(running) is not None
    assert bench.process.methods == ["load_model", "delete_session"]
    bench.answer({"deleted": True})
    assert delete.result()


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (None, []),
        (host.SessionOptions(), []),
        (host.SessionOptions(dir=False), ["--session-dir", "none"]),
        (host.SessionOptions(dir="kept"), ["--session-dir", "kept"]),
        (
            host.SessionOptions(Path("/s"), 10, 0, 30, 1.5, True),
            [
                *("--session-dir", "/s", "--session-disk-bytes", "10"),
                *("--session-memory-bytes", "0", "--session-free-disk-bytes", "30"),
                *("--session-ttl-s", "1.5", "--session-fsync"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("command", [None, ["another"]])
async def test_options_become_arguments_behind_whatever_is_run(
    options: host.SessionOptions | None,
    arguments: list[str],
    command: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[tuple[str, ...]] = []

    async def spawn(line: tuple[str, ...], *_: object) -> Any:
        lines.append(line)
        raise StartFailed("there is no process in this test", phase="start")

    # The package's attribute of this name is the function.
    monkeypatch.setattr(sys.modules["isthmus.host.start"], "spawn", spawn)
    with pytest.raises(StartFailed):
        await host.start(python="py", command=command, sessions=options, faults=["f"])
    default = ["py", "-P", "-m", "isthmus", "runtime"]
    assert lines == [(*(command or default), *arguments, "--fault", "f")]


@pytest.mark.parametrize("name", ["", "none", Path("none")])
async def test_a_directory_whose_name_says_something_else_is_refused(name: str | Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await host.start(sessions=host.SessionOptions(dir=name))
    assert caught.value.details == {"field": "sessions.dir"}
