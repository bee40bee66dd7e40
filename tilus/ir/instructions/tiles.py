"""Instructions that make register tiles from scalars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError
from tilus.ir.expr import Expr
from tilus.ir.inst import Inst, Layouts
from tilus.ir.instructions.memory import check_layout, check_shape
from tilus.ir.target import Target, default_layout
from tilus.ir.types import ScalarType, TileType
from tilus.layouts import Layout

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]


class Full(Inst, opcode="full"):
    """A tile whose every element is `value`, converted to `dtype` as `cast` does."""

    dtype: DType
    shape: tuple[int, ...]
    value: Expr
    layout: Layout | None = None

    def infer(self) -> TileType:
        check_shape(self, self.shape)
        check_layout(self, self.layout, self.shape)
        if not isinstance(self.value.type, ScalarType):
            raise TilusTypeError(f"full: `value` must be a scalar, not {self.value.type}")
        return TileType(self.dtype, self.shape, self.layout)

    def default_layout(self, known: Layouts, target: Target, num_threads: int) -> Layout:
        return default_layout(self.shape, self.dtype.bits, num_threads)

    def interpret(self, value: Any) -> Array:
        source = self.value.dtype
        one = dtypes.convert(np.array([value], source.value_dtype), source, self.dtype)
        return np.full(self.shape, one[0])


class Arange(Inst, opcode="arange"):
    """The integers `start`, `start` + 1, ... below `stop`, in one dimension."""

    start: int
    stop: int
    dtype: DType = dtypes.i32
    layout: Layout | None = None

    def infer(self) -> TileType:
        shape = (self.stop - self.start,)
        if shape[0] < 1:
            raise TilusTypeError(f"arange: from {self.start} to {self.stop} there is nothing")
        if (
            not self.dtype.is_integer
            or self.start < self.dtype.min
            or self.stop - 1 > self.dtype.max
        ):
            raise TilusTypeError(
                f"arange: {self.dtype} does not hold {self.start} to {self.stop - 1}"
            )
        check_layout(self, self.layout, shape)
        return TileType(self.dtype, shape, self.layout)

    def default_layout(self, known: Layouts, target: Target, num_threads: int) -> Layout:
        return default_layout((self.stop - self.start,), self.dtype.bits, num_threads)

    def interpret(self) -> Array:
        return np.arange(self.start, self.stop, dtype=self.dtype.value_dtype)


class Constant(Inst, opcode="constant"):
    """A one-dimensional tile of numbers known at compile time: a table, say."""

    dtype: DType
    values: tuple[float, ...]
    layout: Layout | None = None

    def infer(self) -> TileType:
        shape = (len(self.values),)
        if not self.values:
            raise TilusTypeError("constant: `values` is empty")
        if self.dtype.is_integer:
            for n in self.values:
                if not (float(n).is_integer() and self.dtype.min <= n <= self.dtype.max):
                    raise TilusTypeError(f"constant: {n} is not a value of {self.dtype}")
        check_layout(self, self.layout, shape)
        return TileType(self.dtype, shape, self.layout)

    def default_layout(self, known: Layouts, target: Target, num_threads: int) -> Layout:
        return default_layout((len(self.values),), self.dtype.bits, num_threads)

    def interpret(self) -> Array:
        exact = np.array(self.values, np.float64)
        return dtypes.convert(exact, dtypes.f64, self.dtype)
