"""Loads and stores of CPU tiles: addresses and masks from layouts, views and what is known of both.

An `Access` walks a tile in the order of its layout. Along the last digit, elements that are
neighbours in memory move as one vector, others lane by lane; elements outside the view are masked,
unless bounds prove that there are none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilus.codegen.cpu.lower import CpuLowering
from tilus.codegen.cpu.tiles import Digits, Tile, element_bytes, is_small, pieces, stored
from tilus.codegen.llvm.convert import normalized
from tilus.codegen.llvm.lanes import Lanes, mangled
from tilus.codegen.llvm.writer import (
    BFLOAT,
    HALF,
    I1,
    I8,
    I16,
    I32,
    I64,
    PTR,
    V,
    constant,
    element_type,
    values,
    vector,
)
from tilus.codegen.registry import lowering
from tilus.dtypes import DType, i32
from tilus.ir import machine
from tilus.ir.analysis import row_major_strides
from tilus.ir.expr import Const, Expr
from tilus.ir.instructions.memory import (
    AllocateShared,
    AtomicAdd,
    CopyAsync,
    CopyAsyncCommitGroup,
    CopyAsyncWaitGroup,
    GlobalView,
    Item,
    LoadGlobal,
    LoadShared,
    Prefetch,
    StoreGlobal,
    StoreShared,
    tile_dims,
)
from tilus.layouts import Layout, SharedLayout

ZERO = V(I64, "0")


@dataclass
class Memory:
    """A view of global memory, or a shared tile (which is scratch): a pointer with strides."""

    dtype: DType
    pointer: V
    shape: list[V]
    strides: list[V]
    extents: Sequence[Expr]  # the shape again, for what is known of it
    shared: bool = False
    start: V = ZERO  # elements from the pointer on, for types narrower than a byte


@dataclass
class Access:
    """A tile at a place in memory."""

    f: CpuLowering
    memory: Memory
    corner: list[V]  # i64, the coordinates of the tile's first element
    layout: Layout
    dims: tuple[int, ...]
    safe: list[bool]  # for each dimension of the memory: certainly inside
    low: list[bool]  # for each dimension: the corner is certainly not negative

    def steps(self) -> list[tuple[int, int]]:
        """(dimension of the memory, step along it) of each digit."""
        found = [(self.dims[d.dim], d.stride) for d in self.layout.local_digits]
        return found or [(self.dims[-1] if self.dims else 0, 1)]

    def coordinates(self, digits: Digits) -> list[V]:
        """The coordinates of the element at some digits."""
        w = self.f.w
        at = list(self.corner)
        for (dim, step), digit in zip(self.steps(), digits, strict=True):
            at[dim] = w.binary("add", at[dim], w.binary("mul", digit, V(I64, str(step))))
        return at

    def offset(self, at: Sequence[V]) -> V:
        """Elements from the pointer to the element at some coordinates."""
        w, total = self.f.w, self.memory.start
        for a, s in zip(at, self.memory.strides, strict=True):
            total = w.binary("add", total, w.binary("mul", a, s))
        return total

    def mask(self, at: Sequence[V], lanes: int) -> V | None:
        """Which lanes, counted along the last digit, are inside; None: all of them."""
        w = self.f.w
        last, step = self.steps()[-1]
        found: list[V] = []
        for dim, (a, extent) in enumerate(zip(at, self.memory.shape, strict=True)):
            if self.safe[dim]:
                continue
            if dim != last or lanes == 1:
                inside = w.compare("icmp", "ult", a, extent)  # a negative one is huge
                found.append(w.splat(inside, lanes))
                continue
            if step == 1 and self.low[dim]:
                found.append(self.leading(w.op(I64, f"sub {extent}, {a.ref}"), lanes))
                continue
            here = w.splat(a, lanes)
            places = values(I64, [k * step for k in range(lanes)])
            here = w.op(here.type, f"add {here}, {places.ref}", "at")
            found.append(w.compare("icmp", "ult", here, w.splat(extent, lanes)))
        if not found:
            return None
        total = found[0]
        for m in found[1:]:
            total = w.op(total.type, f"and {total}, {m.ref}", "mask")
        return total

    def leading(self, count: V, lanes: int) -> V:
        """The first `count` of some lanes, in comparisons no wider than the elements."""
        w = self.f.w
        count = w.call(I64, "llvm.smin.i64", count, V(I64, str(lanes)))
        count = w.call(I64, "llvm.smax.i64", count, V(I64, "0"))
        kind = f"i{min(32, max(8, self.memory.dtype.bits))}"
        limit = w.splat(w.cast("trunc", count, kind), lanes)
        return w.compare("icmp", "ult", values(kind, list(range(lanes))), limit)

    def stride(self) -> int | None:
        """Elements between neighbouring lanes, when that is a constant."""
        dim, step = self.steps()[-1]
        s = self.memory.strides[dim].ref
        return None if s.startswith("%") else int(s) * step

    def addresses(self, at: Sequence[V], lanes: int) -> V:
        """A pointer for each lane."""
        w = self.f.w
        dim, step = self.steps()[-1]
        kind = stored_type(self.memory.dtype)
        scale = w.binary("mul", self.memory.strides[dim], V(I64, str(step)))
        places = values(I64, list(range(lanes)))
        moved = w.op(places.type, f"mul {places}, {w.splat(scale, lanes).ref}", "lane")
        base = w.gep(self.memory.pointer, self.offset(at), kind)
        return w.op(vector(PTR, lanes), f"getelementptr {kind}, {base}, {moved}", "p")

    def read(self, digits: Digits, lanes: int, other: float) -> V:
        """`lanes` elements from memory, `other` where they are outside."""
        w, dtype = self.f.w, self.memory.dtype
        at = self.coordinates(digits)
        if dtype.bits % 8:
            return self.read_bits(at, lanes, other)
        kind = moved_type(dtype)
        mask = self.mask(at, lanes)
        code = machine.code_of(other, dtype)
        rest = constant(vector(f"i{dtype.bits}", lanes), code)
        whole = vector(kind, lanes)
        if kind != rest.element:
            rest = w.bitcast(rest, whole) if code else V(whole, "zeroinitializer")
        align = element_bytes(kind)
        if self.stride() == 1:
            place = w.gep(self.memory.pointer, self.offset(at), kind)
            if mask is None:
                got = w.load(whole, place, align)
            else:
                got = self.masked("load", whole, place, mask, rest, align)
        elif self.stride() == 0 and mask is None:
            place = w.gep(self.memory.pointer, self.offset(at), kind)
            got = w.splat(w.load(kind, place, align), lanes)
        else:
            mask = mask or constant(vector(I1, lanes), True)
            got = self.masked("gather", whole, self.addresses(at, lanes), mask, rest, align)
        if dtype.name == "bool":
            return w.cast("trunc", got, I1)
        return w.bitcast(got, vector(element_type(dtype), lanes))

    def masked(self, what: str, whole: str, place: V, mask: V, rest: V, align: int) -> V:
        """A masked load or gather."""
        w, suffix = self.f.w, mangled(whole)
        pointers = f"v{place.lanes}p0" if what == "gather" else "p0"
        name = f"llvm.masked.{what}.{suffix}.{pointers}"
        w.module.declare(whole, name, (place.type, mask.type, whole))
        aligned = f"{place.type} align {align} {place.ref}"
        return w.op(whole, f"call {whole} @{name}({aligned}, {mask}, {rest})", "v")

    def read_bits(self, at: Sequence[V], lanes: int, other: float) -> V:
        """Elements of a bit stream, each out of the one or two bytes it lies in."""
        w, dtype = self.f.w, self.memory.dtype
        mask = self.mask(at, lanes) or constant(vector(I1, lanes), True)
        bit = self.bit_positions(at, lanes)
        last = w.op(bit.type, f"add {bit}, {constant(bit.type, dtype.bits - 1).ref}")
        pair = self.byte_at(bit, mask)
        high = w.binary("shl", self.byte_at(last, mask), constant(pair.type, 8))
        pair = w.binary("or", pair, high)
        low = w.cast("trunc", w.op(bit.type, f"and {bit}, {constant(bit.type, 7).ref}"), I16)
        code = w.cast("trunc", w.binary("lshr", pair, low), I8)
        limit = constant(code.type, (1 << dtype.bits) - 1)
        code = w.binary("and", code, limit)
        code = w.select(mask, code, constant(code.type, machine.code_of(other, dtype)))
        return normalized(Lanes(w, code), dtype).v

    def bit_positions(self, at: Sequence[V], lanes: int) -> V:
        """The first bit of each lane's element."""
        w = self.f.w
        dim, step = self.steps()[-1]
        scale = w.binary("mul", self.memory.strides[dim], V(I64, str(step)))
        places = values(I64, list(range(lanes)))
        moved = w.op(places.type, f"mul {places}, {w.splat(scale, lanes).ref}", "lane")
        first = w.splat(self.offset(at), lanes)
        element = w.op(first.type, f"add {first}, {moved.ref}", "element")
        return w.op(
            first.type, f"mul {element}, {constant(first.type, self.memory.dtype.bits).ref}", "bit"
        )

    def byte_at(self, bit: V, mask: V) -> V:
        """The bytes in which some bits lie, as i16."""
        w = self.f.w
        byte = w.op(bit.type, f"ashr {bit}, {constant(bit.type, 3).ref}")
        place = w.op(
            vector(PTR, bit.lanes), f"getelementptr i8, {self.memory.pointer}, {byte}", "p"
        )
        whole = vector(I8, bit.lanes)
        got = self.masked("gather", whole, place, mask, V(whole, "zeroinitializer"), 1)
        return w.cast("zext", got, I16)

    def write(self, digits: Digits, x: V) -> None:
        """Store a vector of elements; what lies outside is left alone."""
        w, dtype, lanes = self.f.w, self.memory.dtype, x.lanes
        at = self.coordinates(digits)
        if dtype.bits % 8:
            self.write_bits(at, x)
            return
        kind = moved_type(dtype)
        x = w.cast("zext", x, I8) if dtype.name == "bool" else w.bitcast(x, vector(kind, lanes))
        mask = self.mask(at, lanes)
        align = element_bytes(kind)
        if self.stride() == 1:
            place = w.gep(self.memory.pointer, self.offset(at), kind)
            if mask is None:
                w.store(x, place, align)
                return
            name = f"llvm.masked.store.{mangled(x.type)}.p0"
            operands = f"{place.type} align {align} {place.ref}, {mask}"
        else:
            place = self.addresses(at, lanes)
            mask = mask or constant(vector(I1, lanes), True)
            name = f"llvm.masked.scatter.{mangled(x.type)}.v{lanes}p0"
            operands = f"{place.type} align {align} {place.ref}, {mask}"
        w.module.declare("void", name, (x.type, place.type, mask.type))
        w.line(f"call void @{name}({x}, {operands})")

    def write_bits(self, at: Sequence[V], x: V) -> None:
        """Store narrow elements one after the other, each into the bytes it lies in."""
        w, dtype = self.f.w, self.memory.dtype
        mask = self.mask(at, x.lanes)
        bit = self.bit_positions(at, x.lanes)
        for lane in range(x.lanes):
            done = w.fresh_label("stored")
            if mask is not None:
                go = w.fresh_label("inside")
                w.branch(w.extract(mask, lane), go, done)
                w.label(go)
            first = w.extract(bit, lane)
            code = w.cast("zext", w.extract(x, lane), I16)
            code = w.binary("and", code, constant(I16, (1 << dtype.bits) - 1))
            low = w.cast("trunc", w.op(I64, f"and {first}, 7"), I16)
            code = w.binary("shl", code, low)
            hole = w.binary("shl", constant(I16, (1 << dtype.bits) - 1), low)
            last = w.op(I64, f"add {first}, {dtype.bits - 1}")
            bytes_ = [(w.op(I64, f"ashr {b}, 3"), 8 * i) for i, b in enumerate((first, last))]
            for number, (byte, shift) in enumerate(bytes_):
                skip = None
                if number == 1:  # only where the element straddles two bytes
                    other = w.compare("icmp", "ne", byte, bytes_[0][0])
                    go, skip = w.fresh_label("second"), w.fresh_label("one")
                    w.branch(other, go, skip)
                    w.label(go)
                place = w.gep(self.memory.pointer, byte, I8)
                keep = w.op(I16, f"xor {w.binary('lshr', hole, constant(I16, shift))}, -1")
                part = w.cast("trunc", w.binary("lshr", code, constant(I16, shift)), I8)
                old = w.binary("and", w.load(I8, place, 1), w.cast("trunc", keep, I8))
                w.store(w.binary("or", old, part), place, 1)
                if skip is not None:
                    w.label(skip)
            if mask is not None:
                w.label(done)

    def load(self, other: float) -> Tile:
        """The whole tile."""
        s, dtype, layout = self.f.scratch, self.memory.dtype, self.layout
        lazy = Tile(dtype, layout, lazy=lambda digits, lanes: self.read(digits, lanes, other))
        if is_small(dtype, layout):
            return Tile(dtype, layout, vector=s.whole(lazy), source=InMemory(self))
        return Tile(dtype, layout, memory=s.in_memory(lazy))

    def store(self, tile: Tile) -> None:
        """Write the whole tile; its lanes are in the order of this access's layout."""
        s = self.f.scratch
        if tile.vector is not None:
            x, start = s.whole(tile), 0
            for digits, lanes in pieces(tile.sizes):
                self.write(digits, self.f.w.part(x, start, lanes))
                start += lanes
            return
        s.nest(tile.sizes, lambda d, n: self.write(d, s.read(tile, d, n)))


class InMemory:
    """A matrix loaded from a place where all of it certainly is (see `tiles.Source`)."""

    def __init__(self, place: Access) -> None:
        self.place, self.writes, self.path = place, place.f.writes, place.f.w.path

    def valid(self) -> bool:
        """Nothing was written since, and the program is still in the same region."""
        return self.place.f.writes == self.writes and self.place.f.w.path == self.path

    def word(self, row: int, column: int, bits: int) -> V | None:
        """Neighbours in a row, which must lie side by side in whole bytes."""
        p, w = self.place, self.place.f.w
        dtype = p.memory.dtype
        if p.layout.rank != 2 or not all(p.safe) or dtype.bits % 8:
            return None
        at = list(p.corner)
        if p.memory.strides[p.dims[1]].ref != "1":
            return None
        for dim, i in zip(p.dims, (row, column), strict=True):
            at[dim] = w.binary("add", at[dim], V(I64, str(i)))
        return w.load(f"i{bits}", w.gep(p.memory.pointer, p.offset(at), stored_type(dtype)), 1)


def stored_type(dtype: DType) -> str:
    """The LLVM type of an element in memory."""
    return stored(element_type(dtype))


def moved_type(dtype: DType) -> str:
    """The type an element is moved as: 16-bit floats as integers.

    Not every machine has registers for them, and LLVM would then convert them to f32 and back.
    """
    kind = stored_type(dtype)
    return I16 if kind in (HALF, BFLOAT) else kind


def access(
    f: CpuLowering,
    memory: Memory,
    offsets: Sequence[Expr] | None,
    layout: Layout,
    dims: tuple[int, ...],
) -> Access:
    """A tile of `layout` whose corner is at `offsets`."""
    rank = len(memory.shape)
    if offsets is None:
        corner, safe = [V(I64, "0")] * rank, [True] * rank
        return Access(f, memory, corner, layout, dims, safe, safe)
    corner = [f.scalars.index(o) for o in offsets]
    safe = []
    for d, (o, extent) in enumerate(zip(offsets, memory.extents, strict=True)):
        length = layout.shape[dims.index(d)] if d in dims else 1
        safe.append(memory.shared or f.facts.is_inside(o, length, extent))
    low = [s or f.facts.is_not_negative(o) for s, o in zip(safe, offsets, strict=True)]
    return Access(f, memory, corner, layout, dims, safe, low)


@lowering("cpu", GlobalView)
def _(
    inst: GlobalView, f: CpuLowering, ptr: V, shape: object, strides: object, offset: object
) -> Memory:
    w = f.w
    all_strides = inst.strides if inst.strides is not None else row_major_strides(inst.shape)
    pointer, start = ptr, V(I64, "0")
    if inst.offset is not None and not (isinstance(inst.offset, Const) and inst.offset.value == 0):
        at = f.scalars.index(inst.offset)
        if inst.dtype.bits % 8:
            start = at  # not a place that a pointer can name
        else:
            pointer = w.gep(ptr, at, stored_type(inst.dtype))
    index = f.scalars.index
    return Memory(
        inst.dtype,
        pointer,
        [index(e) for e in inst.shape],
        [index(e) for e in all_strides],
        inst.shape,
        start=start,
    )


@lowering("cpu", AllocateShared)
def _(inst: AllocateShared, f: CpuLowering) -> Memory:
    shape = inst.shape
    layout = SharedLayout.row_major(*shape)  # with one thread there are no banks to spread over
    pointer = f.scratch.shared(inst.dtype, layout.cosize)
    # Known to others, as far as LLVM can see: it would else load what a dot spreads over its lanes
    # once before a loop, spread, and spill it (see the barrier in matrix.py).
    f.w.line(f'call void asm sideeffect "", "r"({pointer})')
    strides = machine.row_major(shape)
    return Memory(
        inst.dtype,
        pointer,
        [V(I64, str(n)) for n in shape],
        [V(I64, str(s)) for s in strides],
        [Const(n, i32) for n in shape],
        shared=True,
    )


OneTile = LoadGlobal | StoreGlobal | LoadShared | StoreShared | AtomicAdd


def _dims(inst: OneTile, m: Memory, layout: Layout) -> tuple[int, ...]:
    return tile_dims(inst, inst.dims, len(m.shape), layout.rank)


@lowering("cpu", LoadGlobal)
def _(inst: LoadGlobal, f: CpuLowering, src: Memory, offsets: object) -> Tile:
    return access(f, src, inst.offsets, f.layout, _dims(inst, src, f.layout)).load(inst.other)


@lowering("cpu", LoadShared)
def _(inst: LoadShared, f: CpuLowering, src: Memory, offsets: object) -> Tile:
    return access(f, src, inst.offsets, f.layout, _dims(inst, src, f.layout)).load(0.0)


@lowering("cpu", StoreGlobal, StoreShared)
def _(
    inst: StoreGlobal | StoreShared, f: CpuLowering, dst: Memory, x: Tile, offsets: object
) -> None:
    access(f, dst, inst.offsets, x.layout, _dims(inst, dst, x.layout)).store(x)


@lowering("cpu", CopyAsync)
def _(
    inst: CopyAsync, f: CpuLowering, dst: Memory, src: Memory, offsets: object, dst_offsets: object
) -> None:
    layout = inst.layout
    assert layout is not None
    dims = tile_dims(inst, inst.dims, len(src.shape), layout.rank)
    tile = access(f, src, inst.offsets, layout, dims).load(0.0)
    to = tile_dims(inst, inst.dst_dims, len(dst.shape), layout.rank)
    access(f, dst, inst.dst_offsets, layout, to).store(tile)


@lowering("cpu", CopyAsyncCommitGroup, CopyAsyncWaitGroup)
def _(inst: CopyAsyncCommitGroup | CopyAsyncWaitGroup, f: CpuLowering) -> None:
    """An async copy is a copy: there is nothing to wait for."""


@lowering("cpu", Prefetch)
def _(inst: Prefetch, f: CpuLowering, src: Memory, offsets: object) -> None:
    w = f.w
    at = access(f, src, inst.offsets, Layout((), (), (), ()), ())
    total = at.offset(at.corner)
    bits = w.binary("mul", total, V(I64, str(src.dtype.bits)))
    base = w.gep(src.pointer, w.op(I64, f"ashr {bits}, 3"), I8)
    size = math.prod(inst.shape) * src.dtype.bits // 8
    near = {1: "3", 2: "2"}[inst.level]
    for line in range(0, max(size, 1), 64):
        place = w.gep(base, V(I64, str(line)), I8)
        w.call("void", "llvm.prefetch.p0", place, V(I32, "0"), V(I32, near), V(I32, "1"))


@lowering("cpu", AtomicAdd)
def _(inst: AtomicAdd, f: CpuLowering, dst: Memory, x: Tile, offsets: object) -> None:
    w = f.w
    a = access(f, dst, inst.offsets, x.layout, _dims(inst, dst, x.layout))
    kind = stored_type(dst.dtype)
    opcode = "fadd" if dst.dtype.is_float else "add"
    place = f.scratch.in_memory(x)

    def one(digits: Digits, lanes: int) -> None:
        def lane(k: V) -> None:
            *outer, inner = digits
            here = [*outer, w.binary("add", inner, k)]
            at = a.coordinates(here)
            mask = a.mask(at, 1)
            done = w.fresh_label("added")
            if mask is not None:
                go = w.fresh_label("inside")
                w.branch(w.extract(mask, 0), go, done)
                w.label(go)
            value = w.load(kind, w.gep(place, f.scratch.flat(x.sizes, here), kind), 1)
            target = w.gep(dst.pointer, a.offset(at), kind)
            w.op(
                kind, f"atomicrmw {opcode} {target}, {value} monotonic, align {element_bytes(kind)}"
            )
            if mask is not None:
                w.label(done)

        f.scratch.loop(lanes, lane)

    f.scratch.nest(x.sizes, one)


@lowering("cpu", Item)
def _(inst: Item, f: CpuLowering, x: Tile) -> V:
    return f.w.extract(f.scratch.whole(x), 0)
