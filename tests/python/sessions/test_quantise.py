"""What was packed comes back within half a step; the conversions are those of the standard."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.sessions.quantise import BITS, FORMS, GROUP, Natives, pack, packed_bytes, unpack

MANY = settings(max_examples=200, deadline=None, database=None)

Doubles = np.ndarray[Any, np.dtype[np.float64]]

EPSILONS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
SMALLEST = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}

every_dtype = pytest.mark.parametrize("dtype", FORMS)
every_width = pytest.mark.parametrize("bits", BITS)


def natives(values: object, dtype: str) -> Natives:
    """Return numbers in the form that a cache has them in, those beyond its largest as that."""
    largest = FORMS[dtype].largest
    floats = np.clip(np.asarray(values, np.float64), -largest, largest)
    if dtype != "bfloat16":
        return floats.astype(dtype)
    return (floats.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def numbers(values: Natives, dtype: str) -> Doubles:
    """Return what those are."""
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


def packed(values: Natives, dtype: str, bits: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the packed form."""
    out = np.full(packed_bytes(values.size, bits, dtype), 0xEE, np.uint8)
    pack(values, dtype, bits, out)
    return out


def restored(values: Natives, dtype: str, bits: int) -> Natives:
    """Return what comes back."""
    out = np.full(values.shape, 0xEE, values.dtype)
    unpack(packed(values, dtype, bits), dtype, bits, out)
    return out


def grouped(values: Doubles) -> Doubles:
    """Return groups, the last one filled up with its last number."""
    return np.pad(values, (0, -len(values) % GROUP), mode="edge").reshape(-1, GROUP)


def allowed(values: Doubles, dtype: str, bits: int) -> Doubles:
    """Return half a step of each number's group, with the roundings of the scale and the result."""
    groups = grouped(values)
    epsilon, smallest = EPSILONS[dtype], SMALLEST[dtype]
    ranges = groups.max(axis=1) - groups.min(axis=1)
    steps = ranges / (2**bits - 1) * (1 + epsilon) + smallest * (ranges > 0)
    rounding = np.abs(groups).max(axis=1) * epsilon
    bound = steps * (0.5 + 2.0**-10) + rounding * (ranges > 0)
    return np.repeat(bound, GROUP)[: len(values)]


def assert_is_near(values: Natives, dtype: str, bits: int) -> None:
    """Compare what comes back with what was packed."""
    before = numbers(values.reshape(-1), dtype)
    after = numbers(restored(values, dtype, bits).reshape(-1), dtype)
    assert np.isfinite(after).all()
    excess = np.abs(after - before) - allowed(before, dtype, bits)
    assert excess.max() <= 0, f"number {excess.argmax()} of {len(before)}"


SOME_NUMBERS = st.one_of(
    st.floats(-4.0, 4.0),
    st.floats(-4.0, 4.0).map(lambda value: 1000.0 + value * 2.0**-6),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=16),
    st.sampled_from([0.0, -0.0, 1.0, 2.0**-149, -(2.0**-140), 2.0**-24, 3.4e38, -3.4e38]),
)
SOME_ARRAYS = st.lists(SOME_NUMBERS, min_size=1, max_size=200)
SOME_DTYPES = st.sampled_from(list(FORMS))
SOME_WIDTHS = st.sampled_from(BITS)


@MANY
@given(SOME_ARRAYS, SOME_DTYPES, SOME_WIDTHS)
def test_any_numbers_come_back_within_half_a_step(
    values: list[float], dtype: str, bits: int
) -> None:
    assert_is_near(natives(values, dtype), dtype, bits)


@MANY
@given(
    st.integers(0, 2**32),
    st.integers(1, 700),
    st.integers(-160, 130),
    st.floats(-1.0, 1.0),
    SOME_DTYPES,
    SOME_WIDTHS,
)
def test_numbers_of_any_size_and_offset_come_back_within_half_a_step(
    seed: int, count: int, exponent: int, offset: float, dtype: str, bits: int
) -> None:
    normal = np.random.default_rng(seed).normal(size=count)
    values = natives(np.ldexp(normal + 100 * offset, exponent), dtype)
    assert_is_near(values, dtype, bits)


@every_dtype
@every_width
def test_many_groups_are_packed_as_each_alone(dtype: str, bits: int) -> None:
    values = natives(np.random.default_rng(1).normal(size=(3, 1447, 67)), dtype)
    assert_is_near(values, dtype, bits)
    flat, back = values.reshape(-1), restored(values, dtype, bits).reshape(-1)
    for first in (0, 2_047 * GROUP, 2_048 * GROUP, flat.size // GROUP * GROUP):
        part = slice(first, first + GROUP)
        np.testing.assert_array_equal(restored(flat[part], dtype, bits), back[part])


@every_dtype
@every_width
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 127, 1000])
def test_the_size_is_codes_and_a_scale_and_a_bias_a_group(
    dtype: str, bits: int, count: int
) -> None:
    groups = math.ceil(count / 64)
    size = groups * (8 * bits + 2 * (4 if dtype == "float32" else 2))
    assert packed_bytes(count, bits, dtype) == size
    assert restored(natives(np.ones(count), dtype), dtype, bits).shape == (count,)


@MANY
@given(SOME_ARRAYS, SOME_DTYPES, SOME_WIDTHS)
def test_the_same_numbers_are_the_same_bytes(values: list[float], dtype: str, bits: int) -> None:
    array = natives(values, dtype)
    before = array.copy()
    assert packed(array, dtype, bits).tobytes() == packed(array, dtype, bits).tobytes()
    assert array.tobytes() == before.tobytes(), "packing leaves the array alone"


@MANY
@given(SOME_ARRAYS, SOME_DTYPES, SOME_WIDTHS)
def test_packing_what_came_back_moves_it_no_further_than_packing_did(
    values: list[float], dtype: str, bits: int
) -> None:
    once = restored(natives(values, dtype), dtype, bits)
    assert_is_near(once, dtype, bits)


@every_dtype
@every_width
def test_numbers_on_the_steps_come_back_exactly(dtype: str, bits: int) -> None:
    codes = np.random.default_rng(4).integers(0, 2**bits, (20, GROUP))
    codes[:, :2] = 0, 2**bits - 1  # so that each group has all the steps
    values = natives(codes / 32 - 1, dtype)
    np.testing.assert_array_equal(restored(values, dtype, bits), values)


@MANY
@given(SOME_NUMBERS, st.integers(1, 130), SOME_DTYPES, SOME_WIDTHS)
def test_equal_numbers_come_back_exactly(value: float, count: int, dtype: str, bits: int) -> None:
    values = natives([value] * count, dtype)
    np.testing.assert_array_equal(
        numbers(restored(values, dtype, bits), dtype), numbers(values, dtype)
    )


@every_dtype
@every_width
def test_zeros_of_both_signs_come_back_as_zeros(dtype: str, bits: int) -> None:
    back = restored(natives([0.0, -0.0] * 40, dtype), dtype, bits)
    np.testing.assert_array_equal(numbers(back, dtype), 0.0)


@every_dtype
@every_width
def test_the_whole_range_of_a_dtype_is_finite_and_within_half_a_step(dtype: str, bits: int) -> None:
    largest = FORMS[dtype].largest
    for share in (1.0, 0.99, 0.75, 0.5):
        spread = np.linspace(-largest * share, largest, 640)
        assert_is_near(natives(np.random.default_rng(2).permutation(spread), dtype), dtype, bits)
    assert_is_near(natives([largest, -largest], dtype), dtype, bits)
    assert_is_near(natives([largest, SMALLEST[dtype]], dtype), dtype, bits)


@every_dtype
@every_width
def test_the_smallest_numbers_that_there_are_come_back_exactly(dtype: str, bits: int) -> None:
    values = natives(np.arange(-7, 8) * SMALLEST[dtype], dtype)
    np.testing.assert_array_equal(
        numbers(restored(values, dtype, bits), dtype), numbers(values, dtype)
    )


@every_dtype
@every_width
@pytest.mark.parametrize("place", [0, 64, 99])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(dtype: str, bits: int, place: int, bad: float) -> None:
    values = natives(np.ones(100), dtype)
    as_bits = np.array([bad], np.float32).view(np.uint32) >> 16
    values[place] = as_bits[0] if dtype == "bfloat16" else bad
    with pytest.raises(ValueError, match="finite"):
        packed(values, dtype, bits)


def test_arrays_that_do_not_fit_are_refused() -> None:
    values = np.ones((4, 64), np.float16)
    size = packed_bytes(values.size, 8, "float16")
    out = np.zeros(size, np.uint8)
    misfits: list[tuple[Natives, Natives]] = [
        (values, out[:-1]),
        (values, np.zeros(size + 1, np.uint8)),
        (values[:3], out),
        (values.astype(np.float32), out),
        (values, out.view(np.int8)),
        (values, out.reshape(2, -1)),
        (values, np.zeros(2 * size, np.uint8)[::2]),
        (values.T, out),
    ]
    for bad_values, bad_out in misfits:
        with pytest.raises(ValueError):
            pack(bad_values, "float16", 8, bad_out)
        with pytest.raises(ValueError):
            unpack(bad_out, "float16", 8, bad_values)
    for dtype, bits in (("float64", 8), ("float16", 3)):
        with pytest.raises(ValueError, match="bits"):
            packed_bytes(64, bits, dtype)


@every_dtype
@every_width
def test_packed_forms_may_lie_at_any_address_and_are_only_read(dtype: str, bits: int) -> None:
    values = natives(np.random.default_rng(3).normal(size=200), dtype)
    size = packed_bytes(values.size, bits, dtype)
    shifted = np.zeros(size + 2, np.uint8)
    pack(values, dtype, bits, shifted[1:-1])
    assert shifted[0] == shifted[-1] == 0
    assert shifted[1:-1].tobytes() == packed(values, dtype, bits).tobytes()
    shifted.flags.writeable = False
    back = np.empty_like(values)
    unpack(shifted[1:-1], dtype, bits, back)
    np.testing.assert_array_equal(back, restored(values, dtype, bits))


def test_two_codes_of_four_bits_are_a_byte_with_the_first_below() -> None:
    values = np.arange(64, dtype=np.float32) % 16
    assert packed(values, "float32", 4)[:8].tolist() == [
        first | first + 1 << 4 for first in range(0, 16, 2)
    ]


def finite_halves() -> np.ndarray[Any, np.dtype[np.float16]]:
    """Return every float16 that is finite."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return every[np.isfinite(every)]


def test_every_half_is_widened_exactly_and_narrowed_to_itself() -> None:
    halves, form = finite_halves(), FORMS["float16"]
    widened = form.widen(halves)
    assert widened.tobytes() == halves.astype(np.float32).tobytes()
    back = np.empty_like(halves)
    form.narrow(widened, back)
    assert back.tobytes() == halves.tobytes()


def test_floats_are_narrowed_to_halves_as_numpy_does() -> None:
    halves = finite_halves().astype(np.float32)
    ends = np.sort(np.unique(halves))
    middles = (ends[1:] + ends[:-1]) / 2
    floats = np.concatenate([middles, np.nextafter(middles, ends[1:]), np.nextafter(middles, 0)])
    # Below, the first of two roundings is finer than what is looked at here.
    floats = floats[np.abs(floats) >= 2.0**-14]
    expected, narrowed = floats.astype(np.float16), np.empty(len(floats), np.float16)
    FORMS["float16"].narrow(floats, narrowed)
    np.testing.assert_array_equal(narrowed, expected)


def test_every_bfloat16_is_widened_exactly_and_narrowed_to_itself() -> None:
    every, form = np.arange(1 << 16, dtype=np.uint16), FORMS["bfloat16"]
    finite = every[(every & 0x7F80) != 0x7F80]
    widened = form.widen(finite)
    expected = np.array(mx.array(finite).view(mx.bfloat16).astype(mx.float32))
    assert widened.tobytes() == expected.tobytes()
    back = np.empty_like(finite)
    form.narrow(widened, back)
    assert back.tobytes() == finite.tobytes()


@MANY
@given(
    st.lists(
        st.one_of(
            st.floats(-(2.0**127), 2.0**127, width=32),
            # Ties, and what is next to them.
            st.tuples(st.integers(0, 0x7F7E), st.integers(0x7FFF, 0x8001)).map(
                lambda parts: np.uint32(parts[0] << 16 | parts[1]).view(np.float32).item()
            ),
        ),
        min_size=1,
        max_size=100,
    )
)
def test_floats_are_narrowed_to_bfloat16_to_nearest_and_ties_to_even(values: list[float]) -> None:
    narrowed = np.empty(len(values), np.uint16)
    FORMS["bfloat16"].narrow(np.array(values, np.float32), narrowed)
    for value, bits in zip(values, narrowed.tolist(), strict=True):
        exact = np.float32(value).view(np.uint32).item()
        lower, dropped = exact >> 16, exact & 0xFFFF
        is_up = dropped > 0x8000 or (dropped == 0x8000 and lower & 1 == 1)
        assert bits == lower + is_up
