"""Read the text form of a kernel. The syntax is `grammar.lark`; this module gives it meaning.

Every node gets the span of its text, so that an error in a `.tir` file shows its line just as one
in a Python kernel does.
"""

from __future__ import annotations

import itertools
import json
import linecache
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin

from lark import Lark, Token, Tree, UnexpectedInput
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import Span, TilusError, TilusNameError, TilusSyntaxError, TilusTypeError
from tilus.ir import instructions as _registers_all  # noqa: F401
from tilus.ir.builder import make
from tilus.ir.expr import OPS, Const, Expr, GridIndex, Number, Value, apply, cast
from tilus.ir.inst import REGISTRY, Inst, Role
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
)
from tilus.ir.types import GlobalType, PointerType, ScalarType, SharedType, TileType, Type
from tilus.layouts import LayoutError, parse_layout, parse_shared_layout

Node = Any  # a lark tree, or a token

SYMBOLS = {spec.symbol: op for op, spec in OPS.items() if spec.symbol and op != "neg"}
CALLED = {op for op, spec in OPS.items() if not spec.symbol and op != "cast"} | {"neg"}
SHOWN = {  # terminals that are patterns, as a syntax error names them
    "VALUE": "%value", "SYMBOL": "@kernel", "ALIAS": "#layout", "NAME": "name", "WORD": "true",
    "NUMBER": "number", "INT": "number", "STRING": "string", "ADD": "-", "MUL": "*", "CMP": "==",
    "SHIFT": "<<",
}  # fmt: skip
_fresh = itertools.count()


@lru_cache(maxsize=1)
def _lark() -> Lark:
    text = files("tilus.ir").joinpath("grammar.lark").read_text()
    return Lark(text, parser="lalr", propagate_positions=True, maybe_placeholders=True)


def parse_file(path: str) -> Function:
    """The kernel in a `.tir` file."""
    return parse(Path(path).read_text(), path)


def parse(text: str, file: str | None = None) -> Function:
    """The kernel that `text` describes.

    Raises:
        TilusSyntaxError: the text is not a kernel; other `TilusError`s: it is not a valid one.
    """
    if file is None:
        file = f"<tir-{next(_fresh)}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    try:
        tree = _lark().parse(text)
    except UnexpectedInput as e:
        raise _syntax_error(e, text, file) from None
    return _Reader(text, file).function(tree)


def parse_number(text: str) -> Number:
    """The number that its text means."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _syntax_error(e: UnexpectedInput, text: str, file: str) -> TilusSyntaxError:
    lines = text.splitlines() or [""]
    if isinstance(e, UnexpectedEOF) or (isinstance(e, UnexpectedToken) and e.token.type == "$END"):
        span = Span(file, len(lines), max(0, len(lines[-1]) - 1), len(lines), len(lines[-1]))
        return TilusSyntaxError("the text ends inside the kernel", span, help="a `}` is missing")
    width = len(e.token) if isinstance(e, UnexpectedToken) else 1
    what = repr(str(e.token)) if isinstance(e, UnexpectedToken) else "this character"
    span = Span(file, e.line, e.column - 1, e.line, e.column - 1 + width)
    allowed = e.accepts or e.expected if isinstance(e, UnexpectedToken) else set()
    if isinstance(e, UnexpectedCharacters):
        allowed = e.allowed or set()
    patterns = {t.name: t.pattern.value for t in _lark().terminals}
    shown = sorted({SHOWN.get(n) or patterns.get(n, n) for n in allowed})
    hint = f"expected one of {' '.join(shown)}" if 0 < len(shown) <= 12 else None
    return TilusSyntaxError(f"unexpected {what}", span, help=hint)


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.values: dict[str, Value] = {}
        self.aliases: dict[str, str] = {}

    # places

    def span(self, t: Any) -> Span:
        m = t.meta if isinstance(t, Tree) else t
        return Span(self.file, m.line, m.column - 1, m.end_line, m.end_column - 1)

    def slice(self, t: Any) -> str:
        """The text a node was read from, with layout aliases spelled out."""
        m = t.meta if isinstance(t, Tree) else t
        text, at = "", m.start_pos
        used = t.find_data("alias_ref") if isinstance(t, Tree) else ()
        for ref in sorted(used, key=lambda r: r.meta.start_pos):
            text += self.text[at : ref.meta.start_pos] + self.alias(ref.children[0])
            at = ref.meta.end_pos
        return text + self.text[at : m.end_pos]

    def alias(self, token: Node) -> str:
        if token not in self.aliases:
            raise TilusNameError(f"no layout is named {token}", self.span(token))
        return self.aliases[token]

    # the function

    def function(self, start: Node) -> Function:
        *aliases, tree = start.children
        for a in aliases:
            self.aliases[a.children[0]] = self.slice(a.children[1])
        name, params, threads, body = tree.children
        made = []
        for p in params.children if params else ():
            token, type_, divisible = p.children
            if divisible and int(divisible) < 1:
                raise TilusTypeError("a divisor is at least 1", self.span(divisible))
            value = self.define(token, self.type(type_))
            made.append(Param(value, int(divisible or 1)))
        head = Span(self.file, name.line, name.column - 1, name.line, name.end_column - 1)
        if int(threads) < 1:
            raise TilusTypeError("a kernel runs on at least one thread", self.span(threads))
        return Function(name[1:], tuple(made), self.block(body), int(threads), head)

    def define(self, token: Token, type_: Type) -> Value:
        if token in self.values:
            raise TilusNameError(
                f"{token} is defined twice", self.span(token), help="each value is defined once"
            )
        self.values[token] = value = Value(type_, token[1:], self.span(token))
        return value

    def value(self, token: Token) -> Value:
        if token not in self.values:
            raise TilusNameError(f"{token} is not defined here", self.span(token))
        return self.values[token]

    def block(self, tree: Node) -> Seq:
        """Statements; what they define is not seen after the block."""
        outer = dict(self.values)
        stmts = tuple(self.stmt(s) for s in tree.children)
        self.values = outer
        return Seq(stmts, span=None)

    # statements

    def stmt(self, t: Node) -> Stmt:
        try:
            return getattr(self, f"_{t.data}")(t, *t.children)  # type: ignore[no-any-return]
        except TilusError as e:
            raise e.at(self.span(t)) from None

    def _let(self, t: Node, name: Token, expr: Any) -> Stmt:
        e = self.scalar(expr)
        return Let(self.define(name, e.type), e, span=self.span(t))

    def _assign(self, t: Node, name: Token, call: Any, type_: Any) -> Stmt:
        inst = self.inst(call)
        derived = inst.infer()
        if derived is None:
            raise TilusTypeError(f"{inst.opcode} has no result", self.span(name))
        if type_ is not None:
            derived = self.annotated(derived, type_)
        return Assign(self.define(name, derived), inst, span=self.span(t))

    def annotated(self, derived: Type, tree: Node) -> Type:
        """The derived type with the layout that the annotation says."""
        said = self.type(tree)
        if isinstance(said, TileType) and isinstance(derived, TileType):
            if said.with_layout(None) == derived.with_layout(None) and derived.layout in (
                None,
                said.layout,
            ):
                return said
        elif said == derived:
            return derived
        text = f"the result is {derived}, not {said}"
        if str(derived) == str(said):
            had, layout = getattr(derived, "layout", None), getattr(said, "layout", None)
            text = f"the result is laid out as {had or 'row-major'}, not as {layout or 'row-major'}"
        raise TilusTypeError(text, self.span(tree))

    def _run(self, t: Node, call: Any) -> Stmt:
        inst = self.inst(call)
        if inst.infer() is not None:
            raise TilusTypeError(
                f"the result of {inst.opcode} needs a name", help="write `%x = ...`"
            )
        return Assign(None, inst, span=self.span(t))

    def _if_stmt(self, t: Node, cond: Any, results: Any, then: Any, orelse: Any) -> Stmt:
        c = self.scalar(cond)
        a, b = self.block(then), self.block(orelse) if orelse else Seq()
        return If(c, a, b, self.results(results), span=self.span(t))

    def results(self, tree: Node | None) -> tuple[Value, ...]:
        return tuple(
            self.define(r.children[0], self.type(r.children[1]))
            for r in (tree.children if tree else ())
        )

    def carries(self, tree: Node | None) -> tuple[tuple[Value, ...], tuple[Expr, ...]]:
        rows = [c.children for c in tree.children] if tree else []
        inits = [self.operand(init) for _, _, init in rows]
        args = [
            self.define(name, self.type(type_) if type_ else init.type)
            for (name, type_, _), init in zip(rows, inits, strict=True)
        ]
        return tuple(args), tuple(inits)

    def _for_stmt(
        self, t: Node, index: Token, extent: Any, unroll: Any, stages: Any,
        carries: Any, results: Any, body: Any,
    ) -> Stmt:  # fmt: skip
        n = self.scalar(extent)
        outer = dict(self.values)
        inits = self.carries(carries)
        i = self.define(index, ScalarType(n.dtype))
        seq = self.block(body)
        self.values = outer
        return For(
            i,
            n,
            *inits,
            seq,
            self.results(results),
            int(unroll or 1),
            int(stages or 1),
            span=self.span(t),
        )

    def _while_stmt(self, t: Node, cond: Any, carries: Any, results: Any, body: Any) -> Stmt:
        outer = dict(self.values)
        args, inits = self.carries(carries)
        c = self.scalar(cond)
        seq = self.block(body)
        self.values = outer
        return While(c, args, inits, seq, self.results(results), span=self.span(t))

    def jump(self, kind: type[Yield | Continue | Break], t: Node, values: tuple[Any, ...]) -> Stmt:
        return kind(tuple(self.operand(v) for v in values if v is not None), span=self.span(t))

    def _yield_stmt(self, t: Node, *values: Any) -> Stmt:
        return self.jump(Yield, t, values)

    def _continue_stmt(self, t: Node, *values: Any) -> Stmt:
        return self.jump(Continue, t, values)

    def _break_stmt(self, t: Node, *values: Any) -> Stmt:
        return self.jump(Break, t, values)

    def _return_stmt(self, t: Node) -> Stmt:
        return Return(span=self.span(t))

    # types and attributes

    def type(self, t: Node) -> Type:
        if t.data == "pointer_type":
            return PointerType(self.dtype(t.children[0]))
        if t.data == "global_type":
            return GlobalType(self.dtype(t.children[0]), len([c for c in t.children[1:] if c]))
        dtype, extents, layout = (*t.children, None)[:3]
        element = self.dtype(dtype)
        if extents is None:
            return ScalarType(element)
        shape = tuple(int(n) for n in extents.children if n is not None)
        if t.data == "shared_type":
            return SharedType(element, shape, self.shared_layout(layout) if layout else None)
        return TileType(element, shape, self.layout(layout) if layout else None)

    def dtype(self, t: Any) -> DType:
        try:
            return dtypes.dtype("".join(self.slice(t).split()))
        except ValueError as e:
            raise TilusTypeError(str(e), self.span(t)) from None

    def layout(self, t: Any) -> Any:
        try:
            return parse_layout(self.slice(t))
        except LayoutError as e:
            raise TilusSyntaxError(str(e), self.span(t)) from None

    def shared_layout(self, t: Any) -> Any:
        try:
            return parse_shared_layout(self.slice(t))
        except LayoutError as e:
            raise TilusSyntaxError(str(e), self.span(t)) from None

    def inst(self, t: Node) -> Inst:
        opcode, *args = t.children
        cls = REGISTRY.get(opcode)
        if cls is None:
            raise TilusNameError(f"no instruction is named {str(opcode)!r}", self.span(opcode))
        roles, hints = cls.roles(), cls.hints()
        names = list(roles)
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        for i, arg in enumerate(a for a in args if a is not None):
            keyword, expr = arg.children
            name = str(keyword) if keyword else names[i] if i < len(names) else ""
            if name not in roles:
                raise TilusTypeError(
                    f"{opcode} has no operand {name or i!r}",
                    self.span(arg),
                    help=f"it takes {', '.join(names)}",
                )
            if name in keywords:
                raise TilusTypeError(f"{opcode}: {name!r} is given twice", self.span(arg))
            value = self.argument(expr, roles[name], hints[name])
            if keyword:
                keywords[name] = value
            else:
                positional.append(value)
        try:
            return make(cls, positional, keywords)
        except TilusError as e:
            raise e.at(self.span(t)) from None

    def argument(self, t: Any, role: Role, hint: Any) -> Any:
        if isinstance(t, Tree) and t.data == "none":
            return None
        if role in (Role.OPERAND, Role.SCALAR):
            return self.operand(t)
        if role in (Role.OPERANDS, Role.SCALARS):
            items = t.children if isinstance(t, Tree) and t.data in ("list_", "tuple_") else [t]
            return tuple(self.operand(i) for i in items if i is not None)
        return self.attribute(t, hint)

    def attribute(self, t: Node, hint: Any) -> Any:
        kinds = [
            h
            for h in (get_args(hint) if get_origin(hint) is not tuple else ())
            if h is not type(None)
        ]
        hint = kinds[0] if kinds else hint
        name = getattr(hint, "__name__", "")
        if name == "Layout":
            return self.layout(t)
        if name == "SharedLayout":
            return self.shared_layout(t)
        if hint is DType:
            return self.dtype(t)
        if t.data in ("list_", "tuple_"):
            inner = get_args(hint)[0] if get_origin(hint) is tuple else Any
            return tuple(self.attribute(c, inner) for c in t.children if c is not None)
        if t.data == "string":
            return json.loads(t.children[0])
        text, suffix = self.literal(t) or ("", None)
        if not text or suffix:
            raise TilusTypeError("an attribute must be a plain constant", self.span(t))
        return parse_number(text)

    # expressions

    def scalar(self, t: Any) -> Expr:
        e = self.operand(t)
        if not isinstance(e.type, ScalarType):
            raise TilusTypeError(f"a scalar is needed here, not {e.type}", self.span(t))
        return e

    def operand(self, t: Any) -> Expr:
        try:
            return self._expr(t)
        except TilusError as e:
            raise e.at(self.span(t)) from None

    def _expr(self, t: Node) -> Expr:
        kids = t.children
        match t.data:
            case "value":
                return self.value(kids[0])
            case "const":
                return self.number(t)
            case "call":
                return self.scalar_call(t)
            case "infix":
                return apply(
                    SYMBOLS[str(kids[1])], self.scalar(kids[0]), self.scalar(kids[2]), fold=False
                )
            case "prefix" if str(kids[0]) == "-":
                if self.literal(t):
                    return self.number(t)
                return apply("neg", self.scalar(kids[1]), fold=False)
            case "prefix":
                return self.scalar(kids[1])
            case str() as data if data.startswith(("infix_", "prefix_")):
                return apply(data.split("_", 1)[1], *map(self.scalar, kids), fold=False)
        raise TilusSyntaxError(f"`{self.slice(t)}` is not a value", self.span(t))

    def literal(self, t: Node) -> tuple[str, Any] | None:
        """The text of a number with its sign, and the type after it; None for anything else."""
        sign, number = t.children if t.data == "prefix" else ("", t)
        if number.data != "const" or sign == "+":
            return None
        text, suffix = number.children
        return None if sign and text in ("true", "false") else (f"{sign}{text}", suffix)

    def number(self, t: Node) -> Const:
        text, suffix = self.literal(t) or ("", None)
        value = parse_number(text)
        if suffix:
            dtype = self.dtype(suffix)
        elif isinstance(value, bool):
            dtype = dtypes.bool_
        else:
            dtype = dtypes.i32 if isinstance(value, int) else dtypes.f32
        if dtype.is_float and not isinstance(value, bool):
            value = float(text)
        return Const(value, dtype)

    def scalar_call(self, t: Node) -> Expr:
        name, *args = t.children
        operands = []
        for a in args:
            if a is None or a.children[0] is not None:
                raise TilusSyntaxError(f"{name} takes plain operands", self.span(t))
            operands.append(self.scalar(a.children[1]))
        if name in ("block_idx", "grid_dim"):
            if (
                len(operands) == 1
                and isinstance(operands[0], Const)
                and operands[0].value in (0, 1, 2)
            ):
                return GridIndex(str(name), int(operands[0].value))
            raise TilusTypeError(f"{name} takes an axis: 0, 1 or 2", self.span(t))
        if name in CALLED:
            return apply(str(name), *operands, fold=False)
        try:
            dtype = dtypes.dtype(str(name))
        except ValueError:
            hint = (
                "instructions stand alone: `%x = " + f"{name}(...)`" if name in REGISTRY else None
            )
            raise TilusNameError(
                f"no scalar function is named {str(name)!r}", self.span(name), help=hint
            ) from None
        if len(operands) != 1:
            raise TilusTypeError(f"{name}(...) converts one scalar", self.span(t))
        return cast(operands[0], dtype, fold=False)
