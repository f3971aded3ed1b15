"""What the KV cache of a model looks like, and in which form it is written.

A *token layer* has keys and values for each token, which can be cut anywhere: plain attention. A
*state layer* has a state after each token, of which only the last is at hand: a rotating window, a
state-space model. Values alone; the engine says which layers a model has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .quantise import packed_bytes
from .reference import FORMATS

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES: Final[Mapping[str, tuple[str, str]]] = {
    "float32": ("<f4", "F32"),
    "float16": ("<f2", "F16"),
    "bfloat16": ("<u2", "BF16"),
}
"""Of token layers: numpy's type of their bits, and their name in a safetensors file."""


@dataclass(frozen=True, slots=True)
class TokenLayer:
    """Keys [heads, tokens, key_size] and values [heads, tokens, value_size]."""

    heads: int
    key_size: int
    value_size: int
    dtype: str

    @property
    def token_bytes(self) -> int:
        """Bytes of one token, as in memory."""
        item = np.dtype(DTYPES[self.dtype][0]).itemsize
        return self.heads * (self.key_size + self.value_size) * item


@dataclass(frozen=True, slots=True)
class StateLayer:
    """A state after the last token: its kind, and the dtype and shape of its arrays; None stands
    for a size that grows."""

    kind: str
    arrays: tuple[tuple[str, tuple[int | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The layers of a model's cache, in order."""

    layers: tuple[TokenLayer | StateLayer, ...]

    @property
    def token_layers(self) -> list[TokenLayer]:
        """Those that can be cut anywhere."""
        return [layer for layer in self.layers if isinstance(layer, TokenLayer)]

    @property
    def has_states(self) -> bool:
        """Whether a cache can be gone on with only where a state was kept."""
        return any(isinstance(layer, StateLayer) for layer in self.layers)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all token layers, as in memory."""
        return sum(layer.token_bytes for layer in self.token_layers)

    def to_bytes(self) -> bytes:
        """Return a description that no other layout has."""
        named = [(type(layer).__name__, repr(layer)) for layer in self.layers]
        return json.dumps(named).encode()


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a file: how it is written, and what it is in memory."""

    name: str
    dtype: str
    shape: tuple[int, int, int]
    bits: int | None
    size_bytes: int

    @property
    def written_as(self) -> tuple[str, tuple[int, ...]]:
        """Its dtype and shape in the file's header."""
        if self.bits is not None:
            return "U8", (self.size_bytes,)
        return DTYPES[self.dtype][1], self.shape


def stored_tensors(layout: Layout, form: str, tokens: int) -> Iterator[StoredTensor]:
    """Yield the tensors of a file of so many tokens: keys and values of each token layer."""
    bits = FORMATS[form] or (None, None)
    for number, layer in enumerate(layout.token_layers):
        sizes = ("keys", layer.key_size, bits[0]), ("values", layer.value_size, bits[1])
        for name, size, own_bits in sizes:
            shape = (layer.heads, tokens, size)
            yield StoredTensor(
                f"{number}.{name}",
                layer.dtype,
                shape,
                own_bits,
                _size(shape, layer.dtype, own_bits),
            )


def _size(shape: tuple[int, int, int], dtype: str, bits: int | None) -> int:
    elements = shape[0] * shape[1] * shape[2]
    if bits is not None:
        return packed_bytes(elements, bits, dtype)
    return elements * np.dtype(DTYPES[dtype][0]).itemsize
