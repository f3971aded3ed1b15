"""`open_session`, `save_session` and the other methods of sessions but `generate`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...limits import CONTEXT_LIMIT
from ...models.load import LoadedModel
from ...sessions.reference import exists
from ..params import Params
from ..requests import Call
from ..router import Router
from ..services import Services
from ..session_params import read_session, read_session_id, read_tenant

if TYPE_CHECKING:
    from ...sessions.known import Place
    from ...sessions.manager import SessionManager


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
    router.register("session_stats", run=methods.stats)


class SessionMethods:
    """Conversations that are kept."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def open(self, call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Begin a session, or say how it is."""
        fields = Params(params)
        model = self._services.models.get(fields.typed("model", str))
        place = self._place(call, fields)
        return self._open(call, model, place)

    async def _open(self, call: Call, model: LoadedModel, place: Place) -> None:
        try:
            with model.lease():
                # Hashed now, so that the first generation need not wait for it.
                known = await self._services.sessions.model(model)
                call.result(await self._manager.open(place, known))
        finally:
            place.leave()

    def save(self, call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Wait until all of a session is on disk."""
        return _answer(call, self._manager.save, self._place(call, Params(params)))

    def evict(self, call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Save a session and let it leave memory."""
        return _answer(call, self._manager.evict, self._place(call, Params(params)))

    def fork(self, call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Begin another session where this one is."""
        fields = Params(params)
        reference = read_session(fields)
        to = replace(reference, id=read_session_id(fields, "to"), kv=None, pin=None)
        fields.done()
        if to.name == reference.name:
            raise exists(to)
        places = (self._manager.place(each, lambda: call.is_settled) for each in (reference, to))
        return _answer(call, self._manager.fork, *places)

    def truncate(self, call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Forget all of a session but its first tokens."""
        fields = Params(params)
        tokens = fields.integer("tokens", 0, CONTEXT_LIMIT)
        return _answer(call, self._manager.truncate, self._place(call, fields), tokens)

    def delete(self, call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Forget a session."""
        return self._delete(call, self._place(call, Params(params)))

    async def _delete(self, call: Call, place: Place) -> None:
        call.result({"deleted": await self._manager.delete(place)})

    async def list(self, call: Call, params: dict[str, Any]) -> None:
        """Return all sessions of a tenant."""
        fields = Params(params)
        scope = read_tenant(fields)
        fields.done()
        call.result({"sessions": await self._manager.infos(scope)})

    async def stats(self, call: Call, params: dict[str, Any]) -> None:
        """Return the counters."""
        Params(params).done()
        await self._manager.opened()
        call.result(self._services.sessions.stats())

    @property
    def _manager(self) -> SessionManager:
        return self._services.sessions.manager

    def _place(self, call: Call, fields: Params) -> Place:
        """Read the rest of the params, and take a place in the session's queue at once."""
        reference = read_session(fields)
        fields.done()
        return self._manager.place(reference, lambda: call.is_settled)


async def _answer(
    call: Call, work: Callable[..., Coroutine[Any, Any, dict[str, Any]]], *arguments: object
) -> None:
    call.result(await work(*arguments))
