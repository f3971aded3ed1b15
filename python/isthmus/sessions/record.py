"""A session on disk: a name, and where in the chain of evaluated tokens it ends.

A line of JSON behind a checksum. The file's name is a hash of the session's id and of its tenant,
so that no id is ever part of a path, and the tenant itself is not written anywhere.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson

from .checked import BadFile
from .reference import session_name


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What is known of a session besides its tokens.

    Attributes:
        id: As its user calls it.
        scope: `scope_of` its tenant.
        root: The root of its chain, in hexadecimal; empty while nothing is kept.
        tip: The key of the node that it ends in, in hexadecimal.
        tokens: How many are kept on disk; the last node may hold more.
        kv: The format on disk.
        used_at: Unix time of its last use, in seconds.
    """

    id: str
    scope: str
    kv: str = "native"
    pin: bool = False
    root: str = ""
    tip: str = ""
    tokens: int = 0
    used_at: float = 0.0

    @property
    def name(self) -> str:
        """What its file is called."""
        return session_name(self.id, self.scope)

    def to_bytes(self) -> bytes:
        """Return the file."""
        text = orjson.dumps(asdict(self))
        return b"%08x %s\n" % (zlib.crc32(text), text)


_TYPES = {field.name: field.type for field in fields(SessionRecord)}


def read_record(raw: bytes, name: str) -> SessionRecord:
    """Return the session of a file of this name.

    Raises:
        BadFile: It is damaged, or another session's.
    """
    digits, _, text = raw.removesuffix(b"\n").partition(b" ")
    if digits != b"%08x" % zlib.crc32(text):
        raise BadFile("the checksum does not match")
    try:
        values: dict[str, Any] = orjson.loads(text)
        record = SessionRecord(**values)
        bytes.fromhex(record.root), bytes.fromhex(record.tip)
    except (ValueError, TypeError) as error:
        raise BadFile(f"it cannot be used: {error}") from None
    if any(type(value).__name__ != _TYPES[field] for field, value in values.items()):
        raise BadFile("a value has the wrong type")
    if record.name != name:
        raise BadFile("it is that of another session")
    return record
