"""Layer normalisation of f16 rows, with scale and shift, summed in f32."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import tilus
from examples import Check, compare
from tilus import f16, f32, i32


@tilus.jit
def layer_norm(
    x: tilus.ptr[f16],
    weight: tilus.ptr[f16],
    bias: tilus.ptr[f16],
    out: tilus.ptr[f16],
    rows: i32,
    columns: i32,
    eps: f32,
    COLUMNS: tilus.constexpr,  # at least `columns`
):
    """Normalise, scale and shift one row."""
    row = tilus.block_idx(0)
    X = tilus.global_view(x, f16, (rows, columns))
    t = tilus.cast(tilus.load_global(X, (row, 0), (COLUMNS,)), f32)
    inside = tilus.arange(COLUMNS) < columns
    count = tilus.cast(columns, f32)
    mean = tilus.sum(t, dim=0, keepdims=True) / count
    centred = tilus.where(inside, t - mean, 0.0)  # columns beyond the row add nothing
    variance = tilus.sum(centred * centred, dim=0, keepdims=True) / count
    w = tilus.load_global(tilus.global_view(weight, f16, (columns,)), (0,), (COLUMNS,))
    b = tilus.load_global(tilus.global_view(bias, f16, (columns,)), (0,), (COLUMNS,))
    y = centred * tilus.rsqrt(variance + eps) * tilus.cast(w, f32) + tilus.cast(b, f32)
    Y = tilus.global_view(out, f16, (rows, columns))
    tilus.store_global(Y, tilus.cast(y, f16), (row, 0))


def main() -> Iterator[Check]:
    """Run and compare with torch."""
    for rows, columns in ((3, 100), (16, 1024)):
        x = torch.randn(rows, columns).half()
        w, b = torch.randn(columns).half(), torch.randn(columns).half()
        out = torch.empty_like(x)
        width = tilus.next_power_of_2(columns)
        layer_norm[(rows,)](x, w, b, out, rows, columns, 1e-5, COLUMNS=width)
        want = torch.nn.functional.layer_norm(x.double(), (columns,), w.double(), b.double(), 1e-5)
        yield compare("layer_norm", f"{rows}x{columns} f16", out, want, 2e-3)  # f16 has 11 bits
