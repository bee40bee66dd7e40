"""Python's operators on compile-time numbers, run-time scalars and register tiles, mixed.

Two compile-time operands give what Python gives. A Python int adapts to the type of the other
operand if it fits, a float to floats only. A scalar beside a tile becomes a tile of that type, and
tiles of different shapes are broadcast as in NumPy. Types never convert by themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import zip_longest
from typing import Any

from tilus.errors import TilusTypeError, TilusValueError
from tilus.ir import expr
from tilus.ir.builder import at, emit, here
from tilus.ir.expr import Const, Expr, Value, describe, kind_of
from tilus.ir.inst import Inst, born
from tilus.ir.instructions.arith import (
    Abs,
    Add,
    BitAnd,
    BitOr,
    BitXor,
    Div,
    Eq,
    FloorDiv,
    Ge,
    Gt,
    Invert,
    Le,
    Lt,
    Mod,
    Mul,
    Ne,
    Neg,
    Shl,
    Shr,
    Sub,
)
from tilus.ir.instructions.matrix import Dot
from tilus.ir.instructions.tiles import Full
from tilus.ir.instructions.view import Broadcast, ExpandDims
from tilus.ir.types import ScalarType, TileType
from tilus.lang.native import compute
from tilus.lang.values import has_runtime, is_number, is_scalar, is_tile, name_type

# symbol: (on Python objects, scalar operation, tile instruction)
BINARY: dict[str, tuple[Callable[[Any, Any], Any], str, Callable[..., Inst] | None]] = {
    "+": (operator.add, "add", Add),
    "-": (operator.sub, "sub", Sub),
    "*": (operator.mul, "mul", Mul),
    "/": (operator.truediv, "div", Div),
    "//": (operator.floordiv, "floordiv", FloorDiv),
    "%": (operator.mod, "mod", Mod),
    "&": (operator.and_, "bitand", BitAnd),
    "|": (operator.or_, "bitor", BitOr),
    "^": (operator.xor, "bitxor", BitXor),
    "<<": (operator.lshift, "shl", Shl),
    ">>": (operator.rshift, "shr", Shr),
    "==": (operator.eq, "eq", Eq),
    "!=": (operator.ne, "ne", Ne),
    "<": (operator.lt, "lt", Lt),
    "<=": (operator.le, "le", Le),
    ">": (operator.gt, "gt", Gt),
    ">=": (operator.ge, "ge", Ge),
    "**": (operator.pow, "", None),
    "@": (operator.matmul, "", None),
}
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
MAX_POWER = 64

UNARY: dict[str, tuple[str, Callable[..., Inst]]] = {"-": ("neg", Neg), "~": ("invert", Invert)}
HOST_UNARY: dict[str, Callable[[Any], Any]] = {
    "-": operator.neg,
    "+": operator.pos,
    "~": operator.invert,
}


def binary(symbol: str, a: Any, b: Any) -> Any:
    """`a symbol b`."""
    on_host, scalar_op, tile_op = BINARY[symbol]
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        if symbol in COMPARISONS and (has_runtime(a) or has_runtime(b)):
            raise TilusTypeError(
                f"`{symbol}` on containers of run-time values",
                help="compare their elements one by one",
            )
        return compute(on_host, a, b)
    for x in (a, b):
        check_operand(symbol, x)
    if symbol == "**":
        return power(a, b)
    if symbol == "@":
        if not (is_tile(a) and is_tile(b)):
            raise TilusTypeError(f"`@` multiplies two tiles, not {name_type(a)} and {name_type(b)}")
        return emit(Dot(a, b))
    assert tile_op is not None
    if is_tile(a) or is_tile(b):
        if symbol in ("<<", ">>"):
            check_shift(symbol, a, b)
        return elementwise(tile_op, (a, b), symbol)
    return scalar(scalar_op, symbol, a, b)


def check_operand(symbol: str, x: Any) -> None:
    """Raise unless `x` can take part in arithmetic."""
    if is_number(x) or is_scalar(x) or is_tile(x):
        return
    help = None
    if isinstance(x, Expr):
        help = "read it first: `tilus.load_global` and `tilus.load_shared` give register tiles"
        if type(x.type).__name__ == "PointerType":
            help = "a pointer is indexed through `tilus.global_view`"
    raise TilusTypeError(f"`{symbol}` does not take {_what(x)}", help=help)


def _what(x: Any) -> str:
    return f"a {x.type}" if isinstance(x, Expr) else describe(x)


def scalar(op: str, symbol: str, *operands: Any) -> Expr:
    """A scalar operation on run-time scalars and Python numbers."""
    typed = [x for x in operands if isinstance(x, Expr)]
    for x in operands:
        if isinstance(x, float) and typed and kind_of(typed[0].dtype) != "f":
            raise TilusTypeError(
                f"operands differ: {typed[0].dtype} and the float {x!r}",
                help="a Python float adapts to float scalars only: `tilus.cast` the other operand",
            )
    if op == "div" and kind_of(typed[0].dtype) == "f" and _is_zero(operands[1]):
        raise TilusValueError("division by zero")
    if op in ("floordiv", "mod") and _is_zero(operands[1]):
        raise TilusValueError("integer division by zero")
    try:
        return expr.apply(op, *operands)
    except TilusTypeError as e:
        d = e.first
        if d.message.startswith(f"{op}: operands differ"):
            d.message = d.message.removeprefix(f"{op}: ")
            d.notes = d.notes or born(*typed)
        else:
            d.message = d.message.replace(f"{op}: ", f"`{symbol}`: ", 1)
        e.args = (d.message,)
        raise


def _is_zero(x: Any) -> bool:
    return (is_number(x) and x == 0) or (isinstance(x, Const) and x.value == 0)


def unary(symbol: str, x: Any) -> Any:
    """`-x`, `+x` or `~x`."""
    if not isinstance(x, Expr):
        return compute(HOST_UNARY[symbol], x)
    check_operand(symbol, x)
    if symbol == "+":
        if kind_of(x.dtype) == "b":
            raise TilusTypeError("`+` does not take bool operands", help="cast to i32 first")
        return x
    scalar_op, tile_op = UNARY[symbol]
    if is_tile(x):
        return emit(tile_op(x))
    if kind_of(x.dtype) == "b":
        raise TilusTypeError(
            f"`{symbol}` does not take bool operands",
            help="`not x` negates a bool" if symbol == "~" else "cast to i32 first",
        )
    return scalar(scalar_op, symbol, x)


def absolute(x: Any) -> Any:
    """`abs(x)`."""
    if not isinstance(x, Expr):
        return compute(abs, x)
    check_operand("abs", x)
    return emit(Abs(x)) if is_tile(x) else scalar("abs", "abs", x)  # type: ignore[arg-type]


def extremum(name: str, values: Sequence[Any]) -> Any:
    """`min(*values)` or `max(*values)` of scalars, as Python folds them."""
    first, *rest = values
    for v in values:
        if is_tile(v):
            raise TilusTypeError(
                f"`{name}` does not compare tiles",
                notes=born(v),
                help=f"`tilus.{name}imum(a, b)` is elementwise; `tilus.{name}(x, dim)` reduces",
            )
        check_operand(name, v)
    on_host = {"min": min, "max": max}[name]
    for x in rest:
        both = isinstance(first, Expr) or isinstance(x, Expr)
        first = scalar(name, name, first, x) if both else on_host(first, x)
    return first


def power(a: Any, b: Any) -> Any:
    """`a ** b` for a small compile-time exponent: multiplications."""
    if not isinstance(a, Expr):
        raise TilusTypeError(
            "`**` needs an exponent that is known at compile time",
            help="`1 << n` is 2 ** n for integers; `tilus.exp2` for tiles of floats",
        )
    if isinstance(b, Expr) or isinstance(b, (bool, float)) or not 0 <= b <= MAX_POWER:
        raise TilusTypeError(
            f"`**` takes an exponent from 0 to {MAX_POWER} that is known at compile time, "
            f"not {name_type(b)}",
            help="for tiles of floats: tilus.exp2(y * tilus.log2(x))",
        )
    if kind_of(a.dtype) == "b":
        raise TilusTypeError("`**` does not take bool operands", help="cast to i32 first")
    if b == 0:
        one = Const(1, a.dtype)
        return emit(Full(a.dtype, a.type.shape, one)) if isinstance(a.type, TileType) else one
    result: Any = None
    square = a
    while b:
        if b & 1:
            result = square if result is None else binary("*", result, square)
        b >>= 1
        if b:
            square = binary("*", square, square)
    return result


# --- tiles ---


def check_shift(symbol: str, a: Any, b: Any) -> None:
    """Raise for a compile-time count that no element of the tile allows."""
    if is_tile(a) and is_number(b) and not 0 <= b < a.dtype.bits:
        raise TilusValueError(
            f"`{symbol}` by {b}: elements of {a.dtype} shift by 0 to {a.dtype.bits - 1}"
        )


def elementwise(cls: Callable[..., Inst], operands: Sequence[Any], name: str) -> Value:
    """An elementwise instruction on tiles, scalars and numbers, made alike in type and shape."""
    result = emit(cls(*alike(operands, name)))
    assert result is not None
    return result


def alike(operands: Sequence[Any], name: str) -> list[Value]:
    """Tiles of one element type and one shape; at least one operand is a tile already."""
    tiles = [x for x in operands if is_tile(x)]
    for x in operands:
        check_operand(name, x)
        if isinstance(x, Expr) and x.dtype != tiles[0].dtype:
            a, b = (tiles[0], x) if is_scalar(x) or operands.index(tiles[0]) == 0 else (x, tiles[0])
            raise TilusTypeError(
                f"operands differ: {name_type(a)} and {name_type(b)}",
                notes=born(a, b),
                help=f"convert one of them: tilus.cast(x, {tiles[0].dtype})",
            )
    shape = broadcast_shape(tiles)
    return [spread(x, shape) if is_tile(x) else filled(x, tiles[0], shape, name) for x in operands]


def filled(x: Any, like: Value, shape: tuple[int, ...], name: str) -> Value:
    """A number or scalar as a tile of the element type of `like`."""
    dtype = like.dtype
    if is_number(x):
        x = number(x, dtype, f"beside {like.type}, ")
    return _emitted(Full(dtype, shape, x))


def number(x: Any, dtype: Any, where: str = "") -> Const:
    """A Python number as a constant of a type that it fits."""
    floats_only = isinstance(x, float) and kind_of(dtype) != "f"
    try:
        if floats_only:
            raise TilusValueError("")
        return Const(x, dtype)
    except TilusValueError:
        help = f"cast the {dtype} operand to a float type first" if floats_only else None
        raise TilusTypeError(f"{where}{x!r} is not a value of {dtype}", help=help) from None


def broadcast_shape(tiles: Sequence[Value]) -> tuple[int, ...]:
    """The shape NumPy's broadcasting gives."""
    shapes = [t.type.shape for t in tiles if isinstance(t.type, TileType)]
    out: list[int] = []
    for column in zip_longest(*(reversed(s) for s in shapes), fillvalue=1):
        sizes = {n for n in column if n != 1}
        if len(sizes) > 1:
            shown = " and ".join(str(t.type) for t in tiles)
            raise TilusTypeError(
                f"shapes do not fit: {shown}",
                notes=born(*tiles),
                help="dimensions, counted from the last, must be equal or 1",
            )
        out.append(sizes.pop() if sizes else 1)
    return tuple(reversed(out))


def spread(x: Value, shape: tuple[int, ...]) -> Value:
    """The tile broadcast to `shape`, by explicit instructions."""
    assert isinstance(x.type, TileType)
    if x.type.shape == shape:
        return x
    for _ in range(len(shape) - len(x.type.shape)):
        x = _emitted(ExpandDims(x, 0))
    assert isinstance(x.type, TileType)
    return x if x.type.shape == shape else _emitted(Broadcast(x, shape))


def _emitted(inst: Inst) -> Value:
    """The result of an instruction that the user did not write, named after it."""
    with at(here(), inst.opcode):
        result = emit(inst)
    assert result is not None
    return result


def truth(x: Any) -> Any:
    """What `if x` asks: a Python bool, or a run-time bool scalar."""
    if not isinstance(x, Expr):
        return compute(bool, x)
    if not isinstance(x.type, ScalarType):
        what = f"a tile ({x.type})" if is_tile(x) else f"a {x.type}"
        raise TilusTypeError(
            f"{what} has no truth value",
            notes=born(x),
            help="`&` and `|` combine tiles of bools; `tilus.item(tilus.any(x, 0))` is one scalar"
            if is_tile(x)
            else None,
        )
    if isinstance(x, Const):
        return bool(x.value)
    return x if kind_of(x.dtype) == "b" else expr.apply("ne", x, 0)


def folded(symbol: str, values: Sequence[Any], start: Any) -> Any:
    """`start symbol v0 symbol v1 ...`."""
    return reduce(lambda a, b: binary(symbol, a, b), values, start)


def const_type(*numbers: Any) -> Any:
    """The element type that several Python numbers share: bool, i32, i64 or f32."""
    typed = [expr.const(n) for n in numbers]
    if len({kind_of(c.dtype) == "b" for c in typed}) > 1:
        raise TilusTypeError(f"operands differ: {numbers[0]!r} and {numbers[1]!r}")
    return max((c.dtype for c in typed), key=lambda d: (d.is_float, d.bits))
