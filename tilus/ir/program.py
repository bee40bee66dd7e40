"""Programs: functions of structured control flow over instructions, in SSA form.

The whole IR (`tests/ir/test_grammar.py` parses an example of every production):

    function  ::= Function(name, params, body, num_threads)
    param     ::= Param(value: Value, divisible: int)      a scalar, or a pointer (then in bytes)

    body      ::= Seq(stmts)                               so are then, orelse
    stmt      ::= Let(var, expr)                           var: a scalar Value
                | Assign(result | None, inst)              run an instruction
                | If(cond, then, orelse, results)          each branch ends in Yield(values)
                | For(index, extent, args, inits, body, results, unroll, stages)
                                                           index = 0 .. extent-1
                | While(cond, args, inits, body, results)  cond is over args and outer values
                | Yield(values)                            ends a branch, or an iteration
                | Continue(values)                         ends an iteration from inside branches
                | Break(values) | Return()

    operand   ::= Value (any type) | Expr (scalar)         inits, values and results correspond

Loop-carried values are explicit: an iteration sees `args`, which start as `inits` and become the
values of the Yield or Continue that ended the last one; after the loop `results` are the last args,
or the values of the Break. Empty Yields are left out. A body that cannot fall off its end (it ends
in Break, Continue or Return) has no Yield.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tilus.errors import Span
from tilus.ir.expr import Apply, Const, Expr, GridIndex, Value
from tilus.ir.inst import Inst, Role


@dataclass(frozen=True, eq=False, slots=True)
class Stmt:
    """A statement."""

    span: Span | None = field(default=None, kw_only=True, repr=False)


@dataclass(frozen=True, eq=False, slots=True)
class Seq(Stmt):
    """Statements in order; a sequence inside a sequence is taken apart."""

    stmts: tuple[Stmt, ...] = ()

    def __post_init__(self) -> None:
        if any(isinstance(s, Seq) for s in self.stmts):
            parts = (s.stmts if isinstance(s, Seq) else (s,) for s in self.stmts)
            object.__setattr__(self, "stmts", tuple(s for part in parts for s in part))


@dataclass(frozen=True, eq=False, slots=True)
class Let(Stmt):
    """Name a scalar expression."""

    var: Value
    expr: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Assign(Stmt):
    """Run an instruction and name its result."""

    result: Value | None
    inst: Inst


@dataclass(frozen=True, eq=False, slots=True)
class If(Stmt):
    """Run one of two branches, the same in every thread of the block."""

    cond: Expr
    then: Seq
    orelse: Seq = field(default_factory=Seq)
    results: tuple[Value, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class For(Stmt):
    """Run the body for index = 0 .. extent-1."""

    index: Value
    extent: Expr
    args: tuple[Value, ...]
    inits: tuple[Expr, ...]
    body: Seq
    results: tuple[Value, ...] = ()
    unroll: int = 1
    stages: int = 1


@dataclass(frozen=True, eq=False, slots=True)
class While(Stmt):
    """Run the body as long as `cond`, asked before each iteration, holds."""

    cond: Expr
    args: tuple[Value, ...]
    inits: tuple[Expr, ...]
    body: Seq
    results: tuple[Value, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Yield(Stmt):
    """End the branch or iteration with these values."""

    values: tuple[Expr, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Continue(Stmt):
    """Go to the innermost loop's next iteration with these values."""

    values: tuple[Expr, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Break(Stmt):
    """Leave the innermost loop with these values."""

    values: tuple[Expr, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Return(Stmt):
    """End the block's work."""


JUMPS = (Yield, Continue, Break, Return)


@dataclass(frozen=True, eq=False, slots=True)
class Param:
    """A kernel parameter; `divisible` divides its value (a pointer's address, in bytes)."""

    value: Value
    divisible: int = 1


@dataclass(frozen=True, eq=False)
class Function:
    """A kernel: what one thread block does."""

    name: str
    params: tuple[Param, ...]
    body: Seq
    num_threads: int
    span: Span | None = field(default=None, repr=False)

    def __eq__(self, other: object) -> bool:
        """Equal up to the names of values and to spans."""
        return isinstance(other, Function) and _Matcher().functions(self, other)

    __hash__ = object.__hash__

    def with_body(self, body: Seq) -> Function:
        """The same kernel with another body; itself when it is the same one."""
        return self if body is self.body else replace(self, body=body)

    def __str__(self) -> str:
        from tilus.ir.printer import print_function

        return print_function(self)


def regions(s: Stmt) -> tuple[Seq, ...]:
    """The statement sequences directly inside a statement."""
    match s:
        case If():
            return s.then, s.orelse
        case For() | While():
            return (s.body,)
        case _:
            return ()


def walk(s: Stmt) -> Iterator[Stmt]:
    """The statement and everything in it, in program order."""
    yield s
    for inner in s.stmts if isinstance(s, Seq) else regions(s):
        yield from walk(inner)


def definitions(s: Stmt) -> tuple[Value, ...]:
    """Values that a statement itself defines, for what is inside it or after it."""
    match s:
        case Let():
            return (s.var,)
        case Assign():
            return (s.result,) if s.result is not None else ()
        case If():
            return s.results
        case For():
            return (s.index, *s.args, *s.results)
        case While():
            return (*s.args, *s.results)
        case _:
            return ()


def uses(s: Stmt) -> Iterator[Expr]:
    """Expressions and values that a statement itself reads (not those inside its regions)."""
    match s:
        case Let():
            yield s.expr
        case Assign():
            yield from (v for _, v in s.inst.operands())
            yield from s.inst.scalars()
        case If():
            yield s.cond
        case For():
            yield s.extent
            yield from s.inits
        case While():
            yield s.cond
            yield from s.inits
        case Yield() | Continue() | Break():
            yield from s.values


def never_ends(s: Stmt) -> bool:
    """Whether control cannot reach the statement after this one."""
    if isinstance(s, If):
        return all(b.stmts and leaves(b.stmts[-1]) for b in (s.then, s.orelse))
    return isinstance(s, JUMPS)


def leaves(s: Stmt) -> bool:
    """Whether a branch that ends in this statement always breaks, continues or returns."""
    return not isinstance(s, Yield) and never_ends(s)


class _Matcher:
    """Structural equality up to renaming of values."""

    def __init__(self) -> None:
        self.map: dict[Value, Value] = {}

    def functions(self, a: Function, b: Function) -> bool:
        if (a.name, a.num_threads, len(a.params)) != (b.name, b.num_threads, len(b.params)):
            return False
        params = zip(a.params, b.params, strict=True)
        return all(
            p.divisible == q.divisible and self.define(p.value, q.value) for p, q in params
        ) and self.stmts(a.body, b.body)

    def define(self, a: Value, b: Value) -> bool:
        self.map[a] = b
        return a.type == b.type

    def defines(self, a: tuple[Value, ...], b: tuple[Value, ...]) -> bool:
        return len(a) == len(b) and all(self.define(x, y) for x, y in zip(a, b, strict=True))

    def stmts(self, a: Stmt, b: Stmt) -> bool:
        if type(a) is not type(b):
            return False
        match a, b:
            case Seq(), Seq():
                return len(a.stmts) == len(b.stmts) and all(
                    self.stmts(x, y) for x, y in zip(a.stmts, b.stmts, strict=True)
                )
            case Let(), Let():
                return self.same(a.expr, b.expr) and self.define(a.var, b.var)
            case Assign(), Assign():
                if not self.insts(a.inst, b.inst) or (a.result is None) != (b.result is None):
                    return False
                return a.result is None or b.result is None or self.define(a.result, b.result)
            case If(), If():
                return (
                    self.same(a.cond, b.cond)
                    and self.stmts(a.then, b.then)
                    and self.stmts(a.orelse, b.orelse)
                    and self.defines(a.results, b.results)
                )
            case For(), For():
                return (
                    (a.unroll, a.stages) == (b.unroll, b.stages)
                    and self.same(a.extent, b.extent)
                    and self.same(a.inits, b.inits)
                    and self.define(a.index, b.index)
                    and self.defines(a.args, b.args)
                    and self.stmts(a.body, b.body)
                    and self.defines(a.results, b.results)
                )
            case While(), While():
                return (
                    self.same(a.inits, b.inits)
                    and self.defines(a.args, b.args)
                    and self.same(a.cond, b.cond)
                    and self.stmts(a.body, b.body)
                    and self.defines(a.results, b.results)
                )
            case Yield() | Continue() | Break(), Yield() | Continue() | Break():
                return self.same(a.values, b.values)
        return True

    def insts(self, a: Inst, b: Inst) -> bool:
        return type(a) is type(b) and all(
            same_attribute(getattr(a, n), getattr(b, n))
            if role is Role.ATTRIBUTE
            else self.same(getattr(a, n), getattr(b, n))
            for n, role in a.roles().items()
        )

    def same(self, a: Any, b: Any) -> bool:
        if isinstance(a, tuple) and isinstance(b, tuple):
            return len(a) == len(b) and all(self.same(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, Value):
            return self.map.get(a, a) is b
        if isinstance(a, Apply) and isinstance(b, Apply):
            return a.op == b.op and a.type == b.type and self.same(a.args, b.args)
        if isinstance(a, (Const, GridIndex)):
            return bool(a == b)
        return a is b


def same_attribute(a: Any, b: Any) -> bool:
    """Whether two fields are equal and of one kind: 1, 1.0 and True differ; so do 0.0 and -0.0."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same_attribute, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return repr(a) == repr(b)
    return type(a) is type(b) and bool(a == b)
