"""Remove what has no effect and no user."""

from __future__ import annotations

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

    Needs: a typed program. Gives: the same meaning, traps of what remains included.
    A reading instruction counts as pure: it is dropped when its result is unused.

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
      print_tensor(x=%a)
    }
    """
    live = _live_values(f)
    return _Remover(f, live).function(f)


def _live_values(f: Function) -> set[Value]:
    """Values that an effect, a jump's destination or control flow needs, directly or not."""
    facts = Analysis(f)
    needs: dict[Value, list[Value]] = {}  # value -> what it is computed from
    roots: list[Value] = []

    def link(v: Value, *sources: Expr) -> None:
        needs.setdefault(v, []).extend(x for e in sources for x in walk(e) if isinstance(x, Value))

    def visit(
        s: Stmt, results: tuple[Value, ...], loop: tuple[tuple[Value, ...], tuple[Value, ...]]
    ) -> None:
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
                    roots.extend(x for e in uses(s) for x in walk(e) if isinstance(x, Value))
            case If():
                roots.extend(x for x in walk(s.cond) if isinstance(x, Value))
                visit(s.then, s.results, loop)
                visit(s.orelse, s.results, loop)
            case For() | While():
                head = s.extent if isinstance(s, For) else s.cond
                roots.extend(x for x in walk(head) if isinstance(x, Value))
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


class _Remover(Rewriter):
    def __init__(self, f: Function, live: set[Value]) -> None:
        super().__init__()
        self.live = live
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
                return Seq()
            case If():
                new = self.region(s, s.results, self.loop)
                assert isinstance(new, If)
                new = changed(new, results=self.kept(s.results))
                empty = not new.results and not any(_matters(b) for b in (new.then, new.orelse))
                return Seq() if empty else new
            case For() | While():
                new = self.region(s, s.args, s.args)
                assert isinstance(new, (For, While))
                inits = tuple(i for a, i in zip(s.args, s.inits, strict=True) if a in self.live)
                if len(inits) != len(s.inits):
                    new = changed(
                        new, args=self.kept(s.args), inits=inits, results=self.kept(s.results)
                    )
                empty = isinstance(s, For) and not new.results and not _matters(new.body)
                return Seq() if empty else new
            case Yield():
                values = self.kept(s.values, self.results)
                return changed(s, values=values) if values else Seq()
            case Continue() | Break():
                return changed(s, values=self.kept(s.values, self.loop))
        return self.inside(s)

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
