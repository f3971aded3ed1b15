"""A file with the evaluated tokens of a part of a chunk: safetensors, with a checksum.

    8 bytes   length of the header, little-endian
    header    JSON: metadata (checksum, version, keys, place, format), then the tensors' table
    buffer    `tokens` (U32), then keys and values of each token layer

A file is wholly decided by what it holds, so that a reader, who knows what it must hold, makes the
header itself and compares: nothing of a file is believed, and nothing of it is parsed. Sizes are
Python integers. Knows no folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from .chain import TokenIds, token_array
from .checked import NO_CHECKSUM, BadFile, Bytes, check, sign
from .layout import Array, Layout, stored_tensors
from .quantise import pack, unpack
from .reference import FORMATS

FORMAT_VERSION: Final = 1

_LENGTH_BYTES: Final = 8
_ALIGNMENT: Final = 512
_ALIGNED_AT: Final = 32
"""Where keys begin, after a multiple of `_ALIGNMENT`. malloc places arrays 16 bytes behind a page;
a processor copies to a place shortly behind that of the source, in pages, at less than half speed,
and shortly before it at full speed."""

_ID_BYTES: Final = 4
_HEAD: Final = b'{"__metadata__":{"crc32":"'
CHECKSUM_PLACE: Final = _LENGTH_BYTES + len(_HEAD)


@dataclass(frozen=True, slots=True)
class Piece:
    """Which tokens a file holds: those from `start` to `end` of the text that `key` stands for.

    Attributes:
        key: Of the first `end` tokens.
        parent: Of the first `start` tokens.
    """

    key: bytes
    parent: bytes
    start: int
    end: int

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class ChunkFormat:
    """How the pieces of one model are written."""

    layout: Layout
    form: str

    def header(self, piece: Piece) -> bytes:
        """Return everything before the buffer, with zeros for the checksum."""
        metadata = {
            "format": "isthmus-kv",
            "version": str(FORMAT_VERSION),
            "key": piece.key.hex(),
            "parent": piece.parent.hex(),
            "start": str(piece.start),
            "end": str(piece.end),
            "kv": self.form,
        }
        rest = json.dumps(metadata, separators=(",", ":"))[1:] + ","
        text = _HEAD + NO_CHECKSUM + b'",' + rest.encode()
        text += _table(self, piece.tokens)[0]
        end = len(text) + _LENGTH_BYTES + piece.tokens * _ID_BYTES
        padding = (_ALIGNED_AT - end) % _ALIGNMENT
        return (len(text) + padding).to_bytes(_LENGTH_BYTES, "little") + text + b" " * padding

    def size(self, piece: Piece) -> int:
        """Return the bytes of a whole file."""
        return len(self.header(piece)) + _table(self, piece.tokens)[1]

    def head_size(self, piece: Piece) -> int:
        """Return the bytes of a file up to the keys and values of its tokens."""
        return len(self.header(piece)) + piece.tokens * _ID_BYTES

    def places(self, piece: Piece, tokens: int, arrays: Sequence[Array]) -> list[Bytes] | None:
        """Return where in `arrays`, which are as in `encode`, the rest of a file belongs, in order;
        None where it cannot be read straight into place: it is packed, or a part is wanted."""
        if FORMATS[self.form] is not None or tokens != piece.tokens:
            return None
        return [
            rows[piece.start : piece.end].reshape(-1).view(np.uint8)
            for array in arrays
            for rows in array
        ]

    def encode(self, piece: Piece, ids: TokenIds, arrays: Sequence[Array], raw: Bytes) -> None:
        """Write a file.

        Args:
            ids: The piece's tokens.
            arrays: Keys and values of each token layer, in turn: [heads, tokens, size] each, of
                the whole text.
            raw: Of `size(piece)` bytes.
        """
        header = self.header(piece)
        raw[: len(header)] = np.frombuffer(header, np.uint8)
        place = len(header) + len(ids) * _ID_BYTES
        raw[len(header) : place] = token_array(ids).view(np.uint8)
        tensors = stored_tensors(self.layout, self.form, piece.tokens)
        for tensor, array in zip(tensors, arrays, strict=True):
            target = raw[place : place + tensor.size_bytes]
            values = array[:, piece.start : piece.end, :]
            if tensor.bits is None:
                target.view(array.dtype).reshape(tensor.shape)[:] = values
            else:
                pack(np.ascontiguousarray(values), tensor.dtype, tensor.bits, target)
            place += tensor.size_bytes
        sign(raw, CHECKSUM_PLACE)

    def check(self, piece: Piece, raw: Bytes) -> TokenIds:
        """Check a whole file, and return its tokens.

        Raises:
            BadFile: It is not the file of this piece, byte for byte.
        """
        if len(raw) != self.size(piece):
            raise BadFile(f"it has {len(raw)} bytes instead of {self.size(piece)}")
        return self.check_parts(piece, raw, ())

    def check_parts(self, piece: Piece, raw: Bytes, rest: Sequence[Bytes]) -> TokenIds:
        """Check a file of which the end was read into other memory, and return its tokens.

        Args:
            raw: At least `head_size` bytes.
            rest: What follows them.

        Raises:
            BadFile: It is not the file of this piece.
        """
        header = self.header(piece)
        check(raw, CHECKSUM_PLACE, rest)
        if raw[: len(header)].tobytes() != header:
            raise BadFile("the header is another one")
        ids: TokenIds = raw[len(header) : len(header) + piece.tokens * _ID_BYTES].view("<u4")
        return ids

    def decode(self, piece: Piece, raw: Bytes, tokens: int, arrays: Sequence[Array]) -> None:
        """Read a checked file into `arrays`, which are as in `encode`.

        Args:
            tokens: How many of its tokens are wanted.
        """
        place = len(self.header(piece)) + piece.tokens * _ID_BYTES
        end = piece.start + tokens
        tensors = stored_tensors(self.layout, self.form, piece.tokens)
        for tensor, array in zip(tensors, arrays, strict=True):
            source = raw[place : place + tensor.size_bytes]
            if tensor.bits is None:
                values = source.view(array.dtype).reshape(tensor.shape)
            else:
                values = np.empty(tensor.shape, array.dtype)
                unpack(source, tensor.dtype, tensor.bits, values)
            array[:, piece.start : end, :] = values[:, :tokens, :]
            place += tensor.size_bytes


@lru_cache(maxsize=512)
def _table(form: ChunkFormat, tokens: int) -> tuple[bytes, int]:
    """Return the table of the tensors of so many tokens, without its opening brace, and the size of
    the buffer that it describes."""
    offset = tokens * _ID_BYTES
    table: dict[str, object] = {
        "tokens": {"dtype": "U32", "shape": [tokens], "data_offsets": [0, offset]}
    }
    for tensor in stored_tensors(form.layout, form.form, tokens):
        dtype, shape = tensor.written_as
        end = offset + tensor.size_bytes
        table[tensor.name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    return json.dumps(table, separators=(",", ":"))[1:].encode(), offset
