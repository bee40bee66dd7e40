"""The operations a model is made of: one place to say which kernels run it.

`REFERENCE` is plain torch with tilus's quantised products; see `tilus.kernels.reference` for what
each operation means, its arguments and its result. `NATIVE` has attention, norms and gates as
kernels, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch

from tilus.kernels import matmul, reference, rows
from tilus.kernels.attention import attention
from tilus.kernels.cache import PagedCache
from tilus.kernels.kv_cache import PanelCache, fits
from tilus.kernels.quantized import QuantizedWeight

Weight: TypeAlias = torch.Tensor | QuantizedWeight  # [outputs, inputs]
Cache: TypeAlias = Any  # of keys and values; only `rope_store` and `attention` look inside


def linear(
    x: torch.Tensor, weight: Weight, bias: torch.Tensor | None, *, activations: str = "int8"
) -> torch.Tensor:
    """x @ weight.T + bias, f32 [rows, outputs]; dense weights take x in their own type.

    Args:
        x: f32 [rows, inputs].
        weight: quantised, or float.
        bias: f32 [outputs].
        activations: of quantised products, see `tilus.kernels.matmul`.
    """
    if isinstance(weight, QuantizedWeight):
        return matmul(x, weight, bias, activations=activations)
    y = torch.nn.functional.linear(x.to(weight.dtype), weight).float()
    return y if bias is None else y.add_(bias)


@dataclass(frozen=True)
class Ops:
    """An implementation of each operation, and the cache that goes with them."""

    cache: Callable[[int, int, int, int, int, str], Cache] = PagedCache
    embedding: Callable[..., torch.Tensor] = reference.embedding
    rms_norm: Callable[..., Any] = reference.rms_norm
    linear: Callable[[torch.Tensor, Weight, torch.Tensor | None], torch.Tensor] = linear
    rope_store: Callable[..., torch.Tensor] = reference.rope_store
    attention: Callable[..., torch.Tensor] = reference.attention
    gated: Callable[[torch.Tensor, str], torch.Tensor] = reference.gated
    sample: Callable[..., torch.Tensor] = reference.sample


def native_cache(
    layers: int, blocks: int, block_size: int, kv_heads: int, head_dim: int, dtype: str
) -> Cache:
    """The cache that native attention reads, where it can."""
    kind = PanelCache if fits(block_size, head_dim, dtype) else PagedCache
    return kind(layers, blocks, block_size, kv_heads, head_dim, dtype)


def native_attention(q: torch.Tensor, cache: Cache, *args: Any, **keywords: Any) -> torch.Tensor:
    """Native where the cache is."""
    run = attention if isinstance(cache, PanelCache) else reference.attention
    return run(q, cache, *args, **keywords)


REFERENCE = Ops()
NATIVE = Ops(
    cache=native_cache, rms_norm=rows.rms_norm, attention=native_attention, gated=rows.gated
)
EXACT = Ops(linear=partial(linear, activations="exact"))  # quantised products do not round x
