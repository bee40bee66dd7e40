"""The text of a program; `tilus.ir.parser` reads it back, and `grammar.lark` documents it."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import Span
from tilus.ir.expr import OPS, Apply, Const, Expr, GridIndex, Value, wrap
from tilus.ir.inst import Inst, Role
from tilus.ir.program import (
    Assign,
    Break,
    Continue,
    For,
    Function,
    If,
    Let,
    Return,
    Seq,
    Stmt,
    While,
    Yield,
    definitions,
    walk,
)
from tilus.ir.types import SharedType, TileType, Type
from tilus.layouts import Layout, SharedLayout

ATOM, UNARY = 100, 11
BARE = {dtypes.i32, dtypes.f32, dtypes.bool_}


def print_function(f: Function, places: bool = False) -> str:
    """The function's text; `places` adds `; file.py:7` where a line of the user's begins."""
    return "\n".join(_Printer(f, places).lines()) + "\n"


def print_inst(inst: Inst, name: Any = None) -> str:
    """One instruction, as in the text form (values by their own names)."""
    printer = _Printer.__new__(_Printer)
    printer.names, printer.aliases = {}, {}
    return printer.inst(inst)


class _Printer:
    def __init__(self, f: Function, places: bool) -> None:
        self.f, self.places = f, places
        self.names: dict[Value, str] = {}
        self.taken: Counter[str] = Counter()
        self.last_place: tuple[str, int] | None = None
        for p in f.params:
            self.define(p.value)
        found: Counter[Layout | SharedLayout] = Counter()
        for s in walk(f.body):
            for v in definitions(s):
                self.define(v)
                if isinstance(v.type, (TileType, SharedType)) and v.type.layout is not None:
                    found[v.type.layout] += 1
            if isinstance(s, Assign):
                for x in s.inst.attributes().values():
                    if isinstance(x, (Layout, SharedLayout)):
                        found[x] += 1
        repeated = [x for x, n in found.items() if n > 1 and len(str(x)) > 12]
        self.aliases = {x: f"#L{i}" for i, x in enumerate(repeated)}

    def define(self, v: Value) -> None:
        name = re.sub(r"\W", "_", v.name) or "v"
        if name[0].isdigit():
            name = "v" + name
        while True:
            n = self.taken[name]
            self.taken[name] += 1
            full = name if n == 0 else f"{name}_{n}"
            if n == 0 or full not in self.taken:
                break
        self.taken[full] += full != name
        self.names[v] = "%" + full

    def lines(self) -> Iterator[str]:
        for layout, alias in self.aliases.items():
            yield f"{alias} = {layout}"
        params = ", ".join(
            f"{self.names[p.value]}: {p.value.type}"
            + (f" divisible {p.divisible}" if p.divisible != 1 else "")
            for p in self.f.params
        )
        yield f"kernel @{self.f.name}({params}) threads {self.f.num_threads} {{"
        yield from self.seq(self.f.body, "  ")
        yield "}"

    def seq(self, s: Seq, indent: str) -> Iterator[str]:
        for inner in s.stmts:
            yield from self.stmt(inner, indent)

    def stmt(self, s: Stmt, indent: str) -> Iterator[str]:
        note = self.place(s.span)
        match s:
            case Let():
                yield f"{indent}let {self.names[s.var]} = {self.expr(s.expr)}{note}"
            case Assign(result=None):
                yield f"{indent}{self.inst(s.inst)}{note}"
            case Assign(result=Value() as r):
                yield f"{indent}{self.names[r]} = {self.inst(s.inst)} : {self.type(r.type)}{note}"
            case If():
                yield f"{indent}if {self.expr(s.cond)}{self.results(s.results)} {{{note}"
                yield from self.seq(s.then, indent + "  ")
                if s.orelse.stmts:
                    yield f"{indent}}} else {{"
                    yield from self.seq(s.orelse, indent + "  ")
                yield f"{indent}}}"
            case For():
                head = f"{indent}for {self.names[s.index]} < {self.expr(s.extent)}"
                head += f" unroll {s.unroll}" if s.unroll != 1 else ""
                head += f" stages {s.stages}" if s.stages != 1 else ""
                yield from self.loop(s, head, indent, note)
            case While():
                yield from self.loop(s, f"{indent}while {self.expr(s.cond)}", indent, note)
            case Yield() | Continue() | Break():
                word = type(s).__name__.lower()
                yield f"{indent}{word} {', '.join(map(self.expr, s.values))}".rstrip() + note
            case Return():
                yield f"{indent}return{note}"
            case _:
                raise AssertionError(s)

    def loop(self, s: For | While, head: str, indent: str, note: str) -> Iterator[str]:
        if s.args:
            pairs = zip(s.args, s.inits, strict=True)
            carried = (f"{self.names[a]}: {self.type(a.type)} = {self.expr(i)}" for a, i in pairs)
            head += f" carry ({', '.join(carried)})"
        yield f"{head}{self.results(s.results)} {{{note}"
        yield from self.seq(s.body, indent + "  ")
        yield f"{indent}}}"

    def results(self, values: tuple[Value, ...]) -> str:
        inner = ", ".join(f"{self.names[v]}: {self.type(v.type)}" for v in values)
        return f" -> ({inner})" if inner else ""

    def place(self, span: Span | None) -> str:
        if not self.places or span is None:
            return ""
        here = (span.file, span.line)
        if here == self.last_place and not span.reason:
            return ""
        self.last_place = here
        why = f" {span.reason}" if span.reason else ""
        return f"  ; {os.path.basename(span.file)}:{span.line}{why}"

    def type(self, t: Type) -> str:
        if isinstance(t, (TileType, SharedType)) and t.layout is not None:
            return f"{t} @ {self.layout(t.layout)}"
        return str(t)

    def layout(self, x: Layout | SharedLayout) -> str:
        return self.aliases.get(x) or str(x)

    def inst(self, inst: Inst) -> str:
        parts = []
        positional = True
        for f in fields(inst):  # type: ignore[arg-type]
            x, role = getattr(inst, f.name), inst.roles()[f.name]
            if x is None and f.default is None:
                positional = False
                continue
            if role is Role.ATTRIBUTE and f.default is not MISSING and _same(x, f.default):
                positional = False
                continue
            if role is not Role.OPERAND:
                positional = False
            text = self.attribute(x)
            parts.append(text if positional else f"{f.name}={text}")
        return f"{inst.opcode}({', '.join(parts)})"

    def attribute(self, x: Any) -> str:
        if isinstance(x, Expr):
            return self.expr(x)
        if isinstance(x, (Layout, SharedLayout)):
            return self.layout(x)
        if isinstance(x, (tuple, list)):
            return f"[{', '.join(map(self.attribute, x))}]"
        if isinstance(x, DType):
            return str(x)
        if isinstance(x, str):
            return json.dumps(x)
        if x is None:
            return "none"
        return number(x)

    def expr(self, e: Expr, above: int = 0) -> str:
        text, precedence = self._expr(e)
        return f"({text})" if precedence < above else text

    def _expr(self, e: Expr) -> tuple[str, int]:
        if isinstance(e, Value):
            return self.names.get(e, f"%{e.name or '?'}"), ATOM
        if isinstance(e, GridIndex):
            return f"{e.kind}({e.axis})", ATOM
        if isinstance(e, Const):
            text = number(e.value, e.dtype) + ("" if e.dtype in BARE else f":{e.dtype}")
            return text, UNARY if text[0] == "-" else ATOM
        assert isinstance(e, Apply)
        spec, args = OPS[e.op], e.args
        if e.op == "cast":
            return f"{e.dtype}({self.expr(args[0])})", ATOM
        if not spec.precedence or (e.op == "neg" and isinstance(args[0], Const)):
            return f"{e.op}({', '.join(map(self.expr, args))})", ATOM
        p = spec.precedence
        if len(args) == 1:
            space = " " if spec.symbol.isalpha() else ""
            return f"{spec.symbol}{space}{self.expr(args[0], p)}", p
        left = p + 1 if spec.symbol in ("==", "!=", "<", "<=", ">", ">=") else p
        return f"{self.expr(args[0], left)} {spec.symbol} {self.expr(args[1], p + 1)}", p


def number(x: float, dtype: DType = dtypes.f64) -> str:
    """A number that reads back exactly; floats show a point, an exponent, inf or nan.

    A float's text is the shortest that rounds to `x` as a value of `dtype`.
    """
    if isinstance(x, bool):
        return "true" if x else "false"
    if isinstance(x, int):
        return str(x)
    short = str(dtype.value_dtype.type(x))
    return short if math.isnan(x) or wrap(float(short), dtype) == x else repr(x)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and repr(a) == repr(b)
