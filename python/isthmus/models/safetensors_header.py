"""The header of a safetensors file, checked with Python integers.

A header that passes describes every byte of its file exactly once: sizes match dtypes and shapes,
nothing overlaps, nothing is left over. mlx's own loader accepts shapes that wrap to zero bytes,
dimensions over 2**32 and overlapping offsets, so this check runs before it. Only the header is
read; the values are not looked at, and mlx is not imported.

Layout: 8 bytes little-endian length n, n bytes of JSON, then the buffer.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isthmus.errors import ModelLoadFailed

HEADER_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Longest header that is parsed: about 140,000 tensors in one file, where the largest published
shards hold some thousands. The format allows 100 MB, which would hold the GIL for seconds."""

RANK_LIMIT: Final = 8
"""Most dimensions of one tensor; no architecture of mlx-lm has a weight with more than 5."""

DIMENSION_LIMIT: Final = 2**31
"""Dimensions are below this: mlx keeps them as 32-bit signed integers."""

ELEMENTS_LIMIT: Final = 2**63
"""Products of dimensions are below this: mlx computes sizes and strides in 64 bits and wraps."""

SHOWN_CHARS: Final = 200
"""Longest piece of a foreign file or name that an error repeats."""

_LENGTH_BYTES: Final = 8
_ENTRY_KEYS: Final = frozenset({"dtype", "shape", "data_offsets"})

DTYPES: Final[Mapping[str, tuple[str, int]]] = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E4M3": ("float8_e4m3", 1),
    "F8_E8M0": ("float8_e8m0", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "F32": ("float32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "C64": ("complex64", 8),
}
"""What `mx.load` accepts: the name in the file, our name, and the bytes of one element."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: where its bytes lie in the buffer, and what they mean."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """The tensors of one file in the order of their bytes, and the size of its buffer."""

    tensors: tuple[Tensor, ...]
    buffer_bytes: int


class _BadHeader(ValueError):
    def __init__(self, reason: str, tensor: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tensor = tensor


def shown(value: object) -> str:
    """Make a foreign value fit for a message: short, printable, valid UTF-8."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


def corrupt_weights(file: str, reason: str, tensor: str | None = None) -> ModelLoadFailed:
    """Build the error for a weight file that must not reach mlx."""
    where = f", tensor {shown(tensor)}" if tensor is not None else ""
    error = ModelLoadFailed(
        f"{shown(file)}{where}: {reason}. Fetch or convert the weights again.",
        phase="load",
        cause="corrupt_weights",
        file=shown(file),
        reason=reason,
    )
    if tensor is not None:
        error.details["tensor"] = shown(tensor)
    return error


def read_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of one file.

    Raises:
        ModelLoadFailed: cause `corrupt_weights`, with `file`, `reason` and where known `tensor`;
            cause `io_error` when the file cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise corrupt_weights(path.name, "not a regular file")
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            _check_length(path.name, length, size_bytes)
            raw = file.read(length)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelLoadFailed(
            f"{shown(path.name)} cannot be read: {reason}.",
            phase="load",
            cause="io_error",
            file=shown(path.name),
        ) from error
    return parse_header(raw, size_bytes - _LENGTH_BYTES - length, file=path.name)


def parse_header(raw: bytes, buffer_bytes: int, *, file: str) -> SafetensorsHeader:
    """Check a header's JSON against the number of bytes that follow it.

    Raises:
        ModelLoadFailed: cause `corrupt_weights`.
    """
    try:
        entries = _decode(raw)
        _check_metadata(entries.pop("__metadata__", None))
        tensors = [_tensor(name, entry, buffer_bytes) for name, entry in entries.items()]
        tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
        _check_cover(tensors, buffer_bytes)
    except _BadHeader as error:
        raise corrupt_weights(file, error.reason, error.tensor) from error
    return SafetensorsHeader(tuple(tensors), buffer_bytes)


def _check_length(file: str, length: int, size_bytes: int) -> None:
    if size_bytes < _LENGTH_BYTES:
        raise corrupt_weights(file, f"only {size_bytes} bytes long, which is no safetensors file")
    if length > HEADER_LIMIT_BYTES:
        raise corrupt_weights(file, f"the header claims {length} bytes, over {HEADER_LIMIT_BYTES}")
    if length > size_bytes - _LENGTH_BYTES:
        raise corrupt_weights(file, f"the header claims {length} bytes; the file ends before that")


def _decode(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise _BadHeader("the header is not a JSON object")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except _BadHeader:
        raise
    except RecursionError:
        raise _BadHeader("the header nests too deep") from None
    except ValueError as error:
        raise _BadHeader(f"the header is not valid JSON ({shown(str(error))})") from error
    return dict(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _BadHeader("the header names a key twice")
    return value


def _check_metadata(metadata: object) -> None:
    # mlx writes null here for a file without metadata.
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _BadHeader("__metadata__ is not a map of strings")


def _tensor(name: str, entry: object, buffer_bytes: int) -> Tensor:
    if not name or not _is_unicode(name):
        raise _BadHeader("the name of a tensor is empty or not valid Unicode", name)
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _BadHeader("expected exactly dtype, shape and data_offsets", name)
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _BadHeader(f"dtype {shown(dtype)} is unknown to mlx", name)
    our_dtype, item_bytes = DTYPES[dtype]
    shape = _shape(name, entry["shape"])
    begin, end = _offsets(name, entry["data_offsets"], buffer_bytes)
    tensor = Tensor(name, our_dtype, shape, begin, end)
    if tensor.size_bytes != tensor.elements * item_bytes:
        raise _BadHeader(
            f"{tensor.size_bytes} bytes for a shape that needs {tensor.elements * item_bytes}", name
        )
    return tensor


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shape(name: str, shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > RANK_LIMIT:
        raise _BadHeader(f"the shape is not a list of at most {RANK_LIMIT} dimensions", name)
    if not all(type(size) is int and 0 <= size < DIMENSION_LIMIT for size in shape):
        raise _BadHeader(f"a dimension is not an integer from 0 to {DIMENSION_LIMIT - 1}", name)
    # Zeros count as ones: mlx multiplies the other dimensions too, for strides.
    if math.prod(size or 1 for size in shape) >= ELEMENTS_LIMIT:
        raise _BadHeader("the product of the dimensions overflows 63 bits", name)
    return tuple(shape)


def _offsets(name: str, offsets: object, buffer_bytes: int) -> tuple[int, int]:
    if not isinstance(offsets, list) or [type(offset) for offset in offsets] != [int, int]:
        raise _BadHeader("data_offsets is not a pair of integers", name)
    begin, end = offsets
    if not 0 <= begin <= end <= buffer_bytes:
        raise _BadHeader("data_offsets lie outside the file or run backwards", name)
    return begin, end


def _check_cover(tensors: list[Tensor], buffer_bytes: int) -> None:
    covered = 0
    for tensor in tensors:
        if tensor.begin != covered:
            problem = "overlaps its neighbour" if tensor.begin < covered else "leaves a gap before"
            raise _BadHeader(f"its data {problem}", tensor.name)
        covered = tensor.end
    if covered != buffer_bytes:
        raise _BadHeader(f"{buffer_bytes - covered} bytes at the end belong to no tensor")
