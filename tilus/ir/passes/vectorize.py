"""Say how many consecutive elements each memory access moves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilus.ir.analysis import Analysis, row_major_strides
from tilus.ir.expr import Const, Expr, Value
from tilus.ir.inst import Inst
from tilus.ir.instructions.memory import (
    CopyAsync,
    GlobalView,
    LoadGlobal,
    LoadShared,
    StoreGlobal,
    StoreShared,
    tile_dims,
)
from tilus.ir.passes.driver import Form, ir_pass
from tilus.ir.program import Assign, Function, Stmt, walk
from tilus.ir.rewrite import Rewriter, changed
from tilus.ir.target import Target, default_layout
from tilus.ir.types import SharedType, TileType
from tilus.layouts import Layout, MultipleOf, SharedLayout, contiguous_run, vector_width

SHARED_ALIGNMENT = 128  # bytes: what an allocation of shared memory begins at
FAR = 1 << 30  # a divisor for what is 0: everything divides it


@ir_pass(needs=Form.LAID_OUT, gives=Form.VECTORIZED)
def vectorize(f: Function, target: Target) -> Function:
    """Set `vector` (and the layout of async copies) where the kernel does not.

    Needs: layouts. Gives: accesses as wide as the layout, the strides, the known divisors of the
    addresses and the edges of the view allow: a vector lies wholly inside the view or wholly
    outside, and is aligned to its own size.

    >>> from tilus.ir.parser import parse
    >>> from tilus.ir.target import target
    >>> f = parse('''kernel @k(%p: ptr[f16] divisible 16, %n: i32 divisible 16) threads 4 {
    ...   %g = global_view(%p, dtype=f16, shape=[%n])
    ...   let %i = block_idx(0) * 32
    ...   %x = load_global(%g, offsets=[%i], shape=[32]) : f16[32] @ spatial(4)*local(8)
    ...   print_tensor(x=%x)
    ... }''')
    >>> print(vectorize(f, target("generic")), end="")
    kernel @k(%p: ptr[f16] divisible 16, %n: i32 divisible 16) threads 4 {
      %g = global_view(%p, dtype=f16, shape=[%n]) : global f16[?]
      let %i = block_idx(0) * 32
      %x = load_global(%g, offsets=[%i], shape=[32], vector=8) : f16[32] @ spatial(4)*local(8)
      print_tensor(x=%x, message="x")
    }
    """
    return _Vectorizer(f).function(f)


class _Vectorizer(Rewriter):
    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f = f
        self.facts = Analysis(f)
        self.divisible = {p.value: p.divisible for p in f.params}
        self.views = {
            s.result: s.inst
            for s in walk(f.body)
            if isinstance(s, Assign) and isinstance(s.inst, GlobalView) and s.result is not None
        }

    def statement(self, s: Stmt) -> Stmt:
        if isinstance(s, Assign):
            return changed(s, inst=self.widened(s.inst, s.result))
        return self.inside(s)

    def widened(self, inst: Inst, result: Value | None) -> Inst:
        match inst:
            case LoadGlobal(vector=None):
                width = self.globally(inst, inst.src, inst.offsets, inst.dims, _layout(result))
            case StoreGlobal(vector=None):
                width = self.globally(inst, inst.dst, inst.offsets, inst.dims, _layout(inst.x))
            case LoadShared(vector=None):
                width = self.shared(inst, inst.src, inst.offsets, inst.dims, _layout(result))
            case StoreShared(vector=None):
                width = self.shared(inst, inst.dst, inst.offsets, inst.dims, _layout(inst.x))
            case CopyAsync():
                shape = inst.tile_shape()
                layout = inst.layout or default_layout(
                    shape, inst.dst.dtype.bits, self.f.num_threads
                )
                inst = changed(inst, layout=layout)
                if inst.vector is not None:
                    return inst
                width = min(
                    self.globally(inst, inst.src, inst.offsets, inst.dims, layout),
                    self.shared(inst, inst.dst, inst.dst_offsets, inst.dst_dims, layout),
                )
            case _:
                return inst
        return changed(inst, vector=width)

    def globally(
        self,
        inst: Inst,
        view: Value,
        offsets: Sequence[Expr],
        dims: tuple[int, ...] | None,
        layout: Layout,
    ) -> int:
        """Elements one access to a global view can move."""
        made = self.views[view]
        all_strides = made.strides if made.strides is not None else row_major_strides(made.shape)
        at = [self.facts.facts(o) for o in offsets]
        steps = [self.facts.facts(s) for s in all_strides]
        bits = made.dtype.bits
        along = tile_dims(inst, dims, len(at), layout.rank)
        divisors = [self.divisible[made.ptr] * 8]
        if made.offset is not None:
            divisors.append(self.facts.facts(made.offset).divisor * bits)
        divisors += [o.divisor * s.divisor * bits for o, s in zip(at, steps, strict=True)]
        known = math.gcd(*divisors)
        if known % 8:
            return 1
        strides = [
            int(s.value) if isinstance(s, Const) else MultipleOf(steps[d].divisor or FAR)
            for d, s in ((d, all_strides[d]) for d in along)
        ]
        width = vector_width(layout, strides, bits, alignment=known // 8 or FAR)
        return self.inside_edges(width, bits, layout, along, offsets, made.shape)

    def inside_edges(
        self,
        width: int,
        bits: int,
        layout: Layout,
        along: Sequence[int],
        offsets: Sequence[Expr],
        extents: Sequence[Expr],
    ) -> int:
        """The most of `width` of which no vector straddles an edge of the view."""
        if width == 1:
            return 1
        i = layout.local_digits[-1].dim  # vectors run along it
        d = along[i]
        start, extent = self.facts.facts(offsets[d]), self.facts.facts(extents[d])
        within = self.facts.is_inside(offsets[d], layout.shape[i], extents[d])
        run = contiguous_run(layout, i)
        while width > 1:
            in_one_row = run % width == 0
            whole = extent.is_multiple_of(width) and start.is_multiple_of(width)
            if in_one_row and (within or whole):
                break
            width = width // 2 if width * bits % 16 == 0 else 1  # of whole bytes, or one element
        return width

    def shared(
        self,
        inst: Inst,
        tile: Value,
        offsets: Sequence[Expr] | None,
        dims: tuple[int, ...] | None,
        layout: Layout,
    ) -> int:
        """Elements one access to a shared tile can move."""
        t = tile.type
        assert isinstance(t, SharedType)
        memory = t.layout or SharedLayout.row_major(*t.shape)
        bits = t.dtype.bits
        if offsets is None:
            return vector_width(layout, memory, bits, alignment=SHARED_ALIGNMENT)
        if memory.swizzle is not None or any(len(m) > 1 for m in memory.modes):
            return 1  # a part of such a tile has no strides
        strides = [
            memory.strides[sum(map(len, memory.modes[:d]))] if m else 0
            for d, m in enumerate(memory.modes)
        ]
        along = tile_dims(inst, dims, len(t.shape), layout.rank)
        divisors = [SHARED_ALIGNMENT * 8]
        for o, s in zip(offsets, strides, strict=True):
            divisors.append(self.facts.facts(o).divisor * s * bits)
        known = math.gcd(*divisors)
        if known % 8:
            return 1
        return vector_width(layout, [strides[d] for d in along], bits, alignment=known // 8)


def _layout(v: Value | None) -> Layout:
    assert v is not None and isinstance(v.type, TileType) and v.type.layout is not None
    return v.type.layout
