"""Instructions along one dimension of a tile: reductions and scans."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus import dtypes
from tilus.errors import TilusTypeError
from tilus.ir.expr import Value
from tilus.ir.inst import Inst, Layouts, check_tile
from tilus.ir.instructions.arith import check_kind, widened
from tilus.ir.types import TileType
from tilus.layouts import reduce

if TYPE_CHECKING:
    from tilus.ir.target import Target

Array = np.ndarray[Any, np.dtype[Any]]

REDUCTIONS: dict[str, tuple[Callable[..., Array], str]] = {  # function, kinds of element
    "sum": (lambda x, dim: x.sum(dim, dtype=x.dtype), "if"),
    "max": (np.fmax.reduce, "if"),
    "min": (np.fmin.reduce, "if"),
    "any": (np.any, "b"),
    "all": (np.all, "b"),
    "argmax": (lambda x, dim: _first_max(x, dim), "if"),
}

SCANS: dict[str, Callable[..., Array]] = {
    "add": np.add.accumulate,
    "mul": np.multiply.accumulate,
    "max": np.fmax.accumulate,
    "min": np.fmin.accumulate,
}


def _first_max(x: Array, dim: int) -> Array:
    best = np.fmax.reduce(x, dim, keepdims=True)
    hit = (x == best) | (np.isnan(best) if x.dtype.kind == "f" else False)
    return np.asarray(np.argmax(hit, dim))


def normalize_dim(inst: Inst, dim: int, rank: int) -> int:
    """A dimension, counted from the end when negative, as a number from 0 on."""
    if not -rank <= dim < rank:
        raise TilusTypeError(f"{inst.opcode}: `dim` is {dim}; the tile has {rank} dimensions")
    return dim % rank


class Reduce(Inst, opcode="reduce"):
    """`op` over the elements along `dim`: sum, max, min, any, all or argmax (of the first, i32).

    The order of a sum is unspecified; max and min leave NaN out as `maximum` does.
    """

    x: Value
    dim: int
    op: str
    keepdims: bool = False

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        if self.op not in REDUCTIONS:
            raise TilusTypeError(
                f"reduce: no reduction is named {self.op!r}; there are {', '.join(REDUCTIONS)}"
            )
        check_kind(self.op, "x", x, REDUCTIONS[self.op][1])
        dim = normalize_dim(self, self.dim, len(x.shape))
        middle = (1,) if self.keepdims else ()
        dtype = dtypes.i32 if self.op == "argmax" else x.dtype
        return TileType(dtype, x.shape[:dim] + middle + x.shape[dim + 1 :])

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        if "x" not in known:
            return {}
        dim = normalize_dim(self, self.dim, known["x"].rank)
        return {"x": known["x"], "result": reduce(known["x"], [dim], keepdims=self.keepdims)}

    def interpret(self, x: Array) -> Array:
        dim = normalize_dim(self, self.dim, x.ndim)
        with np.errstate(all="ignore"):
            out = np.asarray(REDUCTIONS[self.op][0](widened(x), dim))
        if self.op == "argmax":
            out = out.astype(np.int32)
        return np.expand_dims(out, dim) if self.keepdims else out


class Scan(Inst, opcode="scan"):
    """Running add, mul, max or min along `dim`, from its start (from its end if `reverse`)."""

    x: Value
    dim: int
    op: str
    reverse: bool = False

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        check_kind(self.opcode, "x", x, "if")
        if self.op not in SCANS:
            raise TilusTypeError(
                f"scan: no scan is named {self.op!r}; there are {', '.join(SCANS)}"
            )
        normalize_dim(self, self.dim, len(x.shape))
        return TileType(x.dtype, x.shape)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        layout = known.get("x") or known.get("result")
        return {"x": layout, "result": layout} if layout is not None else {}

    def interpret(self, x: Array) -> Array:
        dim = normalize_dim(self, self.dim, x.ndim)
        x = np.flip(x, dim) if self.reverse else x
        with np.errstate(all="ignore"):
            out = SCANS[self.op](widened(x), dim)
        return np.flip(out, dim) if self.reverse else out
