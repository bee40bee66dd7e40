"""`t[...]` on register tiles, with Python's meaning: compile-time parts of a tile."""

from __future__ import annotations

from typing import Any

from tilus.errors import TilusIndexError, TilusTypeError
from tilus.ir.builder import emit
from tilus.ir.expr import Expr, Value
from tilus.ir.inst import born
from tilus.ir.instructions.memory import Item
from tilus.ir.instructions.view import ExpandDims, Slice, Squeeze
from tilus.ir.types import TileType
from tilus.lang.values import name_type


def subscript(x: Value, index: Any) -> Any:
    """The part of a tile that a subscript names; with an index for each dimension, one scalar."""
    t = x.type
    assert isinstance(t, TileType)
    entries = _full(x, index)
    starts: list[int] = []
    shape: list[int] = []
    dropped: list[int] = []
    added: list[int] = []
    dim = 0
    for e in entries:
        if e is None:
            added.append(dim - len(dropped) + len(added))
            continue
        start, size, drop = _one(x, e, dim)
        starts.append(start)
        shape.append(size)
        if drop:
            dropped.append(dim)
        dim += 1
    if tuple(shape) != t.shape:
        x = _value(Slice(x, tuple(starts), tuple(shape)))
    if t.shape and len(dropped) == len(t.shape) and not added:
        return emit(Item(x))
    for d in reversed(dropped):
        x = _value(Squeeze(x, d))
    for d in added:
        x = _value(ExpandDims(x, d))
    return x


def _full(x: Value, index: Any) -> list[Any]:
    """The entries of a subscript, one for each dimension, and None for each new one."""
    t = x.type
    assert isinstance(t, TileType)
    entries = list(index) if isinstance(index, tuple) else [index]
    given = sum(e is not None and e is not Ellipsis for e in entries)
    if given > len(t.shape):
        raise TilusIndexError(
            f"too many indices: {given} for {t}, which has {len(t.shape)}", notes=born(x)
        )
    dots = [i for i, e in enumerate(entries) if e is Ellipsis]
    if len(dots) > 1:
        raise TilusIndexError("`...` may stand in a subscript only once")
    at = dots[0] if dots else len(entries)
    return [*entries[:at], *[slice(None)] * (len(t.shape) - given), *entries[at + 1 :]]


def _one(x: Value, e: Any, dim: int) -> tuple[int, int, bool]:
    """Start, size, and whether the dimension goes away."""
    t = x.type
    assert isinstance(t, TileType)
    extent = t.shape[dim]
    if isinstance(e, slice):
        for part in (e.start, e.stop, e.step):
            _check(part, "a slice's bound", optional=True)
        start, stop, step = e.indices(extent)
        if step != 1:
            raise TilusIndexError(
                f"a slice of a tile cannot have the step {step}",
                help="reshape the tile so that the step becomes a dimension of its own",
            )
        if stop <= start:
            raise TilusIndexError(
                f"the slice is empty: dimension {dim} of {t} has {extent} elements", notes=born(x)
            )
        return start, stop - start, False
    _check(e, "an index")
    if not -extent <= e < extent:
        raise TilusIndexError(
            f"index {e} is outside dimension {dim} of {t}, which has {extent} elements",
            notes=born(x),
        )
    return e % extent, 1, True


def _check(e: Any, what: str, optional: bool = False) -> None:
    if (optional and e is None) or (isinstance(e, int) and not isinstance(e, bool)):
        return
    if isinstance(e, Expr):
        raise TilusTypeError(
            f"{what} of a register tile must be known at compile time, not a run-time {e.type}",
            help="store the tile to shared memory and load it at run-time offsets",
        )
    raise TilusTypeError(f"{what} of a tile must be an int, not {name_type(e)}")


def _value(inst: Any) -> Value:
    result = emit(inst)
    assert result is not None
    return result
