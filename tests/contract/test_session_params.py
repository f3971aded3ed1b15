"""Params of sessions that are wrong are refused by their name (docs/protocol.md, section 3.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from isthmus import host
from isthmus.errors import InvalidRequest, ModelNotLoaded, PathRefused
from tests.faults.conversations import keeping

pytestmark = pytest.mark.asyncio(loop_scope="module")

MISSING = "missing"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keeper() -> AsyncIterator[host.Runtime]:
    """A runtime that keeps sessions in memory."""
    async with keeping(None) as runtime:
        yield runtime
        assert await runtime.sessions.list() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chat(keeper: host.Runtime) -> host.Model:
    """The built-in model."""
    return await keeper.load_model()


GENERATE = {"model": "MODEL", "prompt": "x", "max_tokens": 1, "stream": False}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("open_session", {"model": "MODEL"}, "session"),
    ("open_session", {"session": {"id": "a"}}, "model"),
    ("open_session", {"model": "MODEL", "session": "a"}, "session"),
    ("open_session", {"model": "MODEL", "session": {}}, "session.id"),
    ("open_session", {"model": "MODEL", "session": {"id": 1}}, "session.id"),
    ("open_session", {"model": "MODEL", "session": {"id": "a", "kv": "q2"}}, "session.kv"),
    ("open_session", {"model": "MODEL", "session": {"id": "a", "kv": 8}}, "session.kv"),
    ("open_session", {"model": "MODEL", "session": {"id": "a", "pin": 1}}, "session.pin"),
    ("open_session", {"model": "MODEL", "session": {"id": "a", "ttl": 1}}, "session.ttl"),
    ("open_session", {"model": "MODEL", "session": {"id": "a", "tenant": ""}}, "session.tenant"),
    ("open_session", {"model": "MODEL", "session": {"id": "a", "tenant": 7}}, "session.tenant"),
    (
        "open_session",
        {"model": "MODEL", "session": {"id": "a", "tenant": "x" * 1_025}},
        "session.tenant",
    ),
    (
        "open_session",
        {"model": "MODEL", "session": {"id": "a", "when_busy": "no"}},
        "session.when_busy",
    ),
    ("open_session", {"model": "MODEL", "session": {"id": "a"}, "depth": 1}, "depth"),
    ("generate", {**GENERATE, "session": {"id": "a", "kv": "q2"}}, "session.kv"),
    ("generate", {**GENERATE, "session": {"id": "a", "odd": 1}}, "session.odd"),
    ("generate", {**GENERATE, "session": "a"}, "session"),
    ("generate", {**GENERATE, "session": {"id": "a"}, "cache_prompt": False}, "cache_prompt"),
    ("save_session", {"session": {"id": "a"}, "wait": True}, "wait"),
    ("save_session", {}, "session"),
    ("evict_session", {"session": {"id": "a"}, "force": True}, "force"),
    ("truncate_session", {"session": {"id": "a"}}, "tokens"),
    ("truncate_session", {"session": {"id": "a"}, "tokens": -1}, "tokens"),
    ("truncate_session", {"session": {"id": "a"}, "tokens": 1.5}, "tokens"),
    ("truncate_session", {"session": {"id": "a"}, "tokens": True}, "tokens"),
    ("fork_session", {"session": {"id": "a"}}, "to"),
    ("fork_session", {"session": {"id": "a"}, "to": 1}, "to"),
    ("fork_session", {"session": {"id": "a"}, "to": "b", "kv": "q8"}, "kv"),
    ("delete_session", {"session": {"id": "a"}, "tokens": 1}, "tokens"),
    ("list_sessions", {"tenant": ""}, "tenant"),
    ("list_sessions", {"tenant": 1}, "tenant"),
    ("list_sessions", {"model": "MODEL"}, "model"),
    ("session_stats", {"session": {"id": "a"}}, "session"),
]


def named(params: Mapping[str, Any], model: host.Model) -> dict[str, Any]:
    """Return params with the handle of a model in its place."""
    return {key: model.info.model if raw == "MODEL" else raw for key, raw in params.items()}


@pytest.mark.parametrize(("method", "params", "field"), REFUSED, ids=str)
async def test_what_is_wrong_is_refused_by_its_name(
    keeper: host.Runtime, chat: host.Model, method: str, params: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await keeper.call(method, named(params, chat))
    assert caught.value.details["field"] == field


async def test_a_model_that_is_not_loaded_is_named(keeper: host.Runtime) -> None:
    with pytest.raises(ModelNotLoaded):
        await keeper.call("open_session", {"model": MISSING, "session": {"id": "a"}})


async def test_an_id_that_could_be_a_path_is_refused(
    keeper: host.Runtime, chat: host.Model
) -> None:
    with pytest.raises(PathRefused) as caught:
        await keeper.sessions.open("../up", model=chat)
    assert caught.value.details["field"] == "session.id"
    session = await keeper.sessions.open("origin", model=chat)
    with pytest.raises(PathRefused) as caught:
        await session.fork("a/b")
    assert caught.value.details["field"] == "to"
    assert await session.delete() is True
