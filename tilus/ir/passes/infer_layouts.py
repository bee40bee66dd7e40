"""Give every register tile a layout.

What is known spreads along what each instruction says of itself (`Inst.layouts`) and along the
values that loops and branches carry, forward and backward; never over what is settled already. When
nothing more follows, one tile gets a default and the spreading goes on: first products (the matrix
instruction decides), then tiles read from memory (the access decides), then the rest.

    explicit layouts -> spread -> dot -> spread -> load_global, load_shared -> spread -> others
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import networkx as nx

from tilus.ir.expr import Expr, Value
from tilus.ir.inst import Inst, Layouts
from tilus.ir.instructions.matrix import Dot
from tilus.ir.passes.driver import Form, ir_pass
from tilus.ir.program import (
    Assign,
    Break,
    Continue,
    For,
    Function,
    If,
    Seq,
    Stmt,
    While,
    Yield,
    definitions,
    walk,
)
from tilus.ir.rewrite import Rewriter, changed
from tilus.ir.target import Target, default_layout
from tilus.ir.types import TileType
from tilus.layouts import Layout


@ir_pass(needs=Form.TYPED, gives=Form.TILES_LAID_OUT)
def infer_layouts(f: Function, target: Target) -> Function:
    """Settle the layout of every register tile; what disagrees is left to `convert_layouts`.

    Needs: a typed program. Gives: every tile value has a layout of the kernel's threads.

    >>> from tilus.ir.parser import parse
    >>> from tilus.ir.target import target
    >>> f = parse('''kernel @k(%p: ptr[f32]) threads 32 {
    ...   %g = global_view(%p, dtype=f32, shape=[256])
    ...   %x = load_global(%g, offsets=[0], shape=[256])
    ...   %y = exp(%x)
    ...   store_global(%g, %y, offsets=[0])
    ... }''')
    >>> print(infer_layouts(f, target("generic")), end="")
    #L0 = local(2)*spatial(32)*local(4)
    kernel @k(%p: ptr[f32]) threads 32 {
      %g = global_view(%p, dtype=f32, shape=[256]) : global f32[?]
      %x = load_global(%g, offsets=[0], shape=[256]) : f32[256] @ #L0
      %y = exp(%x) : f32[256] @ #L0
      store_global(%g, %y, offsets=[0])
    }
    """
    known = _Inference(f, target).run()
    return _Annotator(known).function(f)


class _Inference:
    def __init__(self, f: Function, target: Target) -> None:
        self.f, self.target = f, target
        self.known: dict[Value, Layout] = {}
        self.insts: list[Assign] = []
        self.producer: dict[Value, Assign] = {}
        self.tiles: list[Value] = []  # in program order
        # Values that must agree (an argument and its result), and those that had better.
        same: nx.Graph[Value] = nx.Graph()
        self.wish: nx.Graph[Value] = nx.Graph()
        for s in walk(f.body):
            for v in definitions(s):
                if isinstance(v.type, TileType):
                    self.tiles.append(v)
                    same.add_node(v)
            if isinstance(s, Assign):
                self.insts.append(s)
                if s.result is not None:
                    self.producer[s.result] = s
            if isinstance(s, (For, While)):
                same.add_edges_from(_tile_pairs(s.args, s.results))
        self.group = {v: g for g in map(frozenset, nx.connected_components(same)) for v in g}
        for a, b in _handed_on(f.body):
            self.wish.add_edge(a, b)

    def run(self) -> dict[Value, Layout]:
        for v in self.tiles:
            assert isinstance(v.type, TileType)
            if v.type.layout is not None:
                self.settle(v, v.type.layout)
        self.spread()
        rounds: tuple[Callable[[Inst], bool], ...] = (
            lambda inst: isinstance(inst, Dot),
            lambda inst: bool(inst.reads),
            lambda inst: True,
        )
        for chosen in rounds:
            while self.default(chosen):
                self.spread()
        for v in self.tiles:  # what no rule reaches: a value carried round an empty loop, say
            if v not in self.known:
                assert isinstance(v.type, TileType)
                self.settle(v, default_layout(v.type.shape, v.type.dtype.bits, self.f.num_threads))
                self.spread()
        return self.known

    def settle(self, v: Value, layout: Layout) -> None:
        for member in self.group.get(v, (v,)):
            self.known.setdefault(member, layout)

    def of(self, s: Assign) -> Layouts:
        found = {n: self.known[v] for n, v in s.inst.tile_operands() if v in self.known}
        if s.result is not None and s.result in self.known:
            found["result"] = self.known[s.result]
        return found

    def derive(self, s: Assign, known: Layouts) -> Layouts:
        return s.inst.layouts(known, self.target, self.f.num_threads)

    def spread(self) -> None:
        """Follow every rule until nothing new is learnt."""
        progress = True
        while progress:
            before = len(self.known)
            for s in self.insts:
                self.follow(s)
            for a, b in self.wish.edges:
                for x, y in ((a, b), (b, a)):
                    if x in self.known and y not in self.known and self.accepts(y, self.known[x]):
                        self.settle(y, self.known[x])
            progress = len(self.known) > before

    def follow(self, s: Assign) -> None:
        names = dict(s.inst.tile_operands())
        if s.result is not None and isinstance(s.result.type, TileType):
            names["result"] = s.result
        if all(v in self.known for v in names.values()):
            return
        for name, layout in self.derive(s, self.of(s)).items():
            v = names.get(name)
            if v is None or v in self.known:
                continue
            if name == "result" or self.accepts(v, layout):
                self.settle(v, layout)

    def accepts(self, v: Value, layout: Layout) -> bool:
        """Whether whatever makes `v` can make it in this layout."""
        s = self.producer.get(v)
        if s is None:
            return True
        needed = {n for n, _ in s.inst.tile_operands()}
        return not needed or needed <= self.derive(s, {"result": layout}).keys()

    def default(self, chosen: Callable[[Inst], bool]) -> bool:
        """Give the first open result that `chosen` admits its instruction's own layout."""
        for s in self.insts:
            v = s.result
            if (
                v is None
                or not isinstance(v.type, TileType)
                or v in self.known
                or not chosen(s.inst)
            ):
                continue
            layout = s.inst.default_layout(self.of(s), self.target, self.f.num_threads)
            if layout is not None:
                self.settle(v, layout)
                return True
        return False


def _tile_pairs(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> Iterator[tuple[Value, Value]]:
    for x, y in zip(a, b, strict=True):
        if isinstance(x, Value) and isinstance(y, Value) and isinstance(y.type, TileType):
            yield x, y


def _handed_on(body: Seq) -> Iterator[tuple[Value, Value]]:
    """(from, to) of every tile that a region hands on; what iterations end with comes first."""
    starts: list[tuple[Value, Value]] = []

    def visit(
        s: Stmt, results: tuple[Value, ...], loop: tuple[Value, ...]
    ) -> Iterator[tuple[Value, Value]]:
        match s:
            case Seq():
                for inner in s.stmts:
                    yield from visit(inner, results, loop)
            case If():
                yield from visit(s.then, s.results, loop)
                yield from visit(s.orelse, s.results, loop)
            case For() | While():
                starts.extend(_tile_pairs(s.inits, s.args))
                yield from visit(s.body, s.args, s.args)
            case Yield():
                yield from _tile_pairs(s.values, results)
            case Continue() | Break():
                yield from _tile_pairs(s.values, loop)

    yield from visit(body, (), ())
    yield from starts


class _Annotator(Rewriter):
    """Replaces every tile value by one whose type has its layout."""

    def __init__(self, known: dict[Value, Layout]) -> None:
        super().__init__()
        self.known = known

    def laid_out(self, v: Value) -> Value:
        layout = self.known.get(v)
        if layout is None or not isinstance(v.type, TileType) or v.type.layout == layout:
            return v
        new = Value(v.type.with_layout(layout), v.name, v.span)
        self.map[v] = new
        return new

    def values(self, vs: tuple[Value, ...]) -> tuple[Value, ...]:
        new = tuple(self.laid_out(v) for v in vs)
        return vs if all(a is b for a, b in zip(new, vs, strict=True)) else new

    def statement(self, s: Stmt) -> Stmt:
        match s:
            case Assign() if s.result is not None:
                return changed(s, result=self.laid_out(s.result))
            case If():
                return changed(self.inside(s), results=self.values(s.results))
            case For() | While():
                args = self.values(s.args)
                return changed(self.inside(s), args=args, results=self.values(s.results))
        return self.inside(s)
