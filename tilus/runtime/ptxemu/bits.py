"""Moving, comparing and selecting values; logic, shifts and bit fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilus.runtime.ptxemu.floats import flush, wide
from tilus.runtime.ptxemu.syntax import Imm, Instruction, Not, Reg
from tilus.runtime.ptxemu.table import Alu, Modifiers, alu, not_emulated
from tilus.runtime.ptxemu.types import B32, PRED, S32, TYPES, U32, Array, Type, unsigned

_U64 = np.uint64


# Logic


@alu("and", "or", "xor", "not", "cnot")
def _logic(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    functions: dict[str, Any] = {
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
        "not": np.invert,
        "cnot": lambda a: (a == 0).astype(t.dtype),
    }
    return Alu(functions[i.opcode], (t,), (t,) * (len(i.args) - 1))


def lop3(a: Array, b: Array, c: Array, table: int) -> Array:
    """Any function of three bits, as its truth table: bit 4a + 2b + c."""
    out = np.zeros_like(a)
    for k in range(8):
        if table >> k & 1:
            out |= (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
    return out


@alu("lop3")
def _lop3(i: Instruction, m: Modifiers) -> Alu:
    combine = m.choice("and", "or")
    t = m.type()
    table = getattr(i.args[4], "value", None)
    if table is None:
        raise not_emulated(i, "a truth table that is not an immediate")
    if not combine:
        return Alu(lambda a, b, c, _: lop3(a, b, c, table), (t,), (t, t, t, t))
    merge = np.logical_and if combine == "and" else np.logical_or
    negated = isinstance(i.args[5], Not)

    def function(a: Array, b: Array, c: Array, _: Array, q: Array) -> tuple[Array, Array]:
        out = lop3(a, b, c, table)
        return out, merge(out != 0, ~q if negated else q)

    return Alu(function, (t, PRED), (t, t, t, t, PRED))


# Shifts


def shift_left(a: Array, count: Array) -> Array:
    """a << count; everything is lost from the width on."""
    bits = a.dtype.itemsize * 8
    inside = np.minimum(count, np.uint32(bits - 1)).astype(a.dtype)
    return np.asarray(np.where(count >= bits, a.dtype.type(0), a << inside))


def shift_right(a: Array, count: Array) -> Array:
    """a >> count: zeros come in, or copies of the sign of a signed type."""
    bits = a.dtype.itemsize * 8
    inside = np.minimum(count, np.uint32(bits - 1)).astype(a.dtype)
    if a.dtype.kind == "i":
        return np.asarray(a >> inside)
    return np.asarray(np.where(count >= bits, a.dtype.type(0), a >> inside))


@alu("shl", "shr")
def _shift(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    count = i.args[2]
    if isinstance(count, Imm) and 0 <= count.value < t.bits:
        return Alu(np.left_shift if i.opcode == "shl" else np.right_shift, (t,), (t, t))
    return Alu(shift_left if i.opcode == "shl" else shift_right, (t,), (t, U32))


def funnel(low: Array, high: Array, count: Array, left: bool, wrap: bool) -> Array:
    """shf: 32 bits out of the 64 of high and low."""
    n = (count & np.uint32(31)) if wrap else np.minimum(count, np.uint32(32))
    both = high.astype(_U64) << _U64(32) | low
    if left:
        out = shift_left(both, n) >> _U64(32)
    else:
        out = shift_right(both, n)
    return out.astype(np.uint32)


@alu("shf")
def _shf(i: Instruction, m: Modifiers) -> Alu:
    left = m.choice("l", "r") == "l"
    wrap = m.choice("wrap", "clamp") == "wrap"
    m.type()
    return Alu(lambda a, b, c: funnel(a, b, c, left, wrap), (U32,), (U32, U32, U32))


# Bit fields


def _low_ones(count: Array) -> Array:
    """Words of 64 bits with the low `count` (at most 64) set."""
    return shift_left(np.full(count.shape, 1, _U64), count) - _U64(1)


def extract(a: Array, position: Array, length: Array) -> Array:
    """bfe: a field of `a`; beyond its end come zeros, or copies of a signed field's top bit."""
    bits = a.dtype.itemsize * 8
    position, length = position & np.uint32(255), length & np.uint32(255)
    words = a.view(f"u{a.dtype.itemsize}").astype(_U64)
    ones = _low_ones(np.minimum(length, np.uint32(64)))
    field = shift_right(words, position) & ones
    if a.dtype.kind == "i":
        top = np.minimum(position + length - np.uint32(1), np.uint32(bits - 1))
        negative = (shift_right(words, top) & _U64(1) != 0) & (length != 0)
        have = np.maximum(bits - position.astype(np.int64), 0)
        have = np.minimum(have, length.astype(np.int64)).astype(np.uint32)
        field = np.where(negative, field | ~_low_ones(have), field)
    return field.astype(f"u{a.dtype.itemsize}").view(a.dtype)


def insert(a: Array, b: Array, position: Array, length: Array) -> Array:
    """bfi: `b` with the low bits of `a` put into a field of it."""
    position, length = position & np.uint32(255), length & np.uint32(255)
    field = shift_left(_low_ones(np.minimum(length, np.uint32(64))), position)
    moved = shift_left(a.astype(_U64), position) & field
    return (b.astype(_U64) & ~field | moved).astype(a.dtype)


@alu("bfe")
def _bfe(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    return Alu(extract, (t,), (t, U32, U32))


@alu("bfi")
def _bfi(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    return Alu(insert, (t,), (t, t, U32, U32))


@alu("bmsk")
def _bmsk(i: Instruction, m: Modifiers) -> Alu:
    wrap = m.choice("wrap", "clamp") == "wrap"
    m.type()

    def function(a: Array, b: Array) -> Array:
        if wrap:
            a, b = a & np.uint32(31), b & np.uint32(31)
        ones = _low_ones(np.minimum(b, np.uint32(32)))
        return shift_left(ones, np.minimum(a, np.uint32(64))).astype(np.uint32)

    return Alu(function, (U32,), (U32, U32))


@alu("szext")
def _szext(i: Instruction, m: Modifiers) -> Alu:
    wrap = m.choice("wrap", "clamp") == "wrap"
    t = m.type()

    def function(a: Array, n: Array) -> Array:
        n = n & np.uint32(31) if wrap else np.minimum(n, np.uint32(32))
        return extract(a, np.zeros_like(n), n)

    return Alu(function, (t,), (t, U32))


def reverse(a: Array) -> Array:
    """The bits of a word in the opposite order."""
    n = a.dtype.itemsize
    bits = np.unpackbits(np.ascontiguousarray(a).view(np.uint8).reshape(-1, n), axis=1)
    return np.packbits(bits[:, ::-1].copy(), axis=1, bitorder="big").view(a.dtype).reshape(-1)


def leading(a: Array) -> Array:
    """The place of the highest one, -1 where there is none."""
    out = np.full(a.shape, -1, np.int32)
    rest = a.astype(_U64)
    for step in (32, 16, 8, 4, 2, 1):
        big = rest >= _U64(1 << step)
        out = np.where(big, out + step, out)
        rest = np.where(big, rest >> _U64(step), rest)
    return np.where(a != 0, out + 1, out).astype(np.int32)


@alu("brev")
def _brev(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    return Alu(reverse, (t,), (t,))


@alu("popc", "clz")
def _popc(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    if i.opcode == "popc":
        return Alu(lambda a: np.bitwise_count(a).astype(np.uint32), (U32,), (t,))
    return Alu(lambda a: (t.bits - 1 - leading(a)).astype(np.uint32), (U32,), (t,))


@alu("bfind")
def _bfind(i: Instruction, m: Modifiers) -> Alu:
    amount = m.flag("shiftamt")
    t = m.type()

    def function(a: Array) -> Array:
        words = a.view(unsigned(t).dtype)
        if t.kind == "s":
            words = np.where(a < 0, ~words, words)
        place = leading(words)
        if amount:
            place = np.where(place >= 0, t.bits - 1 - place, place)
        return place.astype(np.uint32)

    return Alu(function, (U32,), (t,))


@alu("fns")
def _fns(i: Instruction, m: Modifiers) -> Alu:
    m.type()

    def one(mask: int, base: int, offset: int) -> int:
        if offset == 0:
            return base if mask >> base & 1 else 0xFFFFFFFF
        step = 1 if offset > 0 else -1
        at, left = base, abs(offset)
        while 0 <= at < 32:
            left -= mask >> at & 1
            if left == 0:
                return at
            at += step
        return 0xFFFFFFFF

    def function(mask: Array, base: Array, offset: Array) -> Array:
        rows = zip(mask.tolist(), (base & np.uint32(31)).tolist(), offset.tolist(), strict=True)
        return np.array([one(*row) for row in rows], np.uint32)

    return Alu(function, (U32,), (U32, U32, S32))


# Permutation of bytes


def permute(a: Array, b: Array, selector: Array, mode: str) -> Array:
    """prmt: bytes out of the eight of b and a, chosen by the nibbles or the mode."""
    both = np.stack([a, b], axis=1).astype(np.uint32).view(np.uint8)  # [threads, 8]
    s = selector.astype(np.int64)[:, None]
    k = np.arange(4)
    if mode == "":
        nibbles = (s >> (4 * k)) & 15
        chosen = np.take_along_axis(both, nibbles & 7, axis=1)
        sign = np.where(chosen >= 128, np.uint8(255), np.uint8(0))
        out = np.where(nibbles & 8 != 0, sign, chosen)
    else:
        n = s & 3
        index = {
            "f4e": n + k,
            "b4e": (n - k) & 7,
            "rc8": n + 0 * k,
            "ecl": np.maximum(k, n),
            "ecr": np.minimum(k, n),
            "rc16": 2 * (n & 1) + (k & 1),
        }[mode]
        out = np.take_along_axis(both, index, axis=1)
    return np.ascontiguousarray(out).view(np.uint32).reshape(-1)


@alu("prmt")
def _prmt(i: Instruction, m: Modifiers) -> Alu:
    mode = m.choice("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
    m.type()
    return Alu(lambda a, b, c: permute(a, b, c, mode), (B32,), (B32, B32, U32))


# Comparing and selecting

_ORDERED: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_OPPOSITE = {"eq": "ne", "ne": "eq", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}


def comparison(name: str, t: Type, ftz: bool = False) -> Callable[[Array, Array], Array]:
    """The function of a comparison; those with a `u` are true where an operand is NaN."""
    if not t.is_float:
        return _ORDERED[_UNSIGNED.get(name, name)]
    core: Callable[[Array, Array], Array]
    if name in ("num", "nan"):
        core = lambda a, b: (np.isnan(a) | np.isnan(b)) == (name == "nan")  # noqa: E731
    elif name == "ne":
        core = lambda a, b: (a < b) | (a > b)  # noqa: E731
    elif name in _ORDERED:
        core = _ORDERED[name]
    elif name == "neu":
        core = np.not_equal
    elif name == "equ":
        core = lambda a, b: ~((a < b) | (a > b))  # noqa: E731
    else:
        opposite = _ORDERED[_OPPOSITE[name[:2]]]
        core = lambda a, b: ~opposite(a, b)  # noqa: E731
    if t.dtype.kind == "f" and not ftz:
        return core

    def function(a: Array, b: Array) -> Array:
        x, y = wide(a, t), wide(b, t)
        return core(flush(x), flush(y)) if ftz else core(x, y)

    return function


_COMPARISONS = (*_ORDERED, *_UNSIGNED, "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
_MERGE: dict[str, Any] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


@alu("setp")
def _setp(i: Instruction, m: Modifiers) -> Alu:
    name, merge, ftz = m.choice(*_COMPARISONS), m.choice(*_MERGE), m.flag("ftz")
    t = m.type()
    compare = comparison(name, t, ftz)
    if t.lanes == 2:

        def both(a: Array, b: Array, *c: Array) -> tuple[Array, Array]:
            found = compare(a, b)
            return combine(found[:, 0], *c), combine(found[:, 1], *c)

        function: Callable[..., Any] = both
    else:

        def one(a: Array, b: Array, *c: Array) -> tuple[Array, Array]:
            found = compare(a, b)
            return combine(found, *c), combine(~found, *c)

        function = one
    negated = bool(merge) and isinstance(i.args[3], Not)

    def combine(found: Array, *c: Array) -> Array:
        if not c:
            return found
        out: Array = _MERGE[merge](found, ~c[0] if negated else c[0])
        return out

    if not merge and t.lanes == 1 and isinstance(i.args[0], Reg):
        return Alu(compare, (PRED,), (t, t))
    return Alu(function, (PRED, PRED), (t, t, PRED) if merge else (t, t))


@alu("set")
def _set(i: Instruction, m: Modifiers) -> Alu:
    name, merge, ftz = m.choice(*_COMPARISONS), m.choice(*_MERGE), m.flag("ftz")
    out, t = m.type(), m.type()
    compare = comparison(name, t, ftz)
    negated = bool(merge) and isinstance(i.args[3], Not)
    if out.is_float:
        one: Any = 0x3F80 if out.element.name == "bf16" else 1.0
    else:
        out = TYPES["u16x2"] if t.lanes == 2 else unsigned(out)
        one = np.iinfo(out.dtype).max

    def function(a: Array, b: Array, *c: Array) -> Array:
        found = compare(a, b)
        if c:
            found = _MERGE[merge](found, ~c[0] if negated else c[0])
        return np.asarray(np.where(found, out.dtype.type(one), out.dtype.type(0)))

    return Alu(function, (out,), (t, t, PRED) if merge else (t, t))


@alu("selp")
def _selp(i: Instruction, m: Modifiers) -> Alu:
    t = m.type()
    return Alu(lambda a, b, p: np.where(p, a, b), (t,), (t, t, PRED))


@alu("slct")
def _slct(i: Instruction, m: Modifiers) -> Alu:
    ftz = m.flag("ftz")
    t, by = m.type(), m.type()
    return Alu(lambda a, b, c: np.where((flush(c) if ftz else c) >= 0, a, b), (t,), (t, t, by))
