"""Add two vectors whose length is no multiple of the block."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import tilus
from examples import Check, compare
from tilus import f32, i32


@tilus.jit
def vector_add(
    a: tilus.ptr[f32],
    b: tilus.ptr[f32],
    out: tilus.ptr[f32],
    n: i32,
    BLOCK: tilus.constexpr,
):
    """Add BLOCK elements."""
    start = tilus.block_idx(0) * BLOCK
    x = tilus.load_global(tilus.global_view(a, f32, (n,)), (start,), (BLOCK,))
    y = tilus.load_global(tilus.global_view(b, f32, (n,)), (start,), (BLOCK,))
    # What lies beyond n is neither read nor written.
    tilus.store_global(tilus.global_view(out, f32, (n,)), x + y, (start,))


def main() -> Iterator[Check]:
    """Run and compare with torch."""
    for n in (1, 1000, 4096):
        a, b = torch.randn(n), torch.randn(n)
        out = torch.empty(n)
        vector_add[(tilus.cdiv(n, 256),)](a, b, out, n, BLOCK=256)
        yield compare("vector_add", f"n={n}", out, a + b, 0.0)
