"""Rounding values to the nearest code of a float or codebook, vectorised and without a second step.

Floats are rounded by integer arithmetic on the bits of the float32 or float64 they come in. For
floats of at most 8 bits, float32 goes through a table: its index is the top 17 bits (8 of the
mantissa), the last one ORed with all bits dropped. Such "rounding to odd" does not change a later
rounding to nearest as long as two bits more are kept than the result has (Boldo and Melquiond,
"Emulation of a FMA and correctly rounded sums", IEEE Trans. Comp. 57(4), 2008); the result has at
most the 7 of `f8e1m6`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tilus.dtypes.element import DType

Array: TypeAlias = NDArray[Any]

_CHUNK = 1 << 16  # elements rounded at a time, so that temporaries stay in the cache
_KEY_SHIFT = 15  # bits of a float32 that the index of a table folds into its last one


def encode_float(dt: DType, x: Array) -> Array:
    """The codes of a float type for flat bools, integers or floats `x`."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dt.format in ((8, 23), (11, 52)):  # NumPy rounds once, also from integers
            return x.astype(dt.value_dtype, copy=False).view(dt.code_dtype)
        if x.dtype.kind != "f":
            x = _integers_as_floats(x)
        if dt.format == (5, 10):
            return x.astype(np.float16, copy=False).view(np.uint16)
        if x.dtype == np.float16:
            x = x.astype(np.float32)
        if dt.bits > 8 or x.dtype == np.float64:
            return _in_chunks(lambda part: _round_float(dt, part), x, dt.code_dtype)
        table = _encode_table(dt)
        return _in_chunks(lambda part: table.take(_odd_keys(part)), x, dt.code_dtype)


def _in_chunks(function: Callable[[Array], Array], x: Array, out: np.dtype[Any]) -> Array:
    """`function` of flat `x`, a piece at a time."""
    result = np.empty(x.size, out)
    for start in range(0, x.size, _CHUNK):
        result[start : start + _CHUNK] = function(x[start : start + _CHUNK])
    return result


def _integers_as_floats(x: Array) -> Array:
    """Integers as floats that round to any format narrower than float32 as the integers do.

    They are exact but for magnitudes of 2^53 and more, whose low 11 bits are rounded to odd.
    """
    if x.dtype.itemsize <= 2:
        return x.astype(np.float32)
    if x.dtype.itemsize <= 4:
        return x.astype(np.float64)
    magnitude = np.abs(x).view(np.uint64)  # |-2^63| wraps to itself, whose bits mean 2^63
    low = np.uint64(0x7FF)
    sticky = ((magnitude & low) != 0).astype(np.uint64) << np.uint64(11)
    wide = magnitude >= np.uint64(1 << 53)
    result = np.where(wide, (magnitude & ~low) | sticky, magnitude).astype(np.float64)
    return np.where(x < 0, -result, result)


def _round_float(dt: DType, x: Array) -> Array:
    """The codes of float32 or float64 `x` in a format with fewer bits."""
    if not dt.is_signed:
        x = x.astype(np.float64)  # the least numbers of e8m0 are subnormal in float32
    uint: Any = np.uint32 if x.dtype == np.float32 else np.uint64
    e_src, m_src = (8, 23) if x.dtype == np.float32 else (11, 52)
    m = dt.mantissa_bits
    bits = x.view(uint)
    magnitude: Array = bits & uint((1 << (e_src + m_src)) - 1)
    negative: Array = bits >> uint(e_src + m_src)  # 0 or 1
    nan: Array = magnitude > uint(((1 << e_src) - 1) << m_src)

    # |x| = significand * 2^(max(field, 1) - bias_src - m_src). The code c of e8m0 is the magnitude
    # c + 1 of an unsigned format whose bias is one more and whose 0 is not used.
    bias = dt.bias if dt.is_signed else dt.bias + 1
    field = magnitude >> uint(m_src)
    significand = (magnitude & uint((1 << m_src) - 1)) | (field > 0).astype(uint) << uint(m_src)
    exponent = np.maximum(field, 1).astype(np.int64) + (bias - ((1 << (e_src - 1)) - 1))

    # Drop the bits the format lacks, more of them below its least normal number; m + 2 more make
    # every significand less than half a unit.
    shift = (m_src - m + np.clip(1 - exponent, 0, m + 2)).astype(uint)
    kept = significand >> shift
    dropped = significand - (kept << shift)
    kept += dropped + (kept & uint(1)) > uint(1) << (shift - uint(1))

    # The implicit bit of a normal number, and a carry out of the significand, raise the exponent.
    code: Array = ((np.maximum(exponent, 1) - 1).astype(uint) << uint(m)) + kept
    if not dt.is_signed:
        code = np.maximum(code, 1) - uint(1)
        nan |= (negative != 0) & (magnitude != 0)
    code = np.minimum(code, uint(dt.max_code if dt.bits <= 8 else dt.infinity_code))
    if dt.is_signed:
        code |= negative << uint(dt.magnitude_bits)
    code[nan] = dt.nan_code
    if dt.format == (8, 10):
        code <<= uint(13)  # tf32 lies in the high bits of its f32
    return code.astype(dt.code_dtype)


def _odd_keys(x: Array) -> Array:
    """The index of float32 `x` in `_encode_table`."""
    bits = x.view(np.uint32)
    keys: Array = bits >> np.uint32(_KEY_SHIFT)
    keys |= (bits & np.uint32((1 << _KEY_SHIFT) - 1)) != 0
    return keys


@lru_cache(maxsize=256)
def _encode_table(dt: DType) -> Array:
    """The code of a small float for every key; 128 KiB, read-only."""
    keys = np.arange(1 << (32 - _KEY_SHIFT), dtype=np.uint32)
    table = _round_float(dt, (keys << np.uint32(_KEY_SHIFT)).view(np.float32))
    table.flags.writeable = False
    return table


def encode_lut(values: tuple[float, ...], x: Array) -> Array:
    """The codes of the entries nearest to flat `x`: NaN as 0.0, ties to the lower code."""
    if x.dtype.kind != "f" or x.dtype == np.float64:
        return _nearest_entry(values, x)
    x = x.astype(np.float32, copy=False)
    table = _lut_table(values)
    found = _in_chunks(lambda part: table.take(part.view(np.uint32) >> _KEY_SHIFT), x, table.dtype)
    codes = found.astype(np.uint8)
    unsure = np.flatnonzero(found < 0)
    codes[unsure] = _nearest_entry(values, x[unsure])
    return codes


@lru_cache(maxsize=256)
def _lut_table(values: tuple[float, ...]) -> NDArray[np.int16]:
    """The code for float32s with the same top 17 bits, or -1 where they do not agree."""
    first = np.arange(1 << (32 - _KEY_SHIFT), dtype=np.uint32) << _KEY_SHIFT
    last = first | ((1 << _KEY_SHIFT) - 1)
    low, high = (_nearest_entry(values, ends.view(np.float32)) for ends in (first, last))
    return np.where(low == high, low, np.int16(-1))


def _nearest_entry(values: tuple[float, ...], x: Array) -> Array:
    """What `encode_lut` means, by bisection."""
    starts, integer_starts, codes = _lut_starts(values)
    if x.dtype.kind == "f":
        x = np.where(np.isnan(x), 0.0, x)
        return codes[np.searchsorted(starts, x, side="right")]
    x = x.astype(np.uint8) if x.dtype == np.bool_ else x
    limits = np.iinfo(x.dtype)  # compared as integers, since one of 64 bits may not be a float64
    reachable = [max(start, limits.min) for start in integer_starts if start <= limits.max]
    return codes[np.searchsorted(np.array(reachable, x.dtype), x, side="right")]


@lru_cache(maxsize=256)
def _lut_starts(values: tuple[float, ...]) -> tuple[Array, list[int], Array]:
    """The least float64 and the least integer nearest to each distinct entry, and all their codes.

    The lowest entry has no start.
    """
    lowest: dict[float, int] = {}
    for code, value in enumerate(values):
        lowest.setdefault(value, code)
    entries = sorted(lowest.items())
    starts, integer_starts = [], []
    for (below, code_below), (above, code_above) in itertools.pairwise(entries):
        middle = (Fraction(below) + Fraction(above)) / 2
        tie_goes_up = code_above < code_below
        start = float(middle)
        if Fraction(start) < middle or (Fraction(start) == middle and not tie_goes_up):
            start = math.nextafter(start, math.inf)
        starts.append(start)
        integer_starts.append(math.ceil(middle) if tie_goes_up else math.floor(middle) + 1)
    codes = np.array([code for _, code in entries], np.uint8)
    return np.array(starts, np.float64), integer_starts, codes
