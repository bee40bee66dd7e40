"""Elementary functions of f32 as vector arithmetic: no calls, no branches, no gathers.

Greatest errors found, in units of the last place of the exact result, with and without fused
multiply-add, on every 41st float (`tests/codegen/test_mathlib.py` tries fewer in each run):

    exp       1.0    everywhere: overflow to inf, gradual underflow to subnormals and 0
    exp2      1.1    the same; exact where x is an integer
    log       0.9    everywhere: subnormals, -inf at +-0, NaN below 0, inf at inf
    log2      1.1    the same; exact at powers of two
    sigmoid   2.3    everywhere; negative arguments keep their relative precision
    tanh      2.6    everywhere
    erf       1.2    everywhere
    sin cos   2.0    |x| <= 2^20; beyond, the C library's of f64, lane by lane

f64 goes to the C library, lane by lane.

**Reduction.** exp x = 2^n e^r, where n = round(x log2 e) comes from adding 1.5 * 2^23 (n is then in
the low bits of the sum) and r = x - n ln2, |r| <= ln2 / 2, with ln2 in two parts, the first of so
few bits that n times it is exact. 2^n is multiplied in two halves, as neither 2^128 nor 2^-149 is a
normal number: the first product is exact, the second rounds once. log x = k ln2 + log(1 + f), 1 + f
in [sqrt(1/2), sqrt 2), from the bits of x less those of sqrt(1/2). sin and cos: x - n pi/2 in f64,
with pi/2 in two parts of which the first has 33 bits, exact for n < 2^20; then in f32.

**Polynomials** minimise the greatest relative error of the whole function (iteratively reweighted
least squares on 801 Chebyshev points, values in 40 digits), the coefficients rounded to f32 one at
a time, lowest power first, the rest fitted anew after each: `tests/codegen/fit.py` makes them again
from the functions. Their own error:

    e^r = 1 + r + r^2 Q(r)              |r| <= ln2 / 2           2^-28.2
    2^r = 1 + r Q(r)                    |r| <= 1/2               2^-28.3
    log(1+f) = f - f^2/2 + f^3 P(f)     f in [-0.293, 0.414]     2^-27.4
    log2(1+f) = f log2(e) + f^2 P(f)    the same                 2^-27.7
    sin r = r (1 + s P(s)), s = r^2     |r| <= pi/4              2^-27.9
    cos r = 1 - s/2 + s^2 Q(s)          the same                 2^-33.0
    erf t = t + t P(t^2)                t <= 0.9                 2^-26.1
    erfc t = exp(-t P(t))               0.9 <= t <= 4            2^-28.3 of erf t

**The rest.** tanh y = E / (E + 2) with E = e^2y - 1 = 2^n (e^r - 1) + (2^n - 1), so that nothing
cancels near 0. sigmoid x = (1 or e) / (1 + e) with e = exp(-|x|).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tilus.codegen.llvm.lanes import Lanes, mangled
from tilus.codegen.llvm.lookup import by_chunks
from tilus.codegen.llvm.writer import DOUBLE, FLOAT, I32, I64, PTR, V, Writer

EXP = (0.49999994, 0.166665211, 0.0416682735, 0.00836868398, 0.00138200796)
EXP2 = (0.693147182, 0.240226477, 0.0555035956, 0.00961850304, 0.00133909984, 0.000153278423)
LOG = (
    *(0.333333313, -0.250008196, 0.200012416, -0.166234091),
    *(0.1420158, -0.131596103, 0.127622157, -0.0763643533),
)
LOG2 = (
    *(-0.721347332, 0.480898201, -0.36069867, 0.288571417, -0.239567354),
    *(0.204486579, -0.191390827, 0.187088192, -0.110255882),
)
SIN = (-0.166666552, 0.00833218731, -0.000195179004)
COS = (0.0416666456, -0.00138873095, 2.44323273e-05)
ERF_SMALL = (
    *(0.128379151, -0.376125067, 0.112819761),
    *(-0.0267731398, 0.00500373263, -0.000604937493),
)
ERF_LARGE = (
    *(1.12852001, 0.635699153, 0.105287157),
    *(-0.0229062345, 0.00322004058, -0.000214602915),
)

ROUND = 1.5 * 2.0**23  # added to an f32, its last bit is worth 1
ROUND64 = 1.5 * 2.0**52
ROUND_BITS = 0x4B400000
LN2_HIGH, LN2_LOW = float.fromhex("0x1.62e4p-1"), float.fromhex("0x1.7f7d1cf79abcap-20")
LOG2E = 1 / math.log(2)
LOG2E_LOW = LOG2E - float.fromhex("0x1.715476p+0")  # what the f32 lacks
LOG2E_TOP = float.fromhex("0x1.71p+0")
HALF_PI_HIGH = float.fromhex("0x1.921fb544p+0")
HALF_PI_LOW = float.fromhex("0x1.0b4611a626331p-34")
SQRT_HALF_BITS = 0x3F3504F3
SMALL_ANGLE = 2.0**20


def polynomial(x: Lanes, coefficients: Sequence[float]) -> Lanes:
    """The value at `x` by Horner's rule, lowest power first."""
    total = x.of(coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total.fma(x, c)
    return total


def _at_most(x: Lanes, bound: float) -> Lanes:
    """The smaller one; NaN stays."""
    return x.gt(bound).select(x.of(bound), x)


def _at_least(x: Lanes, bound: float) -> Lanes:
    return x.lt(bound).select(x.of(bound), x)


# exponentials


def _split_exp(x: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """(e^r - 1, n, n as the low bits of an integer) with x = n ln2 + r."""
    shifted = x.fma(LOG2E, ROUND)
    n = shifted - ROUND
    r = (-n).fma(LN2_HIGH, x)
    r = (-n).fma(LN2_LOW, r)
    return (r * r).fma(polynomial(r, EXP), r), n, shifted.as_int()


def _scaled(p: Lanes, n: Lanes, n_bits: Lanes) -> Lanes:
    """p * 2^n, p about 1 and |n| <= 254, rounded once."""
    if p.has("avx512f"):
        name = "llvm.x86.avx512.mask.scalef.ps.512"
        rest = [Lanes(p.w, V("i16", "-1")), Lanes(p.w, V(I32, "4"))]  # all lanes, default rounding
        return by_chunks([p, n], 16, lambda a, b: a.call_exactly(name, b, a, *rest))
    field = n_bits << 23  # n in the exponent's place
    half = field.sar(1) & 0xFF800000
    first, second = ((part + 0x3F800000).as_element(FLOAT) for part in (half, field - half))
    return p * first * second


def exp(x: Lanes) -> Lanes:
    """e^x."""
    x = _at_least(_at_most(x, 89.0), -104.0)  # inf and 0 from there on
    m, n, n_bits = _split_exp(x)
    return _scaled(m + 1.0, n, n_bits)


def exp2(x: Lanes) -> Lanes:
    """2^x."""
    x = _at_least(_at_most(x, 129.0), -151.0)
    shifted = x + ROUND
    n = shifted - ROUND
    r = x - n
    return _scaled(r.fma(polynomial(r, EXP2), 1.0), n, shifted.as_int())


def sigmoid(x: Lanes) -> Lanes:
    """1 / (1 + e^-x)."""
    m, n, n_bits = _split_exp(_at_least(-x.call("fabs"), -104.0))
    e = _scaled(m + 1.0, n, n_bits)
    return x.lt(0.0).select(e, 1.0) / (e + 1.0)


def tanh(x: Lanes) -> Lanes:
    """Hyperbolic tangent; 1 from 9.02 on."""
    y = _at_most(x.call("fabs"), 9.1)
    m, _, n_bits = _split_exp(y + y)
    power = ((n_bits << 23) + 0x3F800000).as_element(FLOAT)
    e = power.fma(m, power - 1.0)
    return (e / (e + 2.0)).call("copysign", x)


def erf(x: Lanes) -> Lanes:
    """The error function; 1 from 3.92 on."""
    t = _at_most(x.call("fabs"), 4.0)
    small = x.fma(polynomial(x * x, ERF_SMALL), x)
    m, _, n_bits = _split_exp(-(t * polynomial(t, ERF_LARGE)))
    power = ((n_bits << 23) + 0x3F800000).as_element(FLOAT)
    large = 1.0 - power.fma(m, power)
    return t.lt(0.9).select(small, large.call("copysign", x))


# logarithms


def _split_log(x: Lanes) -> tuple[Lanes, Lanes]:
    """(k, f) with x = 2^k (1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1), for positive finite x."""
    subnormal = x.lt(2.0**-126)
    bits = subnormal.select(x * 2.0**23, x).as_int() - SQRT_HALF_BITS
    k = bits.sar(23) - subnormal.select(bits.of(23), 0)
    m = ((bits & 0x7FFFFF) + SQRT_HALF_BITS).as_element(FLOAT)
    return k.cast("sitofp", FLOAT), m - 1.0


def _log_special(x: Lanes, regular: Lanes) -> Lanes:
    """`regular` for positive finite x; else what a logarithm is there."""
    ordinary = (x.as_int() - 1).ult(0x7F7FFFFF)
    odd = x.eq(0.0).select(x.of(-math.inf), x.lt(0.0).select(x.of(math.nan), x))
    return ordinary.select(regular, odd)


def log(x: Lanes) -> Lanes:
    """Natural logarithm."""
    k, f = _split_log(x)
    s = f * f
    small = s.fma(-0.5, (s * f) * polynomial(f, LOG))
    low = k.fma(LN2_LOW, small)
    return _log_special(x, k.fma(LN2_HIGH, f + low))


def log2(x: Lanes) -> Lanes:
    """Logarithm to base 2."""
    k, f = _split_log(x)
    square = f * f
    if x.has("fma"):
        high = f * LOG2E
        low = f.fma(LOG2E, -high) + square.fma(polynomial(f, LOG2), f * LOG2E_LOW)
    else:
        top = (f.as_int() & 0xFFFFF000).as_element(FLOAT)
        high = top * LOG2E_TOP  # exact
        low = square * polynomial(f, LOG2) + (f - top) * LOG2E + top * (LOG2E - LOG2E_TOP)
    return _log_special(x, k + (high + low))


# trigonometry


def sin(x: Lanes) -> Lanes:
    """Sine."""
    return _trigonometric(x, "sin")


def cos(x: Lanes) -> Lanes:
    """Cosine."""
    return _trigonometric(x, "cos")


def _trigonometric(x: Lanes, name: str) -> Lanes:
    """Through a function of the module's own, which may branch: large angles are rare."""
    function = f"{name}.{mangled(x.v.type)}"
    if function not in x.w.module.helpers:
        x.w.module.helpers[function] = _trigonometric_function(x.w, name, function, x.v.type)
    return Lanes(x.w, x.w.op(x.v.type, f"call {x.v.type} @{function}({x.v})"))


def _small_angle(x: Lanes, name: str) -> Lanes:
    wide = x.cast("fpext", DOUBLE)
    shifted = wide.fma(2 / math.pi, ROUND64)
    n = shifted - ROUND64
    r = (-n).fma(HALF_PI_LOW, (-n).fma(HALF_PI_HIGH, wide)).cast("fptrunc", FLOAT)
    quadrant = shifted.as_int().resized(I32)
    s = r * r
    sine = r * s.fma(polynomial(s, SIN), 1.0)
    cosine = (s * s).fma(polynomial(s, COS), s.fma(-0.5, 1.0))
    if name == "cos":
        quadrant = quadrant + 1
    value = (quadrant & 1).eq(0).select(sine, cosine)
    return (value.as_int() ^ ((quadrant & 2) << 30)).as_element(FLOAT)


def _trigonometric_function(outer: Writer, name: str, function: str, type_: str) -> str:
    w = Writer(outer.module)
    x = Lanes(w, V(type_, "%x"))
    small = _small_angle(x, name)
    inside = x.call("fabs").le(SMALL_ANGLE)
    if x.is_vector:
        flags = w.bitcast(inside.v, f"i{x.lanes}")
        all_small = w.compare("icmp", "eq", flags, V(flags.type, "-1"))
    else:
        all_small = inside.v
    w.branch(all_small, "small", "large")
    w.label("large")
    w.store(x.v, V(PTR, "%slot"), 64)
    w.line(f"call void @{_each(outer, name)}(ptr %slot, i64 {x.lanes})")
    w.line(f"ret {w.load(type_, V(PTR, '%slot'), 64)}")
    w.closed = True
    w.label("small")
    w.line(f"ret {small.v}")
    head = [f"define internal {type_} @{function}({type_} %x) {{", "entry:"]
    return "\n".join([*head, f"  %slot = alloca {type_}, align 64", *w.lines, "}", ""])


def _each(outer: Writer, name: str) -> str:
    """The C library's function of each of `n` floats in memory, kept small and out of the way."""
    function = f"{name}.each"
    if function in outer.module.helpers:
        return function
    w = Writer(outer.module)
    w.label("next")
    i = w.op(I64, "phi i64 [ 0, %entry ], [ %i.next, %next ]")
    place = w.gep(V(PTR, "%p"), i, FLOAT)
    one = w.cast("fpext", w.load(FLOAT, place, 4), DOUBLE)
    w.store(w.cast("fptrunc", w.call(DOUBLE, f"llvm.{name}.f64", one), FLOAT), place, 4)
    w.line(f"%i.next = add i64 {i.ref}, 1")
    w.branch(w.compare("icmp", "eq", V(I64, "%i.next"), V(I64, "%n")), "done", "next")
    w.label("done")
    w.ret()
    head = f"define internal void @{function}(ptr %p, i64 %n) cold noinline minsize {{"
    outer.module.helpers[function] = "\n".join([head, "entry:", *w.lines, "}", ""])
    return function


# double precision


def library(x: Lanes, name: str) -> Lanes:
    """A function of f64 as the C library has it."""
    if name == "sigmoid":
        return 1.0 / (library(-x, "exp") + 1.0)
    if name != "erf":
        return x.call(name)
    if not x.is_vector:
        return x.call_exactly(name)
    out = V(x.v.type, "poison")
    for lane in range(x.lanes):
        one = x.w.call(DOUBLE, name, x.w.extract(x.v, lane))
        out = x.w.op(out.type, f"insertelement {out}, {one}, i64 {lane}")
    return Lanes(x.w, out)


_SINGLE: dict[str, Callable[[Lanes], Lanes]] = {
    "exp": exp,
    "exp2": exp2,
    "log": log,
    "log2": log2,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "erf": erf,
    "sin": sin,
    "cos": cos,
}
FUNCTIONS = frozenset(_SINGLE)


def function(name: str, x: Lanes) -> Lanes:
    """One of `FUNCTIONS` of floats or doubles."""
    return _SINGLE[name](x) if x.element == FLOAT else library(x, name)
