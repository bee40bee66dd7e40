"""The types of IR values: scalars, pointers, register tiles, shared tiles, global views."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tilus.dtypes import DType
from tilus.layouts import Layout, SharedLayout


@dataclass(frozen=True, slots=True)
class ScalarType:
    """One number, the same in every thread of the block."""

    dtype: DType

    def __str__(self) -> str:
        return str(self.dtype)


@dataclass(frozen=True, slots=True)
class PointerType:
    """The address of elements in global memory."""

    dtype: DType

    def __str__(self) -> str:
        return f"ptr[{self.dtype}]"


@dataclass(frozen=True, slots=True)
class TileType:
    """A register tile: a block of elements spread over the registers of the block's threads."""

    dtype: DType
    shape: tuple[int, ...]
    layout: Layout | None = None

    @property
    def size(self) -> int:
        """How many elements the tile has."""
        return math.prod(self.shape)

    def with_layout(self, layout: Layout | None) -> TileType:
        """The same tile, spread differently."""
        return replace(self, layout=layout)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class SharedType:
    """A tile in the block's shared memory."""

    dtype: DType
    shape: tuple[int, ...]
    layout: SharedLayout | None = None

    def __str__(self) -> str:
        return f"shared {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class GlobalType:
    """A strided view of global memory; its extents are run-time values of the view."""

    dtype: DType
    rank: int

    def __str__(self) -> str:
        return f"global {self.dtype}[{','.join('?' * self.rank)}]"


Type = ScalarType | PointerType | TileType | SharedType | GlobalType
