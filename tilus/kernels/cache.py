"""The paged key-value cache: what attention reads of the tokens before, in blocks of equal size.

A sequence's tokens lie in blocks that its row of a block table lists; a token's slot is
`block * block_size + place`. In `i8` each token and head has a scale of its own:

    k[d] ~ scale * code[d]      scale = max |k| / 127, code = round(k * (127 / max |k|))
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from tilus.errors import TilusTypeError, TilusValueError
from tilus.runtime import memory

_TYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
}
TYPES = tuple(_TYPES)  # of keys and values
LARGEST = 2**46  # bytes of a cache; what is above is a mistake
TINY = 2.0**-100  # rows of `i8` without a greater number are zero, so that 127 / max is finite


@dataclass(eq=False)
class PagedCache:
    """Keys and values of all layers, zero at first; see the module."""

    layers: int
    blocks: int
    block_size: int  # tokens
    kv_heads: int
    head_dim: int
    dtype: str = "f32"  # f32, f16, bf16 or i8
    k: torch.Tensor = field(init=False, repr=False)  # [layers, blocks, kv_heads, block_size, dim]
    v: torch.Tensor = field(init=False, repr=False)
    k_scale: torch.Tensor | None = field(init=False, repr=False)  # i8: f32, as k without dim
    v_scale: torch.Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.dtype = str(self.dtype)
        if self.dtype not in _TYPES:
            raise TilusTypeError(f"`dtype` is {self.dtype}; it is one of {', '.join(TYPES)}")
        shape = (self.layers, self.blocks, self.kv_heads, self.block_size, self.head_dim)
        for name in ("layers", "blocks", "block_size", "kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise TilusValueError(f"`{name}` is {getattr(self, name)}; it is at least 1")
        if self.nbytes > LARGEST:
            raise TilusValueError(
                f"`blocks` is {self.blocks}; the cache would take {self.nbytes} B"
            )
        self.k, self.v = _zeros(shape, self.dtype), _zeros(shape, self.dtype)
        small = self.dtype == "i8"
        self.k_scale = _zeros(shape[:-1], "f32") if small else None
        self.v_scale = _zeros(shape[:-1], "f32") if small else None

    @property
    def slots(self) -> int:
        """How many tokens there is room for."""
        return self.blocks * self.block_size

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and scales."""
        row = self.head_dim * _TYPES[self.dtype].itemsize + (4 if self.dtype == "i8" else 0)
        return 2 * self.layers * self.slots * self.kv_heads * row

    def store(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write keys and values [rows, kv_heads, head_dim] of tokens into their slots [rows]."""
        block, place = slots.long() // self.block_size, slots.long() % self.block_size
        for data, scales, x in ((self.k, self.k_scale, k), (self.v, self.v_scale, v)):
            if scales is not None:
                x, scale = quantized(x)
                scales[layer, block, :, place] = scale
            data[layer, block, :, place] = x.to(data.dtype)

    def read(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of blocks, f32 [kv_heads, tokens, head_dim] each."""
        return (
            self._read(self.k, self.k_scale, layer, blocks),
            self._read(self.v, self.v_scale, layer, blocks),
        )

    def _read(
        self, data: torch.Tensor, scales: torch.Tensor | None, layer: int, blocks: torch.Tensor
    ) -> torch.Tensor:
        x = data[layer, blocks.long()].float()  # [blocks, kv_heads, block_size, dim]
        if scales is not None:
            x = x * scales[layer, blocks.long()][..., None]
        return x.transpose(0, 1).reshape(self.kv_heads, -1, self.head_dim)


def quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes i8 [..., dim] and scales f32 [...] of rows, as `i8` stores them."""
    x = x.float()
    peak = x.abs().amax(-1)
    peak = torch.where(peak > TINY, peak, torch.where(peak.isnan(), peak, 0.0))
    inverse = torch.where(peak > 0, 127 / peak, 0.0)
    codes = torch.round(x * inverse[..., None]).nan_to_num(0.0).clamp(-127, 127)
    return codes.to(torch.int8), peak / 127


def _zeros(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    kind = _TYPES[dtype]
    flat = memory.empty(math.prod(shape) * kind.itemsize)
    return flat.zero_().view(kind).reshape(shape)
