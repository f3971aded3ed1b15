"""What a host says of its runtime: in every state, whether or not a process answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..limits import HEALTH_ANSWER_MS
from .connection import Connection
from .keeper import Keeper
from .life import RuntimeState


def health_of(keeper: Keeper, own: dict[str, Any] | None) -> dict[str, Any]:
    """Return the health of a runtime.

    Args:
        own: What its process says of itself; None when it does not answer.
    """
    reason = _why_not_ready(keeper, own)
    return {
        "state": keeper.state.value,
        "is_ready": reason is None,
        "reason": reason,
        "restarts": keeper.restarts,
        "last_exit": keeper.last_exit,
        "silent_ms": keeper.silent_ms,
        "runtime": own,
    }


def supervision_of(keeper: Keeper, connection: Connection) -> dict[str, Any]:
    """Return what became of a runtime's processes, and of the requests that they took along."""
    replays = connection.replays
    return {
        "state": keeper.state.value,
        "restarts": keeper.restarts,
        "replayed": replays.replayed,
        "restored": connection.gate.restored,
        "refused_by_budget": replays.refused_by_budget,
        "budget_tokens": replays.budget_tokens,
    }


def _why_not_ready(keeper: Keeper, own: Mapping[str, Any] | None) -> str | None:
    if keeper.state is not RuntimeState.RUNNING:
        error = keeper.last_error
        return f"it is {keeper.state}" + ("" if error is None else f": {error.message}")
    if own is None:
        return f"its process does not answer within {HEALTH_ANSWER_MS:g} ms"
    engine = own.get("engine")
    if isinstance(engine, Mapping) and engine.get("state") == "dead":
        return "its engine has died"
    return None
