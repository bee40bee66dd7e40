"""Element types against slow references in exact arithmetic: decode, encode and convert.

The references know a type only by its name and read its codes digit by digit.
"""

import itertools
import math
import re
from fractions import Fraction
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tilus.dtypes import (
    ALL_TYPES,
    NARROW_TYPES,
    Kind,
    bf16,
    bool_,
    convert,
    dtype,
    e8m0,
    f8e4m3,
    f8e5m2,
    f16,
    f32,
    f64,
    float_,
    i4,
    i8,
    i32,
    i64,
    iq4nl,
    lut,
    nf4,
    tf32,
    u3,
    u8,
    u64,
)

INTEGERS = [t for t in ALL_TYPES if re.fullmatch(r"[ui]\d+", t.name)]
SMALL_FLOATS = [t for t in ALL_TYPES if re.fullmatch(r"f[2-8]e\dm\d", t.name)]
INF, NAN = math.inf, math.nan
TERNARY = lut(2, [1, 0, -1, 0])
WILD = lut(3, [1e30, 3.0, -1e-30, 0.0, -7.5, 3.0, 1e-30, -1e30])


def names(types):
    return pytest.mark.parametrize("dt", types, ids=lambda t: str(t)[:16])


# --- what a code means, digit by digit ---


def digits(dt):
    """(bits, exponent bits, mantissa bits) as the name of a small float says."""
    return tuple(map(int, re.fullmatch(r"f(\d)e(\d)m(\d)", dt.name).groups()))


@cache
def meaning(dt, code):
    """The exact value of a code: a Fraction, NAN or +-INF; the sign of a zero is lost."""
    if dt.kind is Kind.LUT:
        return Fraction(dt.values[code])
    if dt.name == "bool":
        return Fraction(int(code != 0))
    if dt.name == "e8m0":
        return NAN if code == 255 else Fraction(2) ** (code - 127)
    if letter := re.fullmatch(r"([ui])(\d+)", dt.name):
        bits = int(letter[2])
        negative = letter[1] == "i" and code >> (bits - 1)
        return Fraction(code - (2**bits if negative else 0))
    bits, e, m = digits(dt)
    text = f"{code:0{bits}b}"
    sign = -1 if text[0] == "1" else 1
    exponent, fraction = int(text[1 : 1 + e], 2), Fraction(int("0" + text[1 + e :], 2), 2**m)
    if dt.name == "f8e4m3" and text[1:] == "1111111":
        return NAN
    if dt.name == "f8e5m2" and text[1:6] == "11111":
        return NAN if fraction else sign * INF
    bias = 2 ** (e - 1) - 1
    if exponent == 0:
        return sign * fraction * Fraction(2) ** (1 - bias)
    return sign * (1 + fraction) * Fraction(2) ** (exponent - bias)


def same(got, want):
    return math.isnan(got) if isinstance(want, float) and math.isnan(want) else got == want


@names(NARROW_TYPES)
def test_decode_every_code(dt):
    codes = np.arange(2**dt.bits, dtype=np.uint8)
    values = dt.decode(codes)
    assert values.dtype == dt.value_dtype
    for code, value in zip(codes.tolist(), values.tolist(), strict=True):
        want = meaning(dt, code)
        assert same(value, want), (code, value, want)
        if want == 0 and dt in SMALL_FLOATS:
            assert math.copysign(1, value) == (-1 if code else 1)


@names(NARROW_TYPES)
def test_encode_inverts_decode(dt):
    codes = np.arange(2**dt.bits, dtype=np.uint8)
    values = dt.decode(codes)
    kept = dt.encode(values)
    again = dt.decode(kept)
    finite = np.isfinite(values.astype(np.float64))
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(again[finite], values[finite])
    if dt is not bool_:
        np.testing.assert_array_equal(kept[finite], codes[finite])


@names(NARROW_TYPES)
def test_min_and_max_are_the_extreme_finite_values(dt):
    values = [meaning(dt, code) for code in range(2**dt.bits)]
    finite = [v for v in values if isinstance(v, Fraction)]
    assert (dt.min, dt.max) == (min(finite), max(finite))
    assert dt.is_signed == (min(finite) < 0)
    assert dt.has_nan == any(v != v for v in values)
    assert dt.has_infinity == (INF in values)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("f2e1m0", [0, 2]),
        ("f3e1m1", [0, 1, 2, 3]),
        ("f4e1m2", [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]),
        ("f4e2m1", [0, 0.5, 1, 1.5, 2, 3, 4, 6]),
        ("f4e3m0", [0, 0.25, 0.5, 1, 2, 4, 8, 16]),
    ],
)
def test_tables_known_by_heart(name, listed):
    dt = dtype(name)
    assert dt.decode(np.arange(len(listed), dtype=np.uint8)).tolist() == listed
    assert dt.decode(np.arange(len(listed), 2**dt.bits, dtype=np.uint8)).tolist() == [
        -v for v in listed
    ]


def test_limits_known_by_heart():
    limits = {"f4e2m1": 6, "f6e2m3": 7.5, "f6e3m2": 28, "f8e4m3": 448, "f8e5m2": 57344, "u2": 3}
    limits |= {"u4": 15, "i3": 3, "u64": 2**64 - 1, "i64": 2**63 - 1, "f16": 65504, "bool": 1}
    assert {name: dtype(name).max for name in limits} == limits
    assert (i4.min, i64.min, e8m0.min, e8m0.max) == (-8, -(2**63), 2.0**-127, 2.0**127)
    assert f32.max == float(np.finfo(np.float32).max) and f64.max == np.finfo(np.float64).max
    assert bf16.max == float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    assert tf32.max == float(np.uint32(0x7F7FE000).view(np.float32)) and tf32.min == -tf32.max


# --- encode: the nearest code, by trying all of them ---


UNIT = 2**1100  # exact integers in this unit hold every finite float64, and compare fast


@cache
def magnitudes(dt):
    """The finite non-negative values of a small float in order of code, times UNIT."""
    half = 2**dt.bits if dt is e8m0 else 2 ** (dt.bits - 1)
    values = (meaning(dt, code) for code in range(half))
    return [int(v * UNIT) for v in values if isinstance(v, Fraction)]


def nearest_float(dt, x):
    """The code of a float or integer by the definition of rounding; -0.0 is not 0.0."""
    if x != x:
        return {"f8e4m3": 0x7F, "f8e5m2": 0x7E, "e8m0": 0xFF}.get(dt.name, 0)
    if dt is e8m0:
        return 0xFF if x < 0 else nearest_magnitude(dt, x)
    sign = math.copysign(1, x) < 0
    return sign << (dt.bits - 1) | nearest_magnitude(dt, abs(x))


@cache
def nearest_magnitude(dt, x):
    """Closest; of two, the one whose last significant digit is even; if neither, the larger."""
    values = magnitudes(dt)
    if math.isinf(x):
        return len(values) - 1
    # Without a mantissa the only digit is 1, except that of zero.
    has_mantissa = dt is not e8m0 and digits(dt)[2] > 0
    odd = (lambda c: c % 2) if has_mantissa else (lambda c: values[c] != 0)
    size = int(Fraction(x) * UNIT)
    return min(range(len(values)), key=lambda c: (abs(values[c] - size), odd(c), -values[c]))


def around(x, kind):
    """`x` and its neighbours among float32 or float64."""
    x = kind(x)
    return [float(v) for v in (x, np.nextafter(x, kind(INF)), np.nextafter(x, kind(-INF)))]


def hard_points(values):
    """Floats where rounding to `values` can go wrong: all of them, all midpoints, the far ends."""
    values = sorted(float(v) for v in values)
    corners = [
        *values,
        *((a + b) / 2 for a, b in itertools.pairwise(values)),
        *(v * 1.25 for v in values[-3:]),  # where a wider format would round up or overflow
        *(v * f for v in (values[0], values[-1]) for f in (2.0, 1.5, 0.5, 0.25)),
    ]
    tiny = [0.0, 2.0**-149, 2.0**-126, 5e-324, 2.0**-1030, 1e-300]
    huge = [65504.0, 3.4e38, 2.0**127, 2.0**128, 1e300, 1.7976931348623157e308, INF]
    points = set(tiny + huge)
    with np.errstate(over="ignore", under="ignore"):
        for corner in corners:
            points.update(around(corner, np.float32) + around(corner, np.float64))
    return [*sorted(points), NAN, -NAN, -0.0, *(-p for p in sorted(points))]


def held_by(kind, points):
    """Those of `points` that are exact in a NumPy type, as an array of it."""
    with np.errstate(over="ignore", under="ignore"):
        array = np.array(points, np.float64)
        narrow = array.astype(kind)
        return narrow[(narrow == array) | np.isnan(array)]


@names([*SMALL_FLOATS, e8m0])
def test_encode_is_nearest_even(dt):
    points = hard_points(Fraction(v, UNIT) for v in magnitudes(dt))
    for kind in (np.float64, np.float32, np.float16):
        array = held_by(kind, points)
        assert array.size > 10
        codes = dt.encode(array).tolist()
        wrong = [
            (x, code, nearest_float(dt, x))
            for x, code in zip(array.tolist(), codes, strict=True)
            if code != nearest_float(dt, x)
        ]
        assert not wrong, (kind, len(wrong), wrong[:5])


@names([*SMALL_FLOATS, e8m0])
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_encode_any_float32(dt, bits):
    array = np.array(bits, np.uint32).view(np.float32)
    assert dt.encode(array).tolist() == [nearest_float(dt, x) for x in array.tolist()]


ORACLE = {
    "f4e2m1": ml_dtypes.float4_e2m1fn,
    "f6e2m3": ml_dtypes.float6_e2m3fn,
    "f6e3m2": ml_dtypes.float6_e3m2fn,
    "f8e4m3": ml_dtypes.float8_e4m3fn,
    "f8e5m2": ml_dtypes.float8_e5m2,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "bf16": ml_dtypes.bfloat16,
}


@pytest.mark.parametrize("name", ORACLE)
def test_agrees_with_ml_dtypes_in_range(name):
    dt, oracle = dtype(name), ORACLE[name]
    codes = np.arange(2**dt.bits).astype(dt.code_dtype)
    np.testing.assert_array_equal(dt.decode(codes), codes.view(oracle).astype(np.float32))

    patterns = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32)
    patterns[:150_000] &= 0xBFFFFFFF  # half of them below 2 in magnitude
    with np.errstate(invalid="ignore"):
        x = patterns.view(np.float32)
        x = x[(np.abs(x) <= dt.max) | (np.isinf(x) & (dt is bf16))]
        if dt is e8m0:
            # There zero is NaN, and 2^-127 and a bit (subnormal in float32) become 2^-126.
            x = x[np.abs(x) >= 2.0**-126]
        np.testing.assert_array_equal(dt.encode(x), x.astype(oracle).view(dt.code_dtype))


def test_saturation_and_nan_of_the_types_with_special_values():
    x = [448.0, 463.9, 464.0, 480.0, 1e30, INF, -INF, NAN, -NAN]
    assert f8e4m3.encode(x).tolist() == [0x7E] * 6 + [0xFE, 0x7F, 0x7F]
    x = [57344.0, 61440.0, 65536.0, 1e30, INF, -INF, NAN, -NAN]
    assert f8e5m2.encode(x).tolist() == [0x7B] * 5 + [0xFB, 0x7E, 0x7E]
    assert f8e5m2.decode(np.array([0x7C, 0xFC], np.uint8)).tolist() == [INF, -INF]
    x = [0.0, -0.0, 2.0**-140, 1.5, 3.0, 2.0**127 * 1.75, INF, NAN, -1e-40, -INF]
    assert e8m0.encode(x).tolist() == [0, 0, 0, 128, 129, 254, 254, 255, 255, 255]
    assert dtype("f6e3m2").encode([INF, -INF, NAN, -NAN, -0.0]).tolist() == [31, 63, 0, 0, 32]


# --- wide floats: once, from float64 ---


def nearest_wide(x, e, m):
    """`x` rounded to nearest even in the IEEE format with `e` and `m` bits, in exact arithmetic."""
    if x != x or math.isinf(x) or x == 0:
        return x
    size = abs(Fraction(x))
    least = 2 - 2 ** (e - 1)  # exponent of the least normal number
    exponent = math.frexp(abs(x))[1] - 1
    unit = Fraction(2) ** (max(exponent, least) - m)
    rounded = round(size / unit) * unit  # Python rounds a Fraction half to even
    largest = (2 - Fraction(2) ** -m) * Fraction(2) ** (2 ** (e - 1) - 1)
    return math.copysign(INF if rounded > largest else float(rounded), x)


FORMATS = {"f16": (5, 10), "bf16": (8, 7), "tf32": (8, 10), "f32": (8, 23)}


def near_ties(e, m):
    """Float64s on, just above and just below ties of the format, normal and subnormal."""
    out = []
    for scale in (0, 1, 3, 2 - 2 ** (e - 1), 1 - 2 ** (e - 1), -(2 ** (e - 1)), 2 ** (e - 1) - 1):
        for step in (0, 1, 2, 3):
            tie = (1 + step * 2.0**-m + 2.0 ** -(m + 1)) * 2.0**scale
            out += [tie, *(tie * (1 + s * 2.0**-k) for s in (1, -1) for k in (25, 30, 40, 52))]
    least = math.ldexp(1.0, 2 - 2 ** (e - 1) - m)  # the least subnormal
    out += [k * least for k in (0.25, 0.5, 0.5 + 2**-40, 0.75, 1, 1.5, 1.5 - 2**-40, 2.5)]
    return [*out, INF, NAN, 0.0, 1.7976931348623157e308]


@pytest.mark.parametrize("name", FORMATS)
def test_wide_floats_round_once(name):
    dt, (e, m) = dtype(name), FORMATS[name]
    random = np.random.default_rng(1).integers(0, 2**64, 500, dtype=np.uint64).view(np.float64)
    points = near_ties(e, m) + random[np.isfinite(random)].tolist()
    points += (np.abs(random[np.isfinite(random)]) ** 0.05).tolist()
    points += [-p for p in points]
    for kind in (np.float64, np.float32):
        array = held_by(kind, points)
        got = dt.decode(dt.encode(array))
        want = np.array([nearest_wide(x, e, m) for x in array.tolist()])
        np.testing.assert_array_equal(got.astype(np.float64), want)
        np.testing.assert_array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]))


def test_double_rounding_would_be_seen():
    x = 1 + 2**-8 + 2**-40  # float32 makes it a tie of bf16
    assert bf16.decode(bf16.encode(np.float64([x]))).tolist() == [1 + 2**-7]
    assert bf16.decode(bf16.encode(np.float32([x]))).tolist() == [1.0]
    x = 1.25 + 2**-30  # the same for f4e1m2 and float32
    assert float_(1, 2).decode(float_(1, 2).encode(np.float64([x]))).tolist() == [1.5]


def test_codes_of_wide_floats():
    x = np.float32([1.0, -2.5, 0.1, INF, NAN])
    assert f32.encode(x).tolist() == x.view(np.uint32).tolist()
    assert bf16.encode(x).tolist() == [0x3F80, 0xC020, 0x3DCD, 0x7F80, 0x7FC0]
    assert tf32.encode(x).tolist() == [0x3F800000, 0xC0200000, 0x3DCCC000, 0x7F800000, 0x7FC00000]
    assert f16.encode(np.float16([1.0])).tolist() == [0x3C00]
    assert f64.encode([1.0]).tolist() == [0x3FF0000000000000]
    assert tf32.decode(np.array([0x3F801FFF], np.uint32)).tolist() == [1.0]
    assert tf32.encode(np.float32([1 + 2**-11 + 2**-23])).tolist() == [0x3F802000]


def test_long_arrays_are_converted_in_pieces_alike():
    x = np.random.default_rng(2).normal(size=200_001)
    for dt in (dtype("f5e2m2"), bf16, tf32, nf4):
        for array in (x, x.astype(np.float32)):
            codes = dt.encode(array)
            some = [0, 65_535, 65_536, 131_072, 200_000]
            assert codes[some].tolist() == [int(dt.encode(array[i])) for i in some]
            np.testing.assert_array_equal(codes[70_000:70_100], dt.encode(array[70_000:70_100]))


# --- integers and codebooks ---


@names(INTEGERS)
def test_integers_wrap(dt):
    numbers = [0, 1, -1, 127, 128, 255, 256, -129, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63)]
    array = np.array(numbers, np.int64)
    assert dt.encode(array).tolist() == [n % 2**dt.bits for n in numbers]
    assert dt.encode(np.array([2**64 - 1], np.uint64)).tolist() == [2**dt.bits - 1]
    assert dt.decode(dt.encode(array)).tolist() == [meaning(dt, n % 2**dt.bits) for n in numbers]


def nearest_entry(table, x):
    """The code of the nearest entry, lower codes first; NaN is 0."""
    if x != x:
        x = 0
    x = Fraction(math.copysign(2.0**200, x) if math.isinf(x) else x)
    return min(range(len(table)), key=lambda c: (abs(Fraction(table[c]) - x), c))


@names([nf4, iq4nl, TERNARY, WILD, lut(1, [5.0, 5.0]), lut(8, [math.sin(i) for i in range(256)])])
def test_codebooks_take_the_nearest_entry(dt):
    points = hard_points(dt.values if dt.bits < 8 else dt.values[::16])
    for kind in (np.float64, np.float32, np.float16):
        array = held_by(kind, points)
        want = [nearest_entry(dt.values, x) for x in array.tolist()]
        assert dt.encode(array).tolist() == want
    for kind in (np.int8, np.uint8, np.int64, np.uint64):
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        numbers = [n for n in (0, 1, 2, 3, -1, -6, 127, low, high) if low <= n <= high]
        want = [nearest_entry(dt.values, n) for n in numbers]
        assert dt.encode(np.array(numbers, kind)).tolist() == want
    assert dt.encode([False, True]).tolist() == [nearest_entry(dt.values, n) for n in (0, 1)]


def test_codebook_ties_go_to_the_lower_code_also_for_large_integers():
    assert lut(1, [0.0, 1.0]).encode([0.5]).tolist() == [0]
    assert lut(1, [1.0, 0.0]).encode([0.5]).tolist() == [0]
    assert lut(2, [4, 2, 2, 0]).encode([1.9, 3.0, 1.0, -9.0]).tolist() == [1, 0, 1, 3]
    far = lut(1, [0.0, 2.0**63])  # the middle, 2^62, is a tie; its successor is no float64
    assert far.encode(np.array([2**62, 2**62 + 1], np.int64)).tolist() == [0, 1]


# --- convert ---


def reference_cast(x, dst):
    """The value that an int or a float becomes."""
    if dst is bool_:
        return x != 0
    if dst in INTEGERS:
        bits, low = dst.bits, (-(2 ** (dst.bits - 1)) if dst.name[0] == "i" else 0)
        if isinstance(x, int):
            return meaning(dst, x % 2**bits)
        if x != x:
            return 0
        return max(low, min(low + 2**bits - 1, x if math.isinf(x) else math.trunc(x)))
    if dst.name in FORMATS:
        return nearest_wide(x, *FORMATS[dst.name]) if isinstance(x, float) else None
    code = nearest_entry(dst.values, x) if dst.kind is Kind.LUT else nearest_float(dst, x)
    return meaning(dst, code)


SOURCES = [u3, i8, f8e4m3, f8e5m2, float_(1, 5), float_(6, 1), e8m0, iq4nl, bool_]


@names(SOURCES)
def test_convert_every_code_to_every_narrow_type(dt):
    values = dt.decode(np.arange(2**dt.bits, dtype=np.uint8))
    exact = values.astype(int).tolist() if dt.kind in (Kind.UINT, Kind.INT, Kind.BOOL) else None
    for dst in NARROW_TYPES:
        got = convert(values, dt, dst)
        assert got.dtype == dst.value_dtype
        if dst == dt:
            continue
        for x, y in zip(exact or values.tolist(), got.tolist(), strict=True):
            want = reference_cast(x, dst)
            assert same(y, want), (dst, x, y, want)


FLOATS = st.floats(width=32) | st.floats() | st.integers(-(2**66), 2**66).map(float)


@given(x=FLOATS, dst=st.sampled_from(INTEGERS))
@example(x=2.0**63, dst=i64)
@example(x=-(2.0**63), dst=i64)
@example(x=math.nextafter(2.0**64, 0), dst=u64)
@example(x=2.0**64, dst=u64)
@example(x=-0.99, dst=u8)
@example(x=127.99, dst=i8)
def test_float_to_integer_truncates_and_saturates(x, dst):
    assert convert(np.array([x]), f64, dst).tolist() == [reference_cast(x, dst)]
    if np.isnan(x) or float(np.float32(np.clip(x, -3e38, 3e38))) == x:
        assert convert(np.float32([x]), f32, dst).tolist() == [reference_cast(x, dst)]


@given(
    x=st.integers(-(2**63), 2**64 - 1)
    | st.builds(
        lambda n, k, d: (n << k) + d, st.integers(1, 4095), st.integers(0, 51), st.integers(-2, 2)
    ),
    dst=st.sampled_from([f16, bf16, tf32, f32, f64, f8e5m2, float_(7, 0), float_(6, 1), e8m0]),
)
@example(x=2**24 + 1, dst=f32)
@example(x=2**54 + 2**30 + 1, dst=f32)  # float64 makes it a tie
@example(x=2**62 + 2**54 + 1, dst=bf16)
@example(x=2**63 + 2**55 + 1, dst=bf16)
@example(x=-(2**63), dst=bf16)
@example(x=2**64 - 1, dst=u8)
def test_integer_to_anything_rounds_once(x, dst):
    src = u64 if x >= 2**63 else i64
    got = convert(np.array([x], src.value_dtype), src, dst).tolist()[0]
    if dst in (f16, bf16, tf32, f32, f64):
        e, m = FORMATS.get(dst.name, (11, 52))
        drop = max(abs(x).bit_length() - m - 1, 0)
        rounded = round(Fraction(x, 2**drop)) * 2**drop
        want = math.copysign(INF, x) if abs(rounded) >= 2**2 ** (e - 1) else float(rounded)
    else:
        want = reference_cast(x, dst)
    assert same(got, want), (got, want)


@given(x=FLOATS, dst=st.sampled_from([f16, bf16, tf32, f32, dtype("f6e3m2"), f8e4m3, e8m0]))
def test_float_to_float_rounds_once(x, dst):
    got = convert(np.array([x]), f64, dst)
    assert got.dtype == dst.value_dtype
    assert same(got.tolist()[0], reference_cast(x, dst))


def test_convert_to_and_from_bool():
    x = np.float32([0.0, -0.0, 1e-45, NAN, -INF])
    assert convert(x, f32, bool_).tolist() == [False, False, True, True, True]
    assert convert(np.int8([0, -8]), i4, bool_).tolist() == [False, True]
    both = np.array([False, True])
    for dst in (u8, i64, f16, f64, nf4, dtype("f4e2m1")):
        assert convert(both, bool_, dst).tolist() == [0, 1]


def test_integer_to_integer_wraps_and_same_type_is_untouched():
    assert convert(np.int32([-1, 7, 8, 300]), i32, i4).tolist() == [-1, 7, -8, -4]
    assert convert(np.int8([-1]), i4, u64).tolist() == [2**64 - 1]
    x = np.float32([NAN])
    assert convert(x, f32, f32) is x


def test_convert_names_a_wrong_array_type():
    with pytest.raises(TypeError, match="values of i4 must be int8, not int64"):
        convert(np.array([1]), i4, f32)


def test_signalling_nan_makes_no_noise():
    x = np.array([0x7F800001], np.uint32).view(np.float32)
    for dst in ALL_TYPES:
        got = convert(x, f32, dst)
        assert dst.kind is Kind.FLOAT or got.tolist() == [dst is bool_ or dst is iq4nl]


# --- shapes and wrong arguments ---


@names(ALL_TYPES)
def test_shapes_strides_and_byte_order(dt):
    values = np.array([[0, 1, 1], [1, 0, 0]])
    codes = dt.encode(values)
    assert codes.shape == (2, 3) and codes.dtype == dt.code_dtype
    assert dt.decode(codes).shape == (2, 3)
    assert dt.encode(values.T).tolist() == codes.T.tolist()
    assert dt.decode(codes.T).tolist() == dt.decode(codes).T.tolist()
    assert dt.encode(values.astype(">i4")).tolist() == codes.tolist()
    assert dt.decode(codes.astype(codes.dtype.newbyteorder(">"))).tolist() == (
        dt.decode(codes).tolist()
    )
    for shape in ((), (0,), (3, 0)):
        made = dt.encode(np.zeros(shape, np.int16))
        assert isinstance(made, np.ndarray) and made.shape == shape
        assert isinstance(dt.decode(made), np.ndarray) and dt.decode(made).shape == shape
        for dst in (i4, f16, nf4, bool_):
            cast = convert(dt.decode(made), dt, dst)
            assert isinstance(cast, np.ndarray) and cast.shape == shape


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"codes must be unsigned integers, not int64.*np\.uint8"):
        u3.decode(np.array([1]))
    with pytest.raises(ValueError, match="a code of u3 is 0 to 7, but codes contains 9"):
        u3.decode(np.array([1, 9], np.uint8))
    with pytest.raises(ValueError, match="a code of nf4 is 0 to 15"):
        nf4.decode(np.array([16], np.uint8))
    with pytest.raises(TypeError, match="values for u3 must be integers, not float64"):
        u3.encode([1.5])
    with pytest.raises(TypeError, match="values for f16 must be bools, integers"):
        f16.encode(["one"])
    with pytest.raises(ValueError, match="u3 element has 3 bits, not a whole number of bytes"):
        _ = u3.nbytes
    with pytest.raises(ValueError, match="i4 is not a float"):
        _ = i4.bias
