"""Affine quantisation at rest: arrays of a cache in 8 or 4 bits a number.

Each group of 64 numbers has a scale and a bias of its own, in the array's dtype; a number is
`bias + code * scale`. It comes back within half a scale and one rounding of the dtype. The smallest
of a group comes back exactly, and so does a group of equal numbers, but for the sign of zero.
Packed are the codes of all groups, then their scales, then their biases, little-endian, two codes
of 4 bits a byte with the first in its lower half. Knows no caches and no files; takes finite
numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Doubles = np.ndarray[Any, np.dtype[np.float64]]
Words = np.ndarray[Any, np.dtype[np.uint32]]
Natives = np.ndarray[Any, np.dtype[Any]]
"""Numbers as they lie in a cache: float32, float16, or uint16 with the bits of bfloat16."""

GROUP: Final = 64
"""Numbers that share a scale and a bias, which add half a bit a number, in float32 one bit."""

BITS: Final = (8, 4)

_GROUPS_AT_ONCE: Final = 2_048
"""So many groups in float32 are half a megabyte, which stays in a processor's cache."""

_HALF_OFFSET: Final = np.float32(2.0**112)
"""A float16 whose bits are taken for the upper ones of a float32 is this many times too small."""


def packed_bytes(elements: int, bits: int, dtype: str) -> int:
    """Return the size of the packed form of so many numbers."""
    return -(-elements // GROUP) * _group_bytes(_form(dtype, bits), bits)


def pack(values: Natives, dtype: str, bits: int, out: Bytes) -> None:
    """Quantise an array.

    Args:
        values: Any shape, C-contiguous; uint16 for bfloat16.
        dtype: float32, float16 or bfloat16.
        bits: Of a code, 8 or 4.
        out: Receives the packed form; as long as `packed_bytes` says.

    Raises:
        ValueError: An array does not fit the others, or a number is not finite.
    """
    form = _form(dtype, bits)
    _check(values, out, form, bits)
    flat, packed = values.reshape(-1), _Packed.of(out, form, bits)
    whole, rest = divmod(flat.size, GROUP)
    for first in range(0, whole, _GROUPS_AT_ONCE):
        last = min(first + _GROUPS_AT_ONCE, whole)
        groups = flat[first * GROUP : last * GROUP].reshape(-1, GROUP)
        _encode(groups, form, bits, packed.between(first, last))
    if rest:
        tail = np.full((1, GROUP), flat[-1])
        tail[0, :rest] = flat[-rest:]
        _encode(tail, form, bits, packed.between(whole, whole + 1))


def unpack(packed: Bytes, dtype: str, bits: int, out: Natives) -> None:
    """Restore an array of any shape that was packed with the same `dtype` and `bits`.

    Raises:
        ValueError: An array does not fit the others.
    """
    form = _form(dtype, bits)
    _check(out, packed, form, bits)
    flat, parts = out.reshape(-1), _Packed.of(packed, form, bits)
    whole, rest = divmod(flat.size, GROUP)
    for first in range(0, whole, _GROUPS_AT_ONCE):
        last = min(first + _GROUPS_AT_ONCE, whole)
        groups = flat[first * GROUP : last * GROUP].reshape(-1, GROUP)
        _decode(parts.between(first, last), form, bits, groups)
    if rest:
        tail = np.empty((1, GROUP), form.native)
        _decode(parts.between(whole, whole + 1), form, bits, tail)
        flat[-rest:] = tail[0, :rest]


class Form(Protocol):
    """A dtype of a cache, and its conversion from and to float32.

    `widen` returns numbers as new float32; one that is not finite becomes one that is not finite or
    lies beyond `largest`. `narrow` rounds finite float32 to nearest, ties to even, into `out`, and
    may use `values` up.
    """

    @property
    def native(self) -> np.dtype[Any]: ...

    @property
    def largest(self) -> float: ...

    def widen(self, values: Natives) -> Floats: ...

    def narrow(self, values: Floats, out: Natives) -> None: ...


class _Float32:
    native: Final = np.dtype("<f4")
    largest: Final = float(np.finfo(np.float32).max)

    def widen(self, values: Natives) -> Floats:
        return values.copy()

    def narrow(self, values: Floats, out: Natives) -> None:
        np.copyto(out, values)


class _Bfloat16:
    native: Final = np.dtype("<u2")
    largest: Final = float.fromhex("0x1.fep127")

    def widen(self, values: Natives) -> Floats:
        bits = values.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)

    def narrow(self, values: Floats, out: Natives) -> None:
        bits = _rounded(values.view(np.uint32), 16)
        np.right_shift(bits, 16, out=bits)
        np.copyto(out, bits, casting="unsafe")


class _Float16:
    """By integer arithmetic, which takes a third of the time of numpy's own conversions.

    A number below 2**-14 is rounded twice, the first time to a multiple of 2**-37.
    """

    native: Final = np.dtype("<f2")
    largest: Final = float(np.finfo(np.float16).max)

    def widen(self, values: Natives) -> Floats:
        bits = values.view(np.int16).astype(np.int32)
        bits <<= 13
        bits &= np.int32(-0x7000_0001)  # of four copies of the sign the first is left
        floats = bits.view(np.float32)
        floats *= _HALF_OFFSET
        return floats

    def narrow(self, values: Floats, out: Natives) -> None:
        values *= 1 / _HALF_OFFSET
        bits = values.view(np.uint32)
        rounded = _rounded(bits, 13)
        bits >>= 3
        bits &= np.uint32(1 << 28)
        rounded |= bits  # the sign, which the shift then brings to bit 15
        rounded >>= 13
        np.copyto(out.view(np.uint16), rounded, casting="unsafe")


FORMS: Final[dict[str, Form]] = {
    "float32": _Float32(),
    "float16": _Float16(),
    "bfloat16": _Bfloat16(),
}
"""The dtypes that can be packed, by name."""


@dataclass(frozen=True, slots=True)
class _Packed:
    """Views of a packed form: codes of shape [groups, bytes of a group], the others [groups, 1]."""

    codes: Bytes
    scales: Natives
    biases: Natives

    @classmethod
    def of(cls, packed: Bytes, form: Form, bits: int) -> _Packed:
        """Divide a packed form."""
        groups, code_bytes = packed.size // _group_bytes(form, bits), GROUP * bits // 8
        codes = packed[: groups * code_bytes].reshape(groups, code_bytes)
        pairs = packed[groups * code_bytes :].view(form.native).reshape(2, groups, 1)
        return cls(codes, pairs[0], pairs[1])

    def between(self, first: int, last: int) -> _Packed:
        """Return the parts of some of the groups."""
        return _Packed(self.codes[first:last], self.scales[first:last], self.biases[first:last])


def _encode(groups: Natives, form: Form, bits: int, into: _Packed) -> None:
    """Quantise whole groups."""
    levels, numbers = (1 << bits) - 1, form.widen(groups)
    low, high = numbers.min(axis=1, keepdims=True), numbers.max(axis=1, keepdims=True)
    if not (max(-low.min(), high.max()) <= form.largest):
        raise ValueError("only finite numbers can be quantised")
    _narrow_up((high.astype(np.float64) - low) / levels, form, into.scales)
    form.narrow(low.copy(), into.biases)
    scales = form.widen(into.scales)
    steps: Floats | Doubles = numbers
    if _is_wide(scales, low, levels, form):
        steps = numbers.astype(np.float64)
    steps -= low
    steps /= np.where(scales == 0.0, np.float32(1.0), scales)
    steps += np.float32(0.5)
    if bits == 8:
        np.copyto(into.codes, steps, casting="unsafe")
    else:
        pairs = steps.astype(np.uint8).view("<u2")
        pairs |= pairs >> 4
        np.copyto(into.codes, pairs, casting="unsafe")


def _decode(packed: _Packed, form: Form, bits: int, out: Natives) -> None:
    """Restore whole groups."""
    levels, codes = (1 << bits) - 1, packed.codes
    if bits == 4:
        pairs = codes.astype("<u2")
        pairs |= pairs << 4
        pairs &= np.uint16(0x0F0F)
        codes = pairs.view(np.uint8)
    scales, biases = form.widen(packed.scales), form.widen(packed.biases)
    if _is_wide(scales, biases, levels, form):
        doubles = codes * scales.astype(np.float64) + biases
        # The last step may lead beyond the largest number, as scales are rounded up.
        numbers = np.minimum(doubles, form.largest).astype(np.float32)
    else:
        numbers = np.multiply(codes, scales)
        numbers += biases
    form.narrow(numbers, out)


def _narrow_up(scales: Doubles, form: Form, out: Natives) -> None:
    """Round scales up, so that the largest number of a group is no more than its last step.

    It takes no float16 beyond its largest: a scale is at most a seventh of that.
    """
    form.narrow(scales.astype(np.float32), out)
    # The bits of the next larger number are those of this one and 1.
    integers = out.view(f"<u{out.itemsize}")
    integers += form.widen(out) < scales


def _is_wide(scales: Floats, biases: Floats, levels: int, form: Form) -> bool:
    """Whether a group may reach so far that float32 or its dtype overflows on the way."""
    reach = np.abs(biases) + scales.astype(np.float64) * levels
    return bool(reach.max() > form.largest)


def _rounded(bits: Words, dropped: int) -> Words:
    """Add to the bits of floats what rounds to nearest, ties to even, when some are dropped."""
    rounded = bits >> np.uint32(dropped)
    rounded &= np.uint32(1)
    rounded += np.uint32((1 << (dropped - 1)) - 1)
    rounded += bits
    return rounded


def _form(dtype: str, bits: int) -> Form:
    if dtype not in FORMS or bits not in BITS:
        raise ValueError(f"{dtype} in {bits} bits: use {', '.join(FORMS)} and {BITS} bits")
    return FORMS[dtype]


def _group_bytes(form: Form, bits: int) -> int:
    return GROUP * bits // 8 + 2 * form.native.itemsize


def _check(natives: Natives, packed: Bytes, form: Form, bits: int) -> None:
    """Refuse arrays that do not fit each other, or that cannot be seen as one row."""
    if natives.dtype != form.native or packed.dtype != np.uint8:
        raise ValueError(f"use {form.native} and uint8, not {natives.dtype} and {packed.dtype}")
    needed = -(-natives.size // GROUP) * _group_bytes(form, bits)
    if packed.shape != (needed,):
        raise ValueError(f"{natives.size} numbers are {needed} bytes packed, not {packed.shape}")
    if not (natives.flags.c_contiguous and packed.flags.c_contiguous):
        raise ValueError("arrays have to be C-contiguous")
