"""Matrix products on a CPU.

Small operands are vectors: each step of the atom takes a run of weights (the n side) and one group
of activations spread over all lanes; a group that lies in memory is read from there, so that it
becomes the instruction's memory operand. Large operands lie in scratch memory and are multiplied
block by block: MR rows by NR columns of the accumulator stay in registers over all of k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilus import dtypes
from tilus.codegen.cpu.compute import mapped, picked
from tilus.codegen.cpu.lower import CpuLowering
from tilus.codegen.cpu.tiles import Tile, is_small
from tilus.codegen.llvm import convert
from tilus.codegen.llvm.writer import BFLOAT, I16, I64, V, Writer, constant, element_type, vector
from tilus.codegen.registry import lowering
from tilus.dtypes import DType
from tilus.ir.instructions.matrix import Dot, accumulator
from tilus.ir.machine import index_table
from tilus.ir.target import Atom
from tilus.layouts import Layout, local

MR, NR = 4, 32  # the accumulator block of a large product
CHAINS = 4  # independent sums an integer dot keeps, to hide its latency

Emit = Callable[[Writer, V, V, V], V]  # accumulator, weights, activations -> accumulator

ATOMS: dict[str, Emit] = {}


def emits(*names: str) -> Callable[[Emit], Emit]:
    """Enter how a matrix instruction is written."""

    def enter(fn: Emit) -> Emit:
        ATOMS.update(dict.fromkeys(names, fn))
        return fn

    return enter


@emits("vpdpbusd.m1n16k4", "vpdpbusd.m1n8k4")
def _(w: Writer, acc: V, b: V, a: V) -> V:
    return w.call(acc.type, f"llvm.x86.avx512.vpdpbusd.{acc.lanes * 32}", acc, b, a)


@emits("vdpbf16ps.m1n16k2")
def _(w: Writer, acc: V, b: V, a: V) -> V:
    pairs = vector(BFLOAT, acc.lanes * 2)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{acc.lanes * 32}"
    return w.call(acc.type, name, acc, w.bitcast(b, pairs), w.bitcast(a, pairs))


@emits("fma.m1n16k1", "fma.m1n8k1")
def _(w: Writer, acc: V, b: V, a: V) -> V:
    return w.call(acc.type, f"llvm.fma.v{acc.lanes}f32", a, b, acc)


@emits("vpmaddwd.m1n8k4")
def _(w: Writer, acc: V, b: V, a: V) -> V:
    """Even and odd bytes widened to 16 bits in place: exact, where vpmaddubsw would saturate."""
    kind = vector(I16, acc.lanes * 2)
    weights, x = w.bitcast(b, kind), w.bitcast(a, kind)
    eight = constant(kind, 8)
    even = w.binary("ashr", w.binary("shl", x, eight), eight)
    odd = w.binary("ashr", x, eight)
    name = "llvm.x86.avx2.pmadd.wd"
    first = w.call(acc.type, name, w.binary("and", weights, constant(kind, 255)), even)
    second = w.call(acc.type, name, w.binary("lshr", weights, eight), odd)
    acc = w.op(acc.type, f"add {acc}, {first.ref}")
    return w.op(acc.type, f"add {acc}, {second.ref}")


@lowering("cpu", Dot)
def _(inst: Dot, f: CpuLowering, a: Tile, b: Tile, acc: Tile | None) -> Tile:
    m, k = a.layout.shape
    n = b.layout.shape[1]
    small = all(is_small(t.dtype, t.layout) for t in (a, b)) and m * n * 4 <= 2048
    if small:
        for atom in f.target.atoms_for(a.dtype, b.dtype):
            fits = n % atom.layouts.n == 0 and k % atom.layouts.k == 0
            if atom.name in ATOMS and fits:
                return _small(inst, f, atom, a, b, acc)
    return _large(inst, f, a, b, acc)


def slots_of(layout: Layout) -> list[int]:
    """Row-major element number -> lane."""
    order = index_table(layout)[0]
    lanes = [0] * len(order)
    for lane, element in enumerate(order):
        lanes[int(element)] = lane
    return lanes


def _small(inst: Dot, f: CpuLowering, atom: Atom, a: Tile, b: Tile, acc: Tile | None) -> Tile:
    w, s = f.w, f.scratch
    m, k = a.layout.shape
    n = b.layout.shape[1]
    step_n, step_k = atom.layouts.n, atom.layouts.k
    dtype = accumulator(a.dtype, b.dtype)
    assert dtype is not None
    if atom.a == () or atom.name.startswith("fma"):  # products in f32
        a, b = (mapped(f, dtypes.f32, [x], _to_f32(f, x.dtype)) for x in (a, b))
    layout = local(m, n)
    kind = vector(element_type(dtype), step_n)
    zero = V(kind, "zeroinitializer")
    start = s.whole(s.relaid(acc, layout)) if acc is not None else None
    columns, steps = n // step_n, k // step_k
    chains = 1
    if dtype.is_integer:
        chains = max(1, min(CHAINS // (m * columns), steps))
    sums: list[list[V]] = [
        [
            (w.part(start, (i * n) + j * step_n, step_n) if start is not None else zero)
            if c == 0
            else zero
            for i in range(m)
            for j in range(columns)
        ]
        for c in range(chains)
    ]
    lane_b = slots_of(b.layout)
    for kb in range(steps):
        row = sums[kb % chains]
        groups = [_group(f, a, i, kb * step_k, step_k, step_n) for i in range(m)]
        for j in range(columns):
            lanes = [
                lane_b[(kb * step_k + kk) * n + j * step_n + nn]
                for nn in range(step_n)
                for kk in range(step_k)
            ]
            weights = picked(f, b, lanes)
            for i in range(m):
                row[i * columns + j] = ATOMS[atom.name](w, row[i * columns + j], weights, groups[i])
    # No load moves across this: LLVM would fetch and take apart the operands of all later dots
    # first, and spill them.
    w.line('call void asm sideeffect "", "~{memory}"()')
    total = sums[0]
    for other in sums[1:]:
        total = [w.op(x.type, f"add {x}, {y.ref}") for x, y in zip(total, other, strict=True)]
    return Tile(dtype, layout, w.join(total))


def _to_f32(f: CpuLowering, dtype: DType) -> Callable[[V], V]:
    return lambda v: convert.cast(f.w, dtype, dtypes.f32, v)


def _group(f: CpuLowering, a: Tile, row: int, start: int, count: int, lanes: int) -> V:
    """`count` neighbours in k of one row of activations, repeated in all lanes."""
    w = f.w
    bits = a.dtype.bits * count
    one = a.source.word(row, start, bits) if a.source is not None and a.source.valid() else None
    if one is None:
        slot = slots_of(a.layout)
        k = a.layout.shape[1]
        part = picked(f, a, [slot[row * k + start + i] for i in range(count)])
        one = w.bitcast(part, f"i{bits}") if count > 1 else w.extract(part, 0)
    whole = w.splat(one, lanes)
    return w.bitcast(whole, vector(a.element, lanes * count))


def _large(inst: Dot, f: CpuLowering, a: Tile, b: Tile, acc: Tile | None) -> Tile:
    w, s = f.w, f.scratch
    m, k = a.layout.shape
    n = b.layout.shape[1]
    dtype = accumulator(a.dtype, b.dtype)
    assert dtype is not None
    kind = element_type(dtype)

    def wide(x: Tile) -> V:
        to = lambda v: convert.cast(w, x.dtype, dtype, v)  # noqa: E731
        return s.in_memory(s.relaid(mapped(f, dtype, [x], to), local(*x.layout.shape)))

    rows, columns = wide(a), wide(b)
    out = _accumulator(inst, f, acc, dtype, (m, n))

    def block(i: V, j: V, height: int, width: int) -> None:
        place = [
            w.gep(out, s.flat([m, n], [w.binary("add", i, V(I64, str(r))), j]), kind)
            for r in range(height)
        ]
        slots = [w.alloca(vector(kind, width), hint="sum") for _ in range(height)]
        for p, slot in zip(place, slots, strict=True):
            w.store(w.load(vector(kind, width), p, 4), slot, 4)

        def step(p: V) -> None:
            run = w.load(vector(kind, width), w.gep(columns, s.flat([k, n], [p, j]), kind), 4)
            for r, slot in enumerate(slots):
                at = w.gep(rows, s.flat([m, k], [w.binary("add", i, V(I64, str(r))), p]), kind)
                one = w.splat(w.load(kind, at, 4), width)
                old = w.load(run.type, slot, 4)
                w.store(_multiply_add(w, dtype, one, run, old), slot, 4)

        s.loop(k, step)
        for p, slot in zip(place, slots, strict=True):
            w.store(w.load(vector(kind, width), slot, 4), p, 4)

    def band(i: V, height: int) -> None:
        full = n - n % NR
        s.loop(full, lambda j: block(i, j, height, NR), NR)
        if n > full:
            block(i, V(I64, str(full)), height, n - full)

    full = m - m % MR
    s.loop(full, lambda i: band(i, MR), MR)
    if m > full:
        band(V(I64, str(full)), m - full)
    return Tile(dtype, local(m, n), memory=out)


def _multiply_add(w: Writer, dtype: DType, a: V, b: V, c: V) -> V:
    if dtype.is_integer:
        product = w.op(a.type, f"mul {a}, {b.ref}")
        return w.op(a.type, f"add {product}, {c.ref}")
    suffix = "f64" if dtype == dtypes.f64 else "f32"
    name = f"llvm.fma.v{a.lanes}{suffix}" if a.type.startswith("<") else f"llvm.fma.{suffix}"
    return w.call(a.type, name, a, b, c)


def _accumulator(
    inst: Dot, f: CpuLowering, acc: Tile | None, dtype: DType, shape: Sequence[int]
) -> V:
    """Memory that holds the accumulator: its own where nobody else reads it, else a copy."""
    s, layout = f.scratch, local(*shape)
    if acc is not None and inst.acc is not None:
        last = f.count[inst.acc] == 1 and acc.memory is not None and acc.layout == layout
        if last and acc.memory is not None:
            return acc.memory
    out = s.allocate(dtype, layout, "product")
    zero = constant(element_type(dtype), 0)
    start = acc or Tile(dtype, layout, lazy=lambda d, n: f.w.splat(zero, n))
    s.write(s.relaid(start, layout), out)
    return out
