"""The operations a model is made of: one place to say which kernels run it.

`NATIVE` is kernels of tilus throughout. `REFERENCE` is plain torch with tilus's quantised products;
see `tilus.kernels.reference` for what each operation means, its arguments and its result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch

from tilus.kernels import matmul, reference, rows
from tilus.kernels.attention import attention
from tilus.kernels.cache import PagedCache
from tilus.kernels.embedding import embedding
from tilus.kernels.kv_cache import PanelCache
from tilus.kernels.product import prepare
from tilus.kernels.quantized import QuantizedWeight
from tilus.kernels.rope import rope_store
from tilus.kernels.sampling import sample

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


def _as_it_is(weight: Weight) -> Weight:
    """Leave a weight alone."""
    return weight


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
    join: Callable[[Sequence[torch.Tensor]], torch.Tensor] = reference.join
    sample: Callable[..., torch.Tensor] = reference.sample
    prepare: Callable[[Weight], Weight] = _as_it_is  # of a weight, once, for products
    recordable: bool = False  # a `tilus.Graph` records all of them


REFERENCE = Ops()
NATIVE = Ops(
    cache=PanelCache,
    embedding=embedding,
    rms_norm=rows.rms_norm,
    join=rows.join,
    rope_store=rope_store,
    attention=attention,
    gated=rows.gated,
    sample=sample,
    prepare=prepare,
    recordable=True,
)
EXACT = Ops(linear=partial(linear, activations="exact"))  # quantised products do not round x
