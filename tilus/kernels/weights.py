"""How a low-bit weight matrix lies in memory, derived from the layout the product wants.

A matrix [k, n] of `bits`-bit codes is cut into tiles [tile_k, tile_n]. Each tile is stored as the
bytes its threads load, in the order they load them:

    codes [tile_k, tile_n]
      -> elements(t, i)            who holds what, as the matrix instruction wants it
      -> thread t's slots as one little-endian bit stream of n * bits bits
      -> cut into chunks of 16 bytes; chunk c of all threads, then chunk c + 1 of all threads, ...

A kernel then loads `tile_bytes` bytes in the layout `bytes` (16-byte accesses, coalesced) and
`view`s them as codes in the layout `elements`: no shuffle, no shared memory, for any width.

Chunks are 16 bytes when n * bits is a multiple of 128, which holds for every width when a thread
holds 128 elements of a tile; otherwise they are the largest power of two that divides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from tilus.dtypes import DType, f16, pack, unpack
from tilus.errors import TilusValueError
from tilus.ir.machine import index_table
from tilus.ir.target import Target
from tilus.ir.target import target as find_target
from tilus.layouts import Layout
from tilus.tensor import Tensor


@dataclass(frozen=True)
class WeightLayout:
    """The tiles of a weight matrix: `bytes` to load, `elements` to view them as."""

    dtype: DType
    elements: Layout

    @cached_property
    def _owners(self) -> list[int]:
        """The first thread of each set of replicas, in the order of their bytes."""
        size, owners = 1, [0]
        for entry in reversed(self.elements.spatial):
            count = -entry if entry < 0 else self.elements.mode_sizes[entry]
            if entry >= 0:
                owners = [d * size + o for d in range(count) for o in owners]
            size *= count
        return owners

    @cached_property
    def thread_bytes(self) -> int:
        """Bytes a thread holds of a tile."""
        return self.elements.num_slots * self.dtype.bits // 8

    @cached_property
    def vector(self) -> int:
        """Bytes one access moves."""
        return math.gcd(self.thread_bytes, 16)

    @cached_property
    def tile_bytes(self) -> int:
        """Bytes of a tile in memory."""
        return len(self._owners) * self.thread_bytes

    @cached_property
    def bytes(self) -> Layout:
        """Who loads which of a tile's bytes: chunks of all threads, one after the other."""
        spatial: list[int] = []
        modes: list[int] = [self.thread_bytes // self.vector]
        for entry in self.elements.spatial:
            if entry < 0:
                spatial.append(entry)
            else:
                spatial.append(len(modes))
                modes.append(self.elements.mode_sizes[entry])
        modes.append(self.vector)
        return Layout((self.tile_bytes,), (tuple(modes),), tuple(spatial), (0, len(modes) - 1))

    def pack(self, weight: Tensor) -> torch.Tensor:
        """The bytes of a weight matrix [k, n] of codes: u8 [k / tile_k, n / tile_n, tile_bytes].

        Raises:
            TilusValueError: the element type differs, or the tile does not divide the matrix.
        """
        k, n = self._check(weight.dtype, weight.shape)
        tile_k, tile_n = self.elements.shape
        codes = weight.codes().reshape(k // tile_k, tile_k, n // tile_n, tile_n)
        tiles = codes.permute(0, 2, 1, 3).reshape(k // tile_k, n // tile_n, -1)
        held = tiles.numpy()[:, :, index_table(self.elements)[self._owners]]
        data = torch.from_numpy(pack(held, self.dtype.bits)).reshape(
            k // tile_k, n // tile_n, len(self._owners), -1, self.vector
        )
        return data.transpose(2, 3).reshape(k // tile_k, n // tile_n, self.tile_bytes).contiguous()

    def unpack(self, data: torch.Tensor) -> Tensor:
        """The weight matrix [k, n] that `pack` made these bytes of."""
        rows, columns, nbytes = data.shape
        if nbytes != self.tile_bytes or data.dtype != torch.uint8:
            raise TilusValueError(
                f"`data` is {data.dtype}{list(data.shape)}; its last dimension must be "
                f"{self.tile_bytes} bytes (torch.uint8)"
            )
        threads = len(self._owners)
        streams = data.reshape(rows, columns, -1, threads, self.vector).transpose(2, 3)
        count = rows * columns * threads * self.elements.num_slots
        flat = streams.contiguous().reshape(-1).numpy()
        held = torch.from_numpy(unpack(flat, self.dtype.bits, count))
        tile_k, tile_n = self.elements.shape
        tiles = torch.empty(rows, columns, tile_k * tile_n, dtype=held.dtype)
        order = torch.from_numpy(index_table(self.elements)[self._owners].copy()).reshape(-1)
        tiles[:, :, order] = held.reshape(rows, columns, -1)
        matrix = tiles.reshape(rows, columns, tile_k, tile_n).permute(0, 2, 1, 3)
        return Tensor.from_codes(
            matrix.reshape(rows * tile_k, columns * tile_n).contiguous(), self.dtype
        )

    def _check(self, dtype: DType, shape: tuple[int, ...]) -> tuple[int, int]:
        tile_k, tile_n = self.elements.shape
        if dtype != self.dtype:
            raise TilusValueError(f"`weight` is {dtype}; this layout is for {self.dtype}")
        if len(shape) != 2 or shape[0] % tile_k or shape[1] % tile_n:
            raise TilusValueError(
                f"`weight` is {list(shape)}; it must be [k, n] with k a multiple of {tile_k} and n "
                f"of {tile_n}: pad it with zeros"
            )
        return shape[0], shape[1]


def weight_layout(
    target: Target | str,
    dtype: DType,
    tile: tuple[int, int],
    *,
    rows: int,
    num_threads: int,
    activation: DType = f16,
) -> WeightLayout:
    """The layout of weight tiles for products of `activation` tiles [rows, tile_k] with them.

    Args:
        target: the machine, or its name.
        dtype: the weights' element type, of any width from 1 to 8 bits.
        tile: (tile_k, tile_n).
        rows: rows of the activation tile.
        num_threads: threads of the block.
        activation: the type weights are cast to before the product.

    Raises:
        TilusValueError: no matrix instruction fits, or a thread would not hold whole bytes.
    """
    machine = find_target(target) if isinstance(target, str) else target
    k, n = tile
    atoms = machine.atoms_for(activation, activation)
    product = machine.product_layout(atoms, (rows, n), k, num_threads)
    splits = (atom.operand_layouts(product, k) for atom in atoms if product is not None)
    split = next((s for s in splits if s is not None), None)
    if split is None:
        raise TilusValueError(
            f"no arrangement of {num_threads} threads multiplies [{rows}, {k}] by [{k}, {n}]"
        )
    elements = split[1]
    if elements.num_slots * dtype.bits % 8:
        raise TilusValueError(
            f"`tile` {tile} gives a thread {elements.num_slots} elements of {dtype.bits} bits, "
            "which are not whole bytes; take a larger tile"
        )
    return WeightLayout(dtype, elements)
