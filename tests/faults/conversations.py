"""Conversations whose caches are kept: runtimes that keep them, prompts, and the files of a store.

A conversation here is token ids, drawn by a number, so that no two of them begin alike. What a
model says to one is compared with what it says without any cache.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isthmus import host

CHUNK_TOKENS: Final = 256
"""Tokens of a file, docs/sessions.md."""

TOKENS: Final = 600
"""Of a prompt: two whole files and a part of a third."""

ANSWER_TOKENS: Final = 16
GREEDY: Final[dict[str, Any]] = {"max_tokens": ANSWER_TOKENS, "ignore_eos": True}
KEPT: Final = TOKENS + ANSWER_TOKENS - 1
"""Tokens of the cache afterwards: that of the last one is not needed, and not made."""

SOON: Final = host.RestartOptions(backoff_ms=1.0)
"""Restarts that do not keep a test waiting."""

Completer = host.Model | host.Session


def prompt(number: int, tokens: int = TOKENS) -> list[int]:
    """Return a prompt that no other number's begins like."""
    return random.Random(number).choices(range(300, 700), k=tokens)


@asynccontextmanager
async def keeping(
    path: Path | None, *arguments: str, **options: Any
) -> AsyncIterator[host.Runtime]:
    """Run a runtime that keeps sessions in a folder; without one, in memory.

    Args:
        arguments: Of the runtime.
        options: Of the sessions.
    """
    sessions = host.SessionOptions(dir=False if path is None else path, **options)
    started = await host.start(runtime_args=arguments, sessions=sessions, restart=SOON)
    async with started as runtime:
        yield runtime


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and from where its cache came."""

    ids: list[int]
    state: str
    reused: int


async def said(completer: Completer, ids: list[int], **options: Any) -> Answer:
    """Return the greedy answer to a prompt."""
    result = await completer.generate(ids=ids, **GREEDY, **options)
    assert result.cache is not None
    return Answer(result.ids, result.cache["state"], result.cache["reused_tokens"])


async def uncached(model: host.Model, ids: list[int]) -> list[int]:
    """Return the greedy answer to a prompt that is wholly evaluated."""
    answer = await said(model, ids, cache_prompt=False)
    assert (answer.state, answer.reused) == ("cold", 0)
    return answer.ids


async def on_disk(session: host.Session, ids: list[int]) -> Answer:
    """Have a session with this prompt on disk, and no longer in memory; return its answer."""
    answer = await said(session, ids)
    assert (await session.save()).saved
    assert (await session.evict()).evicted
    return answer


async def counted(runtime: host.Runtime, name: str) -> int:
    """Return a counter of the sessions."""
    return int((await runtime.sessions.stats())[name])


def chunks(path: Path) -> list[Path]:
    """Return the files with evaluated tokens, the first ones first."""
    found = (path / "v1" / "chunks").glob("*-*-*-*.safetensors")
    return sorted(found, key=lambda file: int(file.name.split("-")[2]))


def records(path: Path) -> list[Path]:
    """Return the files of the sessions."""
    return sorted((path / "v1" / "sessions").iterdir())


def written_bytes(path: Path) -> int:
    """Return what the files with evaluated tokens take."""
    return sum(file.stat().st_size for file in (path / "v1" / "chunks").iterdir())


def leftovers(path: Path) -> list[Path]:
    """Return the files that were begun and not finished."""
    return list(path.rglob(".new-*"))


def places(file: Path) -> dict[str, int]:
    """Return a place in each region of a chunk's file."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    begins = {name: 8 + length + header[name]["data_offsets"][0] for name in header if "." in name}
    return {
        "length": 1,
        "checksum": raw.index(b"crc32") + 9,
        "header": raw.index(b'"end"') + 8,
        "padding": 7 + length,
        "tokens": 8 + length + 5,
        "keys": begins["0.keys"] + 1_000,
        "values": begins["1.values"] + 1_003,
        "last byte": len(raw) - 1,
    }


def flip(file: Path, place: int) -> None:
    """Change one bit of a file."""
    with file.open("r+b") as stream:
        stream.seek(place)
        (byte,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte ^ 4]))
