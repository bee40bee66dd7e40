"""Softmax over the rows of a matrix, one block for a few rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import tilus
from examples import Check, compare
from tilus import f32, i32


@tilus.jit
def softmax(
    x: tilus.ptr[f32],
    out: tilus.ptr[f32],
    rows: i32,
    columns: i32,
    ROWS: tilus.constexpr,
    COLUMNS: tilus.constexpr,  # at least `columns`
):
    """Softmax of ROWS rows."""
    row = tilus.block_idx(0) * ROWS
    X = tilus.global_view(x, f32, (rows, columns))
    t = tilus.load_global(X, (row, 0), (ROWS, COLUMNS), other=float("-inf"))
    t = tilus.exp(t - tilus.max(t, dim=1, keepdims=True))
    t = t / tilus.sum(t, dim=1, keepdims=True)
    tilus.store_global(tilus.global_view(out, f32, (rows, columns)), t, (row, 0))


def main() -> Iterator[Check]:
    """Run and compare with torch."""
    for rows, columns in ((1, 1), (37, 300), (64, 512)):
        x = torch.randn(rows, columns) * 3
        out = torch.empty_like(x)
        width = tilus.next_power_of_2(columns)
        softmax[(tilus.cdiv(rows, 4),)](x, out, rows, columns, ROWS=4, COLUMNS=width)
        yield compare("softmax", f"{rows}x{columns}", out, torch.softmax(x.double(), 1), 1e-6)
