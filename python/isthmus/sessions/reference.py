"""How a call names a session, and what that is called inside the runtime and on disk.

A name is a hash of the tenant and of the id, so that no id is ever part of a path and no tenant is
written anywhere. Imports nothing that takes time: the runtime reads params before it has imported
its libraries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import InvalidRequest

FORMATS: Final[Mapping[str, tuple[int, int] | None]] = {
    "native": None,
    "q8": (8, 8),
    "k8v4": (8, 4),
    "q4": (4, 4),
}
"""Bits of keys and of values on disk; native ones are written as they are."""


@dataclass(frozen=True, slots=True)
class SessionReference:
    """How a call names a session; None leaves an option as it is.

    Attributes:
        id: As its user calls it; checked.
        scope: `scope_of` its tenant.
        kv: One of `FORMATS`.
        waits: Whether a call waits while another is at work on the session.
    """

    id: str
    scope: str = ""
    kv: str | None = None
    pin: bool | None = None
    waits: bool = True

    @property
    def name(self) -> str:
        """What it is called inside the runtime and on disk."""
        return session_name(self.id, self.scope)


def scope_of(tenant: str | None) -> str:
    """Return what stands for a tenant: equal for equal tenants, empty for none."""
    return "" if tenant is None else hashlib.sha256(b"isthmus-tenant" + tenant.encode()).hexdigest()


def session_name(session: str, scope: str) -> str:
    """Return what a session is called inside the runtime and on disk."""
    return hashlib.sha256(f"isthmus-session\0{scope}\0{session}".encode()).hexdigest()


def exists(to: SessionReference) -> InvalidRequest:
    """Return the error of a fork whose name is taken."""
    return InvalidRequest(
        f"there is a session {to.id!r} already; delete it, or choose another id", field="to"
    )
