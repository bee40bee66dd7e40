"""Elementwise instructions on LLVM scalars and vectors, as `ir.instructions.arith` defines them.

f16 and bf16 (and tf32) are computed in f32 and rounded once. Integers of fewer than 8 bits are
computed in i8 and brought back to their range. Without SSE4.1 no instruction rounds to integers;
then 2^23 (or 2^52) is added and subtracted, which rounds to nearest even.

Integer division has no vector instruction. 8 and 16 bits are divided in f32, 32 bits in f64: the
rounded quotient q' of integers below 2^w, w <= 16 (or 32), is never an integer that the exact one q
does not reach, since q is at least 1/b away from any integer n it differs from, more than the
rounding error of at most n 2^-24 (n 2^-53) as n b < 2^24 (2^53). So truncating q' is exact. A zero
divisor is replaced by 1, and -1 by 1 and a negation, as INT_MIN / -1 does not fit.
"""

from __future__ import annotations

from collections.abc import Callable

from tilus import dtypes
from tilus.codegen.llvm import mathlib
from tilus.codegen.llvm.convert import converted, exactly, normalized, widened
from tilus.codegen.llvm.lanes import Lanes
from tilus.codegen.llvm.lookup import by_chunks
from tilus.codegen.llvm.writer import DOUBLE, FLOAT, I16, I32, V, Writer
from tilus.dtypes import DType, Kind

_NARROW_FLOATS = (dtypes.f16, dtypes.bf16, dtypes.tf32)


def unary(w: Writer, opcode: str, dtype: DType, x: V) -> V:
    """A `Unary` instruction."""
    return _unary(opcode, dtype, Lanes(w, x)).v


def binary(w: Writer, opcode: str, dtype: DType, a: V, b: V) -> V:
    """A `Binary` instruction other than a comparison.

    A zero divisor gives any number; so does a shift by more than the width.
    """
    x, y = Lanes(w, a), Lanes(w, b)
    if dtype.kind is Kind.BOOL or opcode in _BITWISE:
        return _BITWISE[opcode](x, y).v
    if dtype.is_integer:
        return normalized(_INTEGER[opcode](x, y, dtype), dtype).v
    result = _FLOAT[opcode](widened(x, dtype), widened(y, dtype))
    return _narrowed(result, dtype, opcode in ("minimum", "maximum")).v


def compare(w: Writer, opcode: str, dtype: DType, a: V, b: V) -> V:
    """A `Compare` instruction; the result is i1, or a vector of it."""
    x, y = (widened(Lanes(w, v), dtype) for v in (a, b))
    if dtype.is_float:
        predicate = {"ne": "une"}.get(opcode, f"o{opcode}")
        return w.compare("fcmp", predicate, x.v, y.v)
    sign = "" if opcode in ("eq", "ne") else "s" if dtype.is_signed else "u"
    return w.compare("icmp", sign + opcode, x.v, y.v)


def where(w: Writer, cond: V, a: V, b: V) -> V:
    """The `Where` instruction."""
    return w.select(cond, a, b)


def fma(w: Writer, dtype: DType, a: V, b: V, c: V) -> V:
    """The `Fma` instruction."""
    x, y, z = (widened(Lanes(w, v), dtype) for v in (a, b, c))
    if dtype == dtypes.f64:
        return x.call("fma", y, z).v  # of the C library if need be
    if dtype == dtypes.f32 and x.has("fma"):
        return x.fma(y, z).v
    if dtype == dtypes.f16 or x.has("fma"):
        return converted(_odd_fma(x, y, z), dtypes.f32, dtype).v
    x, y, z = (v.cast("fpext", DOUBLE) for v in (x, y, z))  # where no product overflows
    return converted(_odd_fma(x, y, z), dtypes.f64, dtype).v


def _odd_fma(x: Lanes, y: Lanes, z: Lanes) -> Lanes:
    """x * y + z rounded to odd, so that it can be rounded again, if half the bits hold x and y.

    Then the product is exact; what rounding the sum loses is found by Knuth's algorithm.
    """
    product = x * y
    total = x.fma(y, z)
    back = total - product
    lost = (product - (total - back)) + (z - back)
    bits = total.as_int()
    outward = (lost.as_int() ^ bits).sar(x.bits - 1) | 1  # -1 where the exact sum is nearer to 0
    even = (bits & 1).eq(0)
    inexact = lost.call("fabs").gt(0.0)  # not if it is NaN, as it is beside infinities
    return (inexact & even).select(bits + outward, bits).as_element(x.element)


def _narrowed(x: Lanes, dtype: DType, exact: bool = False) -> Lanes:
    """An f32 rounded to the type whose arithmetic it was; `exact` if it is a value of it."""
    if dtype not in _NARROW_FLOATS:
        return x
    return exactly(x, dtype) if exact else converted(x, dtypes.f32, dtype)


# one operand


def _unary(opcode: str, dtype: DType, x: Lanes) -> Lanes:
    if opcode == "invert":
        return normalized(~x, dtype)
    if dtype.is_integer:
        if opcode == "neg":
            return normalized(-x, dtype)
        if opcode != "abs":
            raise KeyError(f"{opcode} of {dtype}")
        return normalized(x.lt(0).select(-x, x), dtype) if dtype.is_signed else x
    if opcode in _SIGNS:
        top = 1 << (x.bits - 1)
        bits = x.as_int()
        return (bits ^ top if opcode == "neg" else bits & (top - 1)).as_element(x.element)
    wide = widened(x, dtype)
    if opcode in mathlib.FUNCTIONS:
        return _narrowed(mathlib.function(opcode, wide), dtype)
    if opcode in _ROUNDINGS:
        return _narrowed(_rounded(opcode, wide, dtype == dtypes.f16), dtype, exact=True)
    root = wide.call("sqrt")
    return _narrowed(root if opcode == "sqrt" else _RSQRT[opcode](root), dtype)


_SIGNS = ("neg", "abs")
_RSQRT: dict[str, Callable[[Lanes], Lanes]] = {"rsqrt": lambda root: 1.0 / root}
_ROUNDINGS = ("round", "floor", "ceil", "trunc")  # in the order of x86's codes for them


def _rounded(opcode: str, x: Lanes, was_half: bool) -> Lanes:
    """To an integer, the sign of a zero kept."""
    if was_half and x.has("f16c"):
        return _rounded_by_name(opcode, x)
    if x.has("sse4.1"):
        return x.call(opcode if opcode != "round" else "rint")
    magnitude = x.call("fabs")
    big = 2.0 ** (23 if x.element == FLOAT else 52)
    near = (magnitude + big) - big
    if opcode == "trunc":
        near = near - near.gt(magnitude).select(x.of(1.0), 0.0)
    near = near.call("copysign", x)
    if opcode == "floor":
        near = near - near.gt(x).select(x.of(1.0), 0.0)
    elif opcode == "ceil":
        near = near + near.lt(x).select(x.of(1.0), 0.0)
    return magnitude.lt(big).select(near.call("copysign", x), x)


def _rounded_by_name(opcode: str, x: Lanes) -> Lanes:
    """By the instruction itself: LLVM makes `floor` of an extended f16 one of f16, lane by lane."""
    how = Lanes(x.w, V(I32, str(8 + _ROUNDINGS.index(opcode))))  # 8: no exceptions
    if not x.has("avx512f"):
        return by_chunks([x], 8, lambda part: part.call_exactly("llvm.x86.avx.round.ps.256", how))
    name = "llvm.x86.avx512.mask.rndscale.ps.512"
    every, current = Lanes(x.w, V(I16, "-1")), Lanes(x.w, V(I32, "4"))
    return by_chunks([x], 16, lambda part: part.call_exactly(name, how, part, every, current))


# two operands

_BITWISE: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "bitand": lambda a, b: a & b,
    "bitor": lambda a, b: a | b,
    "bitxor": lambda a, b: a ^ b,
}

_FLOAT: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "minimum": lambda a, b: _number(a.lt(b), a, b),
    "maximum": lambda a, b: _number(a.gt(b), a, b),
}


def _number(first: Lanes, a: Lanes, b: Lanes) -> Lanes:
    """`a` if it is the first or `b` is NaN, else `b`."""
    return b.is_nan().select(a, first.select(a, b))


_INTEGER: dict[str, Callable[[Lanes, Lanes, DType], Lanes]] = {
    "add": lambda a, b, t: a + b,
    "sub": lambda a, b, t: a - b,
    "mul": lambda a, b, t: a * b,
    "floordiv": lambda a, b, t: _divided(a, b, t)[0],
    "mod": lambda a, b, t: _divided(a, b, t)[1],
    "minimum": lambda a, b, t: a.call("smin" if t.is_signed else "umin", b),
    "maximum": lambda a, b, t: a.call("smax" if t.is_signed else "umax", b),
    "shl": lambda a, b, t: a << (b & (a.bits - 1)),
    "shr": lambda a, b, t: _shifted(a, b & (a.bits - 1), t),
}


def _shifted(a: Lanes, count: Lanes, dtype: DType) -> Lanes:
    return a.sar(count) if dtype.is_signed else a >> count


def _divided(a: Lanes, b: Lanes, dtype: DType) -> tuple[Lanes, Lanes]:
    """a // b and a % b, rounded down."""
    zero = b.eq(0)
    if not dtype.is_signed:
        quotient = _quotient(a, zero.select(b.of(1), b), dtype)
        return quotient, a - quotient * b
    negated = b.eq(-1)
    quotient = _quotient(a, (zero | negated).select(b.of(1), b), dtype)
    quotient = negated.select(-a, quotient)
    rest = a - quotient * b  # of the sign of a, smaller than b
    down = (rest ^ b).lt(0) & rest.ne(0)
    return quotient - down.zext(a.element), down.select(rest + b, rest)


def _quotient(a: Lanes, b: Lanes, dtype: DType) -> Lanes:
    """a / b toward zero; b is neither 0 nor -1 where that would trap."""
    opcode = "sdiv" if dtype.is_signed else "udiv"
    constant = not b.v.ref.startswith("%")
    if not a.is_vector or a.bits == 64 or constant:
        return Lanes(a.w, a.w.binary(opcode, a.v, b.v))
    wide, real = (I32, FLOAT) if a.bits <= 16 else (I32, DOUBLE)
    signed = dtype.is_signed or a.bits <= 16
    to, back = ("sitofp", "fptosi") if signed else ("uitofp", "fptoui")
    x, y = (n.resized(wide, dtype.is_signed).cast(to, real) for n in (a, b))
    return (x / y).cast(back, wide).resized(a.element)
