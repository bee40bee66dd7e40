"""A product of f16 activations with weights of any type of 1 to 8 bits, in groups with a scale.

The weights' bytes are laid out beforehand (`tilus.kernels.weight_layout`) so that each thread loads
what it needs 16 bytes at a time and `view`s it as the codes of its matrix fragment: nothing moves
between threads, whatever the width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

import tilus
from examples import Check, compare
from tilus import f16, f32, i32, u8
from tilus.dtypes import NARROW_TYPES, DType
from tilus.kernels import WeightLayout, weight_layout

TILE_M, TILE_N, TILE_K, WARPS = 16, 64, 64, 1


@tilus.jit
def lowbit_matmul(
    a: tilus.ptr[f16],
    w: tilus.ptr[u8],  # [k / BK, n / BN, bytes of a tile]
    scale: tilus.ptr[f16],  # [k / GROUP, n]
    c: tilus.ptr[f16],
    m: i32,
    n: i32,
    k: i32,
    weights: tilus.constexpr,  # WeightLayout
    GROUP: tilus.constexpr,  # rows of weights that share a scale
    BM: tilus.constexpr,
):
    """One tile of the product, a tile of weights at a time."""
    BK, BN = weights.elements.shape
    bm = tilus.block_idx(0) * BM
    tile_n = tilus.block_idx(1)
    A = tilus.global_view(a, f16, (m, k))
    W = tilus.global_view(w, u8, (k // BK, n // BN, weights.tile_bytes))
    S = tilus.global_view(scale, f16, (k // GROUP, n))
    acc = tilus.zeros(f32, (BM, BN))
    for ko in range(k // BK):
        x = tilus.load_global(A, (bm, ko * BK), (BM, BK))
        raw = tilus.load_global(
            W, (ko, tile_n, 0), (weights.tile_bytes,), layout=weights.bytes, vector=weights.vector
        )
        codes = tilus.view(raw, weights.dtype, weights.elements)
        s = tilus.load_global(S, (ko * BK // GROUP, tile_n * BN), (1, BN))
        acc = tilus.dot(x, tilus.cast(codes, f16) * s, acc)
    C = tilus.global_view(c, f16, (m, n))
    tilus.store_global(C, tilus.cast(acc, f16), (bm, tile_n * BN))


def quantize(w: torch.Tensor, dtype: DType, group: int) -> tuple[tilus.Tensor, torch.Tensor]:
    """Codes [k, n] and f16 scales [k / group, n] of weights [k, n], rounded to nearest."""
    k, n = w.shape
    groups = w.reshape(k // group, group, n)
    largest = min(max(dtype.max, -dtype.min), 2.0**15)  # codes become f16
    scale = (groups.abs().amax(1) / largest).half()
    x = groups / scale[:, None].float()
    if dtype.is_integer:
        x = x.round().clamp(dtype.min, dtype.max)
    return tilus.Tensor.from_float(x.reshape(k, n), dtype), scale


def run(m: int, n: int, k: int, dtype: DType, group: int) -> Check:
    """One product beside the same one of the dequantised weights in f64."""
    layout: WeightLayout = weight_layout(
        "generic", dtype, (TILE_K, TILE_N), rows=TILE_M, num_threads=32 * WARPS
    )
    a = torch.randn(m, k).half()
    weight = torch.randn(k, n) if dtype.min < 0 else torch.rand(k, n)
    codes, scale = quantize(weight, dtype, group)
    c = torch.empty(m, n, dtype=torch.float16)
    grid = (tilus.cdiv(m, TILE_M), n // TILE_N)
    lowbit_matmul[grid](
        a, layout.pack(codes), scale, c, m, n, k,
        weights=layout, GROUP=group, BM=TILE_M, num_warps=WARPS,
    )  # fmt: skip
    # Codes times scales are rounded to f16, as the kernel does.
    dequantised = codes.to_float().half() * scale.repeat_interleave(group, 0)
    return compare(
        "lowbit_matmul", f"{m}x{n}x{k} {dtype}", c, a.double() @ dequantised.double(), 1e-3
    )


def main() -> Iterator[Check]:
    """Every type of 1 to 8 bits, the worst of each width; then more rows, and a ragged number."""
    for bits in range(1, 9):
        types = [t for t in NARROW_TYPES if t.bits == bits]
        types = [t for t in types if t not in (tilus.e8m0, tilus.bool_)]  # no weights
        worst = max((run(16, 64, 64, t, 64) for t in types), key=lambda c: c.rank)
        yield replace(worst, case=f"16x64x64 {', '.join(map(str, types))}")
    yield run(64, 64, 64, tilus.u4, 64)
    yield run(19, 128, 256, tilus.i3, 128)
