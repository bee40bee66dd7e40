"""Insert the barriers that make shared memory mean what program order says.

Going through the program in order, `pending` holds the accesses to shared memory since the last
barrier. An access that conflicts with one of them (same tile, at least one writes, and some element
may be touched by two threads) gets a barrier in front. A loop is walked until the accesses that
reach its start along the back edge are known. Two accesses by one mapping from threads to elements
need no barrier: each thread meets only itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilus.errors import Span
from tilus.ir.analysis import Analysis
from tilus.ir.expr import Apply, Const, Expr, Value, const
from tilus.ir.inst import Inst
from tilus.ir.instructions.memory import CopyAsync, CopyAsyncWaitGroup, tile_dims
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
)
from tilus.ir.target import Target
from tilus.ir.types import SharedType, TileType
from tilus.layouts import Layout


@ir_pass(needs=Form.LAID_OUT, gives=Form.ORDERED)
def insert_barriers(f: Function, target: Target) -> Function:
    """Put a `sync` before every access to shared memory that another thread's must precede.

    Needs: layouts. Gives: no race on shared memory.

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
      print_tensor(x=%y)
    }
    """
    if f.num_threads == 1:
        return f
    body, _ = _Inserter(f).seq(f.body, _State())
    return f.with_body(body)


@dataclass(frozen=True)
class _Access:
    """One instruction's use of a shared tile."""

    tile: Value
    writes: bool
    layout: Layout
    offsets: tuple[Expr, ...] | None
    dims: tuple[int, ...]
    older: bool = False  # from an earlier iteration: its offsets speak of other values


@dataclass(frozen=True)
class _State:
    """What may have happened since the last barrier; None stands for "control is never here"."""

    pending: frozenset[_Access] = frozenset()
    flying: frozenset[_Access] = frozenset()  # async copies not waited for

    def join(self, other: _State | None) -> _State:
        if other is None:
            return self
        return _State(self.pending | other.pending, self.flying | other.flying)

    def next_iteration(self) -> _State:
        return _State(
            frozenset(replace(a, older=True) for a in self.pending),
            frozenset(replace(a, older=True) for a in self.flying),
        )


class _Inserter:
    def __init__(self, f: Function) -> None:
        self.f = f
        self.facts = Analysis(f)
        self.continues: list[_State] = []
        self.breaks: list[_State] = []

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
            case Seq():
                new, after = self.seq(s, state)
                return [new], after
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
        entry = state
        while True:
            self.continues, self.breaks = [], []
            body, end = self.seq(s.body, entry)
            again = state
            for back in (*self.continues, end):
                if back is not None:
                    again = again.join(back.next_iteration())
            if again == entry:
                break
            entry = again.join(entry)
        after = entry
        for out in (*self.breaks, *self.continues, end):
            after = after.join(out)
        self.continues, self.breaks = saved
        return [s if body is s.body else replace(s, body=body)], after.next_iteration()

    def instruction(self, s: Assign, state: _State) -> tuple[list[Stmt], _State]:
        inst = s.inst
        if inst.is_barrier:
            return [s], _State(flying=state.flying)
        if isinstance(inst, CopyAsyncWaitGroup):
            return [s], _State(state.pending | state.flying)
        accesses = list(self.accesses(inst, s.result))
        before: list[Stmt] = []
        if any(self.conflict(old, new) for old in state.pending for new in accesses):
            span: Span | None = s.span.because("inserted by insert_barriers") if s.span else None
            before.append(Assign(None, Sync(), span=span))
            state = _State(flying=state.flying)
        if isinstance(inst, CopyAsync):
            return [*before, s], _State(state.pending, state.flying | set(accesses))
        return [*before, s], _State(state.pending | set(accesses), state.flying)

    def accesses(self, inst: Inst, result: Value | None) -> list[_Access]:
        """How an instruction uses shared memory."""
        found = []
        for name, v in inst.operands():
            if not isinstance(v.type, SharedType) or name not in (*inst.reads, *inst.writes):
                continue
            attributes = {n: getattr(inst, n, None) for n in ("dst_offsets", "dst_dims", "layout")}
            copies = isinstance(inst, CopyAsync)
            offsets = attributes["dst_offsets"] if copies else getattr(inst, "offsets", None)
            dims = attributes["dst_dims"] if copies else getattr(inst, "dims", None)
            tile = result if result is not None else getattr(inst, "x", None)
            layout = attributes["layout"]
            if isinstance(tile, Value) and isinstance(tile.type, TileType):
                layout = tile.type.layout
            assert isinstance(layout, Layout), inst
            along = tile_dims(inst, dims, len(v.type.shape), layout.rank)
            found.append(_Access(v, name in inst.writes, layout, offsets, along))
        return found

    def conflict(self, a: _Access, b: _Access) -> bool:
        """Whether two threads may meet at an element, at least one of them writing."""
        if a.tile is not b.tile or not (a.writes or b.writes):
            return False
        if self.apart(a, b):
            return False
        alike = (a.layout, a.dims) == (b.layout, b.dims) and not a.layout.is_replicated
        return not (alike and self.at_same_place(a, b))

    def at_same_place(self, a: _Access, b: _Access) -> bool:
        x, y = _offsets(a), _offsets(b)
        if (a.older or b.older) and not all(isinstance(e, Const) for e in (*x, *y)):
            return False
        return all(self.facts.difference(p, q) == 0 for p, q in zip(x, y, strict=True))

    def apart(self, a: _Access, b: _Access) -> bool:
        """Whether the two tiles certainly share no element."""
        for d, (x, y) in enumerate(zip(_offsets(a), _offsets(b), strict=True)):
            if (a.older or b.older) and not (isinstance(x, Const) and isinstance(y, Const)):
                continue
            extents = [_extent(a, d), _extent(b, d)]
            delta = self.facts.difference(x, y)  # x - y
            if delta is not None and (delta >= extents[1] or -delta >= extents[0]):
                return True
            if extents == [1, 1] and self.differ_modulo(x, y):
                return True
        return False

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
