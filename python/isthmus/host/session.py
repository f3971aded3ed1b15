"""A session: a conversation with a model, whose KV cache the runtime keeps.

What it was opened with travels with every generation, so that a runtime that has been started again
needs no new open. Whether anything is kept, and where, is the runtime's; an answer never depends on
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from .caller import Caller
from .completer import Completer
from .model import Model
from .session_info import EvictResult, SaveResult, SessionInfo

KvFormat = Literal["native", "q8", "k8v4", "q4"]
"""How a session is kept on disk: `native` is bit for bit, the others take less room."""

WhenBusy = Literal["queue", "fail"]
"""What becomes of a call while another is at work on the session."""

_NAMING: Final = ("id", "tenant", "when_busy")
"""Options that say which session it is, and how a call comes to it."""


class Session(Completer):
    """A session of a model; made by `Sessions.open` or `fork`.

    Calls of one session run one at a time, in the order in which they were made.

    Args:
        runtime: Takes its requests.
        model: What generates.
        options: Its id and what was said of it, as they travel.
        info: What the runtime said of it.
    """

    def __init__(
        self, runtime: Caller, model: Model, options: Mapping[str, Any], info: SessionInfo
    ) -> None:
        super().__init__(runtime)
        self.model = model
        self.info = info
        """What the runtime said of it last; `refresh` asks again."""
        self._options = dict(options)

    @property
    def id(self) -> str:
        """Its name, among those of its tenant."""
        return str(self._options["id"])

    async def save(self) -> SaveResult:
        """Wait until all of it is on disk; say why, when that cannot be."""
        return SaveResult.from_wire(await self._call("save_session"))

    async def evict(self) -> EvictResult:
        """Have it saved, and leave memory; its next generation reads it from disk."""
        return EvictResult.from_wire(await self._call("evict_session"))

    async def fork(self, to: str) -> Session:
        """Return a new session, named `to`, that goes on from where this one is.

        It has this one's model, tenant and options.

        Raises:
            InvalidRequest: There is a session with this name.
        """
        info = SessionInfo.from_wire(await self._call("fork_session", to=to))
        return Session(self._runtime, self.model, {**self._options, "id": to}, info)

    async def truncate(self, tokens: int) -> SessionInfo:
        """Forget all but its first tokens; keep and return its new info."""
        self.info = SessionInfo.from_wire(await self._call("truncate_session", tokens=tokens))
        return self.info

    async def delete(self) -> bool:
        """Have it leave memory and disk; return whether there was something to delete.

        The next generation begins it anew.
        """
        return bool((await self._call("delete_session"))["deleted"])

    async def refresh(self) -> SessionInfo:
        """Ask for its info again and keep it; begins the session if the runtime has none."""
        self.info = SessionInfo.from_wire(await self._runtime.call("open_session", self._named()))
        return self.info

    def _named(self) -> dict[str, Any]:
        return {"model": self.model.info.model, "session": dict(self._options)}

    async def _call(self, method: str, **params: Any) -> Any:
        naming = {name: self._options[name] for name in _NAMING if name in self._options}
        return await self._runtime.call(method, {"session": naming, **params})


def session_options(
    id: str,
    *,
    tenant: str | None = None,
    kv: KvFormat | None = None,
    pin: bool | None = None,
    when_busy: WhenBusy | None = None,
) -> dict[str, Any]:
    """Return the map that names a session, with what is given and nothing else."""
    given = {"id": id, "tenant": tenant, "kv": kv, "pin": pin, "when_busy": when_busy}
    return {name: value for name, value in given.items() if value is not None}
