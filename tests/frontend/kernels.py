"""Kernels whose IR is kept in tests/golden/frontend."""

import tilus
from tilus import f16, f32, i32, ptr


@tilus.jit
def matmul(
    a: ptr[f16],
    b: ptr[f16],
    c: ptr[f16],
    m: i32,
    n: i32,
    k: i32,
    BM: tilus.constexpr = 32,
    BN: tilus.constexpr = 16,
    BK: tilus.constexpr = 16,
):
    bm, bn = tilus.block_idx(0) * BM, tilus.block_idx(1) * BN
    A = tilus.global_view(a, f16, (m, k))
    B = tilus.global_view(b, f16, (k, n))
    acc = tilus.zeros(f32, (BM, BN))
    for ko in tilus.range(0, k, BK, stages=3):
        ta = tilus.load_global(A, (bm, ko), (BM, BK))
        tb = tilus.load_global(B, (ko, bn), (BK, BN))
        acc = tilus.dot(ta, tb, acc)
    C = tilus.global_view(c, f16, (m, n))
    tilus.store_global(C, tilus.cast(acc, f16), (bm, bn))


def clamp(x, low=0.0, high=6.0):
    return tilus.minimum(tilus.maximum(x, low), high)


@tilus.jit
def softmax_rows(x: ptr[f32], out: ptr[f32], n: i32, WIDTH: tilus.constexpr = 64):
    row = tilus.block_idx()
    X = tilus.global_view(x, f32, (tilus.grid_dim(), n))
    t = tilus.load_global(X, (row, 0), (1, WIDTH), other=float("-inf"))
    t = clamp(t, high=30.0)
    e = tilus.exp(t - tilus.max(t, 1, keepdims=True))
    Out = tilus.global_view(out, f32, (tilus.grid_dim(), n))
    tilus.store_global(Out, e / tilus.sum(e, 1, keepdims=True), (row, 0))


@tilus.jit
def search(keys: ptr[i32], out: ptr[i32], n: i32, wanted: i32):
    K = tilus.global_view(keys, i32, (n,))
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        key = tilus.item(tilus.load_global(K, middle, 1))
        if key == wanted:
            low = middle
            break
        if key < wanted:
            low = middle + 1
        else:
            high = middle
    if low >= n or (low < 0 and wanted > 0):
        return
    tilus.store_global(tilus.global_view(out, i32, (1,)), tilus.full(i32, 1, low), 0)


@tilus.jit
def guarded(x: ptr[f32], n: i32, m: i32, USE_BIAS: tilus.constexpr = False):
    X = tilus.global_view(x, f32, (n,))
    t = tilus.load_global(X, 0, 16)
    assert m != 0, "m must not be zero"
    if USE_BIAS:
        t = t + 1.0
    scale = 2.0 if n // m > 3 and m > 0 else 1.0
    for i in range(m, 0, -1):
        if i % 2:
            continue
        t = t * scale
    tilus.print_tensor(t, "t")
    tilus.store_global(X, t, 0)


KERNELS = [matmul, softmax_rows, search, guarded]
