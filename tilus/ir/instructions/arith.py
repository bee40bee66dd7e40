"""Elementwise instructions: unary, binary, comparisons, bitwise, selection.

All operands of one instruction have one shape and one layout (`where`'s condition is bool, shift
counts are of the value's type). Integers wrap. Floats narrower than f32 are computed in f32 and
rounded once; types of 8 bits and less hold data and must be cast first.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilus import dtypes
from tilus.errors import TilusTypeError, TilusValueError
from tilus.ir.expr import Value, kind_of
from tilus.ir.inst import Inst, Layouts, born, check_tile
from tilus.ir.types import TileType
from tilus.layouts import local, replicated

if TYPE_CHECKING:
    from tilus.ir.target import Target

Array = np.ndarray[Any, np.dtype[Any]]


class Elementwise(Inst):
    """Each result element depends on the operands' elements at the same place."""

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        names = ["result", *(n for n, _ in self.tile_operands())]
        layout = next((known[n] for n in names if n in known), None)
        return {} if layout is None else dict.fromkeys(names, layout)


def check_kind(opcode: str, name: str, t: TileType, kinds: str) -> None:
    """Raise unless the tile's elements are of one of `kinds`: i(nteger) f(loat) b(ool)."""
    if kind_of(t.dtype) not in kinds:
        words = {"i": "integer", "f": "float", "b": "bool"}
        wanted = " or ".join(words[k] for k in kinds)
        raise TilusTypeError(
            f"{opcode}: `{name}` has {t.dtype} elements; {wanted} elements are needed",
            help="convert it with tilus.cast",
        )
    if kind_of(t.dtype) == "f" and t.dtype.bits <= 8:
        raise TilusTypeError(
            f"{opcode}: no arithmetic on {t.dtype}",
            help="types of 8 bits and less hold data: cast to f16, bf16 or f32 first",
        )


def check_same(inst: Inst, *values: Value) -> TileType:
    """The one type of several tiles."""
    first = values[0].type
    assert isinstance(first, TileType)
    for v in values[1:]:
        t = v.type
        assert isinstance(t, TileType)
        if (t.dtype, t.shape) != (first.dtype, first.shape):
            fix = f"tilus.cast(..., {first.dtype})" if t.dtype != first.dtype else "tilus.broadcast"
            raise TilusTypeError(
                f"{inst.opcode}: operands differ: {first} and {t}",
                notes=born(values[0], v),
                help=f"make them alike with {fix}",
            )
    return TileType(first.dtype, first.shape)


def widened(x: Array) -> Array:
    """Floats narrower than 32 bits as f32; the caller's result is rounded back by its type."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


class Unary(Elementwise):
    """One operand."""

    x: Value
    kinds: ClassVar[str] = "f"

    def infer(self) -> TileType:
        t = check_tile(self, "x")
        check_kind(self.opcode, "x", t, self.kinds)
        return TileType(t.dtype, t.shape)

    def interpret(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return self.compute(widened(x))

    def compute(self, x: Array) -> Array:
        """The function on values (f16 and bf16 come as f32)."""
        raise NotImplementedError


class Neg(Unary, opcode="neg"):
    """-x."""

    kinds = "if"

    def compute(self, x: Array) -> Array:
        return np.negative(x)


class Abs(Unary, opcode="abs"):
    """|x|; the most negative integer stays itself."""

    kinds = "if"

    def compute(self, x: Array) -> Array:
        return np.abs(x)


class Invert(Unary, opcode="invert"):
    """Every bit (of a bool: the truth) turned round."""

    kinds = "ib"

    def compute(self, x: Array) -> Array:
        return np.invert(x)


class Exp(Unary, opcode="exp"):
    """e to the power x."""

    def compute(self, x: Array) -> Array:
        return np.exp(x)


class Exp2(Unary, opcode="exp2"):
    """2 to the power x."""

    def compute(self, x: Array) -> Array:
        return np.exp2(x)


class Log(Unary, opcode="log"):
    """Natural logarithm: -inf at 0, NaN below."""

    def compute(self, x: Array) -> Array:
        return np.log(x)


class Log2(Unary, opcode="log2"):
    """Logarithm to base 2."""

    def compute(self, x: Array) -> Array:
        return np.log2(x)


class Sqrt(Unary, opcode="sqrt"):
    """Square root, correctly rounded; NaN below 0."""

    def compute(self, x: Array) -> Array:
        return np.sqrt(x)


class Rsqrt(Unary, opcode="rsqrt"):
    """1 / sqrt(x)."""

    def compute(self, x: Array) -> Array:
        return np.reciprocal(np.sqrt(x))


class Sin(Unary, opcode="sin"):
    """Sine of x radians."""

    def compute(self, x: Array) -> Array:
        return np.sin(x)


class Cos(Unary, opcode="cos"):
    """Cosine of x radians."""

    def compute(self, x: Array) -> Array:
        return np.cos(x)


class Tanh(Unary, opcode="tanh"):
    """Hyperbolic tangent."""

    def compute(self, x: Array) -> Array:
        return np.tanh(x)


class Erf(Unary, opcode="erf"):
    """The error function 2/sqrt(pi) * integral of exp(-t*t) from 0 to x (exact GELU needs it)."""

    def compute(self, x: Array) -> Array:
        import torch

        out: Array = torch.special.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy()
        return out


class Sigmoid(Unary, opcode="sigmoid"):
    """1 / (1 + exp(-x))."""

    def compute(self, x: Array) -> Array:
        return np.reciprocal(np.add(1, np.exp(-x)))


class Round(Unary, opcode="round"):
    """To the nearest integer, ties to even."""

    def compute(self, x: Array) -> Array:
        return np.rint(x)


class Floor(Unary, opcode="floor"):
    """The largest integer not above x."""

    def compute(self, x: Array) -> Array:
        return np.floor(x)


class Ceil(Unary, opcode="ceil"):
    """The smallest integer not below x."""

    def compute(self, x: Array) -> Array:
        return np.ceil(x)


class Trunc(Unary, opcode="trunc"):
    """x without its fraction."""

    def compute(self, x: Array) -> Array:
        return np.trunc(x)


class Binary(Elementwise):
    """Two operands of one type."""

    a: Value
    b: Value
    kinds: ClassVar[str] = "if"

    def infer(self) -> TileType:
        a, b = check_tile(self, "a"), check_tile(self, "b")
        check_kind(self.opcode, "a", a, self.kinds)
        check_kind(self.opcode, "b", b, self.kinds)
        return check_same(self, self.a, self.b)

    def interpret(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return self.compute(widened(a), widened(b))

    def compute(self, a: Array, b: Array) -> Array:
        """The function on values (f16 and bf16 come as f32)."""
        raise NotImplementedError


class Add(Binary, opcode="add"):
    """a + b."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.add(a, b)


class Sub(Binary, opcode="sub"):
    """a - b."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.subtract(a, b)


class Mul(Binary, opcode="mul"):
    """a * b."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.multiply(a, b)


class Div(Binary, opcode="div"):
    """a / b, of floats, correctly rounded; x/0 is inf or NaN."""

    kinds = "f"

    def compute(self, a: Array, b: Array) -> Array:
        return np.divide(a, b)


def _nonzero(opcode: str, b: Array) -> None:
    if not np.all(b):
        place = tuple(int(i) for i in np.argwhere(b == 0)[0])
        raise TilusValueError(f"{opcode}: integer division by zero at element {place}")


class FloorDiv(Binary, opcode="floordiv"):
    """a // b, of integers, rounded down as Python does. Division by zero is an error."""

    kinds = "i"

    def compute(self, a: Array, b: Array) -> Array:
        _nonzero(self.opcode, b)
        return np.floor_divide(a, b)


class Mod(Binary, opcode="mod"):
    """a % b, of integers, with the sign of b as in Python. Division by zero is an error."""

    kinds = "i"

    def compute(self, a: Array, b: Array) -> Array:
        _nonzero(self.opcode, b)
        return np.mod(a, b)


class Minimum(Binary, opcode="minimum"):
    """The smaller one; of a number and NaN, the number."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.fmin(a, b)


class Maximum(Binary, opcode="maximum"):
    """The larger one; of a number and NaN, the number."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.fmax(a, b)


class BitAnd(Binary, opcode="bitand"):
    """a & b."""

    kinds = "ib"

    def compute(self, a: Array, b: Array) -> Array:
        return np.bitwise_and(a, b)


class BitOr(Binary, opcode="bitor"):
    """a | b."""

    kinds = "ib"

    def compute(self, a: Array, b: Array) -> Array:
        return np.bitwise_or(a, b)


class BitXor(Binary, opcode="bitxor"):
    """a ^ b."""

    kinds = "ib"

    def compute(self, a: Array, b: Array) -> Array:
        return np.bitwise_xor(a, b)


class Shift(Binary):
    """Shift by element counts; a count outside 0 .. bits-1 is an error."""

    kinds = "i"

    def interpret(self, a: Array, b: Array) -> Array:
        bits = self.a.dtype.bits
        if b.size and (b.min() < 0 or b.max() >= bits):
            raise TilusValueError(f"{self.opcode}: a count outside 0 to {bits - 1}")
        return self.compute(a, b)


class Shl(Shift, opcode="shl"):
    """a << b; bits that leave the type are lost."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.left_shift(a, b)


class Shr(Shift, opcode="shr"):
    """a >> b; the sign stays."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.right_shift(a, b)


class Compare(Binary):
    """Two operands of one type; the result is bool."""

    def infer(self) -> TileType:
        return TileType(dtypes.bool_, super().infer().shape)


class Eq(Compare, opcode="eq"):
    """a == b."""

    kinds = "ifb"

    def compute(self, a: Array, b: Array) -> Array:
        return np.equal(a, b)


class Ne(Compare, opcode="ne"):
    """a != b; true where either is NaN."""

    kinds = "ifb"

    def compute(self, a: Array, b: Array) -> Array:
        return np.not_equal(a, b)


class Lt(Compare, opcode="lt"):
    """a < b."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.less(a, b)


class Le(Compare, opcode="le"):
    """a <= b."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.less_equal(a, b)


class Gt(Compare, opcode="gt"):
    """a > b."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.greater(a, b)


class Ge(Compare, opcode="ge"):
    """a >= b."""

    def compute(self, a: Array, b: Array) -> Array:
        return np.greater_equal(a, b)


class Where(Elementwise, opcode="where"):
    """a where the condition holds, b elsewhere."""

    cond: Value
    a: Value
    b: Value

    def infer(self) -> TileType:
        cond = check_tile(self, "cond")
        check_tile(self, "a"), check_tile(self, "b")
        check_kind(self.opcode, "cond", cond, "b")
        out = check_same(self, self.a, self.b)
        if cond.shape != out.shape:
            raise TilusTypeError(
                f"where: shapes differ: the condition is {cond}, the values are {out}",
                notes=born(self.cond, self.a),
            )
        return out

    def interpret(self, cond: Array, a: Array, b: Array) -> Array:
        return np.where(cond, a, b)


class Fma(Elementwise, opcode="fma"):
    """a * b + c, rounded once."""

    a: Value
    b: Value
    c: Value

    def infer(self) -> TileType:
        for name in "abc":
            check_kind(self.opcode, name, check_tile(self, name), "f")
        return check_same(self, self.a, self.b, self.c)

    def interpret(self, a: Array, b: Array, c: Array) -> Array:
        with np.errstate(all="ignore"):
            if a.dtype == np.float64:
                out: Array = np.vectorize(_fused, otypes=[np.float64])(a, b, c)
                return out
            return np.multiply(a, b, dtype=np.float64) + c  # exact but for the sum's last bit


def _fused(a: float, b: float, c: float) -> float:
    """a * b + c of f64 numbers, by exact arithmetic."""
    plain = float(a * b + c)
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
        return plain
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    try:
        return float(exact) if exact else plain
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


class Cast(Elementwise, opcode="cast"):
    """Each element converted (`tilus.dtypes.convert` is the definition).

    To a float: nearest even, saturating at 8 bits and less. To an integer: from a float toward
    zero, saturating, NaN to 0; from an integer by wrapping.
    """

    x: Value
    dtype: dtypes.DType

    def infer(self) -> TileType:
        return TileType(self.dtype, check_tile(self, "x").shape)

    def interpret(self, x: Array) -> Array:
        return dtypes.convert(x, self.x.dtype, self.dtype)


class Lookup(Inst, opcode="lookup"):
    """table[index]: a table of at most 256 entries in registers, indexed by unsigned elements."""

    index: Value
    table: Value

    def infer(self) -> TileType:
        index, table = check_tile(self, "index"), check_tile(self, "table")
        if not (index.dtype.is_integer and not index.dtype.is_signed and index.dtype.bits <= 8):
            raise TilusTypeError(f"lookup: `index` must be u1 to u8, not {index.dtype}")
        if len(table.shape) != 1 or table.shape[0] < 1 << index.dtype.bits:
            raise TilusTypeError(
                f"lookup: `table` is {table}; {index.dtype} needs one dimension of "
                f"{1 << index.dtype.bits} entries",
                notes=born(self.index, self.table),
            )
        return TileType(table.dtype, index.shape)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        out = {"table": replicated(num_threads) * local(self.table.type.shape[0])}  # type: ignore[union-attr]
        for n in ("result", "index"):
            if n in known:
                out["result"] = out["index"] = known[n]
                break
        return out

    def interpret(self, index: Array, table: Array) -> Array:
        return np.take(table, index)
