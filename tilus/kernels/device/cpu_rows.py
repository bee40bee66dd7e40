"""What a layer does to each row by itself, on a CPU: norms, gates, rotations."""

import tilus
from tilus import f32, i32

RUN = 256  # numbers of a row at a time
COPIED = 1024  # numbers of a row that a block copies


@tilus.jit(num_threads=1)
def rms_norm(
    x: tilus.ptr[f32],  # [rows, hidden]
    residual: tilus.ptr[f32],  # [rows, hidden], if ADD
    weight: tilus.ptr[f32],  # [hidden]
    out: tilus.ptr[f32],  # [rows, hidden]
    total: tilus.ptr[f32],  # [rows, hidden]: x + residual, if ADD
    hidden: i32,
    eps: f32,
    ADD: tilus.constexpr,
):
    """x / sqrt(mean(x^2) + eps) * weight of one row, or the same of x + residual."""
    row, rows = tilus.block_idx(0), tilus.grid_dim(0)
    X = tilus.global_view(x, f32, (rows, hidden))
    R = tilus.global_view(residual, f32, (rows, hidden))
    W = tilus.global_view(weight, f32, (hidden,))
    Y = tilus.global_view(out, f32, (rows, hidden))
    S = tilus.global_view(total, f32, (rows, hidden))
    squares = tilus.zeros(f32, (RUN,))
    for c in range(0, hidden, RUN):
        t = tilus.load_global(X, (row, c), (RUN,), dims=(1,))
        if ADD:
            t = t + tilus.load_global(R, (row, c), (RUN,), dims=(1,))
            tilus.store_global(S, t, (row, c), dims=(1,))
        squares = tilus.fma(t, t, squares)
    mean = tilus.sum(squares, dim=0, keepdims=True) / tilus.cast(hidden, f32)
    factor = 1.0 / tilus.sqrt(mean + eps)
    for c in range(0, hidden, RUN):
        if ADD:
            t = tilus.load_global(S, (row, c), (RUN,), dims=(1,))
        else:
            t = tilus.load_global(X, (row, c), (RUN,), dims=(1,))
        t = t * factor * tilus.load_global(W, (c,), (RUN,))
        tilus.store_global(Y, t, (row, c), dims=(1,))


@tilus.jit(num_threads=1)
def gated(
    gate_up: tilus.ptr[f32],  # [rows, 2 * inner]: the gate first
    out: tilus.ptr[f32],  # [rows, inner]
    inner: i32,
    KIND: tilus.constexpr,  # silu, gelu_tanh
):
    """act(gate) * up for RUN numbers of a row."""
    row, at, rows = tilus.block_idx(1), tilus.block_idx(0) * RUN, tilus.grid_dim(1)
    X = tilus.global_view(gate_up, f32, (rows, 2, inner))
    Y = tilus.global_view(out, f32, (rows, inner))
    g = tilus.load_global(X, (row, 0, at), (RUN,), dims=(2,))
    up = tilus.load_global(X, (row, 1, at), (RUN,), dims=(2,))
    if KIND == "silu":
        active = g / (1.0 + tilus.exp(-g))
    else:
        active = 0.5 * g * (1.0 + tilus.tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)))
    tilus.store_global(Y, active * up, (row, at), dims=(1,))


@tilus.jit(num_threads=1)
def place(
    x: tilus.ptr[f32],  # [rows, size]
    out: tilus.ptr[f32],  # [rows, width]
    size: i32,
    width: i32,
    at: i32,  # the column of x's first number
):
    """Part of a row among others."""
    row, c, rows = tilus.block_idx(1), tilus.block_idx(0) * COPIED, tilus.grid_dim(1)
    X = tilus.global_view(x, f32, (rows, size))
    Y = tilus.global_view(out, f32, (rows, size), (width, 1), at)
    t = tilus.load_global(X, (row, c), (COPIED,), dims=(1,))
    tilus.store_global(Y, t, (row, c), dims=(1,))
