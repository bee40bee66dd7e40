"""Instructions that read and write memory.

A tile's corner lies at `offsets` of a view, and the tile's dimensions run along `dims` of it (the
last ones, if left out). Elements outside the view's extents are masked: loads give `other`, stores
leave memory alone. `vector` is how many consecutive slots one access moves; it is derived from the
layouts (`tilus.ir.passes.vectorize`) unless the kernel says it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError, TilusValueError
from tilus.ir import machine
from tilus.ir.expr import Expr, Value, kind_of
from tilus.ir.inst import Effect, Inst, Layouts, check_tile
from tilus.ir.target import Target, default_layout
from tilus.ir.types import GlobalType, PointerType, ScalarType, SharedType, TileType
from tilus.layouts import Layout, SharedLayout, local, permute, replicated

if TYPE_CHECKING:
    from tilus.ir.interpreter import Block


def check_memory(inst: Inst, name: str, kind: type[GlobalType] | type[SharedType]) -> Any:
    """The type of operand `name`, which must be a global view or a shared tile."""
    value = getattr(inst, name)
    if not isinstance(value, Value) or not isinstance(value.type, kind):
        what = "global view" if kind is GlobalType else "shared tile"
        make = "tilus.global_view" if kind is GlobalType else "tilus.allocate_shared"
        got = value.type if isinstance(value, Expr) else value
        raise TilusTypeError(
            f"{inst.opcode}: `{name}` must be a {what}, not {got}", help=f"make it with {make}"
        )
    return value.type


def check_offsets(inst: Inst, offsets: Sequence[Expr], rank: int, name: str = "offsets") -> None:
    """Raise unless there is one integer scalar for each dimension."""
    if len(offsets) != rank:
        raise TilusTypeError(
            f"{inst.opcode}: `{name}` has {len(offsets)} entries; the memory has {rank} dimensions"
        )
    for i, e in enumerate(offsets):
        if not isinstance(e.type, ScalarType) or kind_of(e.dtype) != "i":
            raise TilusTypeError(
                f"{inst.opcode}: `{name}[{i}]` must be an integer scalar, not {e.type}"
            )


def check_shape(inst: Inst, shape: Sequence[int], name: str = "shape") -> None:
    """Raise unless every extent is at least 1."""
    for i, n in enumerate(shape):
        if n < 1:
            raise TilusTypeError(
                f"{inst.opcode}: `{name}[{i}]` is {n}; a tile's extents are at least 1"
            )


def tile_dims(
    inst: Inst, dims: tuple[int, ...] | None, rank: int, tile_rank: int
) -> tuple[int, ...]:
    """The memory dimensions that the tile's dimensions run along: the last ones by default."""
    if dims is None:
        if tile_rank > rank:
            raise TilusTypeError(
                f"{inst.opcode}: the tile has {tile_rank} dimensions, the memory only {rank}"
            )
        return tuple(range(rank - tile_rank, rank))
    if (
        len(dims) != tile_rank
        or len(set(dims)) != len(dims)
        or not all(0 <= d < rank for d in dims)
    ):
        raise TilusTypeError(
            f"{inst.opcode}: `dims` is {dims}; it names, for each of the tile's {tile_rank} "
            f"dimensions, another one of the memory's {rank}"
        )
    return dims


def check_layout(inst: Inst, layout: Layout | None, shape: tuple[int, ...]) -> None:
    """Raise unless a layout given by the user is one of the tile's shape."""
    if layout is not None and layout.shape != shape:
        raise TilusTypeError(
            f"{inst.opcode}: `layout` is of shape {list(layout.shape)}, "
            f"the tile of shape {list(shape)}"
        )


def check_vector(inst: Inst, vector: int | None, dtype: DType) -> None:
    """Raise unless a vector is one element, or 1, 2, 4, 8 or 16 bytes."""
    if vector not in (None, 1) and vector * dtype.bits not in (8, 16, 32, 64, 128):
        raise TilusTypeError(
            f"{inst.opcode}: `vector` is {vector}: one access moves 1, 2, 4, 8 or 16 bytes, or one "
            f"element, not {vector} of {dtype}"
        )


class GlobalView(Inst, opcode="global_view"):
    """See memory from `ptr` on as a strided array of `dtype`: dense row-major by default.

    `shape`, `strides` and `offset` count elements; elements of less than 8 bits lie in one
    little-endian stream of bits, least significant first.
    """

    ptr: Value
    dtype: DType
    shape: tuple[Expr, ...]
    strides: tuple[Expr, ...] | None = None
    offset: Expr | None = None

    def infer(self) -> GlobalType:
        if not isinstance(self.ptr.type, PointerType):
            raise TilusTypeError(
                f"global_view: `ptr` must be a pointer parameter, not {self.ptr.type}"
            )
        if not self.shape:
            raise TilusTypeError("global_view: `shape` is empty; a view has at least one dimension")
        check_offsets(self, self.shape, len(self.shape), "shape")
        if self.strides is not None:
            check_offsets(self, self.strides, len(self.shape), "strides")
        if self.offset is not None:
            check_offsets(self, (self.offset,), 1, "offset")
        return GlobalType(self.dtype, len(self.shape))

    def interpret(
        self,
        ptr: machine.Pointer,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        offset: int | None,
    ) -> machine.GlobalView:
        return machine.GlobalView(
            ptr, self.dtype, shape, strides or machine.row_major(shape), offset or 0
        )


class AllocateShared(Inst, opcode="allocate_shared", threads=True):
    """A tile in shared memory, uninitialised; row-major unless a layout is given or found."""

    dtype: DType
    shape: tuple[int, ...]
    layout: SharedLayout | None = None

    def infer(self) -> SharedType:
        check_shape(self, self.shape)
        if self.layout is not None and self.layout.shape != self.shape:
            raise TilusTypeError(
                f"allocate_shared: `layout` is of shape {list(self.layout.shape)}, "
                f"the tile of shape {list(self.shape)}"
            )
        return SharedType(self.dtype, self.shape, self.layout)

    def interpret(self, block: Block) -> machine.SharedTile:
        layout = self.layout or SharedLayout.row_major(*self.shape)
        nbytes = (layout.cosize * self.dtype.bits + 7) // 8
        return machine.SharedTile(block.shared(self, nbytes), self.dtype, self.shape, layout)


class LoadGlobal(Inst, opcode="load_global", reads=("src",), threads=True):
    """A tile of `shape` whose corner is at `offsets` of the view; `other` outside its extents."""

    src: Value
    offsets: tuple[Expr, ...]
    shape: tuple[int, ...]
    dims: tuple[int, ...] | None = None
    other: float = 0.0
    layout: Layout | None = None
    vector: int | None = None

    def infer(self) -> TileType:
        src = check_memory(self, "src", GlobalType)
        check_offsets(self, self.offsets, src.rank)
        check_shape(self, self.shape)
        check_layout(self, self.layout, self.shape)
        check_vector(self, self.vector, src.dtype)
        check_other(self, src.dtype)
        tile_dims(self, self.dims, src.rank, len(self.shape))
        return TileType(src.dtype, self.shape, self.layout)

    def default_layout(self, known: Layouts, target: Target, num_threads: int) -> Layout:
        return default_layout(self.shape, self.src.dtype.bits, num_threads)

    def interpret(
        self, block: Block, src: machine.GlobalView, offsets: tuple[int, ...]
    ) -> machine.RegisterTile:
        dims = tile_dims(self, self.dims, len(src.shape), len(self.shape))
        layout = block.result_layout
        at = machine.places(src, offsets, layout, dims)
        block.check_read(at, self.vector)
        return machine.RegisterTile(
            src.dtype, layout, machine.load(at, machine.code_of(self.other, src.dtype))
        )


def check_other(inst: LoadGlobal, dtype: DType) -> None:
    """Raise unless what stands outside the view is a value of the type (floats may round)."""
    other = inst.other
    whole = dtype.is_float or float(other).is_integer()
    if not whole or (not dtype.is_float and not dtype.min <= other <= dtype.max):
        raise TilusTypeError(f"{inst.opcode}: `other` is {other}, which is no value of {dtype}")


class StoreGlobal(Inst, opcode="store_global", writes=("dst",), threads=True):
    """Write a tile, its corner at `offsets` of the view; what lies outside is left out."""

    dst: Value
    x: Value
    offsets: tuple[Expr, ...]
    dims: tuple[int, ...] | None = None
    vector: int | None = None

    def infer(self) -> None:
        dst, x = check_memory(self, "dst", GlobalType), check_tile(self, "x")
        check_offsets(self, self.offsets, dst.rank)
        check_vector(self, self.vector, dst.dtype)
        tile_dims(self, self.dims, dst.rank, len(x.shape))
        check_element(self, dst.dtype, x.dtype)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        assert isinstance(self.dst.type, GlobalType)
        return stored_layout(self, known, self.dims, self.dst.type.rank, num_threads)

    def interpret(
        self,
        block: Block,
        dst: machine.GlobalView,
        x: machine.RegisterTile,
        offsets: tuple[int, ...],
    ) -> None:
        dims = tile_dims(self, self.dims, len(dst.shape), len(x.layout.shape))
        at = machine.places(dst, offsets, x.layout, dims)
        block.check_write(at, self.vector)
        machine.store(at, x.codes)


def stored_layout(
    inst: StoreGlobal | StoreShared,
    known: Layouts,
    dims: tuple[int, ...] | None,
    rank: int,
    num_threads: int,
    contiguous: int | None = None,
) -> Layouts:
    """The layout a stored tile must have: one in which no two threads share a byte.

    `contiguous` is the memory dimension along which neighbours share bytes; the last by default.
    """
    if "x" not in known:
        return {}
    layout, bits = known["x"], inst.x.dtype.bits
    along = tile_dims(inst, dims, rank, layout.rank)
    run = rank - 1 if contiguous is None else contiguous
    least = 8 // math.gcd(8, bits)  # elements in whole bytes
    if least == 1 or run not in along:
        return {"x": layout}
    row = along.index(run)
    torn = any(d.dim == row and d.stride % least for d in layout.spatial_digits)
    torn |= layout.shape[row] % least > 0 and layout.num_slots < layout.size
    if not torn:
        return {"x": layout}
    order = [*(d for d in range(layout.rank) if d != row), row]
    rows = default_layout(tuple(layout.shape[d] for d in order), bits, num_threads)
    return {"x": permute(rows, [order.index(d) for d in range(layout.rank)])}


def check_element(inst: Inst, memory: DType, tile: DType) -> None:
    """Raise unless a store's element types agree."""
    if memory != tile:
        raise TilusTypeError(
            f"{inst.opcode}: the memory holds {memory}, the tile {tile}",
            help=f"tilus.cast(x, {memory}) first",
        )


class LoadShared(Inst, opcode="load_shared", reads=("src",), threads=True):
    """A tile of shared memory: all of it, or `shape` elements from `offsets` on."""

    src: Value
    offsets: tuple[Expr, ...] | None = None
    shape: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None
    layout: Layout | None = None
    vector: int | None = None

    def infer(self) -> TileType:
        src = check_memory(self, "src", SharedType)
        shape = src.shape if self.shape is None else self.shape
        check_shape(self, shape)
        check_inside(self, self.offsets, src, shape, self.dims)
        check_layout(self, self.layout, shape)
        check_vector(self, self.vector, src.dtype)
        return TileType(src.dtype, shape, self.layout)

    def default_layout(self, known: Layouts, target: Target, num_threads: int) -> Layout:
        shape = self.infer().shape
        return default_layout(shape, self.src.dtype.bits, num_threads)

    def interpret(
        self, block: Block, src: machine.SharedTile, offsets: tuple[int, ...] | None
    ) -> machine.RegisterTile:
        layout = block.result_layout
        dims = tile_dims(self, self.dims, len(src.shape), len(layout.shape))
        at = machine.places(src, offsets or (0,) * len(src.shape), layout, dims)
        block.check_inside(at)
        block.check_read(at, self.vector)
        return machine.RegisterTile(src.dtype, layout, machine.load(at, 0))


def check_inside(
    inst: Inst,
    offsets: tuple[Expr, ...] | None,
    memory: SharedType,
    shape: tuple[int, ...],
    dims: tuple[int, ...] | None,
    name: str = "offsets",
) -> None:
    """Raise unless a tile of `shape` can lie inside a shared tile."""
    if offsets is not None:
        check_offsets(inst, offsets, len(memory.shape), name)
    elif len(memory.shape) != len(shape):
        raise TilusTypeError(
            f"{inst.opcode}: the shared tile has {len(memory.shape)} dimensions, "
            f"the tile {len(shape)}",
            help=f"say with `{name}` where the tile lies",
        )
    for i, d in enumerate(tile_dims(inst, dims, len(memory.shape), len(shape))):
        if shape[i] > memory.shape[d]:
            raise TilusTypeError(
                f"{inst.opcode}: a tile of {list(shape)} does not fit into shared memory of "
                f"{list(memory.shape)}"
            )


class StoreShared(Inst, opcode="store_shared", writes=("dst",), threads=True):
    """Write a tile to shared memory: over all of it, or from `offsets` on."""

    dst: Value
    x: Value
    offsets: tuple[Expr, ...] | None = None
    dims: tuple[int, ...] | None = None
    vector: int | None = None

    def infer(self) -> None:
        dst, x = check_memory(self, "dst", SharedType), check_tile(self, "x")
        check_inside(self, self.offsets, dst, x.shape, self.dims)
        check_vector(self, self.vector, dst.dtype)
        check_element(self, dst.dtype, x.dtype)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        assert isinstance(self.dst.type, SharedType)
        memory = self.dst.type.layout or SharedLayout.row_major(*self.dst.type.shape)
        nearest = min(memory.mode_strides, key=lambda m: m[1], default=None)
        run = None if nearest is None else nearest[0].dim
        return stored_layout(self, known, self.dims, len(memory.shape), num_threads, run)

    def interpret(
        self,
        block: Block,
        dst: machine.SharedTile,
        x: machine.RegisterTile,
        offsets: tuple[int, ...] | None,
    ) -> None:
        dims = tile_dims(self, self.dims, len(dst.shape), len(x.layout.shape))
        at = machine.places(dst, offsets or (0,) * len(dst.shape), x.layout, dims)
        block.check_inside(at)
        block.check_write(at, self.vector)
        machine.store(at, x.codes)


class CopyAsync(Inst, opcode="copy_async", reads=("src",), writes=("dst",), threads=True):
    """Start copying a tile of the view at `offsets` to shared memory at `dst_offsets`.

    The data may be used after `copy_async_commit_group` and the `copy_async_wait_group` that covers
    it. Outside the view's extents the copy writes zeros. `layout` says which thread copies what.
    """

    dst: Value
    src: Value
    offsets: tuple[Expr, ...]
    dst_offsets: tuple[Expr, ...] | None = None
    shape: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None
    dst_dims: tuple[int, ...] | None = None
    layout: Layout | None = None
    vector: int | None = None

    def infer(self) -> None:
        src, dst = check_memory(self, "src", GlobalType), check_memory(self, "dst", SharedType)
        shape = self.tile_shape()
        check_shape(self, shape)
        check_offsets(self, self.offsets, src.rank)
        tile_dims(self, self.dims, src.rank, len(shape))
        check_inside(self, self.dst_offsets, dst, shape, self.dst_dims, "dst_offsets")
        check_layout(self, self.layout, shape)
        check_vector(self, self.vector, dst.dtype)
        check_element(self, dst.dtype, src.dtype)

    def tile_shape(self) -> tuple[int, ...]:
        """The shape of what is copied."""
        if self.shape is not None:
            return self.shape
        assert isinstance(self.dst.type, SharedType)
        return self.dst.type.shape

    def interpret(
        self,
        block: Block,
        dst: machine.SharedTile,
        src: machine.GlobalView,
        offsets: tuple[int, ...],
        dst_offsets: tuple[int, ...] | None,
    ) -> None:
        shape = self.tile_shape()
        layout = self.layout or default_layout(shape, dst.dtype.bits, block.num_threads)
        source = machine.places(
            src, offsets, layout, tile_dims(self, self.dims, len(src.shape), len(shape))
        )
        block.check_read(source, self.vector)
        to_dims = tile_dims(self, self.dst_dims, len(dst.shape), len(shape))
        at = machine.places(dst, dst_offsets or (0,) * len(dst.shape), layout, to_dims)
        block.check_inside(at)
        block.check_write(at, self.vector)
        block.start_copy(at, machine.load(source, 0))


class CopyAsyncCommitGroup(
    Inst, opcode="copy_async_commit_group", effects=Effect.SYNC, threads=True
):
    """Close the group of the async copies started since the last one."""

    def infer(self) -> None:
        return None

    def interpret(self, block: Block) -> None:
        block.commit_copies()


class CopyAsyncWaitGroup(Inst, opcode="copy_async_wait_group", effects=Effect.SYNC, threads=True):
    """Wait until at most `n` of the committed groups are still in flight."""

    n: int = 0

    def infer(self) -> None:
        if self.n < 0:
            raise TilusTypeError(
                f"copy_async_wait_group: `n` is {self.n}; it counts groups, from 0 on"
            )

    def interpret(self, block: Block) -> None:
        block.wait_copies(self.n)


class Prefetch(Inst, opcode="prefetch", effects=Effect.SYNC):
    """Ask for a tile of the view to be brought into the cache of a level, 1 or 2."""

    src: Value
    offsets: tuple[Expr, ...]
    shape: tuple[int, ...]
    dims: tuple[int, ...] | None = None
    level: int = 1

    def infer(self) -> None:
        if self.level not in (1, 2):
            raise TilusValueError(f"prefetch: `level` is {self.level}; it is 1 or 2")
        src = check_memory(self, "src", GlobalType)
        check_offsets(self, self.offsets, src.rank)
        check_shape(self, self.shape)
        tile_dims(self, self.dims, src.rank, len(self.shape))

    def interpret(self, src: machine.GlobalView, offsets: tuple[int, ...]) -> None:
        return None


class AtomicAdd(Inst, opcode="atomic_add", reads=("dst",), writes=("dst",), threads=True):
    """Add a tile to memory, each element in one indivisible step, in any order."""

    dst: Value
    x: Value
    offsets: tuple[Expr, ...]
    dims: tuple[int, ...] | None = None

    def infer(self) -> None:
        dst, x = check_memory(self, "dst", GlobalType), check_tile(self, "x")
        check_offsets(self, self.offsets, dst.rank)
        tile_dims(self, self.dims, dst.rank, len(x.shape))
        check_element(self, dst.dtype, x.dtype)
        if dst.dtype not in ATOMIC_TYPES:
            names = ", ".join(map(str, ATOMIC_TYPES))
            raise TilusTypeError(
                f"atomic_add: no atomic addition of {dst.dtype}; there is one of {names}"
            )

    def interpret(
        self,
        block: Block,
        dst: machine.GlobalView,
        x: machine.RegisterTile,
        offsets: tuple[int, ...],
    ) -> None:
        dims = tile_dims(self, self.dims, len(dst.shape), len(x.layout.shape))
        at = machine.places(dst, offsets, x.layout, dims)
        at = replace(at, mask=at.mask & machine.first_owners(x.layout))
        block.check_write(at, None, atomic=True)
        machine.add(at, x.codes)


ATOMIC_TYPES = (
    dtypes.i32,
    dtypes.u32,
    dtypes.i64,
    dtypes.u64,
    dtypes.f16,
    dtypes.bf16,
    dtypes.f32,
    dtypes.f64,
)


class Item(Inst, opcode="item"):
    """The one element of a one-element tile, as a scalar."""

    x: Value

    def infer(self) -> ScalarType:
        x = check_tile(self, "x")
        if x.size != 1:
            raise TilusTypeError(f"item: `x` is {x}; only a tile of one element is a scalar")
        if x.dtype.is_subbyte or x.dtype.is_small_float:
            raise TilusTypeError(
                f"item: no scalars of {x.dtype}", help="cast it to a wider type first"
            )
        return ScalarType(x.dtype)

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        assert isinstance(self.x.type, TileType)
        return {"x": replicated(num_threads) * local(*self.x.type.shape)}

    def interpret(self, x: np.ndarray[Any, np.dtype[Any]]) -> Any:
        return x.reshape(())[()].item()
