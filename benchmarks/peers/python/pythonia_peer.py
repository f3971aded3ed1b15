"""The module that pythonia loads; ids as JSON text, because text comes back with the call."""

from __future__ import annotations

import json
from collections.abc import Iterator

import service

echo = service.echo


def tokenize(text: str) -> str:
    """Return token ids as JSON."""
    return json.dumps(service.tokenize(text))


def stream(count: int) -> Iterator[int]:
    """Yield the numbers of a stream."""
    yield from range(count)
