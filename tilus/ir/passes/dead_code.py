"""Remove what has no effect and no user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tilus.ir.analysis import Analysis
from tilus.ir.expr import Expr, Value, walk
from tilus.ir.inst import Effect
from tilus.ir.passes.driver import Form, ir_pass
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
    uses,
)
from tilus.ir.program import walk as statements
from tilus.ir.rewrite import Rewriter, changed
from tilus.ir.target import Target


@ir_pass(needs=Form.TYPED)
def dead_code(f: Function, target: Target) -> Function:
    """Drop instructions and `let`s whose results nobody needs, and carried values nobody reads.

    Needs: a typed program. Gives: the same meaning. A reading instruction counts as pure: it is
    dropped, with its traps, when its result is unused; a scalar that may trap stays as a `let`.

    >>> from tilus.ir.parser import parse
    >>> from tilus.ir.target import target
    >>> f = parse('''kernel @k(%n: i32) threads 32 {
    ...   let %a = %n + 1
    ...   let %b = %a + 1
    ...   print_tensor(x=%a)
    ... }''')
    >>> print(dead_code(f, target("generic")), end="")
    kernel @k(%n: i32) threads 32 {
      let %a = %n + 1
      print_tensor(x=%a, message="a")
    }
    """
    while (new := _Remover(f).function(f)) is not f:
        f = new
    return f


def _live_values(f: Function, facts: Analysis) -> set[Value]:
    """Values that an effect, a scalar's trap or control flow needs, directly or not."""
    needs: dict[Value, list[Value]] = {}  # value -> what it is computed from
    roots: list[Value] = []

    def link(v: Value, *sources: Expr) -> None:
        needs.setdefault(v, []).extend(_values_in(sources))

    def need(*sources: Expr) -> None:
        roots.extend(_values_in(sources))

    def visit(
        s: Stmt, results: tuple[Value, ...], loop: tuple[tuple[Value, ...], tuple[Value, ...]]
    ) -> None:
        need(*(e for e in uses(s) if facts.can_trap(e)))
        match s:
            case Seq():
                for inner in s.stmts:
                    visit(inner, results, loop)
            case Let():
                link(s.var, s.expr)
                if facts.can_trap(s.expr):
                    roots.append(s.var)
            case Assign():
                if s.result is not None:
                    link(s.result, *uses(s))
                if s.result is None or s.inst.effects & ~Effect.READ:
                    need(*uses(s))
            case If():
                need(s.cond)
                visit(s.then, s.results, loop)
                visit(s.orelse, s.results, loop)
            case For() | While():
                need(s.extent if isinstance(s, For) else s.cond)
                for a, init in zip(s.args, s.inits, strict=True):
                    link(a, init)
                for r, a in zip(s.results, s.args, strict=True):
                    link(r, a)
                    link(a, r)  # a result keeps its argument, and the other way round
                visit(s.body, s.args, (s.args, s.results))
            case Yield():
                for v, e in zip(results, s.values, strict=True):
                    link(v, e)
            case Continue() | Break():
                for v, e in zip(loop[0], s.values, strict=True):
                    link(v, e)

    visit(f.body, (), ((), ()))
    live: set[Value] = set()
    while roots:
        v = roots.pop()
        if v not in live:
            live.add(v)
            roots.extend(needs.get(v, ()))
    return live


def _values_in(es: Iterable[Expr]) -> Iterator[Value]:
    return (x for e in es for x in walk(e) if isinstance(x, Value))


class _Remover(Rewriter):
    def __init__(self, f: Function) -> None:
        super().__init__()
        self.facts = Analysis(f)
        self.live = _live_values(f, self.facts)
        self.results: tuple[Value, ...] = ()
        self.loop: tuple[Value, ...] = ()

    def statement(self, s: Stmt) -> Stmt:
        match s:
            case Let() if s.var not in self.live:
                return Seq()
            case Assign() if (
                s.result is not None
                and s.result not in self.live
                and not s.inst.effects & ~Effect.READ
            ):
                return self.traps(s.inst.scalars(), s)
            case If():
                new = self.region(s, s.results, self.loop)
                assert isinstance(new, If)
                new = changed(new, results=self.kept(s.results))
                empty = not new.results and not any(_matters(b) for b in (new.then, new.orelse))
                return self.traps([s.cond], s) if empty else new
            case For() | While():
                new = self.region(s, s.args, s.args)
                assert isinstance(new, (For, While))
                inits, results = self.kept(s.inits, s.args), self.kept(s.results)
                new = changed(new, inits=inits, args=self.kept(s.args), results=results)
                if isinstance(s, For) and not new.results and not _matters(new.body):
                    return self.traps([s.extent, *s.inits], s)
                return self.after_traps(s.inits, s.args, new)
            case Yield():
                values = self.kept(s.values, self.results)
                left: Stmt = changed(s, values=values) if values else Seq()
                return self.after_traps(s.values, self.results, left)
            case Continue() | Break():
                left = changed(s, values=self.kept(s.values, self.loop))
                return self.after_traps(s.values, self.loop, left)
        return self.inside(s)

    def traps(self, es: Iterable[Expr], s: Stmt) -> Seq:
        """What must remain of scalars that nobody reads: those that may trap."""
        why = s.span.because("a check kept by dead_code") if s.span else None
        may = [e for e in es if self.facts.can_trap(e)]
        return Seq(tuple(Let(Value(e.type, "check", s.span), e, span=why) for e in may))

    def after_traps(self, values: tuple[Expr, ...], to: tuple[Value, ...], s: Stmt) -> Stmt:
        """A statement that hands on `values`, behind the traps of those it no longer does."""
        dead = [e for e, v in zip(values, to, strict=True) if v not in self.live]
        checks = self.traps(dead, s)
        return Seq((*checks.stmts, s)) if checks.stmts else s

    def region(self, s: Stmt, results: tuple[Value, ...], loop: tuple[Value, ...]) -> Stmt:
        saved = self.results, self.loop
        self.results, self.loop = results, loop
        new = self.inside(s)
        self.results, self.loop = saved
        return new

    def kept(self, values: tuple, by: tuple[Value, ...] | None = None) -> tuple:  # type: ignore[type-arg]
        """Of `values`, those whose counterparts live."""
        new = tuple(v for v, k in zip(values, by or values, strict=True) if k in self.live)
        return values if len(new) == len(values) else new


def _matters(s: Seq) -> bool:
    """Whether a region does anything but yield."""
    return any(not isinstance(x, (Seq, Yield)) for x in statements(s))
