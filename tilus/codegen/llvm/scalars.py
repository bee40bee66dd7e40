"""Scalar expressions as LLVM instructions."""

from __future__ import annotations

from collections.abc import Callable

from tilus.codegen.llvm.convert import cast, register_constant
from tilus.codegen.llvm.elementwise import binary, compare, unary
from tilus.codegen.llvm.writer import I1, V, Writer, constant, element_type
from tilus.dtypes import DType
from tilus.ir.analysis import Analysis
from tilus.ir.expr import Apply, Const, Expr, GridIndex, Value

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
RENAMED = {"min": "minimum", "max": "maximum"}


class Scalars:
    """Lowers scalar expressions; `values` says what each named scalar is."""

    def __init__(
        self,
        w: Writer,
        facts: Analysis,
        value: Callable[[Value], V],
        grid: Callable[[GridIndex], V],
        trap: Callable[[V, str], None],
    ) -> None:
        self.w, self.facts, self.value, self.grid, self.trap = w, facts, value, grid, trap

    def lower(self, e: Expr) -> V:
        """The value of an expression, in its own type."""
        if isinstance(e, Const):
            return self.const(e.value, e.dtype)
        if isinstance(e, Value):
            return self.value(e)
        if isinstance(e, GridIndex):
            return self.grid(e)
        assert isinstance(e, Apply)
        return self.apply(e)

    def const(self, value: float | int | bool, dtype: DType) -> V:
        """A constant of an element type."""
        return constant(element_type(dtype), register_constant(value, dtype))

    def index(self, e: Expr) -> V:
        """An integer expression as an i64."""
        if isinstance(e, Const):
            return V("i64", str(int(e.value)))
        return self.w.cast("sext" if e.dtype.is_signed else "zext", self.lower(e), "i64")

    def apply(self, e: Apply) -> V:
        """One operation."""
        op, args, dtype = e.op, e.args, e.args[0].dtype
        if op in ("and", "or"):
            return self.short_circuit(e)
        if op == "select":
            return self.lazily(e)
        if op == "cast":
            return cast(self.w, dtype, e.dtype, self.lower(args[0]))
        if op == "multiple_of":
            return self.lower(args[0])
        values = [self.lower(a) for a in args]
        if op == "not":
            return self.w.binary("xor", values[0], constant(I1, True))
        if len(args) == 1:
            return unary(self.w, op, dtype, values[0])
        if op in COMPARISONS:
            return compare(self.w, op, dtype, *values)
        if op in ("floordiv", "mod"):
            return self.divide(e, *values)
        if op in ("shl", "shr") and args[1].dtype != dtype:
            values[1] = cast(self.w, args[1].dtype, dtype, values[1])
        return binary(self.w, RENAMED.get(op, op), dtype, *values)

    def divide(self, e: Apply, a: V, b: V) -> V:
        """`//` and `%`: plain unsigned ones where both sides cannot be negative."""
        x, y = (self.facts.facts(arg) for arg in e.args)
        if y.low <= 0 <= y.high:
            zero = self.w.compare("icmp", "eq", b, constant(b.type, 0))
            self.trap(zero, "division by zero")
        if x.low >= 0 and y.low > 0:
            return self.w.binary("udiv" if e.op == "floordiv" else "urem", a, b)
        return binary(self.w, e.op, e.args[0].dtype, a, b)

    def short_circuit(self, e: Apply) -> V:
        """`and`, `or`: the right side only where it decides (it may divide)."""
        a, b = e.args
        if not self.facts.can_trap(b):
            return self.w.binary(e.op, self.lower(a), self.lower(b))
        then, otherwise = (b, None) if e.op == "and" else (None, b)
        return self.chosen(self.lower(a), then, otherwise, e.dtype)

    def lazily(self, e: Apply) -> V:
        """A selection of which only the chosen side runs, where the other might trap."""
        cond, a, b = e.args
        c = self.lower(cond)
        if not (self.facts.can_trap(a) or self.facts.can_trap(b)):
            return self.w.select(c, self.lower(a), self.lower(b))
        return self.chosen(c, a, b, e.dtype)

    def chosen(self, c: V, a: Expr | None, b: Expr | None, dtype: DType) -> V:
        """One of two expressions behind a branch; None stands for the condition itself."""
        w = self.w
        slot = w.alloca(element_type(dtype), hint="chosen")
        then, otherwise, end = (w.fresh_label(n) for n in ("then", "else", "end"))
        w.branch(c, then, otherwise)
        for label, side in ((then, a), (otherwise, b)):
            w.label(label)
            w.store(c if side is None else self.lower(side), slot, 1)
            w.goto(end)
        w.label(end)
        return w.load(element_type(dtype), slot, 1)
