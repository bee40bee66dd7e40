"""Simplify scalars: rewrite rules as data, then what bounds and divisors decide."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from tilus import dtypes
from tilus.errors import Span, TilusError
from tilus.ir.analysis import Analysis
from tilus.ir.expr import Apply, Const, Expr, Value, apply, cast, kind_of
from tilus.ir.instructions.view import ConvertLayout
from tilus.ir.passes.driver import Form, ir_pass
from tilus.ir.program import (
    Assign,
    For,
    Function,
    If,
    Let,
    Seq,
    Stmt,
    While,
    Yield,
    never_ends,
)
from tilus.ir.rewrite import Rewriter
from tilus.ir.target import Target
from tilus.ir.types import TileType

# Integer and bool identities; x, y, z stand for anything, c for a constant.
RULES = (
    "x + 0 -> x",
    "0 + x -> x",
    "x - 0 -> x",
    "x - x -> 0",
    "0 - x -> -x",
    "x * 1 -> x",
    "1 * x -> x",
    "x * 0 -> 0",
    "0 * x -> 0",
    "x // 1 -> x",
    "x % 1 -> 0",
    "x << 0 -> x",
    "x >> 0 -> x",
    "x & 0 -> 0",
    "x & x -> x",
    "x | 0 -> x",
    "x | x -> x",
    "x ^ 0 -> x",
    "x ^ x -> 0",
    "-(-x) -> x",
    "~~x -> x",
    "min(x, x) -> x",
    "max(x, x) -> x",
    "not (not x) -> x",
    "x and True -> x",
    "True and x -> x",
    "x and False -> False",
    "False and x -> False",
    "x or False -> x",
    "False or x -> x",
    "x or True -> True",
    "True or x -> True",
    "x and x -> x",
    "x or x -> x",
    "x == x -> True",
    "x != x -> False",
    "x <= x -> True",
    "x >= x -> True",
    "x < x -> False",
    "x > x -> False",
    "select(z, x, x) -> x",
)

_SYMBOLS = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.LShift: "shl", ast.RShift: "shr", ast.BitAnd: "bitand", ast.BitOr: "bitor",
    ast.BitXor: "bitxor", ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt",
    ast.GtE: "ge", ast.And: "and", ast.Or: "or", ast.Not: "not",
    ast.USub: "neg", ast.Invert: "invert",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """`pattern -> result`, both as trees of (op, parts), names and numbers."""

    name: str
    pattern: Pattern
    result: Pattern

    def match(self, e: Apply) -> dict[str, Expr] | None:
        """What the pattern's names stand for in an expression; None where it does not match."""
        found: dict[str, Expr] = {}
        return found if _match(self.pattern, e, found) else None

    def build(self, found: dict[str, Expr], like: Apply) -> Expr:
        """The result, with what the names stand for; constants take the type of `like`."""
        return _build(self.result, found, like)

    @cached_property
    def drops(self) -> frozenset[str]:
        """Names of the pattern that do not come back in the result."""
        return frozenset(_names(self.pattern)) - frozenset(_names(self.result))


Pattern = str | int | bool | tuple[str, tuple["Pattern", ...]]


def read_rule(text: str) -> Rule:
    """A rule from its text."""
    left, right = (_pattern(ast.parse(side.strip(), mode="eval").body) for side in text.split("->"))
    return Rule(text, left, right)


def _pattern(t: ast.expr) -> Pattern:
    match t:
        case ast.Name():
            return t.id
        case ast.Constant(value=bool() | int() as value):
            return value
        case ast.BinOp():
            return _SYMBOLS[type(t.op)], (_pattern(t.left), _pattern(t.right))
        case ast.UnaryOp():
            return _SYMBOLS[type(t.op)], (_pattern(t.operand),)
        case ast.BoolOp():
            return _SYMBOLS[type(t.op)], tuple(map(_pattern, t.values))
        case ast.Compare():
            return _SYMBOLS[type(t.ops[0])], (_pattern(t.left), _pattern(t.comparators[0]))
        case ast.Call(func=ast.Name(id=name)):
            return name, tuple(map(_pattern, t.args))
    raise ValueError(f"a rule cannot hold {ast.dump(t)}")


def _names(p: Pattern) -> Iterator[str]:
    if isinstance(p, str):
        yield p
    elif isinstance(p, tuple):
        for part in p[1]:
            yield from _names(part)


def _match(p: Pattern, e: Expr, found: dict[str, Expr]) -> bool:
    if isinstance(p, str):
        return found.setdefault(p, e) == e
    if isinstance(p, tuple):
        return (
            isinstance(e, Apply)
            and e.op == p[0]
            and len(e.args) == len(p[1])
            and all(_match(q, a, found) for q, a in zip(p[1], e.args, strict=True))
        )
    return isinstance(e, Const) and type(e.value) is type(p) and e.value == p


def _build(p: Pattern, found: dict[str, Expr], like: Apply) -> Expr:
    if isinstance(p, str):
        return found[p]
    if isinstance(p, tuple):
        return apply(p[0], *(_build(q, found, like) for q in p[1]))
    return Const(bool(p) if like.dtype == dtypes.bool_ else p, like.dtype)


@lru_cache(maxsize=1)
def rules() -> dict[str, list[Rule]]:
    """The rules, by the operation they begin with."""
    by_op: dict[str, list[Rule]] = {}
    for text in RULES:
        rule = read_rule(text)
        assert isinstance(rule.pattern, tuple)
        by_op.setdefault(rule.pattern[0], []).append(rule)
    return by_op


@ir_pass(needs=Form.TYPED)
def simplify(f: Function, target: Target) -> Function:
    """Fold scalars, branches and loops that are decided; inline names of names and of constants.

    Needs: a typed program. Gives: the same meaning; an expression that may divide by zero or shift
    too far is never dropped.

    >>> from tilus.ir.parser import parse
    >>> from tilus.ir.target import target
    >>> f = parse('''kernel @k(%n: i32 divisible 16) threads 32 {
    ...   let %a = (%n + 0) * 2
    ...   let %b = %a % 32
    ...   if %b == 0 { print_tensor(x=%a) } else { print_tensor(x=%b) }
    ... }''')
    >>> print(simplify(f, target("generic")), end="")
    kernel @k(%n: i32 divisible 16) threads 32 {
      let %a = %n * 2
      let %b = 0
      print_tensor(x=%a, message="a")
    }
    """
    while (new := _Simplifier(f).function(f)) is not f:
        f = new
    return f


class _Simplifier(Rewriter):
    def __init__(self, f: Function) -> None:
        super().__init__()
        self.facts = Analysis(f)

    def expr(self, e: Expr) -> Expr:
        e = super().expr(e)
        return self.folded(e) if isinstance(e, Apply) else e

    def folded(self, e: Expr) -> Expr:
        """The expression rewritten from the inside out until nothing applies."""
        if not isinstance(e, Apply):
            return e
        args = tuple(self.folded(a) for a in e.args)
        if any(a is not b for a, b in zip(args, e.args, strict=True)):
            e = Apply(e.op, args, e.type)
        for step in (self.constant, self.decided, self.by_rule, self.gathered):
            new = step(e)
            if new is not None:
                return self.folded(new)
        return e

    def constant(self, e: Apply) -> Expr | None:
        if e.op == "multiple_of":
            x, n = e.args
            holds = isinstance(n, Const) and self.facts.facts(x).is_multiple_of(int(n.value))
            return x if holds else None
        if e.op == "select" and isinstance(e.args[0], Const):
            return e.args[1] if e.args[0].value else e.args[2]
        if not all(isinstance(a, Const) for a in e.args):
            return None
        try:
            return cast(e.args[0], e.dtype) if e.op == "cast" else apply(e.op, *e.args)
        except TilusError:  # a division by zero that may never be reached
            return None

    def decided(self, e: Apply) -> Expr | None:
        """What bounds and divisors settle."""
        if kind_of(e.dtype) == "f" or any(self.facts.can_trap(a) for a in (e, *e.args)):
            return None
        value = self.facts.facts(e).constant
        if value is not None:
            return Const(bool(value) if e.dtype == dtypes.bool_ else value, e.dtype)
        if e.op in ("mod", "floordiv") and isinstance(e.args[1], Const):
            x, n = self.facts.facts(e.args[0]), int(e.args[1].value)
            if e.op == "mod" and 0 <= x.low and x.high < n:
                return e.args[0]
        return None

    def by_rule(self, e: Apply) -> Expr | None:
        if any(kind_of(a.dtype) == "f" for a in e.args):
            return None
        for rule in rules().get(e.op, ()):
            found = rule.match(e)
            if found is not None and not any(self.facts.can_trap(found[x]) for x in rule.drops):
                return rule.build(found, e)
        return None

    def gathered(self, e: Apply) -> Expr | None:
        """(x + c) + d -> x + (c + d), and the same with subtraction."""
        if e.op not in ("add", "sub") or kind_of(e.dtype) != "i":
            return None
        x, d = e.args
        inner = x
        if not (isinstance(d, Const) and isinstance(inner, Apply) and inner.op in ("add", "sub")):
            return None
        y, c = inner.args
        if not isinstance(c, Const):
            return None
        total = int(c.value) * (1 if inner.op == "add" else -1)
        total += int(d.value) * (1 if e.op == "add" else -1)
        fold: Callable[[int], bool] = lambda n: e.dtype.min <= n <= e.dtype.max  # noqa: E731
        if fold(total) and total >= 0:
            return apply("add", y, total)
        return apply("sub", y, -total) if fold(-total) else None

    # statements

    def statement(self, s: Stmt) -> Stmt:
        match s:
            case Let():
                self.facts.let(s)
                if isinstance(s.expr, (Const, Value)):
                    self.map[s.var] = s.expr
            case If() if isinstance(s.cond, Const):
                return self.chosen(s, s.then if s.cond.value else s.orelse)
            case For():
                self.facts.loop(s)
                if self.facts.facts(s.extent).high <= 0 and not self.facts.can_trap(s.extent):
                    return Seq(self.stand_in(s.results, s.inits, s.span))
            case While() if isinstance(s.cond, Const) and not s.cond.value:
                return Seq(self.stand_in(s.results, s.inits, s.span))
        return self.inside(s)

    def stand_in(
        self, results: tuple[Value, ...], values: tuple[Expr, ...], span: Span | None
    ) -> tuple[Stmt, ...]:
        """Let the values stand for a region's results, in the layouts that those promise."""
        made: list[Stmt] = []
        for r, v in zip(results, values, strict=True):
            because = span.because("inserted by simplify") if span else None
            said = r.type.layout if isinstance(r.type, TileType) else None
            if isinstance(v, Apply):
                made.append(Let(r, v, span=because))
            elif isinstance(v, Value) and said is not None and v.type != r.type:
                made.append(Assign(r, ConvertLayout(v, said), span=because))
            else:
                self.map[r] = v
        return tuple(made)

    def chosen(self, s: If, branch: Seq) -> Stmt:
        """A branch in place of the whole `if`."""
        new = self.seq(branch)
        last = new.stmts[-1] if new.stmts else None
        if isinstance(last, Yield):
            return Seq((*new.stmts[:-1], *self.stand_in(s.results, last.values, s.span)))
        return new

    def seq(self, s: Seq) -> Seq:
        new = super().seq(s)
        for i, inner in enumerate(new.stmts[:-1]):
            if never_ends(inner):
                return Seq(new.stmts[: i + 1], span=new.span)  # what follows can never run
        return new
