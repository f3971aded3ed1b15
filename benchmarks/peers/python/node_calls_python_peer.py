"""The module that node-calls-python loads into the Node process."""

from __future__ import annotations

from collections.abc import Iterator

import service

echo = service.echo
tokenize = service.tokenize

_chunks: Iterator[int] = iter(())


def begin(count: int) -> None:
    """Start a stream."""
    global _chunks
    _chunks = iter(range(count))


def next_chunk() -> int:
    """Return its next number."""
    return next(_chunks)
