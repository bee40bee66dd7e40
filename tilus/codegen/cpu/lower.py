"""A kernel as a CPU function: parameters, grid indices, tiles that are carried.

    void KERNEL.block(ptr params, i32 x, i32 y, i32 z)     one block

`params` is an array of 8-byte words: the kernel's parameters in order, the three extents of the
grid, and the status, which is 0 until a block finds a fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tilus.codegen.cpu.tiles import Scratch, Tile, is_small
from tilus.codegen.llvm.function import FunctionLowering
from tilus.codegen.llvm.writer import I1, I8, I32, PTR, V, Writer, element_type, vector
from tilus.ir.expr import GridIndex, Value
from tilus.ir.inst import Effect
from tilus.ir.program import Assign, Function
from tilus.ir.target import Target
from tilus.ir.types import PointerType, TileType
from tilus.layouts import Layout


@dataclass
class TileSlot:
    """Memory that a carried tile passes through."""

    type: TileType
    layout: Layout
    pointer: V
    small: bool


class CpuLowering(FunctionLowering):
    """One kernel on its way to native code."""

    backend = "cpu"

    def __init__(self, f: Function, target: Target, w: Writer) -> None:
        super().__init__(f, target, w)
        self.scratch = Scratch(w)
        self.writes = 0  # instructions so far that write global memory
        self.result: Value | None = None
        self.word = 0
        for p in f.params:
            v = p.value
            if isinstance(v.type, PointerType):
                self.env[v] = self.parameter(PTR, v.name)
            else:
                kind = element_type(v.dtype)
                x = self.parameter(I8 if kind == I1 else kind, v.name)
                self.env[v] = w.cast("trunc", x, I1) if kind == I1 else x
        self.extents = [self.parameter(I32, name) for name in ("gx", "gy", "gz")]
        self.status_word = w.gep(V(PTR, "%params"), V("i64", str(self.word * 8)))

    def parameter(self, kind: str, name: str) -> V:
        """The next word of `params`, read as a type."""
        at = self.w.gep(V(PTR, "%params"), V("i64", str(self.word * 8)))
        self.word += 1
        return self.w.load(kind, at, 8, name)

    def grid_index(self, e: GridIndex) -> V:
        """`block_idx` is the block's argument, `grid_dim` a word of params."""
        if e.kind == "grid_dim":
            return self.extents[e.axis]
        return V(I32, f"%{'xyz'[e.axis]}")

    def status(self) -> V:
        """Where a fault's code goes."""
        return self.status_word

    def assign(self, s: Assign) -> None:
        """Lower an instruction; count those that write."""
        super().assign(s)
        if s.inst.effects & Effect.WRITE:
            self.writes += 1

    @property
    def layout(self) -> Layout:
        """The layout of the tile that the current instruction makes."""
        assert self.result is not None and isinstance(self.result.type, TileType)
        assert self.result.type.layout is not None
        return self.result.type.layout

    def tile_slot(self, t: TileType) -> TileSlot:
        """A vector's slot, or scratch memory."""
        assert t.layout is not None
        small = is_small(t.dtype, t.layout)
        if small:
            kind = vector(element_type(t.dtype), t.layout.size)
            return TileSlot(t, t.layout, self.w.alloca(kind, hint="carried"), True)
        place = self.scratch.allocate(t.dtype, t.layout, "carried")
        return TileSlot(t, t.layout, place, False)

    def store_tile(self, slot: TileSlot, tile: Tile) -> None:
        """In the order of the slot's layout."""
        s = self.scratch
        if tile.memory is not None and tile.memory == slot.pointer:
            return
        tile = s.relaid(tile, slot.layout)
        if slot.small:
            self.w.store(s.whole(tile), slot.pointer, 64)
        else:
            s.write(tile, slot.pointer)

    def load_tile(self, slot: TileSlot) -> Tile:
        """In the order of the slot's layout."""
        if not slot.small:
            return Tile(slot.type.dtype, slot.layout, memory=slot.pointer)
        kind = vector(element_type(slot.type.dtype), slot.layout.size)
        return Tile(slot.type.dtype, slot.layout, self.w.load(kind, slot.pointer, 64, "carried"))

    def settled(self, tile: Tile, v: Value) -> Tile:
        """Compute a lazy tile once if it is read more than once."""
        if tile.lazy is not None and self.count[v] > 1:
            place = self.scratch.in_memory(tile)
            return Tile(tile.dtype, tile.layout, memory=place)
        return tile

    def detached(self, tile: Any) -> Any:
        """A copy of what lies in memory or is still to be computed."""
        if isinstance(tile, Tile) and tile.vector is None:
            place = self.scratch.allocate(tile.dtype, tile.layout)
            self.scratch.write(tile, place)
            return Tile(tile.dtype, tile.layout, memory=place)
        return tile
