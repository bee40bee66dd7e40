"""Rewriting programs: one visitor, which returns the same object where nothing changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from tilus.ir.expr import Expr, Value, substitute
from tilus.ir.program import (
    Assign,
    Break,
    Continue,
    For,
    Function,
    If,
    Let,
    Seq,
    Stmt,
    While,
    Yield,
)

T = TypeVar("T")


class Rewriter:
    """Walks a program in order. `self.map` says what stands for a value from here on.

    A subclass overrides `statement` (called with operands already replaced and regions not yet
    visited), returns what takes its place, and may call `super().statement` to go inside.
    """

    def __init__(self) -> None:
        self.map: dict[Value, Expr] = {}

    def function(self, f: Function) -> Function:
        """The function with its body rewritten."""
        return f.with_body(self.seq(f.body))

    def seq(self, s: Seq) -> Seq:
        """A sequence, flattened."""
        out: list[Stmt] = []
        for inner in s.stmts:
            new = self.statement(self.replaced(inner))
            out.extend(new.stmts if isinstance(new, Seq) else [new])
        if len(out) == len(s.stmts) and all(a is b for a, b in zip(out, s.stmts, strict=True)):
            return s
        return Seq(tuple(out), span=s.span)

    def statement(self, s: Stmt) -> Stmt:
        """What takes the place of a statement; a `Seq` for several or none."""
        return self.inside(s)

    def inside(self, s: Stmt) -> Stmt:
        """The statement with its regions rewritten."""
        match s:
            case Seq():
                return self.seq(s)
            case If():
                return changed(s, then=self.seq(s.then), orelse=self.seq(s.orelse))
            case For():
                return changed(s, body=self.seq(s.body))
            case While():
                return changed(s, cond=self.expr(s.cond), body=self.seq(s.body))
        return s

    def replaced(self, s: Stmt) -> Stmt:
        """The statement with its own operands replaced."""
        match s:
            case Let():
                return changed(s, expr=self.expr(s.expr))
            case Assign():
                return changed(s, inst=s.inst.map(self.expr))
            case If():
                return changed(s, cond=self.expr(s.cond))
            case For():
                return changed(s, extent=self.expr(s.extent), inits=self.exprs(s.inits))
            case While():
                return changed(s, inits=self.exprs(s.inits))
            case Yield() | Continue() | Break():
                return changed(s, values=self.exprs(s.values))
        return s

    def expr(self, e: Expr) -> Expr:
        """An operand with the values in it replaced."""
        return substitute(e, lambda v: self.map.get(v, v)) if self.map else e

    def exprs(self, es: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """Several operands."""
        new = tuple(self.expr(e) for e in es)
        return es if all(a is b for a, b in zip(new, es, strict=True)) else new


def changed(s: T, **fields: Any) -> T:
    """`s` with other fields; `s` itself when they are the same objects."""
    if all(getattr(s, name) is value for name, value in fields.items()):
        return s
    return replace(s, **fields)  # type: ignore[type-var]
