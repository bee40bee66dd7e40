"""Insert conversions where a tile is laid out otherwise than its user needs it."""

from __future__ import annotations

from tilus.ir.expr import Expr, Value
from tilus.ir.inst import Inst
from tilus.ir.instructions.view import ConvertLayout
from tilus.ir.passes.dead_code import dead_code
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
    walk,
)
from tilus.ir.rewrite import Rewriter, changed
from tilus.ir.target import Target
from tilus.ir.types import TileType
from tilus.ir.verifier import known_layouts
from tilus.layouts import Layout


@ir_pass(needs=Form.TILES_LAID_OUT, gives=Form.LAID_OUT)
def convert_layouts(f: Function, target: Target) -> Function:
    """Make every instruction's operands, and every carried value, laid out as they must be.

    Needs: every tile has a layout. Gives: they agree. A tile made from scalars is made again in the
    other layout instead; one conversion serves all later uses in its region.

    >>> from tilus.ir.parser import parse
    >>> from tilus.ir.target import target
    >>> f = parse('''kernel @k(%p: ptr[f32]) threads 4 {
    ...   %g = global_view(%p, dtype=f32, shape=[8])
    ...   %x = load_global(%g, offsets=[0], shape=[8]) : f32[8] @ spatial(4)*local(2)
    ...   %y = exp(%x) : f32[8] @ local(2)*spatial(4)
    ...   store_global(%g, %y, offsets=[0])
    ... }''')
    >>> print(convert_layouts(f, target("generic")), end="")
    #L0 = local(2)*spatial(4)
    kernel @k(%p: ptr[f32]) threads 4 {
      %g = global_view(%p, dtype=f32, shape=[8]) : global f32[?]
      %x = load_global(%g, offsets=[0], shape=[8]) : f32[8] @ spatial(4)*local(2)
      %x_1 = convert_layout(%x, layout=#L0) : f32[8] @ #L0
      %y = exp(%x_1) : f32[8] @ #L0
      store_global(%g, %y, offsets=[0])
    }
    """
    return dead_code(_Converter(f, target).function(f), target)  # what was made again in vain


class _Converter(Rewriter):
    def __init__(self, f: Function, target: Target) -> None:
        super().__init__()
        self.f, self.target = f, target
        self.made_from_scalars: dict[Value, Inst] = {}
        self.converted: dict[tuple[Value, Layout], Value] = {}
        self.results: tuple[Value, ...] = ()
        self.loop: tuple[Value, ...] = ()
        for s in walk(f.body):
            if isinstance(s, Assign) and s.result is not None and _is_remade(s.inst):
                self.made_from_scalars[s.result] = s.inst

    def seq(self, s: Seq) -> Seq:
        outer = dict(self.converted)
        new = super().seq(s)
        self.converted = outer
        return new

    def statement(self, s: Stmt) -> Stmt:
        before: list[Stmt] = []
        match s:
            case Assign():
                return self.instruction(s)
            case If():
                return self.region(s, s.results, self.loop)
            case For() | While():
                s = changed(s, inits=self.handed(s.inits, s.args, before, s))
                before.append(self.region(s, s.args, s.args))
                return Seq(tuple(before)) if len(before) > 1 else before[0]
            case Yield():
                s = changed(s, values=self.handed(s.values, self.results, before, s))
            case Continue() | Break():
                s = changed(s, values=self.handed(s.values, self.loop, before, s))
        return Seq((*before, s)) if before else self.inside(s)

    def region(self, s: Stmt, results: tuple[Value, ...], loop: tuple[Value, ...]) -> Stmt:
        saved = self.results, self.loop
        self.results, self.loop = results, loop
        new = self.inside(s)
        self.results, self.loop = saved
        return new

    def handed(
        self, values: tuple[Expr, ...], to: tuple[Value, ...], before: list[Stmt], s: Stmt
    ) -> tuple[Expr, ...]:
        new = []
        for e, v in zip(values, to, strict=True):
            if isinstance(e, Value) and isinstance(v.type, TileType) and v.type.layout is not None:
                e = self.convert(e, v.type.layout, before, s)
            new.append(e)
        return tuple(new) if any(a is not b for a, b in zip(new, values, strict=True)) else values

    def instruction(self, s: Assign) -> Stmt:
        before: list[Stmt] = []
        have = known_layouts(s)
        needs = s.inst.layouts(have, self.target, self.f.num_threads)
        if "result" in have:
            needs |= s.inst.layouts({"result": have["result"]}, self.target, self.f.num_threads)
        names = dict(s.inst.tile_operands())
        swap = {
            name: self.convert(v, needs[name], before, s)
            for name, v in names.items()
            if name in needs and have.get(name) != needs[name]
        }
        inst = s.inst.with_operands(swap) if swap else s.inst
        s = changed(s, inst=inst)
        if s.result is None or not isinstance(s.result.type, TileType):
            return Seq((*before, s)) if before else s
        operands = {n: layout for n, layout in known_layouts(s).items() if n != "result"}
        gives = (
            inst.layouts(operands, self.target, self.f.num_threads).get("result")
            if operands
            else None
        )
        if gives is None or gives == s.result.type.layout:
            return Seq((*before, s)) if before else s
        own = Value(s.result.type.with_layout(gives), s.result.name, s.result.span)
        assert s.result.type.layout is not None
        after = Assign(s.result, ConvertLayout(own, s.result.type.layout), span=_because(s))
        return Seq((*before, changed(s, result=own), after))

    def convert(self, v: Value, layout: Layout, before: list[Stmt], s: Stmt) -> Value:
        """`v` in another layout, made by statements added to `before`."""
        assert isinstance(v.type, TileType)
        if v.type.layout == layout:
            return v
        key = v, layout
        if key not in self.converted:
            new = Value(v.type.with_layout(layout), v.name, v.span)
            source = self.made_from_scalars.get(v)
            inst = ConvertLayout(v, layout) if source is None else source.map(self.expr)
            before.append(Assign(new, inst, span=_because(s)))
            self.converted[key] = new
        return self.converted[key]


def _because(s: Stmt):  # type: ignore[no-untyped-def]
    return s.span.because("inserted by convert_layouts") if s.span is not None else None


def _is_remade(inst: Inst) -> bool:
    """Whether the instruction makes a tile of scalars alone, in any layout."""
    free = inst.attributes().get("layout", "none given") is None
    return free and not inst.effects and not any(True for _ in inst.operands())
