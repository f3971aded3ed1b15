"""`open_session`, `save_session` and the other methods of sessions but `generate`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...limits import CONTEXT_LIMIT
from ..params import Params
from ..requests import Call
from ..router import Router
from ..services import Services
from ..session_params import read_session, read_session_id, read_tenant


def register(router: Router, services: Services) -> None:
    """Add the methods."""
    methods = SessionMethods(services)
    router.register("open_session", run=methods.open)
    router.register("save_session", run=methods.save)
    router.register("evict_session", run=methods.evict)
    router.register("fork_session", run=methods.fork)
    router.register("truncate_session", run=methods.truncate)
    router.register("delete_session", run=methods.delete)
    router.register("list_sessions", run=methods.list)
    router.register("session_stats", inline=methods.stats)


class SessionMethods:
    """Conversations that are kept."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def open(self, call: Call, params: dict[str, Any]) -> None:
        """Begin a session, or say how it is."""
        fields = Params(params)
        model = self._services.models.get(fields.typed("model", str))
        reference = read_session(fields)
        fields.done()
        with model.lease():
            # Hashed now, so that the first generation need not wait for it.
            await self._services.sessions.model(model)
            call.result(await self._services.sessions.manager.open(reference))

    async def save(self, call: Call, params: dict[str, Any]) -> None:
        """Wait until all of a session is on disk."""
        fields = Params(params)
        reference = read_session(fields)
        fields.done()
        call.result(await self._services.sessions.manager.save(reference))

    async def evict(self, call: Call, params: dict[str, Any]) -> None:
        """Save a session and let it leave memory."""
        fields = Params(params)
        reference = read_session(fields)
        fields.done()
        call.result(await self._services.sessions.manager.evict(reference))

    async def fork(self, call: Call, params: dict[str, Any]) -> None:
        """Begin another session where this one is."""
        fields = Params(params)
        reference = read_session(fields)
        to = replace(reference, id=read_session_id(fields, "to"), kv=None, pin=None)
        fields.done()
        call.result(await self._services.sessions.manager.fork(reference, to))

    async def truncate(self, call: Call, params: dict[str, Any]) -> None:
        """Forget all of a session but its first tokens."""
        fields = Params(params)
        reference = read_session(fields)
        tokens = fields.integer("tokens", 0, CONTEXT_LIMIT)
        fields.done()
        call.result(await self._services.sessions.manager.truncate(reference, tokens))

    async def delete(self, call: Call, params: dict[str, Any]) -> None:
        """Forget a session."""
        fields = Params(params)
        reference = read_session(fields)
        fields.done()
        call.result({"deleted": await self._services.sessions.manager.delete(reference)})

    async def list(self, call: Call, params: dict[str, Any]) -> None:
        """Return all sessions of a tenant."""
        fields = Params(params)
        scope = read_tenant(fields)
        fields.done()
        call.result({"sessions": await self._services.sessions.manager.infos(scope)})

    def stats(self, params: dict[str, Any]) -> object:
        """Return the counters."""
        Params(params).done()
        _ = self._services.sessions.manager
        return self._services.sessions.stats()
