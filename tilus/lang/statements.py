"""Statements without loops: assignments, `if`, `return`, `assert`, expression statements."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from tilus.dtypes import DType
from tilus.errors import Span, TilusError, TilusSyntaxError, TilusTypeError, TilusValueError
from tilus.ir.builder import append, at, emit
from tilus.ir.expr import Expr
from tilus.ir.instructions.debug import DeviceAssert
from tilus.ir.program import Return
from tilus.lang import operators
from tilus.lang.annotations import constexpr
from tilus.lang.calls import Calls
from tilus.lang.expressions import BINARY
from tilus.lang.frame import VALUE, Flow
from tilus.lang.liveness import contains
from tilus.lang.values import Binding, has_runtime, is_tile, name_type


class Statements(Calls):
    """How each kind of statement is translated."""

    def block(self, body: list[ast.stmt]) -> Flow:
        """Translate statements in order; what comes after them."""
        for i, s in enumerate(body):
            flow = self.stmt(s, body[i + 1 :])
            if flow is not Flow.NEXT:
                return flow
        return Flow.NEXT

    def stmt(self, s: ast.stmt, rest: list[ast.stmt]) -> Flow:
        """Translate one statement; `rest` follows it in its block."""
        if isinstance(s, ast.If):
            return self.if_(s, rest)
        method: Callable[[Any], Flow | None] | None
        method = getattr(self, f"_{type(s).__name__}", None)
        if method is None:
            raise self.refuse(s)
        span = self.span(s)
        with at(span):
            try:
                return method(s) or Flow.NEXT
            except TilusError as e:
                e.at(span)
                raise

    def _Pass(self, s: ast.Pass) -> None:
        return None

    def _Expr(self, s: ast.Expr) -> None:
        if not isinstance(s.value, ast.Constant):  # a docstring, or `...`
            self.expr(s.value)

    # assignments

    def _Assign(self, s: ast.Assign) -> None:
        first = s.targets[0]
        value = self.expr(s.value, first.id if isinstance(first, ast.Name) else "")
        for target in s.targets:
            if isinstance(target, ast.Name):
                value = self.bind(target.id, value, self.span(s.value))
            else:
                self.assign(target, value, s.value)

    def assign(self, target: ast.expr, value: Any, origin: ast.AST) -> None:
        """Assign to a name or unpack into several; `origin` is where the value comes from."""
        match target:
            case ast.Name(id=name):
                self.bind(name, value, self.span(origin))
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                self.unpack(target, targets, self.iterate(value, origin), origin)
            case ast.Subscript():
                raise TilusSyntaxError(
                    "a part of a value cannot be assigned",
                    self.span(target),
                    help="tiles and containers do not change: make a new one; `tilus.store_shared` "
                    "and `tilus.store_global` write memory",
                )
            case ast.Attribute():
                raise TilusSyntaxError(
                    "an attribute cannot be assigned inside a kernel",
                    self.span(target),
                    help="assign to a variable",
                )
            case _:
                raise self.refuse(target)

    def unpack(
        self, target: ast.expr, targets: list[ast.expr], values: list[Any], origin: ast.AST
    ) -> None:
        """Assign the elements of a sequence to as many targets; a starred one takes the rest."""
        star = next((i for i, t in enumerate(targets) if isinstance(t, ast.Starred)), None)
        n, wanted = len(values), len(targets) - (star is not None)
        if n < wanted or (n > wanted and star is None):
            exactly = "at least " if star is not None else ""
            raise TilusValueError(
                f"{n} values for {exactly}{wanted} targets",
                self.span(target),
                [(self.span(origin), f"{n} values")],
            )
        if star is not None:
            end = n - (wanted - star)
            values = [*values[:star], values[star:end], *values[end:]]
        spans = _parts(origin, len(values)) if star is None else [origin] * len(values)
        for t, v, place in zip(targets, values, spans, strict=True):
            self.assign(t.value if isinstance(t, ast.Starred) else t, v, place)

    def _AnnAssign(self, s: ast.AnnAssign) -> None:
        if s.value is None:
            return
        if not isinstance(s.target, ast.Name):
            self.assign(s.target, None, s.value)
            return
        name = s.target.id
        value = self.expr(s.value, name)
        wanted = self.annotation(s.annotation)
        if isinstance(wanted, DType) or wanted is constexpr:
            value = self.typed(value, wanted, f"`{name}`", self.span(s.value))
        self.bind(name, value, self.span(s.value))

    def annotation(self, node: ast.expr) -> Any:
        """What the annotation of a variable stands for."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                inner = ast.parse(node.value.strip(), mode="eval").body
            except SyntaxError:
                return None
            for n in ast.walk(inner):
                ast.copy_location(n, node)
            return self.expr(inner)
        return self.expr(node)

    def _AugAssign(self, s: ast.AugAssign) -> None:
        if not isinstance(s.target, ast.Name):
            self.assign(s.target, None, s.value)
            return
        name = s.target.id
        old = self.read(ast.copy_location(ast.Name(name, ast.Load()), s.target))
        if isinstance(old, (list, set, dict, bytearray)):
            raise TilusSyntaxError(
                f"a {type(old).__name__} cannot be changed in place inside a kernel",
                help=f"make a new one: `{name} = {name} + ...`",
            )
        with at(self.span(s), name):
            value = self.native(operators.binary, BINARY[type(s.op)], old, self.expr(s.value))
            self.bind(name, value, self.span(s))

    # branches

    def if_(self, s: ast.If, rest: list[ast.stmt]) -> Flow:
        """`if`: decided now when its condition is known now, else by the running kernel."""
        cond = self.truth(s.test)
        if not isinstance(cond, Expr):
            return self.block(s.body if cond else s.orelse)
        returns = not self.kernel and contains([s], ast.Return) and not self.loops
        if returns and not self.depth:
            return self.returning(s, cond, rest)
        return self.branches(s, cond, s.body, s.orelse)

    def branches(
        self, s: ast.stmt, cond: Expr, then: list[ast.stmt], orelse: list[ast.stmt]
    ) -> Flow:
        """Both branches, and their join."""
        with self.path() as a:
            a.flow = self.block(then)
        with self.path() as b:
            b.flow = self.block(orelse)
        self.join(cond, a, b, self.live.after[s], self.head(s), "`if`")
        return Flow.NEXT if a.reached or b.reached else Flow.DEAD

    def returning(self, s: ast.If, cond: Expr, rest: list[ast.stmt]) -> Flow:
        """An `if` with a `return` in an inlined function: what follows belongs to its branches."""
        paths = []
        for body in (s.body, s.orelse):
            with self.path(runtime=False) as p:
                p.flow = self.block([*body, *rest])
                found: tuple[Any, Span | None] = (None, self.head(s))
                if p.flow is Flow.RETURN:
                    found = (self.returned, self.returned_at)
                self.env = {VALUE: Binding(*found)}
            paths.append(p)
        a, b = paths
        self.join(cond, a, b, frozenset(), self.head(s), "`if`")
        if not a.reached and not b.reached:
            return Flow.DEAD
        binding = self.env.pop(VALUE)
        if not binding.present:
            error = binding.value.error(self.head(s))
            error.first.message = error.first.message.replace(f"`{VALUE}`", "the returned value")
            raise error
        self.returned = binding.value
        return Flow.RETURN

    def head(self, s: ast.stmt) -> Span:
        """The line that begins a compound statement, without its body."""
        last: ast.AST = s.test if isinstance(s, (ast.If, ast.While)) else s
        if isinstance(s, ast.For):
            last = s.iter
        return self.source.between(s, last)

    returned_at: Span | None = None

    def _Return(self, s: ast.Return) -> Flow:
        value = self.expr(s.value) if s.value is not None else None
        if self.kernel:
            if value is not None:
                raise TilusTypeError(
                    "a kernel returns nothing",
                    help="write results to memory with `tilus.store_global`",
                )
            append(Return(span=self.span(s)))
            return Flow.DEAD
        if self.depth:
            raise TilusSyntaxError(
                "an inlined function cannot return from inside a run-time loop, or from a run-time "
                "`if` in a loop",
                help="assign the value to a variable, and return it at the end of the function",
            )
        self.returned, self.returned_at = value, self.span(s.value or s)
        return Flow.RETURN

    def _Assert(self, s: ast.Assert) -> None:
        value = self.expr(s.test)
        if is_tile(value):
            raise TilusTypeError(
                f"a tile ({value.type}) has no truth value",
                self.span(s.test),
                help="`tilus.device_assert(tile, message)` asserts every element",
            )
        cond = self.native(operators.truth, value)
        message = "" if s.msg is None or cond is True else self.expr(s.msg)
        if has_runtime(message):
            raise TilusTypeError(
                f"the message of an assertion must be known now, not {name_type(message)}",
                self.span(s.msg or s),
            )
        if isinstance(cond, Expr):
            emit(DeviceAssert(cond, str(message)))
        elif not cond:
            raise TilusValueError(
                f"assertion failed{f': {message}' if message else ''}", self.span(s)
            )

    loops: list[Any]


def _parts(origin: ast.AST, n: int) -> list[ast.AST]:
    """Where each element of an unpacked value is written, if it is a display of as many."""
    if isinstance(origin, (ast.Tuple, ast.List)) and len(origin.elts) == n:
        if not any(isinstance(e, ast.Starred) for e in origin.elts):
            return list(origin.elts)
    return [origin] * n
