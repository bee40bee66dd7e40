"""What a machine can do at most: memory read, and dot products, with nothing else to do."""

import tilus
from tilus import i32, u8
from tilus.kernels.panels import lanes

WAYS = 4  # different operands, so that no product can be computed once for all


@tilus.jit(num_threads=1)
def read_all(
    x: tilus.ptr[u8],
    out: tilus.ptr[i32],
    RUN: tilus.constexpr,  # bytes read at a time
    RUNS: tilus.constexpr,  # runs of a block
):
    """Add up memory as 32-bit numbers, one block after the other."""
    block = tilus.block_idx(0)
    flat = tilus.layouts.local(RUN)
    X = tilus.global_view(x, u8, (tilus.grid_dim(0) * RUNS, RUN))
    total = tilus.zeros(i32, (RUN // 4,))
    for r in range(RUNS):
        raw = tilus.load_global(X, (block * RUNS + r, 0), (RUN,), layout=flat)
        total = total + tilus.view(raw, i32, tilus.layouts.local(RUN // 4))
    Y = tilus.global_view(out, i32, (tilus.grid_dim(0),))
    tilus.store_global(Y, tilus.sum(total, dim=0, keepdims=True), (block,))


@tilus.jit(num_threads=1)
def multiply_all(
    a: tilus.ptr[u8],  # [ROWS, K] of A
    b: tilus.ptr[u8],  # [WAYS, K, 16] of B, as the matrix instruction wants it
    out: tilus.ptr[u8],  # [blocks * ROWS, 16] of C
    count: i32,
    A: tilus.constexpr,
    B: tilus.constexpr,
    C: tilus.constexpr,
    ROWS: tilus.constexpr,
    K: tilus.constexpr,
):
    """Sum up `count` products of few operands, which stay in registers and near memory."""
    block = tilus.block_idx(0)
    x = tilus.load_global(tilus.global_view(a, A, (ROWS, K)), (0, 0), (ROWS, K))
    size = K * 16 * B.bits // 8
    W = tilus.global_view(b, u8, (WAYS, size))
    flat, order = tilus.layouts.local(size), lanes(K, 32 // B.bits, 1)
    acc = tilus.zeros(C, (ROWS, 16))
    for i in range(count):
        raw = tilus.load_global(W, (i % WAYS, 0), (size,), dims=(1,), layout=flat)
        acc = tilus.dot(x, tilus.view(raw, B, order), acc)
    Y = tilus.global_view(out, C, (tilus.grid_dim(0) * ROWS, 16))
    tilus.store_global(Y, acc, (block * ROWS, 0))


@tilus.jit
def touch(x: tilus.ptr[i32], n: i32):
    """Hardly anything: each block writes one number."""
    X = tilus.global_view(x, i32, (n,))
    at = (tilus.block_idx(0),)
    tilus.store_global(X, tilus.full(i32, (1,), 1), at)
