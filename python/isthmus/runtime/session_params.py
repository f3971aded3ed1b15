"""Reads the param `session` (docs/protocol.md, section 3.4)."""

from __future__ import annotations

import re
from typing import Any, Final

from ..errors import InvalidRequest, PathRefused
from ..limits import SESSION_ID_CHARS, SESSION_TENANT_CHARS
from ..sessions.reference import FORMATS, SessionReference, scope_of
from .params import Params

_ID: Final = re.compile(rf"(?!\.+\Z)[A-Za-z0-9._-]{{1,{SESSION_ID_CHARS}}}\Z")
_WAITS: Final = {"queue": True, "fail": False}


def read_session(fields: Params) -> SessionReference:
    """Read how a call names its session.

    Raises:
        PathRefused: The id has forbidden characters.
        InvalidRequest: A field is missing, of a wrong type, or unknown.
    """
    return _read(fields.typed("session", dict))


def read_optional_session(fields: Params) -> SessionReference | None:
    """Read how a call names its session, if it has one; raises as `read_session`."""
    raw = fields.typed("session", dict, None)
    return None if raw is None else _read(raw)


def read_session_id(fields: Params, field: str) -> str:
    """Read a session's id.

    Raises:
        PathRefused: It has forbidden characters.
    """
    return _checked(fields.typed(field, str), field)


def read_tenant(fields: Params) -> str:
    """Read the tenant; return the scope that stands for it."""
    tenant = fields.typed("tenant", str, None)
    if tenant is not None and not 0 < len(tenant) <= SESSION_TENANT_CHARS:
        raise InvalidRequest(
            f"`tenant` must have 1 to {SESSION_TENANT_CHARS} characters", field="tenant"
        )
    return scope_of(tenant)


def _read(raw: dict[str, Any]) -> SessionReference:
    inner = Params(raw)
    try:
        reference = SessionReference(
            id=_checked(inner.typed("id", str), "session.id"),
            scope=read_tenant(inner),
            kv=_choice(inner, "kv", tuple(FORMATS)),
            pin=inner.typed("pin", bool, None),
            waits=_WAITS[_choice(inner, "when_busy", tuple(_WAITS)) or "queue"],
        )
        inner.done()
    except InvalidRequest as error:
        field = f"session.{error.details['field']}"
        raise InvalidRequest(f"in `session`, {error.message}", field=field) from None
    return reference


def _choice(fields: Params, name: str, choices: tuple[str, ...]) -> str | None:
    chosen = fields.typed(name, str, None)
    if chosen is not None and chosen not in choices:
        raise InvalidRequest(
            f"`{name}` must be one of {', '.join(choices)}, not {chosen[:40]!r}", field=name
        )
    return chosen


def _checked(session: str, field: str) -> str:
    if _ID.match(session) is None:
        raise PathRefused(
            f"`{field}` must be 1 to {SESSION_ID_CHARS} letters, digits and . _ -, and not dots "
            "alone",
            field=field,
        )
    return session
