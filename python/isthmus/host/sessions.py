"""The sessions of a runtime: opened, listed, deleted, counted."""

from __future__ import annotations

import builtins
from typing import Any

from .caller import Caller
from .model import Model
from .session import KvFormat, Session, WhenBusy, session_options
from .session_info import SessionInfo


class Sessions:
    """What a runtime keeps of conversations; `Runtime.sessions`.

    Args:
        runtime: Takes the requests.
    """

    def __init__(self, runtime: Caller) -> None:
        self._runtime = runtime

    async def open(
        self,
        id: str,
        *,
        model: Model,
        kv: KvFormat | None = None,
        pin: bool | None = None,
        tenant: str | None = None,
        when_busy: WhenBusy | None = None,
        deadline_ms: float | None = None,
    ) -> Session:
        """Begin a session, or go on with one.

        Args:
            id: Its name: 1 to 128 letters, digits and `. _ -`.
            model: What generates in it.
            kv: How it is kept on disk; None: as it is, `native` at first.
            pin: Keep it in memory and on disk whoever needs room; False ends that.
            tenant: Whose it is: found with the same tenant only, and shared with no other.
            when_busy: What becomes of a call while another is at work on it: it waits (`queue`,
                also when None) or fails (`fail`).
            deadline_ms: Time until it has to be open.

        Raises:
            PathRefused: The id has forbidden characters.
            SessionBusy: Another call is at work on it, and this one is not to wait.
            IsthmusError: Why it cannot be opened.
        """
        options = session_options(id, tenant=tenant, kv=kv, pin=pin, when_busy=when_busy)
        params = {"model": model.info.model, "session": options}
        info = await self._runtime.call("open_session", params, deadline_ms=deadline_ms)
        return Session(self._runtime, model, options, SessionInfo.from_wire(info))

    async def list(self, *, tenant: str | None = None) -> builtins.list[SessionInfo]:
        """Return the sessions of a tenant, or those of none; the latest used first."""
        params = {} if tenant is None else {"tenant": tenant}
        result = await self._runtime.call("list_sessions", params)
        return [SessionInfo.from_wire(info) for info in result["sessions"]]

    async def delete(self, id: str, *, tenant: str | None = None) -> bool:
        """Have a session leave memory and disk; return whether there was one."""
        params = {"session": session_options(id, tenant=tenant)}
        return bool((await self._runtime.call("delete_session", params))["deleted"])

    async def stats(self) -> dict[str, Any]:
        """Return where sessions are kept, how many, and counters of what was done with them."""
        return dict(await self._runtime.call("session_stats", {}))
