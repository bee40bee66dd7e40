"""Insert the barriers that make a block's memory mean what program order says.

That holds for shared tiles, and for global memory that is reached through one pointer; pointers
that are different parameters are taken to be different memory.

Going through the program in order, `pending` holds the accesses to memory since the last barrier.
An access that conflicts with one of them (same memory, at least one writes, and some element may be
touched by two threads) gets a barrier in front. A loop is walked until the accesses that reach its
start along the back edge are known. Two accesses by one mapping from threads to elements need no
barrier where the tiles are the same or share nothing: each thread meets only itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tilus.errors import Span
from tilus.ir.analysis import Analysis
from tilus.ir.expr import Apply, Const, Expr, Value, const
from tilus.ir.inst import Inst
from tilus.ir.instructions.memory import (
    AtomicAdd,
    CopyAsync,
    CopyAsyncWaitGroup,
    GlobalView,
    tile_dims,
)
from tilus.ir.instructions.sync import Sync
from tilus.ir.passes.driver import Form, ir_pass
from tilus.ir.program import (
    Assign,
    Break,
    Continue,
    For,
    Function,
    If,
    Return,
    Seq,
    Stmt,
    While,
    Yield,
    definitions,
    walk,
)
from tilus.ir.target import Target
from tilus.ir.types import SharedType, TileType
from tilus.layouts import Layout, SharedLayout


@ir_pass(needs=Form.VECTORIZED, gives=Form.ORDERED)
def insert_barriers(f: Function, target: Target) -> Function:
    """Put a `sync` before every access to memory that another thread's must precede.

    Needs: layouts, those of async copies included. Gives: no race inside a block.

    >>> from tilus.ir.parser import parse
    >>> from tilus.ir.target import target
    >>> f = parse('''kernel @k(%p: ptr[f32]) threads 4 {
    ...   %x = full(dtype=f32, shape=[8], value=0.0) : f32[8] @ spatial(4)*local(2)
    ...   %s = allocate_shared(dtype=f32, shape=[8])
    ...   store_shared(%s, %x)
    ...   %y = load_shared(%s) : f32[8] @ local(2)*spatial(4)
    ...   print_tensor(x=%y)
    ... }''')
    >>> print(insert_barriers(f, target("generic")), end="")
    kernel @k(%p: ptr[f32]) threads 4 {
      %x = full(dtype=f32, shape=[8], value=0.0) : f32[8] @ spatial(4)*local(2)
      %s = allocate_shared(dtype=f32, shape=[8]) : shared f32[8]
      store_shared(%s, %x)
      sync()
      %y = load_shared(%s) : f32[8] @ local(2)*spatial(4)
      print_tensor(x=%y, message="y")
    }
    """
    if f.num_threads == 1:
        return f
    body, _ = _Inserter(f).seq(f.body, _State())
    return f.with_body(body)


@dataclass(frozen=True)
class _Access:
    """One instruction's use of memory: of a shared tile, or of a view and the pointer under it."""

    memory: Value
    tile: Value
    writes: bool
    atomic: bool
    layout: Layout
    offsets: tuple[Expr, ...] | None
    dims: tuple[int, ...]
    older: bool = False  # from an earlier iteration, where its offsets had other values


@dataclass(frozen=True)
class _State:
    """What may have happened since the last barrier; None stands for "control is never here"."""

    pending: frozenset[_Access] = frozenset()
    flying: frozenset[_Access] = frozenset()  # async copies not waited for

    def join(self, other: _State | None) -> _State:
        if other is None:
            return self
        return _State(self.pending | other.pending, self.flying | other.flying)

    def aged(self, changing: Callable[[_Access], bool]) -> _State:
        """What it is to a later iteration; `changing`: whose offsets have other values there."""

        def age(accesses: frozenset[_Access]) -> frozenset[_Access]:
            return frozenset(replace(a, older=a.older or changing(a)) for a in accesses)

        return _State(age(self.pending), age(self.flying))


class _Inserter:
    def __init__(self, f: Function) -> None:
        self.f = f
        self.facts = Analysis(f)
        self.continues: list[_State] = []
        self.breaks: list[_State] = []
        self.views = {
            s.result: s.inst
            for s in walk(f.body)
            if isinstance(s, Assign) and isinstance(s.inst, GlobalView) and s.result is not None
        }

    def seq(self, s: Seq, state: _State | None) -> tuple[Seq, _State | None]:
        out: list[Stmt] = []
        for inner in s.stmts:
            new, state = self.statement(inner, state)
            out.extend(new)
        same = len(out) == len(s.stmts) and all(a is b for a, b in zip(out, s.stmts, strict=True))
        return (s if same else Seq(tuple(out), span=s.span)), state

    def statement(self, s: Stmt, state: _State | None) -> tuple[list[Stmt], _State | None]:
        if state is None:
            return [s], None
        match s:
            case Assign():
                return self.instruction(s, state)
            case If():
                then, a = self.seq(s.then, state)
                orelse, b = self.seq(s.orelse, state)
                if then is not s.then or orelse is not s.orelse:
                    s = replace(s, then=then, orelse=orelse)
                return [s], a.join(b) if a is not None else b
            case For() | While():
                return self.loop(s, state)
            case Continue():
                self.continues.append(state)
                return [s], None
            case Break():
                self.breaks.append(state)
                return [s], None
            case Return():
                return [s], None
            case Yield():
                return [s], state
        return [s], state

    def loop(self, s: For | While, state: _State) -> tuple[list[Stmt], _State | None]:
        saved = self.continues, self.breaks
        inside = {v for x in walk(s) for v in definitions(x)}

        def changing(a: _Access) -> bool:
            return any(not inside.isdisjoint(self.facts.inputs(o)) for o in a.offsets or ())

        entry = state
        while True:
            self.continues, self.breaks = [], []
            body, end = self.seq(s.body, entry)
            again = entry
            for back in (*self.continues, end):
                if back is not None:
                    again = again.join(back.aged(changing))
            if again == entry:
                break
            entry = again
        after = entry
        for out in (*self.breaks, *self.continues, end):
            after = after.join(out)
        self.continues, self.breaks = saved
        return [s if body is s.body else replace(s, body=body)], after.aged(changing)

    def instruction(self, s: Assign, state: _State) -> tuple[list[Stmt], _State]:
        inst = s.inst
        if inst.is_barrier:
            return [s], _State(flying=state.flying)
        if isinstance(inst, CopyAsyncWaitGroup):  # any of those in flight may have arrived
            flying = state.flying if inst.n else frozenset()
            return [s], _State(state.pending | state.flying, flying)
        accesses = list(self.accesses(inst, s.result))
        before: list[Stmt] = []
        if any(self.conflict(old, new) for old in state.pending for new in accesses):
            span: Span | None = s.span.because("inserted by insert_barriers") if s.span else None
            before.append(Assign(None, Sync(), span=span))
            state = _State(flying=state.flying)
        if isinstance(inst, CopyAsync):  # it reads at once, and writes until it is waited for
            now = {a for a in accesses if not a.writes}
            return [*before, s], _State(state.pending | now, state.flying | (set(accesses) - now))
        return [*before, s], _State(state.pending | set(accesses), state.flying)

    def accesses(self, inst: Inst, result: Value | None) -> list[_Access]:
        """How an instruction uses memory."""
        found = []
        for name, v in inst.operands():
            if name not in (*inst.reads, *inst.writes):
                continue
            prefix = "dst_" if isinstance(inst, CopyAsync) and name == "dst" else ""
            offsets = getattr(inst, f"{prefix}offsets", None)
            dims = getattr(inst, f"{prefix}dims", None)
            tile = result if result is not None else getattr(inst, "x", None)
            layout = getattr(inst, "layout", None)
            if isinstance(tile, Value) and isinstance(tile.type, TileType):
                layout = tile.type.layout
            assert isinstance(layout, Layout), inst
            rank = len(v.type.shape) if isinstance(v.type, SharedType) else len(offsets or ())
            along = tile_dims(inst, dims, rank, layout.rank)
            made = self.views.get(v)
            memory = made.ptr if made is not None else v
            writes, atomic = name in inst.writes, isinstance(inst, AtomicAdd)
            found.append(_Access(memory, v, writes, atomic, layout, offsets, along))
        return found

    def conflict(self, a: _Access, b: _Access) -> bool:
        """Whether two threads may meet at an element, at least one of them writing."""
        if a.memory is not b.memory or not (a.writes or b.writes) or (a.atomic and b.atomic):
            return False
        if a.tile is not b.tile:  # two views of one pointer
            return True
        if self.apart(a, b):
            return False
        alike = (a.layout, a.dims) == (b.layout, b.dims) and not a.layout.is_replicated
        return not (alike and self.same_or_apart(a, b))

    def same_or_apart(self, a: _Access, b: _Access) -> bool:
        """Whether two tiles of one shape certainly lie at one place or share no element."""
        for d, (x, y) in enumerate(zip(_offsets(a), _offsets(b), strict=True)):
            in_steps = all(self.facts.facts(o).is_multiple_of(_extent(a, d)) for o in (x, y))
            if not (in_steps and self.keeps_bytes(a.tile, d)):
                if a.older or b.older or self.facts.difference(x, y) != 0:
                    return False
        return True

    def apart(self, a: _Access, b: _Access) -> bool:
        """Whether the two tiles certainly share no element."""
        for d, (x, y) in enumerate(zip(_offsets(a), _offsets(b), strict=True)):
            if not self.keeps_bytes(a.tile, d):
                continue
            if (a.older or b.older) and not (isinstance(x, Const) and isinstance(y, Const)):
                continue
            extents = [_extent(a, d), _extent(b, d)]
            delta = self.facts.difference(x, y)  # x - y
            if delta is not None and (delta >= extents[1] or -delta >= extents[0]):
                return True
            if extents == [1, 1] and self.differ_modulo(x, y):
                return True
        return False

    def keeps_bytes(self, tile: Value, d: int) -> bool:
        """Whether elements that differ along dimension `d` never share a byte."""
        if not isinstance(tile.type, SharedType):  # strides of a view may let elements overlap
            return self.views[tile].strides is None and tile.dtype.bits % 8 == 0
        memory = tile.type.layout or SharedLayout.row_major(*tile.type.shape)
        first = sum(map(len, memory.modes[:d]))
        steps = list(memory.strides[first : first + len(memory.modes[d])])
        if memory.swizzle is not None:
            steps.append(1 << memory.swizzle.base)
        return all(step * tile.dtype.bits % 8 == 0 for step in steps)

    def differ_modulo(self, x: Expr, y: Expr) -> bool:
        """Whether p % n and q % n differ because p - q is no multiple of n: stages of a ring."""
        x, y = self.facts.unfolded(x), self.facts.unfolded(y)
        if not (isinstance(x, Apply) and isinstance(y, Apply) and x.op == y.op == "mod"):
            return False
        n, m = x.args[1], y.args[1]
        if not isinstance(n, Const) or n != m:
            return False
        delta = self.facts.difference(x.args[0], y.args[0])
        return delta is not None and delta % int(n.value) != 0


def _offsets(a: _Access) -> tuple[Expr, ...]:
    if a.offsets is not None:
        return a.offsets
    assert isinstance(a.tile.type, SharedType)
    return tuple(const(0) for _ in a.tile.type.shape)


def _extent(a: _Access, d: int) -> int:
    return a.layout.shape[a.dims.index(d)] if d in a.dims else 1
