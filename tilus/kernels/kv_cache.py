"""The cache of keys and values as dots read it: pages of PAGE tokens, in panels of 16.

    k    [layers, pages, kv heads, page / 16, wide / depth, 16 tokens, depth]
    v    [layers, pages, kv heads, wide / 16, page / depth, 16 numbers, depth]

`depth` neighbours along what a dot adds up lie side by side: 4 of i8, 2 of bf16, 1 of f32 and f16.
`wide` is the size of a head, up to a multiple of 16; what is beyond the size stays zero.

In `i8` each token and head has a scale of its own, as in `tilus.kernels.cache`; dots want unsigned
bytes, so 128 is added to the codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError, TilusValueError
from tilus.kernels.cache import LARGEST, quantized
from tilus.kernels.panels import lanes
from tilus.layouts import Layout
from tilus.runtime import memory

LANES = 16
ZERO = 128  # the byte that stands for 0 in `i8`


@dataclass(frozen=True)
class KvFormat:
    """How a page is stored, and what it is multiplied as."""

    stored: DType  # u8 with scales, or a float
    operand: DType  # what queries are multiplied as
    dim: int
    page: int

    @property
    def scaled(self) -> bool:
        """Whether tokens have scales, and products are those of integers."""
        return self.operand == dtypes.i8

    @property
    def planes(self) -> int:
        """How many numbers of the operand's type a query or a probability is made of."""
        return 2 if self.scaled else 1

    @property
    def weight(self) -> DType:
        """What keys and values are multiplied as."""
        return self.stored if self.scaled else self.operand

    @property
    def sums(self) -> DType:
        """What products are added up in."""
        return dtypes.i32 if self.scaled else dtypes.f32

    @property
    def wide(self) -> int:
        """Numbers of a head as stored."""
        return -(-self.dim // LANES) * LANES

    @property
    def raw(self) -> DType:
        """What the elements are loaded as."""
        return {8: dtypes.u8, 16: dtypes.u16, 32: dtypes.u32}[self.stored.bits]

    @property
    def depth(self) -> int:
        """Neighbours along what a dot adds up."""
        return 32 // self.operand.bits

    @property
    def step(self) -> int:
        """How many of them are loaded at a time."""
        return 4

    @property
    def order(self) -> Layout:
        """[step, 16] elements in the order they lie in."""
        return lanes(self.step, self.depth, 1)


_FORMATS = {  # stored, multiplied as
    "f32": (dtypes.f32, dtypes.f32, torch.float32),
    "f16": (dtypes.f16, dtypes.f32, torch.float16),
    "bf16": (dtypes.bf16, dtypes.bf16, torch.bfloat16),
    "i8": (dtypes.u8, dtypes.i8, torch.uint8),
}


class PanelCache:
    """Keys and values of all layers, zero at first; see the module.

    Args:
        layers: of the model.
        blocks: pages of all sequences.
        block_size: tokens of a page, a multiple of 16.
        kv_heads: heads of keys.
        head_dim: numbers of a head.
        dtype: f32, f16, bf16 or i8.
    """

    def __init__(
        self, layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int, dtype: str
    ) -> None:
        if dtype not in _FORMATS:
            raise TilusTypeError(f"`dtype` is {dtype}; it is one of {', '.join(_FORMATS)}")
        sizes = {
            "layers": layers, "blocks": blocks, "block_size": block_size, "kv_heads": kv_heads,
            "head_dim": head_dim,
        }  # fmt: skip
        for name, value in sizes.items():
            if value < 1:
                raise TilusValueError(f"`{name}` is {value}; it is at least 1")
        if block_size % LANES:
            raise TilusValueError(f"`block_size` is {block_size}; it is a multiple of {LANES}")
        stored, operand, kind = _FORMATS[dtype]
        self.form = KvFormat(stored, operand, head_dim, block_size)
        self.dtype = dtype
        self.layers, self.pages, self.kv_heads, self.head_dim = layers, blocks, kv_heads, head_dim
        depth, wide, page = self.form.depth, self.form.wide, block_size
        start = (layers, blocks, kv_heads)
        if self.nbytes > LARGEST:
            raise TilusValueError(f"`blocks` is {blocks}; the cache would take {self.nbytes} B")
        self.k = _zeros((*start, page // LANES, wide // depth, LANES, depth), kind)
        self.v = _zeros((*start, wide // LANES, page // depth, LANES, depth), kind)
        scales = (*start, page) if self.form.scaled else (layers, 0)
        self.k_scale, self.v_scale = torch.zeros(scales), torch.zeros(scales)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and scales."""
        form = self.form
        row = form.wide * form.stored.bits // 8 + (4 if form.scaled else 0)
        return 2 * self.layers * self.pages * form.page * self.kv_heads * row

    def store(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write keys and values [rows, kv_heads, dim] of tokens into their slots [rows]."""
        form = self.form
        depth, kind = form.depth, self.k.dtype
        page, place = slots.long() // form.page, slots.long() % form.page
        if form.scaled:
            k, self.k_scale[layer][page, :, place] = quantized(k)
            v, self.v_scale[layer][page, :, place] = quantized(v)
            k, v = k.short() + ZERO, v.short() + ZERO
        more = (0, form.wide - form.dim)
        k, v = torch.nn.functional.pad(k, more), torch.nn.functional.pad(v, more)
        keys = k.reshape(*k.shape[:2], form.wide // depth, depth).to(kind)
        self.k[layer][page, :, place // LANES, :, place % LANES] = keys
        numbers = v.reshape(*v.shape[:2], form.wide // LANES, LANES).to(kind)
        self.v[layer].permute(0, 3, 5, 1, 2, 4)[page, place // depth, place % depth] = numbers


def _zeros(shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
    return memory.empty(math.prod(shape) * kind.itemsize).zero_().view(kind).reshape(shape)
