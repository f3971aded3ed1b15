"""Names of the beginnings of texts: a chain of SHA-256 over their token ids.

A key stands for all tokens from the first to the last, not for a place in a conversation, so that
whoever begins alike finds the same. The chain begins with a root, in which everything is hashed
that decides what an evaluated token looks like: the model, its tokenizer, the format, the tenant.
Two roots share no key. Tokens are hashed in chunks of `CHUNK_TOKENS`; a beginning that ends inside
a chunk has a key, too. Pure: no file, no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

CHUNK_TOKENS: Final = 256
"""Tokens of a chunk. Smaller ones share more and cost more files; 16 of them hold 4K tokens."""

TokenIds = np.ndarray[Any, np.dtype[np.uint32]]


def token_array(ids: Sequence[int] | TokenIds) -> TokenIds:
    """Return token ids as little-endian unsigned 32-bit integers, as they are hashed and stored."""
    return np.asarray(ids, dtype="<u4")


def root_key(parts: Iterable[bytes]) -> bytes:
    """Return the root for what decides how evaluated tokens look; no two lists give the same."""
    digest = hashlib.sha256(b"isthmus-kv-root")
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def next_key(boundary: bytes, ids: TokenIds) -> bytes:
    """Return the key of what follows a chunk boundary's key by these tokens, one chunk at most."""
    return hashlib.sha256(boundary + ids.tobytes()).digest()


class Chain:
    """The keys of one text; each is computed when it is first asked for.

    Args:
        root: Its root.
        ids: Its tokens, as `token_array` makes them.
    """

    def __init__(self, root: bytes, ids: TokenIds) -> None:
        self.root = root
        self.ids = ids
        self._boundaries = [root]

    def __len__(self) -> int:
        return len(self.ids)

    def key(self, end: int) -> bytes:
        """Return the key of the first `end` tokens."""
        chunk, rest = divmod(end, CHUNK_TOKENS)
        while len(self._boundaries) <= chunk:
            start = (len(self._boundaries) - 1) * CHUNK_TOKENS
            ids = self.ids[start : start + CHUNK_TOKENS]
            self._boundaries.append(next_key(self._boundaries[-1], ids))
        boundary = self._boundaries[chunk]
        return boundary if rest == 0 else next_key(boundary, self.ids[end - rest : end])


def shared_tokens(first: TokenIds, second: TokenIds) -> int:
    """Return how many tokens two texts have in common from their first on."""
    length = min(len(first), len(second))
    differing = first[:length] != second[:length]
    return int(differing.argmax()) if differing.any() else length


def boundary_before(place: int) -> int:
    """Return where the chunk begins that the token at `place` lies in."""
    return place - place % CHUNK_TOKENS
