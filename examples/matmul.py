"""A tiled matrix product in f16, staged through shared memory, on mma.m16n8k16 layouts."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import tilus
from examples import Check, compare
from tilus import f16, f32, i32


@tilus.jit
def matmul(
    a: tilus.ptr[f16],
    b: tilus.ptr[f16],
    c: tilus.ptr[f16],
    m: i32,
    n: i32,
    k: i32,
    BM: tilus.constexpr,
    BN: tilus.constexpr,
    BK: tilus.constexpr,
):
    """One tile of the product, staged through shared memory."""
    bm = tilus.block_idx(0) * BM
    bn = tilus.block_idx(1) * BN
    A = tilus.global_view(a, f16, (m, k))
    B = tilus.global_view(b, f16, (k, n))
    sa = tilus.allocate_shared(f16, (BM, BK))
    sb = tilus.allocate_shared(f16, (BK, BN))
    acc = tilus.zeros(f32, (BM, BN))
    for ko in range(0, k, BK):  # the compiler puts in the barriers
        tilus.store_shared(sa, tilus.load_global(A, (bm, ko), (BM, BK)))
        tilus.store_shared(sb, tilus.load_global(B, (ko, bn), (BK, BN)))
        acc = tilus.dot(tilus.load_shared(sa), tilus.load_shared(sb), acc)
    tilus.store_global(tilus.global_view(c, f16, (m, n)), tilus.cast(acc, f16), (bm, bn))


def main() -> Iterator[Check]:
    """Run and compare with torch."""
    for m, n, k in ((64, 64, 64), (50, 72, 100)):
        a, b = torch.randn(m, k).half(), torch.randn(k, n).half()
        c = torch.empty(m, n, dtype=torch.float16)
        grid = (tilus.cdiv(m, 32), tilus.cdiv(n, 32))
        matmul[grid](a, b, c, m, n, k, BM=32, BN=32, BK=32)
        yield compare("matmul", f"{m}x{n}x{k} f16", c, a.double() @ b.double(), 1e-3)
