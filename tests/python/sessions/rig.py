"""What the tests of sessions work with: small caches whose numbers say which token they are of."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from isthmus.sessions.chain import CHUNK_TOKENS, TokenIds, root_key, token_array
from isthmus.sessions.chunkfile import ChunkFormat, Piece
from isthmus.sessions.layout import DTYPES, Array, Layout, StateLayer, TokenLayer
from isthmus.sessions.record import SessionRecord
from isthmus.sessions.statefile import State
from isthmus.sessions.store import Evaluated, Family, Saved, SessionStore, StoreOptions

T = TypeVar("T")

LAYOUT: Final = Layout((TokenLayer(2, 8, 8, "float32"), TokenLayer(2, 8, 8, "float32")))
STATEFUL: Final = Layout(
    (TokenLayer(2, 8, 8, "float32"), StateLayer("test", (("float32", (2, 3)), ("int32", (None,)))))
)
GIGABYTE: Final = 10**9
NOW: Final = 1_800_000_000.0


class Clock:
    """Unix time, as a test sets it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def family(name: str = "model", layout: Layout = LAYOUT, form: str = "native") -> Family:
    """Return the texts of some model."""
    return Family(root_key([name.encode(), form.encode()]), ChunkFormat(layout, form))


def text(length: int, seed: int = 0) -> TokenIds:
    """Return a text: equal beginnings for equal seeds."""
    return token_array(np.random.default_rng(seed).integers(0, 50_000, length))


def join(*texts: TokenIds) -> TokenIds:
    """Return one text after the other."""
    return np.concatenate(texts)


def arrays_of(ids: TokenIds, layout: Layout = LAYOUT) -> list[Array]:
    """Return what a model would make of a text: each number says of which token, where, it is."""
    arrays = []
    place = np.arange(len(ids), dtype=np.int64)
    for number, layer in enumerate(layout.token_layers):
        for kind, size in enumerate((layer.key_size, layer.value_size)):
            inner = np.arange(layer.heads * size).reshape(layer.heads, 1, size)
            mixed = ids.astype(np.int64) * 31 + place * 7 + number * 3 + kind
            values = (mixed[None, :, None] + inner) % 251
            arrays.append(_as_dtype(values, layer.dtype))
    return arrays


def _as_dtype(values: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
    return values.astype(DTYPES[dtype][0])


def room_for(tokens: int, layout: Layout = LAYOUT) -> list[Array]:
    """Return arrays for so many tokens to be read into, with numbers that no model makes."""
    return [np.full_like(array, 7_777) for array in arrays_of(text(tokens), layout)]


def states_of(ids: TokenIds) -> list[State]:
    """Return what the state layer of `STATEFUL` holds after a text."""
    last = int(ids[-1]) if len(ids) else 0
    numbers = np.arange(6, dtype="<f4").reshape(2, 3) + last
    tail = ids[-5:].astype("<i4")
    return [State((("float32", numbers), ("int32", tail)), (len(ids), last))]


def evaluated(
    ids: TokenIds, layout: Layout = LAYOUT, states_at: Sequence[int] | None = None
) -> Evaluated:
    """Return a text as an engine has evaluated it."""
    ends = ([len(ids)] if layout.has_states else []) if states_at is None else states_at
    states = [(end, states_of(ids[:end])) for end in ends]
    return Evaluated(ids, arrays_of(ids, layout), states)


def finish(work: Generator[None, None, T]) -> T:
    """Do all of some work."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class Disk:
    """A folder, and a store on it.

    Args:
        options: Of the store.
    """

    def __init__(self, path: Path, clock: Clock | None = None, **options: Any) -> None:
        self.path = path
        self.clock = clock or Clock()
        defaults = {"quota_bytes": GIGABYTE, "free_bytes": 0, "ttl_s": 1e9}
        self.options = StoreOptions(**{"path": path, **defaults, **options})
        self.store = self.opened()

    def opened(self, **options: Any) -> SessionStore:
        """Return one more store on the folder."""
        values = {name: getattr(self.options, name) for name in StoreOptions.__slots__}
        store = SessionStore(StoreOptions(**{**values, **options}), self.clock)
        store.open()
        return store

    def restart(self, **options: Any) -> SessionStore:
        """Go on with a new store."""
        self.store.close()
        self.store = self.opened(**options)
        return self.store

    def save(
        self, ids: TokenIds, session: str | None = "chat", kin: Family | None = None, **how: Any
    ) -> Saved:
        """Save a text as a session's."""
        kin = kin or family()
        record = None if session is None else SessionRecord(session, "", **how)
        if kin.format.form != "native" and record is not None:
            record = SessionRecord(session or "", "", kv=kin.format.form, **how)
        return finish(self.store.save(kin, evaluated(ids, kin.format.layout), record))

    def read(self, ids: TokenIds, kin: Family | None = None) -> int:
        """Read what is known of a text; return how much that is, having compared all of it."""
        return read_and_compare(self.store, ids, kin or family())

    @property
    def chunks(self) -> Path:
        """Where pieces are."""
        return self.path / "v1" / "chunks"

    def pieces(self) -> list[Path]:
        """Return the files of pieces."""
        return [file for file in self.files() if ".state." not in file.name]

    def files(self) -> list[Path]:
        """Return the files of pieces and states."""
        return sorted(self.chunks.glob("*.safetensors"))

    def size_bytes(self) -> int:
        """Return what all content takes, without records."""
        return sum(
            os.lstat(os.path.join(folder, file)).st_size
            for name in ("chunks", "damaged")
            for folder, _, files in os.walk(self.path / "v1" / name)
            for file in files
        )


def read_and_compare(store: SessionStore, ids: TokenIds, kin: Family) -> int:
    """Read what a store knows of a text; return how many tokens are as they were evaluated.

    Nothing else is ever read: neither other numbers, nor numbers beyond those.
    """
    layout = kin.format.layout
    held = store.find(kin, ids, len(ids))
    assert held.tokens <= len(ids)
    arrays = room_for(held.tokens + 3, layout)
    restored = store.read(held, arrays)
    assert restored.tokens <= held.tokens
    for array, expected in zip(arrays, arrays_of(ids, layout), strict=True):
        got, wanted = array[:, : restored.tokens], expected[:, : restored.tokens]
        if kin.format.form == "native":
            assert np.array_equal(got, wanted)
        else:
            assert np.allclose(got, wanted, atol=255 / 15 if kin.format.form != "q8" else 1)
        assert (array[:, held.tokens :] == _as_dtype(np.array(7_777), "float32")).all()
    if layout.has_states and restored.tokens:
        assert restored.states is not None
        same_states(restored.states, states_of(ids[: restored.tokens]))
    return restored.tokens


def same_states(found: Sequence[State], wanted: Sequence[State]) -> None:
    """Compare states."""
    for one, other in zip(found, wanted, strict=True):
        assert one.integers == other.integers
        for entry, expected in zip(one.arrays, other.arrays, strict=True):
            assert (entry is None) == (expected is None)
            if entry is not None and expected is not None:
                assert entry[0] == expected[0] and np.array_equal(entry[1], expected[1])


def chunk_bytes(kin: Family | None = None) -> int:
    """Return the size of the file of a whole chunk."""
    return (kin or family()).format.size(Piece(bytes(32), bytes(32), 0, CHUNK_TOKENS))
