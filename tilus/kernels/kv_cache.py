"""The cache of keys and values as dots read it: pages of PAGE tokens, in panels of 16.

    k    [layers, pages, kv heads, page / 16, dim / depth, 16 tokens, depth]
    v    [layers, pages, kv heads, dim / 16, page / depth, 16 numbers, depth]

`depth` neighbours along what a dot adds up lie side by side: 2 of bf16, 1 of f32 and f16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusValueError
from tilus.kernels.panels import lanes
from tilus.layouts import Layout

LANES = 16


@dataclass(frozen=True)
class KvFormat:
    """How a page is stored, and what it is multiplied as."""

    stored: DType
    operand: DType
    dim: int
    page: int

    @property
    def raw(self) -> DType:
        """What the elements are loaded as."""
        return dtypes.u16 if self.stored.bits == 16 else dtypes.u32

    @property
    def depth(self) -> int:
        """Neighbours along what a dot adds up."""
        return 32 // self.operand.bits

    @property
    def step(self) -> int:
        """How many of them are loaded at a time."""
        return 16

    @property
    def order(self) -> Layout:
        """[step, 16] elements in the order they lie in."""
        return lanes(self.step, self.depth, 1)


_STORED = {"f32": dtypes.f32, "f16": dtypes.f16, "bf16": dtypes.bf16}
_TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def fits(page: int, dim: int, dtype: str) -> bool:
    """Whether native attention can read such a cache."""
    return dtype in _STORED and page % LANES == 0 and dim % LANES == 0


class PanelCache:
    """Keys and values of all layers, zero at first; see the module."""

    def __init__(
        self, layers: int, pages: int, page: int, kv_heads: int, dim: int, dtype: str
    ) -> None:
        if not fits(page, dim, dtype):
            raise TilusValueError(
                f"pages of {page} tokens, heads of {dim} numbers in {dtype}: native pages have a "
                f"multiple of {LANES} tokens and numbers, in {', '.join(_STORED)}"
            )
        operand = dtypes.bf16 if dtype == "bf16" else dtypes.f32
        self.form = KvFormat(_STORED[dtype], operand, dim, page)
        self.layers, self.pages, self.kv_heads, self.head_dim = layers, pages, kv_heads, dim
        depth, kind = self.form.depth, _TORCH[dtype]
        k = (layers, pages, kv_heads, page // LANES, dim // depth, LANES, depth)
        v = (layers, pages, kv_heads, dim // LANES, page // depth, LANES, depth)
        self.k, self.v = torch.zeros(k, dtype=kind), torch.zeros(v, dtype=kind)

    def store(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write keys and values [rows, kv_heads, dim] of tokens into their slots [rows]."""
        form = self.form
        rows, depth = len(slots), form.depth
        page, place = slots.long() // form.page, slots.long() % form.page
        keys = k.reshape(rows, self.kv_heads, form.dim // depth, depth).to(self.k.dtype)
        self.k[layer][page, :, place // LANES, :, place % LANES] = keys
        numbers = v.reshape(rows, self.kv_heads, form.dim // LANES, LANES).to(self.v.dtype)
        self.v[layer].permute(0, 3, 5, 1, 2, 4)[page, place // depth, place % depth] = numbers
