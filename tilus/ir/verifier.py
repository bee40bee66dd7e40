"""Check that a program is well formed; report everything that is wrong, not just the first thing.

Always: each value is defined once and before its uses, in scope; every instruction accepts its
operands and has the type its result says; regions end as they must; what a region hands on has the
types of what receives it. Once laid out (`laid_out=True`): every tile has a layout of the kernel's
threads, and every instruction's operands are laid out as it needs them.
"""

from __future__ import annotations

import re

from tilus.errors import Span, TilusError, TilusTypeError
from tilus.ir.builder import check_fields
from tilus.ir.expr import Expr, Value, check, walk
from tilus.ir.inst import Layouts
from tilus.ir.program import (
    Assign,
    Break,
    Continue,
    For,
    Function,
    If,
    Let,
    Param,
    Return,
    Seq,
    Stmt,
    While,
    Yield,
    never_ends,
    uses,
)
from tilus.ir.target import Target
from tilus.ir.types import PointerType, ScalarType, TileType, Type

NAME = re.compile(r"[^\W\d][\w.]*")


def verify(f: Function, target: Target | None = None) -> None:
    """Raise one `TilusTypeError` with every finding; `target` is given once tiles are laid out."""
    checker = _Verifier(f, target)
    if not NAME.fullmatch(f.name):
        checker.report(f"{f.name!r} is no name for a kernel", f.span)
    for p in f.params:
        checker.param(p)
    if f.num_threads < 1:
        checker.report("a kernel runs on at least one thread", f.span)
    checker.region(f.body, results=None, loop=None, what="the kernel")
    if checker.errors:
        raise TilusTypeError.collect(checker.errors)


class _Verifier:
    def __init__(self, f: Function, target: Target | None) -> None:
        self.f, self.target = f, target
        self.errors: list[TilusError] = []
        self.scope: set[Value] = set()
        self.defined: set[Value] = set()

    def report(self, message: str, span: Span | None, help: str | None = None) -> None:
        self.errors.append(TilusTypeError(message, span, help=help))

    def param(self, p: Param) -> None:
        t, name = p.value.type, p.value.name
        self.define(p.value, None)
        if not isinstance(t, (ScalarType, PointerType)):
            self.report(f"%{name} is a {t}; a kernel takes scalars and pointers", p.value.span)
        elif p.divisible < 1:
            self.report(f"%{name} is divisible by {p.divisible}; it takes 1 or more", p.value.span)
        elif p.divisible > 1 and not (isinstance(t, PointerType) or t.dtype.is_integer):
            self.report(f"%{name}, a {t}, cannot be divisible", p.value.span)

    def define(self, v: Value, span: Span | None) -> None:
        if v in self.defined:
            self.report(f"%{v.name} is defined twice", span or v.span)
        self.defined.add(v)
        self.scope.add(v)
        if self.target is not None and isinstance(v.type, TileType):
            if v.type.layout is None:
                self.report(f"%{v.name} has no layout", span or v.span)
            elif v.type.layout.num_threads != self.f.num_threads:
                self.report(
                    f"%{v.name} is spread over {v.type.layout.num_threads} threads; the kernel has "
                    f"{self.f.num_threads}",
                    span or v.span,
                )

    def use(self, e: Expr, span: Span | None) -> None:
        try:
            check(e)
        except TilusError as error:
            self.errors.append(error.at(span))
        for x in walk(e):
            if isinstance(x, Value) and x not in self.scope:
                where = (
                    "used before it is defined"
                    if x not in self.defined
                    else "used outside its region"
                )
                self.report(f"%{x.name} is {where}", span)

    def region(
        self,
        s: Seq,
        results: tuple[Value, ...] | None,
        loop: tuple[Value, ...] | None,
        what: str,
    ) -> None:
        """Check a sequence that must yield `results`, inside a loop that carries `loop`."""
        outer = set(self.scope)
        ended = False
        for inner in s.stmts:
            if ended:
                self.report(
                    "this can never run: the statement before it leaves the region", inner.span
                )
                break
            self.statement(inner, results, loop, what)
            ended = never_ends(inner)
        if not ended and results:
            self.report(
                f"{what} must end in a yield of {len(results)} values", s.span or self.f.span
            )
        self.scope = outer

    def statement(
        self, s: Stmt, results: tuple[Value, ...] | None, loop: tuple[Value, ...] | None, what: str
    ) -> None:
        if not isinstance(s, (Assign, While)):
            for e in uses(s):
                self.use(e, s.span)
        match s:
            case Let():
                if not isinstance(s.var.type, ScalarType) or s.var.type != s.expr.type:
                    self.report(f"%{s.var.name} is {s.var.type}, its value {s.expr.type}", s.span)
                self.define(s.var, s.span)
            case Assign():
                self.instruction(s)
            case If():
                self.boolean(s.cond, s.span)
                self.region(s.then, s.results, loop, "this branch")
                self.region(s.orelse, s.results, loop, "the other branch")
                self.defines(s.results, s.span)
            case For() | While():
                self.loop(s)
            case Yield():
                if results is None:
                    self.report("a yield outside of any branch or loop", s.span)
                elif not s.values:
                    self.report("a yield of no values is left out", s.span)
                else:
                    self.handed(s.values, results, s.span, "yield")
            case Continue() | Break():
                word = type(s).__name__.lower()
                if loop is None:
                    self.report(f"a {word} outside of any loop", s.span)
                else:
                    self.handed(s.values, loop, s.span, word)
            case Return():
                pass

    def loop(self, s: For | While) -> None:
        outer = set(self.scope)
        if isinstance(s, While):
            for e in s.inits:
                self.use(e, s.span)
        elif not isinstance(s.extent.type, ScalarType) or not s.extent.dtype.is_integer:
            self.report(f"a loop's extent is an integer, not {s.extent.type}", s.span)
        elif s.index.type != s.extent.type:
            self.report(f"%{s.index.name} is {s.index.type}, the extent {s.extent.type}", s.span)
        if isinstance(s, For) and (s.unroll < 1 or s.stages < 1):
            self.report(f"`unroll` ({s.unroll}) and `stages` ({s.stages}) are at least 1", s.span)
        self.handed(s.inits, s.args, s.span, "loop's start")
        if isinstance(s, For):
            self.define(s.index, s.span)
        self.defines(s.args, s.span)
        if isinstance(s, While):
            self.use(s.cond, s.span)
            self.boolean(s.cond, s.span)
        self.region(s.body, s.args, s.args, "the loop's body")
        self.scope = outer
        self.handed(s.args, s.results, s.span, "loop's result", same_layout=True)
        self.defines(s.results, s.span)

    def defines(self, values: tuple[Value, ...], span: Span | None) -> None:
        for v in values:
            self.define(v, span)
            if not isinstance(v.type, (ScalarType, TileType)):
                self.report(
                    f"%{v.name} is a {v.type}; only scalars and register tiles are handed on",
                    span,
                    help="branches and loops may use one piece of memory at different offsets",
                )

    def boolean(self, e: Expr, span: Span | None) -> None:
        if not isinstance(e.type, ScalarType) or e.dtype.name != "bool":
            self.report(f"a condition is a bool, not {e.type}", span)

    def handed(
        self,
        values: tuple[Expr, ...],
        to: tuple[Value, ...],
        span: Span | None,
        what: str,
        same_layout: bool = False,
    ) -> None:
        if len(values) != len(to):
            self.report(f"the {what} has {len(values)} values; {len(to)} are needed", span)
            return
        for e, v in zip(values, to, strict=True):
            have, need = e.type, v.type
            if isinstance(have, TileType) and isinstance(need, TileType):
                if self.target is None and not same_layout:  # convert_layouts will see to it
                    have, need = have.with_layout(None), need.with_layout(None)
            if not _fits(have, need, exact=self.target is not None):
                detail = ""
                if isinstance(have, TileType) and isinstance(need, TileType):
                    if str(have) == str(need):
                        detail = f" laid out as {have.layout}, not {need.layout}"
                self.report(f"the {what} of %{v.name}, a {v.type}, is {e.type}{detail}", span)

    def instruction(self, s: Assign) -> None:
        derived = s.result.type if s.result is not None else None
        try:
            check_fields(s.inst)
            for e in uses(s):
                self.use(e, s.span)
            derived = s.inst.infer()
            if self.target is not None and derived is not None and s.result is not None:
                self.layouts(s, self.target)
        except TilusError as e:
            self.errors.append(e.at(s.span))
        if s.result is None:
            return
        if derived is None or not _fits(derived, s.result.type, exact=False):
            self.report(
                f"%{s.result.name} is {s.result.type}; {s.inst.opcode} gives {derived}", s.span
            )
        self.define(s.result, s.span)

    def layouts(self, s: Assign, target: Target) -> None:
        have = known_layouts(s)
        if "result" not in have:
            return
        for name, need in s.inst.layouts(have, target, self.f.num_threads).items():
            if name in have and have[name] != need:
                self.report(
                    f"{s.inst.opcode}: `{name}` is laid out as {have[name]}; it must be {need}",
                    s.span,
                )


def known_layouts(s: Assign) -> Layouts:
    """The layouts of an instruction's tiles that are settled, by operand name and `result`."""
    out: Layouts = {}
    for name, v in s.inst.tile_operands():
        if isinstance(v.type, TileType) and v.type.layout is not None:
            out[name] = v.type.layout
    if (
        s.result is not None
        and isinstance(s.result.type, TileType)
        and s.result.type.layout is not None
    ):
        out["result"] = s.result.type.layout
    return out


def _fits(a: Type, b: Type, exact: bool) -> bool:
    """Whether a value of type `a` may be received as `b`; layouts count where both are settled."""
    if isinstance(a, TileType) and isinstance(b, TileType):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        return a.layout == b.layout or (not exact and None in (a.layout, b.layout))
    return a == b
