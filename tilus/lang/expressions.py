"""Expressions: operators, short circuits, displays, subscripts, attributes, comprehensions."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tilus.errors import TilusError, TilusNameError, TilusSyntaxError, TilusTypeError
from tilus.ir import expr as scalars
from tilus.ir.builder import at
from tilus.ir.expr import Expr, Value
from tilus.ir.types import GlobalType, PointerType, SharedType, TileType
from tilus.lang import operators, ops
from tilus.lang.frame import Frame, host_error
from tilus.lang.native import compute
from tilus.lang.subscripts import subscript
from tilus.lang.values import Elements, Range, has_runtime, is_number, is_tile, name_type

BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.MatMult: "@",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
}
COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
UNARY: dict[type[ast.unaryop], str] = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}


def name_of(node: ast.expr) -> str:
    """What to call a value in the IR that the kernel gives no name."""
    match node:
        case ast.Call(func=f):
            return name_of(f)
        case ast.Name(id=name):
            return name
        case ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=v):
            return name_of(v)
        case ast.BinOp(op=op):
            return operators.BINARY[BINARY[type(op)]][1] or "value"
    return "value"


class Expressions(Frame):
    """How each kind of expression is evaluated."""

    def expr(self, node: ast.expr, name: str = "") -> Any:
        """The value of an expression; what it emits carries its span, and `name`."""
        method: Callable[[ast.expr], Any] | None
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            raise self.refuse(node)
        span = self.span(node)
        with at(span, name or name_of(node)):
            try:
                return method(node)
            except TilusError as e:
                e.at(span)
                raise

    def native(self, fn: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Compute at compile time; what goes wrong is an error of the kernel at this place."""
        try:
            return fn(*args, **keywords)
        except (TilusError, RecursionError):
            raise
        except Exception as e:
            raise host_error(e, None) from e

    def _Constant(self, node: ast.Constant) -> Any:
        return node.value

    def _Name(self, node: ast.Name) -> Any:
        return self.read(node)

    # operators

    def _BinOp(self, node: ast.BinOp) -> Any:
        a, b = self.expr(node.left), self.expr(node.right)
        return self.native(operators.binary, BINARY[type(node.op)], a, b)

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            cond = self.truth(node.operand)
            return scalars.apply("not", cond) if isinstance(cond, Expr) else not cond
        return self.native(operators.unary, UNARY[type(node.op)], self.expr(node.operand))

    def truth(self, node: ast.expr) -> Any:
        """What `if node` asks: a Python bool, or a run-time bool scalar."""
        if isinstance(node, ast.BoolOp):
            return self.bool_op(node, node.values, self.truth)
        with at(self.span(node)):
            try:
                return self.native(operators.truth, self.expr(node))
            except TilusError as e:
                e.at(self.span(node))
                raise

    def _BoolOp(self, node: ast.BoolOp) -> Any:
        return self.bool_op(node, node.values, self.expr)

    def bool_op(
        self, node: ast.BoolOp, values: list[ast.expr], evaluate: Callable[[ast.expr], Any]
    ) -> Any:
        """`a and b and ...`: the first operand that decides, as in Python."""
        first, *rest = values
        is_and = isinstance(node.op, ast.And)
        x = evaluate(first)
        if not rest:
            return x
        with at(self.span(first)):
            try:
                cond = self.native(operators.truth, x)
            except TilusError as e:
                e.at(self.span(first))
                raise
        if not isinstance(cond, Expr):
            return self.bool_op(node, rest, evaluate) if cond == is_and else x
        decided = (not is_and) if cond is x else x

        def more() -> Any:
            return self.bool_op(node, rest, evaluate)

        def combine(p: Expr, q: Expr) -> Expr:
            if cond is x:  # bools
                return scalars.apply("and", cond, p) if is_and else scalars.apply("or", cond, q)
            return scalars.apply("select", cond, p, q)

        if is_and:
            return self.choose(cond, more, lambda: decided, node, combine)
        return self.choose(cond, lambda: decided, more, node, combine)

    def _IfExp(self, node: ast.IfExp) -> Any:
        cond = self.truth(node.test)
        if not isinstance(cond, Expr):
            return self.expr(node.body if cond else node.orelse)
        return self.choose(
            cond,
            lambda: self.expr(node.body),
            lambda: self.expr(node.orelse),
            node,
            lambda p, q: scalars.apply("select", cond, p, q),
        )

    def _Compare(self, node: ast.Compare) -> Any:
        return self.compare(node, self.expr(node.left), 0)

    def compare(self, node: ast.Compare, left: Any, i: int) -> Any:
        """The chain from comparison `i` on; each operand is evaluated once, and only if needed."""
        right = self.expr(node.comparators[i])
        first = self.comparison(node.ops[i], left, right)
        if i + 1 == len(node.ops):
            return first
        cond = self.native(operators.truth, first)
        if not isinstance(cond, Expr):
            return self.compare(node, right, i + 1) if cond else first
        return self.choose(
            cond,
            lambda: self.compare(node, right, i + 1),
            lambda: False,
            node,
            lambda p, q: scalars.apply("and", cond, p),
        )

    def comparison(self, op: ast.cmpop, a: Any, b: Any) -> Any:
        """One comparison."""
        if isinstance(op, (ast.Is, ast.IsNot)):
            runtime = has_runtime(a) + has_runtime(b)
            if runtime == 2 or (runtime and (is_number(a) or is_number(b))):
                raise TilusTypeError(
                    "`is` does not compare run-time values", help="compare them with `==`"
                )
            return (a is b) == isinstance(op, ast.Is)
        if isinstance(op, (ast.In, ast.NotIn)):
            if has_runtime(a) or has_runtime(tuple(b) if isinstance(b, dict) else b):
                raise TilusTypeError(
                    "`in` works on compile-time values only",
                    help="compare with each element: `x == 1 or x == 2`",
                )
            return self.native(compute, lambda: (a in b) == isinstance(op, ast.In))
        return self.native(operators.binary, COMPARE[type(op)], a, b)

    def _NamedExpr(self, node: ast.NamedExpr) -> Any:
        if self.comprehensions:
            raise TilusSyntaxError(
                "`:=` is not supported inside a comprehension", help="assign in a `for` instead"
            )
        name = node.target.id
        return self.bind(name, self.expr(node.value, name), self.span(node.value))

    # displays

    def elements(self, nodes: list[ast.expr]) -> Iterator[Any]:
        """The values of a tuple's or a list's elements, `*` unpacked."""
        for n in nodes:
            if isinstance(n, ast.Starred):
                yield from self.iterate(self.expr(n.value), n.value)
            else:
                yield self.expr(n)

    def iterate(self, x: Any, node: ast.AST) -> list[Any]:
        """The elements of a compile-time sequence."""
        if isinstance(x, Expr):
            raise TilusTypeError(
                f"a {x.type} is not a sequence known at compile time",
                self.span(node),
                help="`t[i]` with a compile-time index takes a part of a tile"
                if is_tile(x)
                else None,
            )
        if isinstance(x, Range):
            raise TilusTypeError(
                "a loop over run-time bounds cannot be unrolled",
                self.span(node),
                help="write it as a `for` statement",
            )
        with at(self.span(node)):
            try:
                return [self.constant(e, "an element") for e in self.native(compute, list, x)]
            except TilusError as e:
                e.at(self.span(node))
                raise

    def _Tuple(self, node: ast.Tuple) -> Any:
        return tuple(self.elements(node.elts))

    def _List(self, node: ast.List) -> Any:
        return list(self.elements(node.elts))

    def _Set(self, node: ast.Set) -> Any:
        return self.hashable(self.native(set, list(self.elements(node.elts))))

    def hashable(self, x: Any) -> Any:
        """A set, or a dict's keys: compile-time values only."""
        if has_runtime(x):
            raise TilusTypeError("a run-time value cannot be looked up by", help="use a tuple")
        return x

    def _Dict(self, node: ast.Dict) -> Any:
        out: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                more = self.expr(value)
                if not isinstance(more, dict):
                    raise TilusTypeError(
                        f"`**` needs a dict, not {name_type(more)}", self.span(value)
                    )
                out.update(more)
            else:
                k = self.hashable((self.expr(key),))[0]
                self.native(compute, hash, k)
                out[k] = self.expr(value)
        return out

    def _JoinedStr(self, node: ast.JoinedStr) -> str:
        return "".join(str(self.expr(v)) for v in node.values)

    def _FormattedValue(self, node: ast.FormattedValue) -> str:
        x = self.expr(node.value)
        if has_runtime(x):
            raise TilusTypeError(
                "a run-time value cannot be part of a string",
                self.span(node.value),
                help="`tilus.print_tensor(x, message)` prints it",
            )
        spec = self.expr(node.format_spec) if node.format_spec else ""
        convert: dict[int, Callable[[Any], Any]] = {115: str, 114: repr, 97: ascii}
        shown = (
            self.native(compute, convert[node.conversion], x) if node.conversion in convert else x
        )
        return str(self.native(compute, format, shown, spec))

    # comprehensions

    def _ListComp(self, node: ast.ListComp) -> Any:
        return self.comprehension(node.generators, lambda: self.expr(node.elt))

    def _GeneratorExp(self, node: ast.GeneratorExp) -> Any:
        return Elements(self.comprehension(node.generators, lambda: self.expr(node.elt)))

    def _SetComp(self, node: ast.SetComp) -> Any:
        return self.hashable(
            self.native(set, self.comprehension(node.generators, lambda: self.expr(node.elt)))
        )

    def _DictComp(self, node: ast.DictComp) -> Any:
        def entry() -> tuple[Any, Any]:
            return self.hashable((self.expr(node.key),))[0], self.expr(node.value)

        return self.native(dict, self.comprehension(node.generators, entry))

    def comprehension(
        self, generators: list[ast.comprehension], each: Callable[[], Any]
    ) -> list[Any]:
        """The elements, in a scope of their own."""
        outer = self.env
        self.env = dict(outer)
        self.comprehensions += 1
        try:
            return list(self._generate(generators, each))
        finally:
            self.env = outer
            self.comprehensions -= 1

    def _generate(
        self, generators: list[ast.comprehension], each: Callable[[], Any]
    ) -> Iterator[Any]:
        if not generators:
            yield each()
            return
        g, *rest = generators
        if g.is_async:
            raise TilusSyntaxError("`async for` is not supported", self.span(g.target))
        for x in self.iterate(self.expr(g.iter), g.iter):
            self.assign(g.target, x, g.iter)
            if all(self._holds(c) for c in g.ifs):
                yield from self._generate(rest, each)

    def _holds(self, node: ast.expr) -> bool:
        cond = self.truth(node)
        if isinstance(cond, Expr):
            raise TilusTypeError(
                "the condition of a comprehension must be known at compile time",
                self.span(node),
                help="which elements there are cannot depend on run-time values",
            )
        return bool(cond)

    def assign(self, target: ast.expr, value: Any, origin: ast.AST) -> None:
        """Assign to a target (statements.py)."""
        raise NotImplementedError

    # parts

    def _Subscript(self, node: ast.Subscript) -> Any:
        x = self.expr(node.value)
        index = self.expr(node.slice)
        if isinstance(x, Value) and isinstance(x.type, TileType):
            return subscript(x, index)
        if isinstance(x, Expr):
            raise TilusTypeError(f"a {x.type} cannot be subscripted", help=_how_to_read(x))
        if has_runtime(index) or _runtime_slice(index):
            raise TilusTypeError(
                f"a compile-time {type(x).__name__} cannot be indexed by a run-time value",
                self.span(node.slice),
                help="unroll the loop with `tilus.static_range`, or keep the data in memory",
            )
        return self.constant(self.native(compute, lambda: x[index]), self.source.text(node))

    def _Slice(self, node: ast.Slice) -> Any:
        parts = (node.lower, node.upper, node.step)
        return slice(*(None if p is None else self.expr(p) for p in parts))

    def _Attribute(self, node: ast.Attribute) -> Any:
        return self.attribute(self.expr(node.value), node.attr, self.source.text(node))

    def attribute(self, x: Any, name: str, text: str) -> Any:
        """`x.name`."""
        if not isinstance(x, Expr):
            try:
                return self.constant(self.native(compute, getattr, x, name), text)
            except TilusError as e:
                if not isinstance(e.__cause__, AttributeError):
                    raise
                close = difflib.get_close_matches(name, dir(x), n=1)
                help = f"did you mean `{close[0]}`?" if close else None
                raise TilusNameError(str(e.__cause__), help=help) from e.__cause__
        known: dict[str, Callable[[], Any]] = {"dtype": lambda: x.dtype}
        if isinstance(x.type, (TileType, SharedType)):
            shape = x.type.shape
            known |= {"shape": lambda: shape, "ndim": lambda: len(shape)}
        if is_tile(x):
            known["T"] = lambda: ops.transpose(x)
        if not isinstance(x.type, (SharedType, GlobalType, PointerType)):
            known["to"] = lambda: partial(ops.cast, x)
        if name not in known:
            raise TilusNameError(
                f"a value of type {x.type} has no attribute `{name}`",
                help=f"it has {', '.join(f'`{k}`' for k in known)}",
            )
        return known[name]()


def _how_to_read(x: Expr) -> str:
    match x.type:
        case SharedType():
            return "read a part of it: tilus.load_shared(s, offsets, shape)"
        case GlobalType():
            return "read a part of it: tilus.load_global(g, offsets, shape)"
        case PointerType():
            return "index it through `tilus.global_view`"
    return "a scalar is one number"


def _runtime_slice(index: Any) -> bool:
    return isinstance(index, slice) and any(map(has_runtime, (index.start, index.stop, index.step)))
