"""Scalar expressions, and the SSA values everything refers to.

    expr ::= Value                        a parameter, loop index, `let`, or an instruction's result
           | Const(value, dtype)
           | GridIndex(kind, axis)        block_idx(axis), grid_dim(axis)
           | Apply(op, args, dtype)       one of OPS below

Arithmetic means what Python means, then wraps to the type's width: `//` and `%` floor, `>>` keeps
the sign, `and`/`or` and `select` evaluate only the operand they need. Mixed widths of one kind
widen; signed with unsigned, and int with float, are errors that ask for a cast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus import dtypes
from tilus.dtypes import DType, Kind
from tilus.errors import Span, TilusTypeError, TilusValueError
from tilus.ir.types import PointerType, ScalarType, Type

Number = int | float | bool


class Expr:
    """What a scalar operand can be."""

    __slots__ = ()
    type: Type

    @property
    def dtype(self) -> DType:
        """Element type of the scalar, tile or view."""
        return self.type.dtype

    def __bool__(self) -> bool:
        raise TilusTypeError(
            "a run-time value has no truth at compile time",
            help="only the kernel's own `if` and `while` can ask it; mark a helper function with "
            "@tilus.jit so that its body is kernel code too",
        )


class Value(Expr):
    """The result of one definition (SSA: defined once). Compared by identity."""

    __slots__ = ("name", "span", "type")

    def __init__(self, type: Type, name: str = "", span: Span | None = None) -> None:
        self.type, self.name, self.span = type, name, span

    def __repr__(self) -> str:
        return f"%{self.name or '?'}: {self.type}"


class Const(Expr):
    """A number of a known type (floats round to it); equal by type and exact value.

    -0.0 is not 0.0, and NaN is NaN.
    """

    __slots__ = ("type", "value")
    type: ScalarType
    value: Number

    def __init__(self, value: Number, dtype: DType) -> None:
        if not _fits(value, dtype):
            raise TilusValueError(f"{value!r} is not a value of {dtype}")
        self.type = ScalarType(dtype)
        self.value = wrap(value, dtype)

    def _key(self) -> tuple[DType, str]:
        return self.type.dtype, repr(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{self.value}:{self.dtype}"


@dataclass(frozen=True, slots=True)
class GridIndex(Expr):
    """`block_idx(axis)`: which block this is; `grid_dim(axis)`: how many there are. i32."""

    kind: str
    axis: int

    @property
    def type(self) -> ScalarType:  # type: ignore[override]
        """Always an i32 scalar."""
        return ScalarType(dtypes.i32)


@dataclass(frozen=True, slots=True)
class Apply(Expr):
    """An operation on scalars; `op` names an entry of `OPS`."""

    op: str
    args: tuple[Expr, ...]
    type: ScalarType

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(repr, self.args))})"


@dataclass(frozen=True, slots=True)
class Op:
    """A scalar operation: its meaning on exact Python numbers, and how it is written."""

    fn: Callable[..., Any]
    symbol: str = ""  # infix or prefix symbol; calls are written by name
    precedence: int = 0  # of the infix symbol, Python's order; 0: written as a call
    kinds: str = "if"  # of operands: i(nteger) f(loat) b(ool)
    result: str = "same"  # "same" or "bool"
    arity: int = 2


def _floordiv(a: int, b: int) -> int:
    if b == 0:
        raise ZeroDivisionError("integer division by zero")
    return a // b


def _mod(a: int, b: int) -> int:
    if b == 0:
        raise ZeroDivisionError("integer remainder by zero")
    return a % b


def _divide(a: float, b: float) -> float:
    if b == 0:
        raise ZeroDivisionError("float division by zero")
    return a / b


def _shift(a: int, b: int, left: bool) -> int:
    if not 0 <= b < 64:
        raise TilusValueError(f"a shift by {b} bits; allowed are 0 to 63")
    return a << b if left else a >> b


OPS: dict[str, Op] = {
    "or": Op(lambda a, b: a or b, "or", 1, "b"),
    "and": Op(lambda a, b: a and b, "and", 2, "b"),
    "not": Op(lambda a: not a, "not", 3, "b", arity=1),
    "eq": Op(lambda a, b: a == b, "==", 4, "ifb", "bool"),
    "ne": Op(lambda a, b: a != b, "!=", 4, "ifb", "bool"),
    "lt": Op(lambda a, b: a < b, "<", 4, result="bool"),
    "le": Op(lambda a, b: a <= b, "<=", 4, result="bool"),
    "gt": Op(lambda a, b: a > b, ">", 4, result="bool"),
    "ge": Op(lambda a, b: a >= b, ">=", 4, result="bool"),
    "bitor": Op(lambda a, b: a | b, "|", 5, "ib"),
    "bitxor": Op(lambda a, b: a ^ b, "^", 6, "ib"),
    "bitand": Op(lambda a, b: a & b, "&", 7, "ib"),
    "shl": Op(lambda a, b: _shift(a, b, True), "<<", 8, "i"),
    "shr": Op(lambda a, b: _shift(a, b, False), ">>", 8, "i"),
    "add": Op(lambda a, b: a + b, "+", 9),
    "sub": Op(lambda a, b: a - b, "-", 9),
    "mul": Op(lambda a, b: a * b, "*", 10),
    "div": Op(_divide, "/", 10, "f"),
    "floordiv": Op(_floordiv, "//", 10, "i"),
    "mod": Op(_mod, "%", 10, "i"),
    "neg": Op(lambda a: -a, "-", 11, arity=1),
    "invert": Op(lambda a: ~a, "~", 11, "i", arity=1),
    "abs": Op(abs, arity=1),
    "min": Op(min),
    "max": Op(max),
    "select": Op(lambda c, a, b: a if c else b, kinds="ifb", arity=3),
    "cast": Op(lambda a: a, kinds="ifb", arity=1),
    "multiple_of": Op(lambda a, n: a, kinds="i"),
}


def kind_of(dtype: DType) -> str:
    """`i`, `f` or `b`: which family of operations a scalar of this type takes part in."""
    if dtype.name == "bool":
        return "b"
    return "i" if dtype.is_integer else "f"


def _fits(value: Number, dtype: DType) -> bool:
    """Whether a Python number is exactly a value of the type (floats may round)."""
    if dtype.name == "bool":
        return isinstance(value, bool)
    if dtype.is_integer:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            return False
        return bool(dtype.min <= value <= dtype.max)
    return not isinstance(value, bool)


def wrap(value: Number, dtype: DType) -> Number:
    """The result of exact arithmetic as a value of the type: ints wrap, floats round."""
    if dtype.name == "bool":
        return bool(value)
    if dtype.is_integer:
        value = int(value) & ((1 << dtype.bits) - 1)
        return value - (1 << dtype.bits) if dtype.is_signed and value >> (dtype.bits - 1) else value
    return float(dtypes.convert(np.array([value], np.float64), dtypes.f64, dtype)[0])


def evaluate(op: str, args: list[Any], dtype: DType, source: DType | None = None) -> Number:
    """`op` on the values of its operands (thunks for those evaluated lazily are the caller's)."""
    if op == "cast":
        assert source is not None
        carrier = np.array([args[0]]).astype(source.value_dtype)
        out = dtypes.convert(carrier, source, dtype)[0]
        return out.item()  # type: ignore[no-any-return]
    return wrap(OPS[op].fn(*args), dtype)


def const(value: Number, dtype: DType | None = None) -> Const:
    """A Python number as a constant: bool, i32 (i64 where it must), or f32, if no type is given."""
    if dtype is None:
        if isinstance(value, bool):
            dtype = dtypes.bool_
        elif isinstance(value, int):
            dtype = dtypes.i32 if _fits(value, dtypes.i32) else dtypes.i64
        else:
            dtype = dtypes.f32
    return Const(value, dtype)


def as_expr(x: Expr | Number, like: DType | None = None) -> Expr:
    """An operand: expressions stay, Python numbers become constants (of type `like`)."""
    if isinstance(x, Expr):
        return x
    if isinstance(x, (bool, int, float)):
        return const(x, like)
    raise TilusTypeError(f"a scalar is needed here, not {describe(x)}")


def describe(x: object) -> str:
    """What a host or run-time object is, in a kernel author's words."""
    if isinstance(x, Expr):
        return f"a value of type {x.type}" if not isinstance(x.type, ScalarType) else str(x.dtype)
    if x is None or isinstance(x, (bool, int, float, str)):
        return repr(x)
    if isinstance(x, type) or callable(x):
        return f"`{getattr(x, '__name__', x)}`"
    return f"a {type(x).__name__}"


def apply(op: str, *operands: Expr | Number, fold: bool = True) -> Expr:
    """Build a typed application of `op`, a constant where all operands are (unless `fold=False`).

    Python numbers adapt to the type of the other operand.
    """
    spec = OPS[op]
    if len(operands) != spec.arity:
        raise TilusTypeError(f"{op} takes {spec.arity} operands, not {len(operands)}")
    if op == "multiple_of":
        return multiple_of(operands[0], operands[1], fold)
    if op == "select":
        cond, *rest = operands
        test = as_expr(cond)
        require_bool(test, "the condition of a selection")
        args, dtype = unify(op, rest)
        if isinstance(test, Const) and fold:
            return args[0] if test.value else args[1]
        return Apply(op, (test, *args), ScalarType(dtype))
    if op in ("shl", "shr"):  # the count need not have the value's type
        first = as_expr(operands[0])
        second = as_expr(operands[1], first.dtype if kind_of(first.dtype) == "i" else None)
        args, dtype = [first, second], first.dtype
    else:
        args, dtype = unify(op, list(operands))
    for a in args:
        if kind_of(a.dtype) not in spec.kinds:
            raise TilusTypeError(_refusal(op, a.dtype), help=_advice(op, a.dtype))
    result = dtypes.bool_ if spec.result == "bool" else dtype
    if fold and all(isinstance(a, Const) for a in args):
        try:
            return Const(
                evaluate(op, [a.value for a in args if isinstance(a, Const)], result), result
            )
        except ZeroDivisionError as e:
            raise TilusValueError(str(e)) from None
    return Apply(op, tuple(args), ScalarType(result))


def cast(x: Expr | Number, dtype: DType, fold: bool = True) -> Expr:
    """`x` converted as the `cast` instruction converts elements."""
    x = as_expr(x)
    if not isinstance(x.type, ScalarType):
        raise TilusTypeError(f"cast: a scalar is needed, not {describe(x)}")
    if x.dtype == dtype:
        return x
    if isinstance(x, Const) and fold:
        return Const(evaluate("cast", [x.value], dtype, x.dtype), dtype)
    if dtype.kind is Kind.LUT:
        raise TilusTypeError(f"no scalar is computed in {dtype}: codebooks hold data in tiles")
    return Apply("cast", (x,), ScalarType(dtype))


def multiple_of(x: Expr | Number, n: Expr | Number, fold: bool = True) -> Expr:
    """`x`, with the promise (checked by the interpreter) that `n`, a constant, divides it."""
    x = as_expr(x)
    n = n.value if isinstance(n, Const) else n
    known = isinstance(n, int) and not isinstance(n, bool) and n > 0
    if not isinstance(x.type, ScalarType) or kind_of(x.dtype) != "i" or not known:
        raise TilusTypeError(
            "multiple_of takes an integer scalar and a positive constant, not "
            f"{describe(x)} and {describe(n)}"
        )
    assert isinstance(n, int)
    if isinstance(x, Const) and fold:
        if int(x.value) % n:
            raise TilusValueError(f"{x.value} is not a multiple of {n}")
        return x
    return Apply("multiple_of", (x, Const(n, x.dtype)), ScalarType(x.dtype))


def require_bool(x: Expr, what: str) -> None:
    """Raise unless `x` is a bool scalar."""
    if not isinstance(x.type, ScalarType) or x.dtype.name != "bool":
        raise TilusTypeError(
            f"{what} must be a bool, not {describe(x)}", help="compare it: write `x != 0`"
        )


def unify(op: str, operands: list[Expr | Number]) -> tuple[list[Expr], DType]:
    """Operands of one type: constants adapt, widths of one kind widen."""
    typed = [o.dtype for o in operands if isinstance(o, Expr)]
    for o in operands:
        if isinstance(o, Expr) and not isinstance(o.type, ScalarType):
            hint = (
                "index it through `tilus.global_view`" if isinstance(o.type, PointerType) else None
            )
            raise TilusTypeError(f"{op}: a scalar is needed, not {describe(o)}", help=hint)
    if not typed:
        typed = [max((const(o) for o in operands if not isinstance(o, Expr)), key=_rank).dtype]
    dtype = typed[0]
    for other in typed[1:]:
        dtype = join(op, dtype, other)
    out: list[Expr] = []
    for o in operands:
        if isinstance(o, Expr):
            out.append(cast(o, dtype))
            continue
        if not _fits(o, dtype):
            hint = f"cast the {dtype} operand first" if dtype.name != "bool" else None
            raise TilusTypeError(f"{op}: {o!r} is not a value of {dtype}", help=hint)
        out.append(Const(o, dtype))
    return out, dtype


def _rank(c: Const) -> tuple[int, int]:
    return "bif".index(kind_of(c.dtype)), c.dtype.bits


def join(op: str, a: DType, b: DType) -> DType:
    """The wider of two types of one kind."""
    if a == b:
        return a
    if kind_of(a) != kind_of(b) or kind_of(a) == "b" or a.is_signed != b.is_signed:
        raise TilusTypeError(
            f"{op}: operands differ: {a} and {b}", help=f"tilus.cast(x, {a}) one of them"
        )
    if kind_of(a) == "f" and a.bits == b.bits:  # f16 with bf16
        raise TilusTypeError(f"{op}: operands differ: {a} and {b}", help="cast one of them")
    return a if a.bits > b.bits else b


def _refusal(op: str, dtype: DType) -> str:
    symbol = OPS[op].symbol or op
    return f"`{symbol}` does not take {dtype} operands"


def _advice(op: str, dtype: DType) -> str | None:
    if op == "div" and kind_of(dtype) == "i":
        return "`//` divides integers (rounding down); for a fraction cast to f32 first"
    if op in ("and", "or", "not") and kind_of(dtype) != "b":
        return "these take bools: compare first, as in `x != 0`"
    return None


def children(e: Expr) -> tuple[Expr, ...]:
    """Direct sub-expressions."""
    return e.args if isinstance(e, Apply) else ()


def walk(e: Expr) -> Iterator[Expr]:
    """The expression and everything in it, outermost first."""
    yield e
    for c in children(e):
        yield from walk(c)


def substitute(e: Expr, replace: Callable[[Value], Expr]) -> Expr:
    """`e` with each value replaced; the same object when nothing changes. Does not re-fold."""
    if isinstance(e, Value):
        return replace(e)
    if isinstance(e, Apply):
        args = tuple(substitute(a, replace) for a in e.args)
        if any(x is not y for x, y in zip(args, e.args, strict=True)):
            return Apply(e.op, args, e.type)
    return e


def check(e: Expr) -> None:
    """Raise unless `e` is an expression that the functions above make."""
    for part in children(e):
        check(part)
    if isinstance(e, Apply):
        if e.op == "cast" and len(e.args) == 1:
            made = cast(e.args[0], e.dtype, fold=False)
        elif e.op in OPS and e.op != "cast":
            made = apply(e.op, *e.args, fold=False)
        else:
            raise TilusTypeError(f"no scalar operation {e.op!r} takes {len(e.args)} operands")
        if made != e:
            types = ", ".join(str(a.type) for a in e.args)
            raise TilusTypeError(f"{e.op} of {types} does not make {e.type}")
    elif isinstance(e, GridIndex):
        if e.kind not in ("block_idx", "grid_dim") or e.axis not in (0, 1, 2):
            raise TilusTypeError(f"a grid has no {e.kind}({e.axis})")
    elif not isinstance(e, (Value, Const)):
        raise TilusTypeError(f"an operand must be an expression, not {describe(e)}")
