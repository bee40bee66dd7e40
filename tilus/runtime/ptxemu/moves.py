"""`mov`, which also packs, unpacks and takes addresses, and `cvt`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tilus.runtime.ptxemu.arith import clamp
from tilus.runtime.ptxemu.floats import (
    ROUNDINGS,
    decorated,
    flush,
    narrow,
    saturate01,
    wide,
)
from tilus.runtime.ptxemu.syntax import Instruction, Reg, Vector
from tilus.runtime.ptxemu.table import Alu, Modifiers, Step, alu, machine, not_emulated
from tilus.runtime.ptxemu.types import B32, TYPES, U32, Array, Mask, Type

if TYPE_CHECKING:
    from tilus.runtime.ptxemu.block import Block

_CLOCKS = ("%clock", "%clock64", "%globaltimer", "%clock_hi")


@machine("mov")
def _mov(i: Instruction, m: Modifiers, b: Block) -> Step:
    t = m.type()
    to, what = i.args
    if isinstance(to, Vector):
        part = TYPES[f"b{t.bits // len(to.items)}"]
        words = b.source(i, what, t).reshape(b.padded, -1).view(part.dtype)
        writers = [b.writer(i, item, part) for item in to.items]

        def unpack(mask: Mask) -> None:
            for k, write in enumerate(writers):
                write(words[:, k].copy(), mask)

        return unpack
    write = b.writer(i, to, t)
    if isinstance(what, Vector):
        part = TYPES[f"b{t.bits // len(what.items)}"]
        sources = [b.source(i, item, part) for item in what.items]

        def pack(mask: Mask) -> None:
            write(t.view(np.stack(sources, axis=1).view(f"u{min(t.bits, 64) // 8}")[:, 0]), mask)

        if t.bits > 64:
            return lambda mask: write(np.stack(sources, axis=1), mask)
        return pack
    source = b.source(i, what, t)
    if isinstance(what, Reg) and what.name in _CLOCKS:

        def clock(mask: Mask) -> None:
            np.add(source, 1, out=source, casting="unsafe")
            write(source, mask)

        return clock
    return lambda mask: write(source, mask)


# cvt

_TO_INTEGER: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}


def float_to_integer(x: Array, t: Type, mode: str, from_f64: bool) -> Array:
    """Round to an integer of type `t`, saturating.

    NaN becomes 0, or the top bit alone where the source is f64 or the result has 64 bits.
    """
    rounded = _TO_INTEGER[mode](x.astype(np.float64))
    info = np.iinfo(t.dtype)
    low, high = float(info.min), float(info.max) + (1.0 if t.bits < 64 else 0.0)
    inside = (rounded >= low) & (rounded < high)
    out = np.where(inside, rounded, 0.0).astype(t.dtype)
    out = np.where(rounded >= high, t.dtype.type(info.max), out)
    out = np.where(rounded < low, t.dtype.type(info.min), out)
    if from_f64 or t.bits == 64:
        top = np.uint64(1 << (t.bits - 1)).astype(f"u{t.nbytes}").view(t.dtype)
        out = np.where(np.isnan(x), top, out)
    return out


def integer_to_float(x: Array, t: Type, mode: str) -> Array:
    """Round an integer to a float type once."""
    if mode == "rn" and t.name in ("f32", "f64"):
        return x.astype(t.dtype)
    if x.dtype.itemsize < 8:
        return narrow(x.astype(np.float64), t, mode)
    # Integers of 64 bits round to odd first, but where the target is f64.
    nearest = x.astype(np.float64)
    limit = float(np.iinfo(x.dtype).max)  # 2^63 or 2^64
    back = np.where(nearest >= limit, nearest - limit, nearest).astype(x.dtype)
    error = x - back  # modulo 2^64, and small
    error = np.where(nearest >= limit, x - x.dtype.type(np.iinfo(x.dtype).max) - 1, error)
    above = error.view(np.int64) < 0  # the rounded one is greater
    below = error.view(np.int64) > 0
    if t.name == "f64":
        down = (mode == "rm") | ((mode == "rz") & (nearest > 0))
        up = (mode == "rp") | ((mode == "rz") & (nearest < 0))
        nearest = np.where(above & down, np.nextafter(nearest, -np.inf), nearest)
        return np.where(below & up, np.nextafter(nearest, np.inf), nearest)
    bits = nearest.view(np.int64)
    even = bits & 1 == 0
    away = np.where(nearest > 0, 1, -1)
    bits = np.where(even & above, bits - away, np.where(even & below, bits + away, bits))
    return narrow(bits.view(np.float64), t, mode)


@alu("cvt")
def _cvt(i: Instruction, m: Modifiers) -> Alu:
    if m.flag("pack"):
        return _cvt_pack(i, m)
    rounding = m.choice(*ROUNDINGS, "rna", *_TO_INTEGER)
    ftz, sat, relu = m.flag("ftz"), m.flag("sat"), m.flag("relu")
    satfinite = m.flag("satfinite")
    to = m.type()
    if len(i.args) == 3 or to.lanes == 2:
        return _cvt_pair(i, m, to, rounding, relu, satfinite)
    source = m.type()
    if source.is_float and to.is_float:
        function = _float_to_float(source, to, rounding, satfinite)
        if to.name == "tf32":
            return Alu(
                decorated(function, TYPES["f32"], False, sat, relu), (TYPES["f32"],), (source,)
            )
        return Alu(_flushing(function, source, to, ftz, sat, relu), (to,), (source,))
    if source.is_float:
        is_f64 = source.name == "f64"

        def truncate(x: Array) -> Array:
            values = wide(x, source)
            return float_to_integer(flush(values) if ftz else values, to, rounding, is_f64)

        return Alu(truncate, (to,), (source,))
    if to.is_float:
        function = lambda x: integer_to_float(x, to, rounding or "rn")  # noqa: E731
        return Alu(decorated(function, to, False, sat), (to,), (source,))
    if sat:
        return Alu(lambda x: _clamp_integers(x, to), (to,), (source,))
    return Alu(lambda x: x.astype(to.dtype), (to,), (source,))


def _clamp_integers(x: Array, t: Type) -> Array:
    """Saturate, where one of the two types may be unsigned."""
    if x.dtype.kind == "i" and t.kind == "s":
        return clamp(x, t)
    top = min(np.iinfo(t.dtype).max, np.iinfo(x.dtype).max)
    return np.asarray(np.clip(x, x.dtype.type(0), x.dtype.type(top)).astype(t.dtype))


def _float_to_float(
    source: Type, to: Type, rounding: str, saturate: bool
) -> Callable[[Array], Array]:
    if rounding in _TO_INTEGER:
        round_ = _TO_INTEGER[rounding]
        return lambda x: narrow(np.copysign(round_(wide(x, source)), wide(x, source)), to)
    return lambda x: narrow(wide(x, source), to, rounding or "rn", saturate)


def _flushing(
    function: Callable[[Array], Array], source: Type, to: Type, ftz: bool, sat: bool, relu: bool
) -> Callable[[Array], Array]:
    """.ftz flushes what is f32, at either end."""

    def run(x: Array) -> Array:
        if ftz and source.name == "f32":
            x = flush(x)
        out = function(x)
        if ftz and to.name == "f32":
            out = flush(out)
        return out

    return (
        decorated(run if ftz else function, to, False, False)
        if not (sat or relu)
        else _clamped(run, to, sat, relu)
    )


def _clamped(
    run: Callable[[Array], Array], to: Type, sat: bool, relu: bool
) -> Callable[[Array], Array]:
    def clamped(x: Array) -> Array:
        values = wide(run(x), to)
        if sat:
            values = saturate01(values)
        if relu:
            values = np.where(values <= 0, values.dtype.type(0), values)
        return narrow(values, to)

    return clamped


def _cvt_pair(
    i: Instruction, m: Modifiers, to: Type, rounding: str, relu: bool, saturate: bool
) -> Alu:
    """Packed conversions: two f32 to a pair (the first is the upper half), or pair to pair."""
    source = m.type()
    if to.lanes != 2:
        raise not_emulated(i)

    def convert(values: Array) -> Array:
        if relu:
            values = np.where(values <= 0, values.dtype.type(0), values)
        return narrow(values, to, rounding or "rn", saturate)

    if len(i.args) == 3:

        def two(upper: Array, lower: Array) -> Array:
            return convert(np.stack([wide(lower, source), wide(upper, source)], axis=1))

        return Alu(two, (to,), (source, source))
    if source.lanes != 2:
        raise not_emulated(i)
    return Alu(lambda x: convert(wide(x, source)), (to,), (source,))


def _cvt_pack(i: Instruction, m: Modifiers) -> Alu:
    """cvt.pack.sat: two saturated integers, and for narrow ones what was there, shifted up."""
    m.flag("sat")
    name = m.choice("u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2")
    source = m.type()
    third = len(i.args) == 4
    if third:
        m.type()
    bits = int(name[1:])
    low, high = (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if name[0] == "s" else (0, (1 << bits) - 1)
    )
    ones = np.uint32((1 << bits) - 1)

    def part(x: Array) -> Array:
        out: Array = np.clip(x.astype(np.int64), low, high).astype(np.uint32) & ones
        return out

    def function(a: Array, b: Array, *c: Array) -> Array:
        out = part(a) << np.uint32(bits) | part(b)
        return c[0] << np.uint32(2 * bits) | out if c else out

    return Alu(function, (B32,), (source, source, U32) if third else (source, source))
