"""Conversions between element types, bit for bit as `tilus.dtypes.convert` defines them.

In a register a value lies as `writer.element_type` says: floats of 16 bits and more, integers and
bools as themselves, integers below 8 bits extended to an i8, and small floats, `e8m0` and codebooks
as their codes in an i8. `cast` goes

    from 8 bits or fewer to 8 bits or fewer     by a table of bytes
    from codes to wider types                   by a table where that is quick, else by arithmetic
    to codes                                    by arithmetic, from f32; codebooks by comparisons
    between wide types                          by instructions, or on the bits

and rounds only once. What is wider than f32 is first rounded to an f32 *to odd*: cut, with the last
bit set if anything was lost. Later rounding to nearest then does what it would have done to the
original, as the result has at least two bits fewer (Boldo and Melquiond 2008). Integers whose low
bits are folded into one are rounded to odd too.

**Decoding arithmetic.** A small float is shifted so that its fields lie in those of f16 (or f32),
where, read as such a number, it is the value times 2^(bias - 15) (or 2^(bias - 127)), subnormals
included; one multiplication by a power of two, exact, does the rest.

**Encoding arithmetic.** Let 2^E <= |x| < 2^(E+1), or let E be the exponent of the least normal
number of the type if |x| is smaller. Adding 2^(E + 23 - m) leaves in the low bits of the f32 sum
the integer k = |x| / 2^(E - m), rounded to nearest even by the addition itself. The code is then
k + (E + bias - 1) * 2^m: right for subnormals (k < 2^m), normal numbers (2^m <= k) and a carry (k =
2^(m+1)) alike, and for m = 0 the tie between 1 and 2 goes up, as it must. |x| is first cut to the
greatest value of the type.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tilus import dtypes
from tilus.codegen.llvm.lanes import Lanes
from tilus.codegen.llvm.lookup import (
    by_chunks,
    high_halves,
    is_quick,
    lookup,
    lookup_bytes,
    lookup_wide,
    low_bytes,
)
from tilus.codegen.llvm.packing import pack, unpack, unpack_interleaved
from tilus.codegen.llvm.writer import (
    BITS,
    DOUBLE,
    FLOAT,
    HALF,
    I8,
    I16,
    I32,
    V,
    Writer,
    element_type,
    vector,
)
from tilus.dtypes import DType, Kind
from tilus.dtypes.rounding import _lut_starts

__all__ = ["cast", "lookup", "normalized", "pack", "unpack", "unpack_interleaved"]


def cast(w: Writer, src: DType, dst: DType, x: V) -> V:
    """`x` of type `src` as type `dst`."""
    return converted(Lanes(w, x), src, dst).v


def converted(x: Lanes, src: DType, dst: DType) -> Lanes:
    """The same, of `Lanes`."""
    if src == dst:
        return x
    if src.kind is Kind.BOOL:
        return _from_bool(x, dst)
    if dst.kind is Kind.BOOL:
        return _truth(x, src)
    if src.is_integer and dst.is_integer:
        return normalized(x.resized(element_type(dst), src.is_signed), dst)
    if src.bits <= 8:
        return _from_narrow(x, src, dst)
    if src.is_integer:
        return _from_integer(x, src, dst)
    if src == dtypes.f64:
        return _from_double(x, dst)
    return _from_float(widened(x, src), dst)


def normalized(x: Lanes, dtype: DType) -> Lanes:
    """The low bits of an i8 as an integer type of fewer than 8 bits is held; others as they are."""
    if not dtype.is_integer or dtype.bits >= 8:
        return x
    if dtype.is_signed:
        return (x << (8 - dtype.bits)).sar(8 - dtype.bits)
    return x & ((1 << dtype.bits) - 1)


def register_constant(value: int | float, dtype: DType) -> int | float:
    """A number as it lies in a register of the type, its code for types of codes."""
    if dtype.is_integer or dtype.kind is Kind.BOOL or element_type(dtype)[0] != "i":
        return value
    return int(dtype.encode(np.array([value], np.float32))[0])


def _from_bool(x: Lanes, dst: DType) -> Lanes:
    if dst.is_integer:
        return normalized(x.zext(element_type(dst)), dst)  # an i1 of 1 is -1
    element = element_type(dst)
    one, none = (x.filled(element, register_constant(n, dst)) for n in (1, 0))
    return x.select(one, none)


def _truth(x: Lanes, src: DType) -> Lanes:
    """Whether a value is not 0; NaN is not."""
    if src.is_integer:
        return x.ne(0)
    if src.bits > 8:
        return widened(x, src).ne(0.0)
    if src.is_small_float and src.is_signed:
        return (x & ((1 << src.magnitude_bits) - 1)).ne(0)
    return lookup_bytes(x, _table(src, dtypes.u8, nonzero=True)).ne(0)


# from at most 8 bits


@lru_cache(maxsize=1024)
def _table(src: DType, dst: DType, nonzero: bool = False) -> tuple[int, ...]:
    """What each code of `src` becomes, as the bits of a register."""
    codes = np.arange(1 << src.bits, dtype=np.uint8)
    values = src.decode(codes)
    if nonzero:
        return tuple((values != 0).astype(int).tolist())
    out: Any = dtypes.convert(values, src, dst)
    if not dst.is_integer:
        out = dst.encode(out)
    return tuple((out.astype(np.int64) & ((1 << BITS[element_type(dst)]) - 1)).tolist())


def _from_narrow(x: Lanes, src: DType, dst: DType) -> Lanes:
    """From narrow integers and from codes."""
    code = x & ((1 << src.bits) - 1) if src.is_signed and src.is_integer and src.bits < 8 else x
    if dst.bits <= 8:
        return lookup_bytes(code, _table(src, dst))
    if dst in (dtypes.f16, dtypes.bf16):
        if (src, dst) == (dtypes.f8e5m2, dtypes.f16):
            return (x.zext(I16) << 8).as_element(HALF)
        if is_quick(x, 1 << src.bits) or (src.bits <= 6 and x.is_vector and x.has("avx512bw")):
            found = lookup_wide(code, _table(src, dst), I16)
            return found.as_element(HALF) if dst == dtypes.f16 else _as_bf16(found)
    if src.is_integer:
        wide = x.resized(I32, src.is_signed)
        if dst == dtypes.f64:
            return wide.cast("sitofp", DOUBLE)
        return exactly(wide.cast("sitofp", FLOAT), dst)
    value = _decoded(x, src, dst)
    if dst in (dtypes.bf16, dtypes.tf32) and src.has_infinity:
        value = value.is_nan().select(value.of(math.nan), value)
    if dst.is_integer or src.kind is Kind.LUT:
        return _from_float(value, dst)
    return exactly(value, dst)


def exactly(x: Lanes, dst: DType) -> Lanes:
    """An f32 that is a value of `dst`, a float of more than 8 bits; f16 may overflow."""
    if dst == dtypes.bf16:
        return _as_bf16(high_halves(x.as_int()))
    return x if dst == dtypes.tf32 else _from_float(x, dst)


def _decoded(x: Lanes, src: DType, dst: DType) -> Lanes:
    """Codes of a small float, `e8m0` or codebook as f32, on their way to `dst`."""
    if src.kind is Kind.LUT or is_quick(x, 1 << src.bits):
        held = dst if dst == dtypes.tf32 else dtypes.f32
        return lookup_wide(x, _table(src, held), I32).as_element(FLOAT)
    if src == dtypes.e8m0:
        wide = x.zext(I32)
        regular = wide.eq(0).select(wide.of(0x00400000), wide << 23)
        return wide.eq(255).select(wide.of(0x7FC00000), regular).as_element(FLOAT)
    if x.has("f16c") and (src.exponent_bits < 5 or src.has_infinity):
        value = _aligned(x, src, I16, 10).as_element(HALF).cast("fpext", FLOAT)
        scale = 15 - src.bias
    else:
        value, scale = _aligned(x, src, I32, 23).as_element(FLOAT), 127 - src.bias
    if scale:
        value = value * 2.0**scale
    magnitude = value.call("fabs") if src.has_nan else value
    if src.has_infinity and scale:  # read as numbers, infinity is 2^16 and NaNs are above
        infinite = magnitude.eq(2.0**16).select(value * math.inf, value)
        return magnitude.gt(2.0**16).select(value.of(math.nan), infinite)
    if src.has_nan and not src.has_infinity:
        return magnitude.gt(float(src.max)).select(value.of(math.nan), value)
    return value


def _aligned(x: Lanes, src: DType, element: str, mantissa: int) -> Lanes:
    """A code's sign, exponent and mantissa in the places of a wider float."""
    wide = x.zext(element)
    up = mantissa - src.mantissa_bits
    magnitude = (wide << up) & ((1 << src.magnitude_bits + up) - 1)
    sign = (wide << (BITS[element] - src.bits)) & (1 << BITS[element] - 1)
    return magnitude | sign


# from wide types


def widened(x: Lanes, src: DType) -> Lanes:
    """An f16, bf16 or tf32 as f32; wider ones as they are."""
    if src == dtypes.bf16:
        return (x.as_int().zext(I32) << 16).as_element(FLOAT)
    if src != dtypes.f16:
        return x
    if x.has("f16c"):
        return x.cast("fpext", FLOAT)
    bits = x.as_int().zext(I32)
    magnitude = (bits & 0x7FFF) << 13
    value = (magnitude.as_element(FLOAT) * 2.0**112).as_int()
    value = magnitude.uge(0x7C00 << 13).select(magnitude | 0x7F800000, value)
    return (value | ((bits & 0x8000) << 16)).as_element(FLOAT)


def _from_integer(x: Lanes, src: DType, dst: DType) -> Lanes:
    """From integers of 16 bits and more to floats and codebooks."""
    to_float = "sitofp" if src.is_signed else "uitofp"
    if dst.kind is Kind.LUT:
        if src.bits == 64:
            return _nearest_integer(x, src, dst)
        return _nearest(x.cast(to_float, FLOAT if src.bits == 16 else DOUBLE), dst)
    if dst in (dtypes.f32, dtypes.f64):
        return x.cast(to_float, element_type(dst))
    if src.bits == 16:
        return _from_float(x.resized(I32, src.is_signed).cast("sitofp", FLOAT), dst)
    if src.bits == 32:
        return _from_float(_folded(x, src, 24, 8).cast(to_float, FLOAT), dst)
    return _from_double(_folded(x, src, 53, 11).cast(to_float, DOUBLE), dst)


def _folded(x: Lanes, src: DType, precision: int, low: int) -> Lanes:
    """Rounded to odd in units of 2^low, if it might not be exact with `precision` bits.

    Setting the last bit of what is left of a negative number rounds to odd as well, since cutting
    two's complement rounds down.
    """
    lost = (x & ((1 << low) - 1)).ne(0).select(x.of(1 << low), 0)
    cut = (x & -(1 << low)) | lost
    if src.is_signed:
        exact = (x + (1 << precision)).ult(1 << (precision + 1))
    else:
        exact = x.ult(1 << precision)
    return exact.select(x, cut)


def _from_double(x: Lanes, dst: DType) -> Lanes:
    if dst.is_integer:
        return _to_integer(x, dst)
    if dst.kind is Kind.LUT:
        return _nearest(x, dst)
    nearest = x.cast("fptrunc", FLOAT)
    if dst == dtypes.f32:
        return nearest
    back, bits = nearest.cast("fpext", DOUBLE), nearest.as_int()
    too_large = back.call("fabs").gt(x.call("fabs"))
    odd = bits + too_large.select(bits.of(-1), 1)
    inexact_and_even = back.ne(x) & (bits & 1).eq(0)  # perhaps NaN, which one bit more leaves NaN
    return _from_float(inexact_and_even.select(odd, bits).as_element(FLOAT), dst)


def _from_float(x: Lanes, dst: DType) -> Lanes:
    """From f32, rounding once."""
    if dst.is_integer:
        return _to_integer(x, dst)
    if dst.kind is Kind.LUT:
        return _nearest(x, dst)
    if dst == dtypes.f32:
        return x
    if dst == dtypes.f64:
        return x.cast("fpext", DOUBLE)
    if dst == dtypes.bf16:
        return _to_bf16(x)
    if dst == dtypes.tf32:
        return _to_tf32(x)
    if dst == dtypes.f16 and x.has("f16c"):
        return _to_f16(x)
    if dst == dtypes.e8m0:
        return _to_e8m0(x)
    return _to_format(x, dst)


def _rounded(x: Lanes, dropped: int) -> Lanes:
    """The bits of an f32, those to be kept rounded to nearest even; NaN becomes anything."""
    bits = x.as_int()
    return bits + ((bits >> dropped & 1) + ((1 << (dropped - 1)) - 1))


def _to_f16(x: Lanes) -> Lanes:
    """By the instruction itself.

    LLVM turns `fptrunc` of an operation on extended values into one on f16, which it takes apart
    where the machine has none.
    """
    name, size, more = "llvm.x86.vcvtps2ph.256", 8, [V(I32, "0")]  # to nearest even
    if x.has("avx512f"):
        name, size = "llvm.x86.avx512.mask.vcvtps2ph.512", 16
        more += [x.w.splat(V(I16, "0"), size), V(I16, "-1")]  # all lanes
    rest, result = [Lanes(x.w, v) for v in more], vector(I16, size)
    code = by_chunks([x], size, lambda part: part.call_exactly(name, *rest, result=result))
    return code.as_element(HALF)


def _to_bf16(x: Lanes) -> Lanes:
    bits = x.is_nan().select(x.as_int().of(0x7FC00000), _rounded(x, 16))
    return _as_bf16(high_halves(bits))


def _as_bf16(x: Lanes) -> Lanes:
    """i16 lanes as what holds a bf16.

    Where that is LLVM's `bfloat`, nothing may move behind the bitcast: most machines have no
    vectors of it, and LLVM takes those apart.
    """
    element = element_type(dtypes.bf16)
    if element != x.element:
        x = Lanes(x.w, x.w.op(x.v.type, f"freeze {x.v}"))
    return x.as_element(element)


def _to_tf32(x: Lanes) -> Lanes:
    bits = _rounded(x, 13) & -(1 << 13)
    return x.is_nan().select(x.of(math.nan), bits.as_element(FLOAT))


def _to_format(x: Lanes, dst: DType) -> Lanes:
    """To a small float, or to f16 on machines without an instruction for it."""
    m, places = dst.mantissa_bits, dst.magnitude_bits
    greatest = dst.max if dst.bits <= 8 else 2.0**16  # which becomes infinity
    least, offset = (128 - dst.bias) << 23, (128 - dst.bias) << m
    bits = x.as_int()
    magnitude = (bits & 0x7FFFFFFF).call("smin", bits.of(_bits_of(greatest, FLOAT)))
    exponent = (magnitude & 0x7F800000).call("smax", bits.of(least))
    # The sum is k + 2^22 in its low bits, less the offset; an odd one would change what is even.
    magic = exponent + (((23 - m) << 23) + 0x00400000 - (offset if offset % 2 == 0 else 0))
    total = (magnitude.as_element(FLOAT) + magic.as_element(FLOAT)).as_int()
    code = total + (exponent >> (23 - m))
    if offset % 2:
        code = code - offset
    mask = (1 << places) - 1
    code = (code & mask) | ((bits >> (32 - dst.bits)) & ~mask)
    if dst.bits > 8:
        code = x.is_nan().select(code.of(dst.nan_code), code)
        return code.resized(I16).as_element(HALF)
    narrow = low_bytes(code)
    return x.is_nan().select(narrow.of(dst.nan_code), narrow)


def _to_e8m0(x: Lanes) -> Lanes:
    """Exponents, rounded up from 1.5 on; in f32, 2^-127 and 1.5 * 2^-127 are subnormal."""
    bits = x.as_int()
    normal = (bits + 0x00400000) >> 23
    least = bits.uge(0x00600000).select(bits.of(1), 0)
    code = bits.ult(0x00800000).select(least, normal.call("umin", bits.of(254)))
    negative_or_nan = (bits - 1).uge(0x7F800000)
    zero = (bits & 0x7FFFFFFF).eq(0)
    code = negative_or_nan.select(bits.of(255), code)
    return low_bytes(zero.select(bits.of(0), code))


def _to_integer(x: Lanes, dst: DType) -> Lanes:
    """From f32 or f64: toward zero, saturating, NaN to 0."""
    low, high = float(dst.min), float(dst.max)
    precision = 24 if x.element == FLOAT else 53
    exact = dst.bits - dst.is_signed <= precision
    if not exact:  # the greatest float below 2^bits
        high = math.ldexp(2.0 - 2.0 ** (1 - precision), dst.bits - dst.is_signed - 1)
    if dst.is_signed:
        inside = x.lt(low).select(x.of(low), x)
        inside = x.is_nan().select(x.of(0.0), inside)
    else:
        inside = x.gt(0.0).select(x, 0.0)
    inside = inside.gt(high).select(x.of(high), inside)
    wide = I32 if dst.bits < 32 else element_type(dst)
    unsigned = not dst.is_signed and dst.bits >= 32
    result = inside.cast("fptoui" if unsigned else "fptosi", wide)
    if not exact:
        result = x.gt(high).select(result.of(int(dst.max)), result)
    if dst.bits <= 8 and result.element == I32:
        return low_bytes(result, dst.is_signed)
    return result.resized(element_type(dst))


# codebooks


def _nearest(x: Lanes, dst: DType) -> Lanes:
    """The code of the entry nearest to an f32 or f64, NaN as 0.0."""
    starts, _, codes = _lut_starts(dst.values)
    exact = [float(s) for s in starts]
    if x.element == FLOAT:
        exact = [_float_from(s) for s in exact]
    number = x.is_nan().select(x.of(0.0), x)
    return _code_at(_place(number, exact, Lanes.ge), codes)


def _float_from(start: float) -> float:
    """The least f32 not below `start`, be it infinite."""
    with np.errstate(over="ignore"):
        near = np.float32(start)
    return float(near if float(near) >= start else np.nextafter(near, np.float32(np.inf)))


def _nearest_integer(x: Lanes, src: DType, dst: DType) -> Lanes:
    """The same of an i64 or u64, by integer comparisons."""
    _, starts, codes = _lut_starts(dst.values)
    reachable = [int(max(s, src.min)) for s in starts if s <= src.max]
    return _code_at(_place(x, reachable, Lanes.ge if src.is_signed else Lanes.uge), codes)


def _place(x: Lanes, starts: Sequence[int | float], reaches: Callable[..., Lanes]) -> Lanes:
    """How many of the increasing `starts` are not above x, as an i8.

    Up to 32 are counted one by one, more (on AVX-512 more than 3) are bisected.
    """
    integer = f"i{x.bits}"
    permutes = x.is_vector and x.element == FLOAT and x.has("avx512f")
    if len(starts) <= (3 if permutes else 32):
        total = x.filled(integer, 0)
        for start in starts:
            total = total + reaches(x, start).zext(integer)
        return total.resized(I8)
    step = size = 1 << len(starts).bit_length()
    never = math.nan if x.is_float else starts[-1]  # beyond the last start
    row = [*starts, *[never] * (size - len(starts))]
    place = x.filled(I32, 0)
    while True:
        step //= 2
        probe = x.of(row[step - 1])
        if step < size // 2:
            bits = [_bits_of(row[min(p + step, size) - 1], x.element) for p in range(size)]
            probe = lookup_wide(place, bits, integer).as_element(x.element)
        reached = reaches(x, probe)
        if step == 1:
            break
        place = reached.select(place + step, place)
    last = low_bytes(place) + reached.zext(I8)
    return last if x.is_float else last.call("umin", last.of(len(starts)))


def _bits_of(value: int | float, element: str) -> int:
    """A float or an integer as bits."""
    if element not in (FLOAT, DOUBLE):
        return int(value)
    code = "f" if element == FLOAT else "d"
    return int.from_bytes(struct.pack(f"<{code}", value), "little")


def _code_at(place: Lanes, codes: Any) -> Lanes:
    """The code of the entry at a place in increasing order."""
    entries = [int(c) for c in codes]
    if entries == list(range(len(entries))):
        return place
    entries += [entries[-1]] * ((1 << (len(entries) - 1).bit_length()) - len(entries))
    return lookup_bytes(place, entries)
