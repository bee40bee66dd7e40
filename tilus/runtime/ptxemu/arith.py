"""Arithmetic instructions, of integers and of floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilus.runtime.ptxemu.floats import ROUNDINGS, approximate, decorated, extremum, rounded
from tilus.runtime.ptxemu.syntax import Instruction
from tilus.runtime.ptxemu.table import Alu, Modifiers, alu, not_emulated
from tilus.runtime.ptxemu.types import S32, TYPES, U32, Array, Type, unsigned, wider


def clamp(values: Array, t: Type) -> Array:
    """Saturate integers to a type."""
    info = np.iinfo(t.dtype)
    return np.clip(values, info.min, info.max).astype(t.dtype)


def _float_alu(i: Instruction, m: Modifiers, op: str, count: int) -> Alu:
    mode = m.choice(*ROUNDINGS, default="rn")
    ftz, sat, relu = m.flag("ftz"), m.flag("sat"), m.flag("relu")
    t = m.type()
    if m.flag("f32"):  # the older spelling of mixed operands
        raise not_emulated(i)
    return Alu(decorated(rounded(op, t, mode), t, ftz, sat, relu), (t,), (t,) * count)


def _has_float(i: Instruction) -> bool:
    return any(TYPES[m].is_float for m in i.modifiers if m in TYPES)


@alu("add", "sub")
def _add(i: Instruction, m: Modifiers) -> Alu:
    if _has_float(i):
        return _float_alu(i, m, i.opcode, 2)
    carry, sat = m.flag("cc"), m.flag("sat")
    t = m.type()
    if carry:
        u = unsigned(t)
        if i.opcode == "add":
            return Alu(_add_carry, (u,), (u, u), carry_out=True)
        return Alu(lambda a, b: (a - b, a >= b), (u,), (u, u), carry_out=True)
    function: Any = np.add if i.opcode == "add" else np.subtract
    if sat:
        big = np.int64
        return Alu(lambda a, b: clamp(function(a.astype(big), b.astype(big)), t), (t,), (t, t))
    return Alu(function, (t,), (t, t))


def _add_carry(a: Array, b: Array) -> tuple[Array, Array]:
    s = a + b
    return s, s < a


@alu("addc", "subc")
def _addc(i: Instruction, m: Modifiers) -> Alu:
    """With a borrow, the carry flag is 0."""
    carry = m.flag("cc")
    t = unsigned(m.type())
    add = i.opcode == "addc"

    def function(a: Array, b: Array, flag: Array) -> Any:
        b = b if add else ~b
        first = a + b
        out = first + flag.astype(t.dtype)
        return (out, (first < a) | (out < first)) if carry else out

    return Alu(function, (t,), (t, t), carry_in=True, carry_out=carry)


def high_product(a: Array, b: Array) -> Array:
    """The high half of a product."""
    kind, bits = a.dtype.kind, a.dtype.itemsize * 8
    if bits < 64:
        big = np.dtype(f"{kind}{bits // 4}")
        return np.asarray(((a.astype(big) * b.astype(big)) >> big.type(bits)).astype(a.dtype))
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    xl, xh, yl, yh = x & low, x >> half, y & low, y >> half
    middle = xh * yl + ((xl * yl) >> half)
    other = xl * yh + (middle & low)
    out = xh * yh + (middle >> half) + (other >> half)
    if kind == "i":
        out -= np.where(a < 0, y, np.uint64(0)) + np.where(b < 0, x, np.uint64(0))
    return np.asarray(out.view(a.dtype))


def _wide_product(a: Array, b: Array) -> Array:
    big = np.dtype(f"{a.dtype.kind}{a.dtype.itemsize * 2}")
    out: Array = a.astype(big) * b.astype(big)
    return out


@alu("mul")
def _mul(i: Instruction, m: Modifiers) -> Alu:
    if _has_float(i):
        return _float_alu(i, m, "mul", 2)
    part = m.choice("lo", "hi", "wide", default="lo")
    t = m.type()
    if part == "wide":
        return Alu(_wide_product, (wider(t),), (t, t))
    return Alu(np.multiply if part == "lo" else high_product, (t,), (t, t))


@alu("mad", "madc")
def _mad(i: Instruction, m: Modifiers) -> Alu:
    if _has_float(i):
        return _float_alu(i, m, "fma", 3)
    part = m.choice("lo", "hi", "wide", default="lo")
    carry, sat = m.flag("cc"), m.flag("sat")
    with_carry = i.opcode == "madc"
    t = m.type()
    products: dict[str, Any] = {
        "lo": np.multiply,
        "hi": high_product,
        "wide": _wide_product,
    }
    product = products[part]
    out = wider(t) if part == "wide" else t
    if not (carry or with_carry or sat):
        return Alu(lambda a, b, c: product(a, b) + c, (out,), (t, t, out))

    def function(a: Array, b: Array, c: Array, flag: Array | None = None) -> Any:
        p = product(a, b)
        if sat:
            return clamp(p.astype(np.int64) + c, t)
        x, y = (v.view(unsigned(out).dtype) for v in (p, c))
        first = x + y
        total = first if flag is None else first + flag.astype(x.dtype)
        return (total, (first < x) | (total < first)) if carry else total

    return Alu(function, (out,), (t, t, out), carry_in=with_carry, carry_out=carry)


@alu("fma")
def _fma(i: Instruction, m: Modifiers) -> Alu:
    return _float_alu(i, m, "fma", 3)


@alu("mul24", "mad24")
def _mul24(i: Instruction, m: Modifiers) -> Alu:
    part, sat = m.choice("lo", "hi"), m.flag("sat")
    t = m.type()

    def cut(x: Array) -> Array:
        return np.asarray((x.astype(t.dtype) << t.dtype.type(8)) >> t.dtype.type(8))

    def product(a: Array, b: Array) -> Array:
        p = _wide_product(cut(a), cut(b))
        return (p >> p.dtype.type(16) if part == "hi" else p).astype(t.dtype)

    if i.opcode == "mul24":
        return Alu(product, (t,), (t, t))
    if sat:
        return Alu(lambda a, b, c: clamp(product(a, b).astype(np.int64) + c, t), (t,), (t, t, t))
    return Alu(lambda a, b, c: product(a, b) + c, (t,), (t, t, t))


# Division. By zero it gives all ones, and the dividend as the remainder: PTX leaves it open.


def quotient(a: Array, b: Array) -> Array:
    """Integer division, toward zero."""
    zero = b == 0
    divisor = np.where(zero, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        out = a // divisor
    else:
        least = (divisor == -1) & (a == np.iinfo(a.dtype).min)
        divisor = np.where(least, b.dtype.type(1), divisor)
        out = (a - np.fmod(a, divisor)) // divisor
    return np.where(zero, ~a.dtype.type(0), out)


def remainder(a: Array, b: Array) -> Array:
    """What is left of integer division, with the dividend's sign."""
    bad = b == 0
    if a.dtype.kind == "i":
        out = np.fmod(a, np.where(bad | (b == -1), b.dtype.type(1), b))
    else:
        out = a % np.where(bad, b.dtype.type(1), b)
    return np.where(bad, a, out)


@alu("div")
def _div(i: Instruction, m: Modifiers) -> Alu:
    if _has_float(i):
        m.flag("approx", "full")
        return _float_alu(i, m, "div", 2)
    t = m.type()
    return Alu(quotient, (t,), (t, t))


@alu("rem")
def _rem(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    return Alu(remainder, (t,), (t, t))


@alu("abs", "neg")
def _abs(i: Instruction, m: Modifiers) -> Alu:
    ftz = m.flag("ftz")
    t = m.type()
    function: Any = np.abs if i.opcode == "abs" else np.negative
    if t.is_float and t.dtype.kind == "u":
        sign = np.uint16(0x8000)
        if i.opcode == "abs":
            function = lambda x: x & ~sign  # noqa: E731
        else:
            function = lambda x: x ^ sign  # noqa: E731
    if t.is_float:
        function = decorated(function, t, ftz, False)
    return Alu(function, (t,), (t,))


@alu("min", "max")
def _min(i: Instruction, m: Modifiers) -> Alu:
    ftz, nan, xorsign = m.flag("ftz"), m.flag("NaN"), m.flag("xorsign")
    m.flag("abs")
    relu = m.flag("relu")
    t = m.type()
    largest = i.opcode == "max"
    count = len(i.args) - 1
    if t.is_float:
        function = decorated(extremum(t, largest, nan, xorsign), t, ftz, False, relu)
        return Alu(function, (t,), (t,) * count)
    pick: Any = np.maximum if largest else np.minimum
    if relu:
        return Alu(lambda a, b: np.maximum(pick(a, b), t.dtype.type(0)), (t,), (t, t))
    return Alu(pick, (t,), (t, t))


@alu("sad")
def _sad(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    u = unsigned(t)
    return Alu(
        lambda a, b, c: c + (np.maximum(a, b) - np.minimum(a, b)).view(u.dtype), (u,), (t, t, u)
    )


@alu("dp4a", "dp2a")
def _dp4a(i: Instruction, m: Modifiers) -> Alu:
    half = m.choice("lo", "hi")
    a_type, b_type = m.type(), m.type()
    signed_sum = "s" in (a_type.kind, b_type.kind)
    out = S32 if signed_sum else U32

    def parts(x: Array, t: Type, width: int) -> Array:
        kind = np.dtype(f"{'i' if t.kind == 's' else 'u'}{width}")
        return np.ascontiguousarray(x).view(kind).reshape(x.shape[0], -1).astype(np.int64)

    def function(a: Array, b: Array, c: Array) -> Array:
        x = parts(a, a_type, 1 if i.opcode == "dp4a" else 2)
        y = parts(b, b_type, 1)
        if i.opcode == "dp2a":
            y = y[:, 2:] if half == "hi" else y[:, :2]
        return np.asarray(((x * y).sum(axis=1) + c).astype(out.dtype))

    return Alu(function, (out,), (U32, U32, out))


# Functions of one float


def _exp2(x: Array) -> Array:
    return np.exp2(x)


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "ex2": _exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}


@alu("ex2", "lg2", "sin", "cos", "tanh", "rsqrt")
def _function(i: Instruction, m: Modifiers) -> Alu:
    m.flag("approx")
    ftz = m.flag("ftz")
    t = m.type()
    return Alu(decorated(approximate(_FUNCTIONS[i.opcode], t), t, ftz, False), (t,), (t,))


@alu("rcp", "sqrt")
def _rcp(i: Instruction, m: Modifiers) -> Alu:
    m.flag("approx")
    return _float_alu(i, m, i.opcode, 1)


@alu("copysign")
def _copysign(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    return Alu(lambda a, b: np.copysign(b, a), (t,), (t, t))


@alu("testp")
def _testp(i: Instruction, m: Modifiers) -> Alu:
    kind = m.choice("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    t = m.type()
    tiny = np.finfo(t.dtype).tiny
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & (np.abs(x) >= tiny),
        "subnormal": lambda x: (x != 0) & (np.abs(x) < tiny),
    }
    return Alu(tests[kind], (TYPES["pred"],), (t,))
