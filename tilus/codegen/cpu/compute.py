"""Elementwise instructions, views, reductions and scans on CPU tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from tilus.codegen.cpu.lower import CpuLowering
from tilus.codegen.cpu.tiles import Digits, Tile, is_small
from tilus.codegen.llvm import convert, elementwise
from tilus.codegen.llvm.lanes import Lanes
from tilus.codegen.llvm.lookup import lookup
from tilus.codegen.llvm.writer import (
    DOUBLE,
    FLOAT,
    I1,
    I8,
    I32,
    I64,
    V,
    constant,
    element_type,
    values,
    vector,
)
from tilus.codegen.registry import lowering
from tilus.dtypes import DType, i32
from tilus.errors import TilusNotImplementedError
from tilus.ir.instructions import arith, reduce, tiles, view
from tilus.ir.instructions.reduce import normalize_dim
from tilus.layouts import Layout, LayoutError, local, permute, squeeze, unsqueeze
from tilus.layouts import reshape as reshaped
from tilus.layouts import slice_ as sliced

Emit = Callable[..., V]


def mapped(f: CpuLowering, dtype: DType, operands: Sequence[Tile], emit: Emit) -> Tile:
    """`emit` on corresponding elements of tiles, in the order of the first one's layout."""
    s = f.scratch
    first, *rest = (s.opened(x) for x in operands)
    layout = first.layout
    alike = [first, *(s.relaid(x, layout) for x in rest)]
    if is_small(dtype, layout) and all(is_small(x.dtype, layout) for x in alike):
        return Tile(dtype, layout, emit(*(s.whole(x) for x in alike)))
    return Tile(dtype, layout, lazy=lambda d, n: emit(*(s.read(x, d, n) for x in alike)))


@lowering("cpu", arith.Unary)
def _(inst: arith.Unary, f: CpuLowering, x: Tile) -> Tile:
    return mapped(f, x.dtype, [x], lambda v: elementwise.unary(f.w, inst.opcode, x.dtype, v))


@lowering("cpu", arith.Binary)
def _(inst: arith.Binary, f: CpuLowering, a: Tile, b: Tile) -> Tile:
    return mapped(
        f, a.dtype, [a, b], lambda x, y: elementwise.binary(f.w, inst.opcode, a.dtype, x, y)
    )


@lowering("cpu", arith.Compare)
def _(inst: arith.Compare, f: CpuLowering, a: Tile, b: Tile) -> Tile:
    result = inst.infer().dtype
    return mapped(
        f, result, [a, b], lambda x, y: elementwise.compare(f.w, inst.opcode, a.dtype, x, y)
    )


@lowering("cpu", arith.Where)
def _(inst: arith.Where, f: CpuLowering, cond: Tile, a: Tile, b: Tile) -> Tile:
    return mapped(f, a.dtype, [cond, a, b], f.w.select)


@lowering("cpu", arith.Fma)
def _(inst: arith.Fma, f: CpuLowering, a: Tile, b: Tile, c: Tile) -> Tile:
    return mapped(f, a.dtype, [a, b, c], lambda x, y, z: elementwise.fma(f.w, a.dtype, x, y, z))


@lowering("cpu", arith.Cast)
def _(inst: arith.Cast, f: CpuLowering, x: Tile) -> Tile:
    return mapped(f, inst.dtype, [x], lambda v: convert.cast(f.w, x.dtype, inst.dtype, v))


@lowering("cpu", arith.Lookup)
def _(inst: arith.Lookup, f: CpuLowering, index: Tile, table: Tile) -> Tile:
    w, s = f.w, f.scratch
    if table.numbers is not None and table.dtype.bits == 8 and table.element == I8:
        entries = [int(n) & 255 for n in table.numbers[: 1 << index.dtype.bits]]
        return mapped(f, table.dtype, [index], lambda v: lookup(w, v, entries, index.dtype.bits))
    base = s.in_memory(s.relaid(table, local(table.size)))
    kind = I8 if table.element == I1 else table.element

    def emit(v: V) -> V:
        out = V(vector(kind, v.lanes), "poison")
        for lane in range(v.lanes):
            at = w.gep(base, w.cast("zext", w.extract(v, lane), I64), kind)
            one = w.load(kind, at, 1)
            out = w.op(out.type, f"insertelement {out}, {one}, i64 {lane}")
        return w.cast("trunc", out, I1) if table.element == I1 else out

    return mapped(f, table.dtype, [index], emit)


# tiles from scalars


@lowering("cpu", tiles.Full)
def _(inst: tiles.Full, f: CpuLowering, value: V) -> Tile:
    one = convert.cast(f.w, inst.value.dtype, inst.dtype, value)
    if is_small(inst.dtype, f.layout):
        return Tile(inst.dtype, f.layout, f.w.splat(one, f.layout.size))
    return Tile(inst.dtype, f.layout, lazy=lambda d, n: f.w.splat(one, n))


@lowering("cpu", tiles.Constant)
def _(inst: tiles.Constant, f: CpuLowering) -> Tile:
    kind, layout = element_type(inst.dtype), f.layout
    numbers = [
        convert.register_constant(inst.values[layout.index(0, i)[0]], inst.dtype)
        for i in range(layout.size)
    ]
    if is_small(inst.dtype, layout):
        return Tile(inst.dtype, layout, values(kind, numbers), numbers=inst.values)
    return Tile(inst.dtype, layout, memory=f.w.module.table(kind, numbers))


@lowering("cpu", tiles.Arange)
def _(inst: tiles.Arange, f: CpuLowering) -> Tile:
    w, kind = f.w, element_type(inst.dtype)
    order = [f.layout.index(0, i)[0] for i in range(f.layout.size)]
    if is_small(inst.dtype, f.layout):
        return Tile(inst.dtype, f.layout, values(kind, [inst.start + i for i in order]))
    if f.layout == local(f.layout.size):

        def count(d: Digits, n: int) -> V:
            start = w.splat(w.cast("trunc", d[-1], kind), n)
            steps = values(kind, [inst.start + i for i in range(n)])
            return w.op(start.type, f"add {start}, {steps.ref}")

        return Tile(inst.dtype, f.layout, lazy=count)
    table = w.module.table(kind, [inst.start + i for i in order])
    return Tile(inst.dtype, f.layout, memory=table)


# other shapes


def renamed(x: Tile, layout: Layout) -> Tile:
    """The same lanes under another layout of the same digits."""
    return replace(x, layout=layout, source=None, numbers=None)


@lowering("cpu", view.View)
def _(inst: view.View, f: CpuLowering, x: Tile) -> Tile:
    s, w = f.scratch, f.w
    assert inst.x.type.layout is not None  # type: ignore[union-attr]
    if inst.x.type.layout == inst.layout and x.dtype.bits == inst.dtype.bits <= 8:  # type: ignore[union-attr]
        return reread(f, x, inst.dtype)
    x = s.relaid(x, inst.x.type.layout)  # type: ignore[union-attr, arg-type]
    data = s.bytes_of(x)
    if inst.dtype.bits < 8:
        return Tile(inst.dtype, inst.layout, data, packed=True)
    count = inst.layout.size
    kind = element_type(inst.dtype)
    if kind == I1:
        return Tile(inst.dtype, inst.layout, w.cast("trunc", data, I1))
    return Tile(inst.dtype, inst.layout, w.bitcast(data, vector(kind, count)))


def reread(f: CpuLowering, x: Tile, dtype: DType) -> Tile:
    """Codes of one width as another type's: the same bytes, but for the sign of integers."""
    if I1 in (x.element, element_type(dtype)):
        raise TilusNotImplementedError("no view of bools as bytes in native code")
    if x.packed:
        return replace(x, dtype=dtype, source=None, numbers=None, forms={})

    def emit(v: V) -> V:
        alike = dtype.is_integer and x.dtype.is_signed == dtype.is_signed
        if dtype.bits == 8 or alike:
            return v
        low = Lanes(f.w, v) & ((1 << dtype.bits) - 1)
        return convert.normalized(low, dtype).v

    return mapped(f, dtype, [x], emit)


@lowering("cpu", view.ConvertLayout)
def _(inst: view.ConvertLayout, f: CpuLowering, x: Tile) -> Tile:
    return x  # the order of lanes is settled where it matters


@lowering("cpu", view.Reshape)
def _(inst: view.Reshape, f: CpuLowering, x: Tile) -> Tile:
    """Free in row-major order; that order is made if the digits cannot be cut otherwise."""
    try:
        layout = reshaped(x.layout, inst.shape)
    except LayoutError:
        x = f.scratch.relaid(x, local(*x.layout.shape))
        layout = local(*inst.shape)
    return retold(f, x, layout)


@lowering("cpu", view.Transpose)
def _(inst: view.Transpose, f: CpuLowering, x: Tile) -> Tile:
    return retold(f, x, permute(x.layout, inst.order()))


@lowering("cpu", view.ExpandDims)
def _(inst: view.ExpandDims, f: CpuLowering, x: Tile) -> Tile:
    return retold(f, x, unsqueeze(x.layout, inst.dim % (x.layout.rank + 1)))


@lowering("cpu", view.Squeeze)
def _(inst: view.Squeeze, f: CpuLowering, x: Tile) -> Tile:
    return retold(f, x, squeeze(x.layout, inst.dim % x.layout.rank))


def retold(f: CpuLowering, x: Tile, layout: Layout) -> Tile:
    """The same lanes as a tile of another shape; lazy ones only while their digits stay."""
    if x.lazy is not None and [d.size for d in layout.local_digits] != x.sizes:
        x = Tile(x.dtype, x.layout, memory=f.scratch.in_memory(x))
    return renamed(x, layout)


@lowering("cpu", view.Broadcast)
def _(inst: view.Broadcast, f: CpuLowering, x: Tile) -> Tile:
    """Each element is read where its copies are wanted; the result's order is row-major."""
    w, s = f.w, f.scratch
    front = len(inst.shape) - x.layout.rank
    layout = local(*inst.shape)
    x = s.relaid(x, local(*x.layout.shape))
    shape = (1,) * front + x.layout.shape
    if is_small(x.dtype, layout):
        strides = [math.prod(shape[i + 1 :]) if n > 1 else 0 for i, n in enumerate(shape)]
        lanes = [
            sum(c * t for c, t in zip(layout.index(0, i), strides, strict=True))
            for i in range(layout.size)
        ]
        return Tile(x.dtype, layout, w.shuffle(s.whole(x), None, lanes))
    if x.size == 1:
        one = w.extract(s.whole(x), 0)
        return Tile(x.dtype, layout, lazy=lambda d, n: w.splat(one, n))
    place = Tile(x.dtype, local(x.size), memory=s.in_memory(x))
    digits_of = layout.local_digits

    def read(d: Digits, n: int) -> V:
        at = V(I64, "0")
        for digit, (_, dim, stride) in zip(d, digits_of, strict=True):
            if shape[dim] == 1:
                continue
            weight = math.prod(shape[dim + 1 :]) * stride
            at = w.binary("add", at, w.binary("mul", digit, V(I64, str(weight))))
        if shape[digits_of[-1].dim] == 1:
            return w.splat(w.extract(s.read(place, [at], 1), 0), n)
        return s.read(place, [at], n)

    return Tile(x.dtype, layout, lazy=read)


@lowering("cpu", view.Slice)
def _(inst: view.Slice, f: CpuLowering, x: Tile) -> Tile:
    w, s = f.w, f.scratch
    layout, slots = sliced(x.layout, inst.starts, inst.shape)
    if is_small(x.dtype, x.layout) or len(slots) * 4 <= 512:
        return Tile(x.dtype, layout, picked(f, x, slots))
    table = w.module.table(I32, slots)
    place = s.in_memory(x)
    kind = I8 if x.element == I1 else x.element
    out = s.allocate(x.dtype, layout)

    def move(i: V) -> None:
        at = w.cast("zext", w.load(I32, w.gep(table, i, I32), 4), I64)
        w.store(w.load(kind, w.gep(place, at, kind), 1), w.gep(out, i, kind), 1)

    s.loop(len(slots), move)
    return Tile(x.dtype, layout, memory=out)


def picked(f: CpuLowering, x: Tile, slots: Sequence[int]) -> V:
    """Some lanes of a tile, as one vector."""
    w, s = f.w, f.scratch
    if is_small(x.dtype, x.layout):
        return w.shuffle(s.whole(x), None, slots)
    place = Tile(x.dtype, local(x.size), memory=s.in_memory(x))
    parts, start = [], 0
    while start < len(slots):
        n = 1
        while start + n < len(slots) and slots[start + n] == slots[start] + n and n < 64:
            n += 1
        parts.append(s.read(place, [V(I64, str(slots[start]))], n))
        start += n
    return w.join(parts)


@lowering("cpu", view.Concat)
def _(inst: view.Concat, f: CpuLowering, tiles: tuple[Tile, ...]) -> Tile:
    w, s = f.w, f.scratch
    shape = inst.infer().shape
    dim = inst.dim % len(shape)
    layout = local(*shape)
    rows = [s.relaid(t, local(*t.layout.shape)) for t in tiles]
    dtype = rows[0].dtype
    before = math.prod(shape[:dim])
    runs = [t.size // before for t in rows]
    if is_small(dtype, layout):
        whole = [s.whole(t) for t in rows]
        parts = [
            w.part(x, i * n, n) for i in range(before) for x, n in zip(whole, runs, strict=True)
        ]
        return Tile(dtype, layout, w.join(parts))
    out = s.allocate(dtype, layout)
    start = 0
    for t, n in zip(rows, runs, strict=True):
        place = Tile(dtype, local(before, n), memory=s.in_memory(t))

        def copy(d: Digits, lanes: int, place: Tile = place, start: int = start) -> None:
            full = (
                d
                if len(d) == 2
                else ([d[0], V(I64, "0")] if place.layout.shape[1] == 1 else [V(I64, "0"), d[0]])
            )
            at = w.binary("add", w.binary("mul", full[0], V(I64, str(sum(runs)))), full[1])
            at = w.binary("add", at, V(I64, str(start)))
            x = s.read(place, d, lanes)
            s.put(out, [before * sum(runs)], [at], x)

        if n == 1:
            s.nest([before, 1], lambda d, lanes: copy([d[0]], lanes))
        else:
            s.nest(place.sizes, copy)
        start += n
    return Tile(dtype, layout, memory=out)


# reductions and scans


def _identity(op: str, dtype: DType) -> float | int | bool:
    """What changes nothing, as a register holds it."""
    return convert.register_constant(_neutral(op, dtype), dtype)


def _neutral(op: str, dtype: DType) -> float | int | bool:
    if op in ("any", "all"):
        return op == "all"
    if op in ("sum", "add"):
        return -0.0 if dtype.is_float else 0
    if op == "mul":
        return 1
    if dtype.is_float:
        return math.nan
    return int(dtype.min) if op == "max" else int(dtype.max)


_COMBINE = {"sum": "add", "add": "add", "mul": "mul", "max": "maximum", "min": "minimum"}


def combined(f: CpuLowering, op: str, dtype: DType, a: V, b: V) -> V:
    """One step of a reduction or scan."""
    if op in ("any", "all"):
        return f.w.op(a.type, f"{'or' if op == 'any' else 'and'} {a}, {b.ref}")
    return elementwise.binary(f.w, _COMBINE[op], dtype, a, b)


def across(f: CpuLowering, op: str, dtype: DType, x: V) -> V:
    """All lanes of a vector reduced to a vector of one, in halves."""
    w = f.w
    while x.lanes > 1:
        half = (x.lanes + 1) // 2
        low = w.part(x, 0, half)
        rest = x.lanes - half
        high = w.shuffle(x, None, [*range(half, x.lanes), *[-1] * (half - rest)])
        total = combined(f, op, dtype, low, high)
        if rest < half:  # the middle lane has no partner
            keep = [*range(rest), *range(half + rest, 2 * half)]
            total = w.shuffle(total, low, keep)
        x = total
    return x


def extremum(f: CpuLowering, op: str, parts: Sequence[V]) -> V:
    """The largest or smallest number in some vectors, as a vector of one; NaN if there is none.

    x86's `maxps x, y` is y where x is NaN, so a total that begins with infinity never is.
    """
    w, greater = f.w, "ogt" if op == "max" else "olt"
    worst = -math.inf if op == "max" else math.inf

    def better(x: V, total: V) -> V:
        return w.select(w.compare("fcmp", greater, x, total), x, total)

    totals, numbers = [], []
    for part in parts:
        count = 1 << (part.lanes - 1).bit_length()
        floor = constant(part.type, worst)
        total = better(part, floor)
        mask = w.compare("fcmp", "ord", part, floor)
        some = w.bitcast(mask, f"i{part.lanes}") if part.lanes > 1 else w.extract(mask, 0)
        numbers.append(w.compare("icmp", "ne", some, constant(some.type, 0)))
        fill = constant(total.type, worst)
        places = [i if i < part.lanes else part.lanes for i in range(count)]
        totals.append(w.shuffle(total, fill, places) if count > part.lanes else total)
    while len(totals) > 1:
        a, b = sorted(totals[:2], key=lambda v: v.lanes)
        while a.lanes < b.lanes:
            half = b.lanes // 2
            b = better(w.part(b, 0, half), w.part(b, half, half))
        totals = [*totals[2:], better(a, b)]
    x, any_ = totals[0], numbers[0]
    for other in numbers[1:]:
        any_ = w.op(I1, f"or {any_}, {other.ref}")
    while x.lanes > 1:
        half = x.lanes // 2
        x = better(w.part(x, 0, half), w.part(x, half, half))
    return w.select(w.splat(any_, 1), x, constant(x.type, math.nan))


@lowering("cpu", reduce.Reduce)
def _(inst: reduce.Reduce, f: CpuLowering, x: Tile) -> Tile:
    w, s = f.w, f.scratch
    dim = normalize_dim(inst, inst.dim, x.layout.rank)
    result = inst.infer()
    layout = local(*result.shape)
    shape = x.layout.shape
    before, extent, after = math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])
    if inst.op == "argmax":
        return _argmax(f, s.relaid(x, local(*shape)), layout, before, extent, after)
    x = _three(f, x, (before, extent, after))
    kind = element_type(x.dtype)
    if after == 1:  # the reduced dimension is the inner one
        lanes = min(64, extent)
        full = extent - extent % lanes
        near = is_small(x.dtype, x.layout) or full == lanes
        plain_extremum = near and inst.op in ("max", "min") and kind in (FLOAT, DOUBLE)

        def row(i: V) -> V:
            if plain_extremum:
                starts = [(k, lanes) for k in range(0, full, lanes)]
                starts += [(full, extent - full)] if extent > full else []
                parts = [_chunk(f, x, i, V(I64, str(k)), n) for k, n in starts]
                return extremum(f, inst.op, parts)
            total = constant(vector(kind, lanes), _identity(inst.op, x.dtype))
            if near:
                for start in range(0, full, lanes):
                    part = _chunk(f, x, i, V(I64, str(start)), lanes)
                    total = combined(f, inst.op, x.dtype, total, part)
            else:
                slot = w.alloca(total.type, hint="partial")
                w.store(total, slot, 64)

                def step(k: V) -> None:
                    part = _chunk(f, x, i, k, lanes)
                    old = w.load(total.type, slot, 64)
                    w.store(combined(f, inst.op, x.dtype, old, part), slot, 64)

                s.loop(full, step, lanes)
                total = w.load(total.type, slot, 64)
            out = across(f, inst.op, x.dtype, total)
            if extent > full:
                rest = _chunk(f, x, i, V(I64, str(full)), extent - full)
                out = combined(f, inst.op, x.dtype, out, across(f, inst.op, x.dtype, rest))
            return out

        if before <= 8 or is_small(x.dtype, x.layout):
            rows = [row(V(I64, str(i))) for i in range(before)]
            return Tile(result.dtype, layout, w.join(rows))
        out = s.allocate(result.dtype, layout)
        s.loop(before, lambda i: s.put(out, [before], [i], row(i)))
        return Tile(result.dtype, layout, memory=out)
    out = s.allocate(result.dtype, layout)

    def column(i: V, k: V, lanes: int) -> None:
        slot = w.alloca(vector(kind, lanes), hint="partial")
        w.store(constant(vector(kind, lanes), _identity(inst.op, x.dtype)), slot, 1)

        def step(j: V) -> None:
            old = w.load(vector(kind, lanes), slot, 1)
            part = s.read(x, _digits([i, j, k], x), lanes)
            w.store(combined(f, inst.op, x.dtype, old, part), slot, 1)

        s.loop(extent, step)
        at = w.binary("add", w.binary("mul", i, V(I64, str(after))), k)
        s.put(out, [before * after], [at], w.load(vector(kind, lanes), slot, 1))

    s.nest([before, after], lambda d, n: column(d[0], d[1], n))
    return Tile(result.dtype, layout, memory=out)


def _three(f: CpuLowering, x: Tile, shape: tuple[int, int, int]) -> Tile:
    """A tile in row-major order as [before, extent, after]."""
    x = f.scratch.relaid(x, local(*x.layout.shape))
    layout = local(*shape)
    return retold(f, x, layout)


def _digits(at: Sequence[V], x: Tile) -> list[V]:
    """Digits of a row-major tile: dimensions of extent 1 have none."""
    kept = [a for a, n in zip(at, x.layout.shape, strict=True) if n > 1]
    return kept or [V(I64, "0")]


def _chunk(f: CpuLowering, x: Tile, row: V, start: V, lanes: int) -> V:
    return f.scratch.read(x, _digits([row, start, V(I64, "0")], x), lanes)


def _argmax(f: CpuLowering, x: Tile, layout: Layout, before: int, extent: int, after: int) -> Tile:
    """The first place of the largest element; the first NaN where there is nothing else."""
    w, s = f.w, f.scratch
    kind = I8 if x.element == I1 else x.element
    place, out = s.in_memory(x), s.allocate(i32, layout)
    best, where = w.alloca(x.element, hint="best"), w.alloca(I32, hint="where")

    def one(i: V, k: V) -> None:
        def at(j: V) -> V:
            flat = w.binary(
                "mul",
                w.binary("add", w.binary("mul", i, V(I64, str(extent))), j),
                V(I64, str(after)),
            )
            return w.load(kind, w.gep(place, w.binary("add", flat, k), kind), 1)

        w.store(at(V(I64, "0")), best, 8)
        w.store(V(I32, "0"), where, 4)

        def step(j: V) -> None:
            new, old = at(j), w.load(kind, best, 8)
            larger = elementwise.compare(w, "gt", x.dtype, new, old)
            if x.dtype.is_float:  # a number beats NaN
                old_nan, new_is = (
                    w.compare("fcmp", "uno", old, old),
                    w.compare("fcmp", "ord", new, new),
                )
                larger = w.op(I1, f"or {larger}, {w.op(I1, f'and {old_nan}, {new_is.ref}').ref}")
            w.store(w.select(larger, new, old), best, 8)
            here = w.cast("trunc", j, I32)
            w.store(w.select(larger, here, w.load(I32, where, 4)), where, 4)

        s.loop(extent, step)
        flat = w.binary("add", w.binary("mul", i, V(I64, str(after))), k)
        w.store(w.load(I32, where, 4), w.gep(out, flat, I32), 4)

    s.loop(before, lambda i: s.loop(after, lambda k: one(i, k)))
    return Tile(i32, layout, memory=out)


@lowering("cpu", reduce.Scan)
def _(inst: reduce.Scan, f: CpuLowering, x: Tile) -> Tile:
    w, s = f.w, f.scratch
    dim = normalize_dim(inst, inst.dim, x.layout.rank)
    shape = x.layout.shape
    before, extent, after = math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])
    x = _three(f, x, (before, extent, after))
    out = s.allocate(x.dtype, x.layout)

    def row(i: V, k: V, lanes: int) -> None:
        kind = vector(element_type(x.dtype), lanes)
        slot = w.alloca(kind, hint="running")
        w.store(constant(kind, _identity(inst.op, x.dtype)), slot, 1)

        def step(j: V) -> None:
            if inst.reverse:
                j = w.binary("sub", V(I64, str(extent - 1)), j)
            new = combined(
                f, inst.op, x.dtype, w.load(kind, slot, 1), s.read(x, _digits([i, j, k], x), lanes)
            )
            w.store(new, slot, 1)
            flat = w.binary(
                "mul",
                w.binary("add", w.binary("mul", i, V(I64, str(extent))), j),
                V(I64, str(after)),
            )
            s.put(out, [x.size], [w.binary("add", flat, k)], new)

        s.loop(extent, step)

    s.nest([before, after], lambda d, n: row(d[0], d[1], n))
    return Tile(x.dtype, local(*shape), memory=out)
