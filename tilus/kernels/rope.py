"""Rotary positions and the way into the cache, natively."""

from __future__ import annotations

import torch

from tilus.errors import TilusTypeError
from tilus.kernels.device import cpu_rope as device
from tilus.kernels.kv_cache import PanelCache
from tilus.kernels.product import compiled


def rope_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    cache: PanelCache,
    layer: int,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """As `tilus.kernels.reference.rope_store`; that slots are in the cache is not checked."""
    rows, width = qkv.shape
    kv_heads, dim = cache.kv_heads, cache.head_dim
    heads = width // dim - 2 * kv_heads
    if width % dim or heads < 1 or heads % kv_heads:
        raise TilusTypeError(
            f"`qkv` is {list(qkv.shape)}; with {kv_heads} KV heads of {dim} it has no multiple of "
            f"{kv_heads} query heads"
        )
    out = torch.empty(rows, heads, dim)
    x = qkv.float().contiguous()
    q_weight = x if q_norm is None else q_norm.float().contiguous()
    k_weight = x if k_norm is None else k_norm.float().contiguous()
    places = positions.int().contiguous(), slots.int().contiguous()
    angles = cos.float().contiguous(), sin.float().contiguous()
    stored = [t[layer] for t in (cache.k, cache.v, cache.k_scale, cache.v_scale)]
    tensors = (x, q_weight, k_weight, *places, *angles, *stored, out)
    constants = {
        "form": cache.form, "GROUP": heads // kv_heads, "HALF": cos.shape[1],
        "QN": q_norm is not None, "KN": k_norm is not None,
    }  # fmt: skip
    compiled(device.rope_store, constants).launch(
        [*(t.data_ptr() for t in tensors), len(cos), cache.pages, eps], (rows, kv_heads, 1), tensors
    )
    return out
