"""What finding the reusable beginning of a long prompt takes the disk's thread, without reading it.

Looked up are a prompt that is known as a whole, one that goes on from it, and one that parts from
it early, as others have done before. The cache's numbers are few here: a look-up has none of them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import numpy as np

from isthmus.sessions.chain import TokenIds, root_key, token_array
from isthmus.sessions.chunkfile import ChunkFormat
from isthmus.sessions.layout import Layout, TokenLayer
from isthmus.sessions.store import Evaluated, Family, SessionStore, StoreOptions

from .talks import tokens

TOKENS: Final = 32_768
_OTHERS: Final = 16
_SHARED_TOKENS: Final = 1_000
_FAMILY: Final = Family(
    root_key([b"benchmark"]), ChunkFormat(Layout((TokenLayer(1, 4, 4, "float32"),)), "native")
)


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each look-up, by what was looked up."""
    store = SessionStore(StoreOptions(folder, 2**30, 0, 3_600.0), time.time)
    store.open()
    known = tokens(TOKENS, "lookup")
    texts = [known, *(_parting(known, number) for number in range(_OTHERS))]
    for text in texts:
        _save(store, token_array(text))
    asked = {
        "whole": known,
        "continued": [*known, *tokens(64, "more")],
        "parts early": _parting(known, _OTHERS),
    }
    expected = {"whole": TOKENS - 1, "continued": TOKENS, "parts early": _SHARED_TOKENS}
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(rounds):
        for name, prompt in asked.items():
            taken[name].append(_look_up(store, prompt, expected[name]))
    store.close()
    return taken


def _parting(known: list[int], number: int) -> list[int]:
    """Return a text that begins as another one and is as long."""
    rest = tokens(len(known) - _SHARED_TOKENS, ("parting", number))
    return [*known[:_SHARED_TOKENS], *rest]


def _save(store: SessionStore, ids: TokenIds) -> None:
    array = np.zeros((1, len(ids), 4), np.float32)
    for _ in store.save(_FAMILY, Evaluated(ids, [array, array]), None):
        pass


def _look_up(store: SessionStore, prompt: list[int], expected: int) -> float:
    start = time.perf_counter()
    held = store.find(_FAMILY, token_array(prompt), len(prompt) - 1)
    taken_ms = (time.perf_counter() - start) * 1e3
    store.release(held)
    if held.tokens != expected:
        raise SystemExit(f"{held.tokens} tokens were found instead of {expected}")
    return taken_ms
