"""Instructions that see the same elements, or the same bits, in another shape or layout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.dtypes import DType
from tilus.errors import TilusTypeError
from tilus.ir import machine
from tilus.ir.expr import Value
from tilus.ir.inst import Inst, Layouts, born, check_tile
from tilus.ir.instructions.memory import check_shape
from tilus.ir.instructions.reduce import normalize_dim
from tilus.ir.target import Target, default_layout, held_by_all
from tilus.ir.types import TileType
from tilus.layouts import (
    Layout,
    LayoutError,
    broadcast,
    join,
    local,
    permute,
    reduce,
    reshape,
    slice_,
    squeeze,
    unsqueeze,
)

if TYPE_CHECKING:
    from tilus.ir.interpreter import Block

Array = np.ndarray[Any, np.dtype[Any]]


class View(Inst, opcode="view", threads=True):
    """The bits each thread holds, read as elements of `dtype` spread as `layout`. Free.

    `x` must have been given a layout too, since the result depends on it. Legal when both sides
    have as many threads and as many bits a thread, and threads that the result takes for replicas
    are replicas in `x`.
    """

    x: Value
    dtype: DType
    layout: Layout

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        have, want = x.layout, self.layout
        if have is None:
            raise TilusTypeError(
                "view: the layout of `x` is open, and the result depends on it",
                notes=born(self.x),
                help="give a layout where `x` is made, or tilus.convert_layout(x, layout) first",
            )
        if have.num_threads != want.num_threads:
            raise TilusTypeError(
                f"view: `x` is spread over {have.num_threads} threads, "
                f"`layout` over {want.num_threads}",
                notes=born(self.x),
            )
        bits = have.num_slots * x.dtype.bits, want.num_slots * self.dtype.bits
        if bits[0] != bits[1]:
            raise TilusTypeError(
                f"view: a thread holds {bits[0]} bits of `x` ({have.num_slots} x {x.dtype}), "
                f"and {bits[1]} bits of the result ({want.num_slots} x {self.dtype})",
                notes=born(self.x),
                help="give `x` a layout whose threads hold as many bits",
            )
        if want.is_replicated and not _replicas_agree(have, want):
            raise TilusTypeError(
                "view: threads that would be replicas in the result hold different bits",
                notes=born(self.x),
            )
        return TileType(self.dtype, want.shape, want)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        return {"result": self.layout}

    def interpret(self, block: Block, x: machine.RegisterTile) -> machine.RegisterTile:
        width = np.arange(x.dtype.bits, dtype=x.codes.dtype)
        bits = (x.codes[:, :, None] >> width) & x.codes.dtype.type(1)
        own = self.dtype.bits
        bits = bits.reshape(self.layout.num_threads, self.layout.num_slots, own)
        code = self.dtype.code_dtype
        codes = (bits.astype(code) << np.arange(own, dtype=code)).sum(2, dtype=code)
        return machine.RegisterTile(self.dtype, self.layout, codes)


def _replicas_agree(have: Layout, want: Layout) -> bool:
    rows = machine.index_table(want)
    _, first, group = np.unique(rows[:, 0], return_index=True, return_inverse=True)
    held = machine.index_table(have)
    return bool(np.array_equal(held, held[first[group.reshape(-1)]]))


class ConvertLayout(Inst, opcode="convert_layout", threads=True):
    """The same tile, spread over the threads in another way."""

    x: Value
    layout: Layout

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        if x.shape != self.layout.shape:
            raise TilusTypeError(
                f"convert_layout: `layout` is of shape {list(self.layout.shape)}, the tile is {x}",
                notes=born(self.x),
            )
        return TileType(x.dtype, x.shape, self.layout)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        return {"result": self.layout}

    def interpret(self, block: Block, x: machine.RegisterTile) -> machine.RegisterTile:
        codes = x.logical_codes().reshape(-1)[machine.index_table(self.layout)]
        return machine.RegisterTile(x.dtype, self.layout, codes)


class Reshape(Inst, opcode="reshape"):
    """The elements in row-major order, in another shape."""

    x: Value
    shape: tuple[int, ...]

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        check_shape(self, self.shape)
        if math.prod(self.shape) != x.size:
            raise TilusTypeError(
                f"reshape: {x} has {x.size} elements, {list(self.shape)} "
                f"has {math.prod(self.shape)}",
                notes=born(self.x),
            )
        return TileType(x.dtype, self.shape)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        assert isinstance(self.x.type, TileType)
        shape = self.x.type.shape
        try:
            if "x" in known:
                return {"x": known["x"], "result": reshape(known["x"], self.shape)}
            if "result" in known:
                return {"x": reshape(known["result"], shape), "result": known["result"]}
        except LayoutError:  # a boundary falls inside a mode: every thread holds everything
            whole = held_by_all(shape, num_threads)
            return {"x": whole, "result": reshape(whole, self.shape)}
        return {}

    def interpret(self, x: Array) -> Array:
        return x.reshape(self.shape)


class Transpose(Inst, opcode="transpose"):
    """The dimensions in another order; reversed if `dims` is left out."""

    x: Value
    dims: tuple[int, ...] | None = None

    def order(self) -> tuple[int, ...]:
        """For each dimension of the result, the one of `x` it comes from."""
        assert isinstance(self.x.type, TileType)
        rank = len(self.x.type.shape)
        return (
            tuple(reversed(range(rank)))
            if self.dims is None
            else tuple(d % rank for d in self.dims)
        )

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        rank = len(x.shape)
        if self.dims is not None and sorted(
            normalize_dim(self, d, rank) for d in self.dims
        ) != list(range(rank)):
            raise TilusTypeError(
                f"transpose: `dims` is {self.dims}; it names each of {rank} dimensions once"
            )
        return TileType(x.dtype, tuple(x.shape[d] for d in self.order()))

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        order = self.order()
        if "x" in known:
            return {"x": known["x"], "result": permute(known["x"], order)}
        if "result" in known:
            back = sorted(range(len(order)), key=lambda i: order[i])
            return {"x": permute(known["result"], back), "result": known["result"]}
        return {}

    def interpret(self, x: Array) -> Array:
        return x.transpose(self.order())


class Broadcast(Inst, opcode="broadcast"):
    """Repeat dimensions of extent 1 (and new ones in front) to fill `shape`."""

    x: Value
    shape: tuple[int, ...]

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        check_shape(self, self.shape)
        front = len(self.shape) - len(x.shape)
        fits = front >= 0 and all(
            n in (1, m) for n, m in zip(x.shape, self.shape[front:], strict=True)
        )
        if not fits:
            raise TilusTypeError(
                f"broadcast: {x} does not fill {list(self.shape)}",
                notes=born(self.x),
                help="only dimensions of extent 1 can be repeated",
            )
        return TileType(x.dtype, self.shape)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        if "result" not in known:
            return {}
        assert isinstance(self.x.type, TileType)
        front = len(self.shape) - len(self.x.type.shape)
        grown = [
            d for d, n in enumerate(self.shape) if d < front or self.x.type.shape[d - front] != n
        ]
        source = reduce(known["result"], grown, keepdims=True)
        return {"x": squeeze(source, tuple(range(front))), "result": known["result"]}

    def default_layout(self, known: Layouts, target: Target, num_threads: int) -> Layout | None:
        return broadcast(known["x"], self.shape) if "x" in known else None

    def interpret(self, x: Array) -> Array:
        return np.broadcast_to(x, self.shape)


class ExpandDims(Inst, opcode="expand_dims"):
    """A new dimension of extent 1 at place `dim` of the result."""

    x: Value
    dim: int

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        dim = normalize_dim(self, self.dim, len(x.shape) + 1)
        return TileType(x.dtype, (*x.shape[:dim], 1, *x.shape[dim:]))

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        if "x" in known:
            dim = self.dim % (known["x"].rank + 1)
            return {"x": known["x"], "result": unsqueeze(known["x"], dim)}
        if "result" in known:
            return {"x": squeeze(known["result"], self.dim), "result": known["result"]}
        return {}

    def interpret(self, x: Array) -> Array:
        return np.expand_dims(x, self.dim)


class Squeeze(Inst, opcode="squeeze"):
    """The tile without dimension `dim`, of extent 1."""

    x: Value
    dim: int

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        dim = normalize_dim(self, self.dim, len(x.shape))
        if x.shape[dim] != 1:
            raise TilusTypeError(f"squeeze: dimension {dim} of {x} is not 1", notes=born(self.x))
        return TileType(x.dtype, (*x.shape[:dim], *x.shape[dim + 1 :]))

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        assert isinstance(self.x.type, TileType)
        dim = self.dim % len(self.x.type.shape)
        if "x" in known:
            return {"x": known["x"], "result": squeeze(known["x"], dim)}
        if "result" in known:
            return {"x": unsqueeze(known["result"], dim), "result": known["result"]}
        return {}

    def interpret(self, x: Array) -> Array:
        return np.squeeze(x, self.dim)


class Slice(Inst, opcode="slice"):
    """The part of a tile of `shape` that begins at `starts`."""

    x: Value
    starts: tuple[int, ...]
    shape: tuple[int, ...]

    def infer(self) -> TileType:
        x = check_tile(self, "x")
        check_shape(self, self.shape)
        inside = len(self.starts) == len(self.shape) == len(x.shape) and all(
            0 <= s and s + n <= extent
            for s, n, extent in zip(self.starts, self.shape, x.shape, strict=True)
        )
        if not inside:
            raise TilusTypeError(
                f"slice: {list(self.shape)} at {list(self.starts)} does not lie inside {x}",
                notes=born(self.x),
            )
        return TileType(x.dtype, self.shape)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        if "x" not in known:
            return {}
        source = known["x"]
        try:
            return {"x": source, "result": slice_(source, self.starts, self.shape)[0]}
        except LayoutError:  # the cut goes between threads: hold the cut dimensions in one thread
            whole = source.shape
            cut = [n != m for n, m in zip(self.shape, whole, strict=True)]
            kept = tuple(1 if c else n for c, n in zip(cut, whole, strict=True))
            own = tuple(n if c else 1 for c, n in zip(cut, whole, strict=True))
            source = default_layout(kept, self.x.dtype.bits, num_threads) * local(*own)
            return {"x": source, "result": slice_(source, self.starts, self.shape)[0]}

    def interpret(self, x: Array) -> Array:
        return x[tuple(slice(s, s + n) for s, n in zip(self.starts, self.shape, strict=True))]


class Concat(Inst, opcode="concat"):
    """Tiles joined along dimension `dim`."""

    tiles: tuple[Value, ...]
    dim: int

    def infer(self) -> TileType:
        if not self.tiles or not all(isinstance(v.type, TileType) for v in self.tiles):
            raise TilusTypeError("concat: `tiles` must be register tiles, at least one")
        first = self.tiles[0].type
        assert isinstance(first, TileType)
        dim = normalize_dim(self, self.dim, len(first.shape))
        total = 0
        for v in self.tiles:
            t = v.type
            assert isinstance(t, TileType)
            if (t.dtype, _without(t.shape, dim)) != (first.dtype, _without(first.shape, dim)):
                raise TilusTypeError(
                    f"concat: {first} and {t} differ elsewhere than in dimension {dim}",
                    notes=born(self.tiles[0], v),
                )
            total += t.shape[dim]
        return TileType(first.dtype, (*first.shape[:dim], total, *first.shape[dim + 1 :]))

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        types = [v.type for v in self.tiles]
        names = [f"tiles.{i}" for i in range(len(types))]
        shapes = [t.shape for t in types if isinstance(t, TileType)]
        dim = self.dim % len(shapes[0])
        if len(set(shapes)) == 1:
            layout = next((known[n] for n in names if n in known), None)
            if layout is None:
                return {}
            return {**dict.fromkeys(names, layout), "result": join(layout, dim, len(names))}
        rest = tuple(1 if d == dim else n for d, n in enumerate(shapes[0]))
        base = default_layout(rest, types[0].dtype.bits, num_threads)

        def grown(count: int) -> Layout:
            return base * local(*(count if d == dim else 1 for d in range(len(rest))))

        out = {n: grown(s[dim]) for n, s in zip(names, shapes, strict=True)}
        return {**out, "result": grown(sum(s[dim] for s in shapes))}

    def interpret(self, tiles: tuple[Array, ...]) -> Array:
        return np.concatenate(tiles, self.dim)


def _without(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], *shape[dim + 1 :])
