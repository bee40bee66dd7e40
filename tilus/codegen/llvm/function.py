"""Lowering one kernel to an LLVM function: statements and control flow.

What a thread block does becomes one function; carried values live in memory of the function's own
(`alloca`), which LLVM turns back into registers. Instructions are lowered by the functions that
`tilus.codegen.registry` knows; a backend subclasses `FunctionLowering` with what its tiles are.

    statement         LLVM
    let, assign       instructions in place
    if                then / else / join blocks, results through slots
    for, while        head (the test), body, next, end; Break jumps to end, Continue to next
    return, a trap    a jump to the exit
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tilus.codegen.llvm.scalars import Scalars
from tilus.codegen.llvm.writer import V, Writer, constant, element_type
from tilus.codegen.registry import find_or_raise
from tilus.errors import Span, TilusNotImplementedError
from tilus.ir.analysis import Analysis
from tilus.ir.expr import Expr, GridIndex, Value
from tilus.ir.expr import walk as sub_expressions
from tilus.ir.inst import Role
from tilus.ir.printer import print_inst
from tilus.ir.program import (
    Assign,
    Break,
    Continue,
    For,
    Function,
    If,
    Let,
    Return,
    Seq,
    Stmt,
    While,
    Yield,
    uses,
    walk,
)
from tilus.ir.target import Target
from tilus.ir.types import ScalarType, TileType


@dataclass
class Slot:
    """Memory that a carried scalar passes through."""

    pointer: V
    type: str


@dataclass
class Loop:
    """Where a loop's jumps go."""

    slots: list[Any]
    next: str
    end: str


@dataclass(frozen=True)
class Fault:
    """What a code in the status word means."""

    message: str
    span: Span | None


class FunctionLowering:
    """One kernel on its way to LLVM; `backend` names the lowerings to use."""

    backend = "llvm"

    def __init__(self, f: Function, target: Target, w: Writer) -> None:
        self.f, self.target, self.w = f, target, w
        self.facts = Analysis(f)
        self.env: dict[Value, Any] = {}
        self.loops: list[Loop] = []
        self.results: list[Any] = []  # slots of the innermost region that yields
        self.faults: list[Fault] = []
        self.span: Span | None = None
        self.scalars = Scalars(w, self.facts, self.scalar_value, self.grid_index, self.trap_if)
        self.count: Counter[Value] = Counter(
            x
            for s in walk(f.body)
            for e in uses(s)
            for x in sub_expressions(e)
            if isinstance(x, Value)
        )

    # what a backend supplies

    def grid_index(self, e: GridIndex) -> V:
        """`block_idx` or `grid_dim`."""
        raise NotImplementedError

    def status(self) -> V:
        """Pointer to the word a fault's code is stored to."""
        raise NotImplementedError

    def tile_slot(self, t: TileType) -> Any:
        """Somewhere for a carried tile."""
        raise NotImplementedError

    def store_tile(self, slot: Any, tile: Any) -> None:
        """Put a tile there."""
        raise NotImplementedError

    def load_tile(self, slot: Any) -> Any:
        """The tile that is there."""
        raise NotImplementedError

    def settled(self, tile: Any, v: Value) -> Any:
        """A result as it is kept, once it is known how often it is used."""
        return tile

    def detached(self, tile: Any) -> Any:
        """A tile that no longer depends on slots about to be overwritten."""
        return tile

    # faults

    def trap_if(self, cond: V, message: str) -> None:
        """Leave the kernel with an error where `cond` holds."""
        w = self.w
        self.faults.append(Fault(message, self.span))
        bad, good = w.fresh_label("fault"), w.fresh_label("go_on")
        w.branch(cond, bad, good)
        w.label(bad)
        w.line(f"store atomic i32 {len(self.faults)}, {self.status()} monotonic, align 4")
        w.goto("exit")
        w.label(good)

    # values

    def scalar_value(self, v: Value) -> V:
        """What a scalar value is in LLVM."""
        x = self.env[v]
        assert isinstance(x, V), v
        return x

    def operand(self, e: Expr) -> Any:
        """A tile, view or scalar operand."""
        return self.env[e] if isinstance(e, Value) else self.scalars.lower(e)

    def slots(self, values: tuple[Value, ...]) -> list[Any]:
        """Places for values that branches or iterations hand on."""
        made: list[Any] = []
        for v in values:
            if isinstance(v.type, TileType):
                made.append(self.tile_slot(v.type))
            elif isinstance(v.type, ScalarType):
                kind = element_type(v.type.dtype)
                made.append(Slot(self.w.alloca(kind, align=8, hint=v.name or "carried"), kind))
            else:
                raise TilusNotImplementedError(f"a {v.type} cannot be carried", self.span)
        return made

    def put(self, slots: list[Any], values: tuple[Expr, ...]) -> None:
        """Hand values on, all at once."""
        found = [self.operand(e) for e in values]
        if len(found) > 1:
            found = [x if isinstance(x, V) else self.detached(x) for x in found]
        for slot, x in zip(slots, found, strict=True):
            if isinstance(slot, Slot):
                self.w.store(x, slot.pointer, 1)
            else:
                self.store_tile(slot, x)

    def take(self, slots: list[Any], values: tuple[Value, ...]) -> None:
        """Receive values handed on."""
        for slot, v in zip(slots, values, strict=True):
            if isinstance(slot, Slot):
                self.env[v] = self.w.load(slot.type, slot.pointer, 1, v.name or "carried")
            else:
                self.env[v] = self.load_tile(slot)

    # statements

    def body(self) -> None:
        """The whole kernel, up to and including the exit block."""
        self.seq(self.f.body)
        self.w.label("exit")
        self.w.ret()

    def seq(self, s: Seq) -> None:
        """Statements in order."""
        for inner in s.stmts:
            if self.w.closed:
                return
            self.stmt(inner)

    def stmt(self, s: Stmt) -> None:
        """One statement."""
        self.span = s.span or self.span
        match s:
            case Seq():
                self.seq(s)
            case Let():
                self.env[s.var] = self.scalars.lower(s.expr)
            case Assign():
                self.assign(s)
            case If():
                self.branch(s)
            case For():
                self.counted(s)
            case While():
                self.conditional(s)
            case Yield():
                self.put(self.results, s.values)
            case Continue():
                self.put(self.loops[-1].slots, s.values)
                self.w.goto(self.loops[-1].next)
            case Break():
                self.put(self.loops[-1].slots, s.values)
                self.w.goto(self.loops[-1].end)
            case Return():
                self.w.goto("exit")

    def assign(self, s: Assign) -> None:
        """Run the lowering of an instruction."""
        inst = s.inst
        where = f"  ; line {s.span.line}" if s.span is not None else ""
        self.w.comment(print_inst(inst) + where)
        lower = find_or_raise(self.backend, type(inst))
        operands: dict[str, Any] = {}
        for name, role in inst.roles().items():
            x = getattr(inst, name)
            if role is Role.ATTRIBUTE:
                continue
            if x is None:
                operands[name] = None
            elif isinstance(x, tuple):
                operands[name] = tuple(self.operand(e) for e in x)
            else:
                operands[name] = self.operand(x)
        self.result = s.result
        out = lower(inst, self, **operands)
        if s.result is not None:
            tile = isinstance(s.result.type, TileType)
            self.env[s.result] = self.settled(out, s.result) if tile else out

    def branch(self, s: If) -> None:
        """An `if`, the same for every thread."""
        w = self.w
        slots = self.slots(s.results)
        then, otherwise, end = (w.fresh_label(n) for n in ("then", "else", "endif"))
        w.branch(self.scalars.lower(s.cond), then, otherwise)
        for label, side in ((then, s.then), (otherwise, s.orelse)):
            w.label(label)
            outer, self.results = self.results, slots
            with w.nested():
                self.seq(side)
            self.results = outer
            w.goto(end)
        w.label(end)
        self.take(slots, s.results)

    def counted(self, s: For) -> None:
        """A `for` over 0 .. extent-1."""
        w = self.w
        kind = element_type(s.index.dtype)
        extent = self.scalars.lower(s.extent)
        counter = w.alloca(kind, align=8, hint=s.index.name or "i")
        w.store(constant(kind, 0), counter, 1)
        slots = self.slots(s.args)
        self.put(slots, s.inits)
        head, body, after, end = (w.fresh_label(n) for n in ("for", "body", "next", "endfor"))
        w.label(head)
        i = w.load(kind, counter, 1, s.index.name or "i")
        predicate = "slt" if s.index.dtype.is_signed else "ult"
        w.branch(w.compare("icmp", predicate, i, extent), body, end)
        w.label(body)
        self.env[s.index] = i
        self.iteration(s, slots, after, end)
        w.label(after)
        w.store(w.op(kind, f"add nuw {i}, 1"), counter, 1)
        w.goto(head)
        w.label(end)
        self.take(slots, s.results)

    def conditional(self, s: While) -> None:
        """A `while`."""
        w = self.w
        slots = self.slots(s.args)
        self.put(slots, s.inits)
        head, body, end = (w.fresh_label(n) for n in ("while", "body", "endwhile"))
        w.label(head)
        self.take(slots, s.args)
        w.branch(self.scalars.lower(s.cond), body, end)
        w.label(body)
        self.iteration(s, slots, head, end)
        w.goto(head)
        w.label(end)
        self.take(slots, s.results)

    def iteration(self, s: For | While, slots: list[Any], after: str, end: str) -> None:
        """A loop's body, ending at `after`."""
        self.take(slots, s.args)
        outer, self.results = self.results, slots
        self.loops.append(Loop(slots, after, end))
        with self.w.nested():
            self.seq(s.body)
        self.loops.pop()
        self.results = outer
