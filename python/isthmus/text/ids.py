"""Token ids as they travel: little-endian bytes, four each, or an array of integers."""

from __future__ import annotations

import sys
from array import array
from typing import Final

from ..errors import InvalidRequest

_BYTES_PER_ID: Final = 4


def read_token_ids(name: str, value: object) -> list[int]:
    """Return token ids from their wire form; their range is the tokenizer's to check.

    Raises:
        InvalidRequest: Neither bytes of whole ids nor an array of integers.
    """
    if isinstance(value, bytes) and len(value) % _BYTES_PER_ID == 0:
        ids = array("I", value)
        if sys.byteorder == "big":
            ids.byteswap()
        return ids.tolist()
    if isinstance(value, list) and all(type(item) is int for item in value):
        return value
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
    raise InvalidRequest(
        f"`{name}` must be token ids (4 bytes each, or an array of integers), not {shown}",
        field=name,
    )


def count_token_ids(value: object) -> int:
    """Return how many token ids a value in wire form has; 0 when it has another form."""
    if isinstance(value, bytes):
        return len(value) // _BYTES_PER_ID
    return len(value) if isinstance(value, list) else 0
