"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError
from tilus.ir.expr import Value
from tilus.ir.inst import Inst, Layouts, born, check_tile
from tilus.ir.types import TileType

if TYPE_CHECKING:
    from tilus.ir.target import Target
    from tilus.layouts import Layout

Array = np.ndarray[Any, np.dtype[Any]]


def accumulator(a: DType, b: DType) -> DType | None:
    """The type products of `a` and `b` are summed in; None where there is no product."""
    if a.is_integer and b.is_integer:
        return dtypes.i32 if a.bits <= 8 and b.bits <= 8 else None
    if a == b == dtypes.f64:
        return dtypes.f64
    if a.is_float and b.is_float and (a == b or (a.bits == b.bits == 8)):
        return dtypes.f32 if a.bits <= 32 else None
    return None


class Dot(Inst, opcode="dot"):
    """acc + a @ b; without `acc`, a @ b.

    Floats of one type (or two 8-bit ones) are summed in f32, f64 in f64, integers of at most 8 bits
    in i32, which wraps. The order of the sum is unspecified.
    """

    a: Value
    b: Value
    acc: Value | None = None

    def infer(self) -> TileType:
        a, b = check_tile(self, "a"), check_tile(self, "b")
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise TilusTypeError(
                f"dot: operands must be matrices, not {a} and {b}", notes=born(self.a, self.b)
            )
        if a.shape[1] != b.shape[0]:
            raise TilusTypeError(
                f"dot: operands differ: {a} and {b}",
                notes=born(self.a, self.b),
                help="the columns of `a` must be as many as the rows of `b`",
            )
        dtype = accumulator(a.dtype, b.dtype)
        if dtype is None:
            raise TilusTypeError(
                f"dot: no product of {a.dtype} and {b.dtype}",
                notes=born(self.a, self.b),
                help="cast one operand to the other's type",
            )
        want = TileType(dtype, (a.shape[0], b.shape[1]))
        if self.acc is not None:
            acc = check_tile(self, "acc")
            if (acc.dtype, acc.shape) != (want.dtype, want.shape):
                raise TilusTypeError(
                    f"dot: `acc` is {acc}; the product is {want}",
                    notes=born(self.acc, self.a, self.b),
                )
        return want

    def atoms(self, target: Target) -> Any:
        """The target's matrix instructions for these element types, best first."""
        return target.atoms_for(self.a.dtype, self.b.dtype)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        out = known.get("result") or known.get("acc")
        if out is None:
            return {}
        assert isinstance(self.a.type, TileType)
        for atom in self.atoms(target):
            split = atom.operand_layouts(out, self.a.type.shape[1])
            if split is not None:
                found = {"result": out, "a": split[0], "b": split[1]}
                return found | ({"acc": out} if self.acc is not None else {})
        return {}

    def default_layout(self, known: Layouts, target: Target, num_threads: int) -> Layout | None:
        t = self.infer()
        assert isinstance(self.a.type, TileType)
        return target.product_layout(
            self.atoms(target),
            t.shape,
            self.a.type.shape[1],
            num_threads,
            known.get("a"),
            known.get("b"),
        )

    def interpret(self, a: Array, b: Array, acc: Array | None) -> Array:
        dtype = self.infer().dtype
        wide = np.int64 if dtype.is_integer else dtype.value_dtype
        with np.errstate(all="ignore"):
            out: Array = a.astype(wide) @ b.astype(wide)
            if acc is not None:
                out = acc.astype(wide) + out
        return out
