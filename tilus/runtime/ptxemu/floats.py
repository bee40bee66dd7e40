"""Float arithmetic with PTX's rounding, on arrays.

Values travel as float32 or float64 (`wide`), results are rounded once to the type asked for
(`narrow`). Where a float64 sum may itself round, it is rounded to odd, which no later rounding to a
type of at most 51 bits can notice (Boldo and Melquiond, IEEE Trans. Comp. 57(4), 2008). NaN results
of conversions, minima and half types are PTX's canonical ones; the payload of a NaN that f32 or f64
arithmetic returns is not part of the meaning.

Approximate instructions (`ex2.approx`, `sin.approx`, `div.full` ..) give the nearest value of their
type: hardware may differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from tilus import dtypes
from tilus.dtypes import DType
from tilus.runtime.ptxemu.types import TYPES, Array, Type

F16, BF16, F32, F64 = (TYPES[n] for n in ("f16", "bf16", "f32", "f64"))
ROUNDINGS = ("rn", "rz", "rm", "rp")
_FORMATS: dict[str, DType] = {
    "f16": dtypes.f16,
    "bf16": dtypes.bf16,
    "tf32": dtypes.tf32,
    "f32": dtypes.f32,
    "f64": dtypes.f64,
    "e4m3": dtypes.f8e4m3,
    "e5m2": dtypes.f8e5m2,
}
_NAN: dict[str, Any] = {
    "f16": np.uint16(0x7FFF).view(np.float16),
    "bf16": np.uint16(0x7FFF),
    "f32": np.uint32(0x7FFFFFFF).view(np.float32),
    "tf32": np.uint32(0x7FFFFFFF).view(np.float32),
    "f64": np.uint64(0x7FF8 << 48).view(np.float64),
    "e4m3": np.uint8(0x7F),
    "e5m2": np.uint8(0x7F),
}


def format_of(t: Type) -> DType:
    """The element type of tilus with the same codes."""
    return _FORMATS[t.element.name]


def wide(codes: Array, t: Type) -> Array:
    """The values of a float type as float32, or as float64 for f64."""
    name = t.element.name
    if name in ("f32", "f64"):
        return codes
    if name == "f16":
        return codes.astype(np.float32)
    if name == "bf16":
        return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if name == "tf32":
        return (codes.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return format_of(t).decode(codes)


def wide64(codes: Array, t: Type) -> Array:
    """The values of a float type as float64."""
    return wide(codes, t).astype(np.float64)


def narrow(values: Array, t: Type, mode: str = "rn", saturate: bool = False) -> Array:
    """Round float32 or float64 values to a type, as arrays of its dtype.

    Args:
        values: float32, float64.
        t: the type.
        mode: rn, rz, rm, rp, or rna (ties away from zero).
        saturate: finite values and infinities beyond the type's range become its largest value.
    """
    name = t.element.name
    if mode == "rn" and not saturate and values.dtype == t.dtype:
        return values
    if mode == "rn" and not saturate and name in ("f32", "f64"):
        return values.astype(t.dtype)
    dt = format_of(t)
    if saturate:
        values = np.where(np.isnan(values), values, np.clip(values, -float(dt.max), float(dt.max)))
    if mode != "rn":
        values = _directed(values.astype(np.float64), dt, mode)
    codes = dt.encode(values)
    out = codes if t.dtype.kind == "u" else codes.view(t.dtype)
    nan = np.isnan(values)
    return np.where(nan, _NAN[name], out) if np.count_nonzero(nan) else out


def _directed(x: Array, dt: DType, mode: str) -> Array:
    """Round float64 to what `dt` has, in direction `mode`; the result is a float64."""
    _, exponent = np.frexp(x)
    least = 1 - dt.bias  # the exponent of the smallest normal number
    unit = np.maximum(exponent - 1, least) - dt.mantissa_bits
    scaled = np.ldexp(x, -unit)
    if mode == "rna":
        rounded = np.copysign(np.floor(np.abs(scaled) + 0.5), x)
    else:
        rounded = {"rn": np.rint, "rz": np.trunc, "rm": np.floor, "rp": np.ceil}[mode](scaled)
    out = np.copysign(np.ldexp(rounded, unit), x)
    out = np.where(np.isfinite(x), out, x)
    beyond = np.isfinite(x) & (np.abs(out) > float(dt.max))
    keeps = (mode == "rz") | ((mode == "rm") & (x > 0)) | ((mode == "rp") & (x < 0))
    return np.where(beyond, np.copysign(np.where(keeps, float(dt.max), np.inf), x), out)


def flush(x: Array) -> Array:
    """Subnormal float32 or float16 values become zeros of their sign."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)


def saturate01(x: Array) -> Array:
    """Clamp to [0, 1]; NaN becomes +0."""
    clipped = np.minimum(np.maximum(x, x.dtype.type(0)), x.dtype.type(1))
    return np.asarray(np.where(np.isnan(x), x.dtype.type(0), clipped) + x.dtype.type(0))


def odd_sum(p: Array, c: Array) -> Array:
    """p + c of float64, rounded to odd."""
    s = p + c
    part = s - p
    error = (p - (s - part)) + (c - part)
    bits = s.view(np.int64)
    inexact = (error != 0) & (bits & 1 == 0) & np.isfinite(s) & ~np.isnan(error)
    if not np.count_nonzero(inexact):
        return s
    outward = (error > 0) == (s > 0)
    return np.where(inexact, bits + np.where(outward, 1, -1), bits).view(np.float64)


def _zero_below(s: Array, p: Array, c: Array) -> Array:
    """Rounding down, a sum p + c that is exactly 0 is -0, but for +0 + +0."""
    both = (p == 0) & (c == 0) & ~np.signbit(p) & ~np.signbit(c)
    return np.where((s == 0) & ~both, -0.0, s)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32, rounded to nearest once."""
    product = a.astype(np.float64) * b
    s = product + c
    low = s.view(np.uint64) & np.uint64(0x1FFFFFFF)
    # float64 holds the product exactly; its sum rounds to the wrong float32 only from a tie, or
    # where float32 is subnormal and ties lie elsewhere.
    risky = (low == np.uint64(0x10000000)) | (np.abs(s) < 2.0**-126)
    if np.count_nonzero(risky):
        s = odd_sum(product, c.astype(np.float64))
    return s.astype(np.float32)


def fma64(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float64, rounded to nearest once."""
    native = a * b + c
    sizes = [np.abs(x) for x in (a, b, c, native)]
    normal = np.ones(a.shape, np.bool_)
    for size in sizes:
        normal &= (size > 2.0**-400) & (size < 2.0**400)
    high, low = _two_product(a, b)
    t_high, t_low = _two_sum(c, low)
    v_high, v_low = _two_sum(high, t_high)
    fast = v_high + odd_sum(t_low, v_low)
    out = np.where(normal, fast, native)
    for at in np.argwhere(~normal & np.isfinite(native)):
        k = tuple(at)
        exact = Fraction(float(a[k])) * Fraction(float(b[k])) + Fraction(float(c[k]))
        if exact:
            out[k] = _nearest64(exact)
    return out


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    s = a + b
    part = s - a
    return s, (a - (s - part)) + (b - part)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    def split(x: Array) -> tuple[Array, Array]:
        big = x * 134217729.0  # 2^27 + 1
        high = big - (big - x)
        return high, x - high

    p = a * b
    (ah, al), (bh, bl) = split(a), split(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _nearest64(x: Fraction) -> float:
    try:
        return float(x)
    except OverflowError:
        return np.inf if x > 0 else -np.inf


def _directed64(exact: Callable[..., Fraction], nearest: Array, mode: str, *given: Array) -> Array:
    """Move results rounded to nearest to the neighbour that a direction asks for."""
    out = nearest.copy()
    for at in np.argwhere(np.isfinite(nearest)):
        k = tuple(at)
        error = exact(*(Fraction(float(x[k])) for x in given)) - Fraction(float(nearest[k]))
        down = mode == "rm" or (mode == "rz" and nearest[k] > 0)
        if error and (error < 0) == down:
            out[k] = np.nextafter(nearest[k], -np.inf if down else np.inf)
    return out


_EXACT: dict[str, Callable[..., Fraction]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "rcp": lambda a: 1 / a,
    "fma": lambda a, b, c: a * b + c,
}
# As ufuncs where there are any: those write their results in place.
_NEAREST: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "rcp": np.reciprocal,
    "sqrt": np.sqrt,
}
_ODD: dict[str, Callable[..., Array]] = {
    **_NEAREST,  # these never come so close to a float32 that their rounding matters
    "add": odd_sum,
    "sub": lambda a, b: odd_sum(a, -b),
    "fma": lambda a, b, c: odd_sum(a * b, c),
}


def rounded(op: str, t: Type, mode: str) -> Callable[..., Array]:
    """The function of arrays of `t` for add, sub, mul, div, rcp, sqrt or fma."""
    name = t.element.name
    if mode == "rm" and op in ("add", "sub", "fma"):
        return _rounded_down(op, t)
    if name == "f64":
        nearest = fma64 if op == "fma" else _NEAREST[op]
        if mode == "rn":
            return nearest
        if op == "sqrt":
            return lambda a: _sqrt64(a, mode)
        return lambda *x: _directed64(_EXACT[op], nearest(*x), mode, *x)
    if name == "f32" and mode == "rn":
        return fma32 if op == "fma" else _NEAREST[op]
    if name == "f16" and op != "fma" and mode == "rn":
        return _NEAREST[op]
    function = _ODD[op]
    return lambda *x: narrow(function(*(wide64(v, t) for v in x)), t, mode)


def _rounded_down(op: str, t: Type) -> Callable[..., Array]:
    """Sums rounded down, whose zeros are negative."""

    def function(*given: Array) -> Array:
        values = [wide64(x, t) for x in given]
        p = values[0] * values[1] if op == "fma" else values[0]
        c = -values[-1] if op == "sub" else values[-1]
        if t.name == "f64":
            nearest = fma64 if op == "fma" else _NEAREST[op]
            s = _directed64(_EXACT[op], nearest(*values), "rm", *values)
        else:
            s = _ODD[op](*values)
        return narrow(_zero_below(s, p, c), t, "rm")

    return function


def _sqrt64(a: Array, mode: str) -> Array:
    out = np.sqrt(a)
    for at in np.argwhere(np.isfinite(out)):
        k = tuple(at)
        error = Fraction(float(a[k])) - Fraction(float(out[k])) ** 2
        if error and (error < 0) == (mode in ("rm", "rz")):
            out[k] = np.nextafter(out[k], -np.inf if error < 0 else np.inf)
    return out


def decorated(
    core: Callable[..., Array], t: Type, ftz: bool, sat: bool, relu: bool = False
) -> Callable[..., Array]:
    """`core` with subnormals flushed, the result clamped to [0, 1], or to positive values."""
    if not (ftz or sat or relu):
        return core

    def function(*given: Array) -> Array:
        if ftz:
            given = tuple(_via(flush, x, t) for x in given)
        out = core(*given)
        if ftz:
            out = _via(flush, out, t)
        if sat:
            out = _via(saturate01, out, t)
        if relu:
            out = _via(_relu, out, t)
        return out

    return function


def _via(function: Callable[[Array], Array], x: Array, t: Type) -> Array:
    """Apply a function of floats to codes."""
    if t.dtype.kind == "f":
        return function(x)
    return narrow(function(wide(x, t)), t)


def _relu(x: Array) -> Array:
    """Negative values become +0; NaN stays."""
    return np.where(x <= 0, x.dtype.type(0), x)


def extremum(t: Type, largest: bool, nan: bool, xorsign: bool) -> Callable[..., Array]:
    """min and max: a NaN loses against a number unless `nan`; -0 is less than +0."""

    def function(*given: Array) -> Array:
        a, b = (wide(x, t) for x in given[:2])
        sign: Any = None
        if xorsign:
            sign = np.signbit(a) ^ np.signbit(b)
            a, b = np.abs(a), np.abs(b)
        out = np.where((a > b) if largest else (a < b), a, b)
        equal = a == b
        if np.count_nonzero(equal):
            first = ~np.signbit(a) if largest else np.signbit(a)
            out = np.where(equal, np.where(first, a, b), out)
        a_nan, b_nan = np.isnan(a), np.isnan(b)
        if np.count_nonzero(a_nan) or np.count_nonzero(b_nan):
            if nan:
                out = np.where(a_nan | b_nan, np.nan, out).astype(a.dtype)
            else:
                out = np.where(a_nan, b, np.where(b_nan, a, out))
        if xorsign:
            out = np.where(sign, -np.abs(out), np.abs(out))
        bad = np.isnan(out)
        result = narrow(out, t) if len(given) == 2 else function(narrow(out, t), *given[2:])
        return np.where(bad, _NAN[t.element.name], result) if np.count_nonzero(bad) else result

    return function


def approximate(function: Callable[[Array], Array], t: Type) -> Callable[[Array], Array]:
    """A function of float64 as one of `t`, rounded to nearest."""
    return lambda x: narrow(function(wide64(x, t)), t)
