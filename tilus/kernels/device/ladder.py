"""A matrix product in four steps, each with one idea more: c = a @ b in f16 or bf16, sums in f32.

    naive       every thread reads what it multiplies from global memory
    staged      a tile of a and of b is read once, into shared memory
    pipelined   the tiles to come are on their way while one is multiplied
    tensor      a matrix instruction multiplies

A block makes one tile [BM, BN] of c. Edges are masked, so any m, n and k will do.
"""

import tilus
from tilus import f32, i32, u16


@tilus.jit
def rank_one(acc, a, b):
    """acc [m, n] and a column [m, 1] times a row [1, n]."""
    return tilus.fma(
        tilus.broadcast(tilus.cast(a, f32), acc.shape),
        tilus.broadcast(tilus.cast(b, f32), acc.shape),
        acc,
    )


@tilus.jit
def naive(
    a: tilus.ptr[u16],  # [m, k] of TYPE, as b and c
    b: tilus.ptr[u16],  # [k, n]
    c: tilus.ptr[u16],  # [m, n]
    m: i32,
    n: i32,
    k: i32,
    TYPE: tilus.constexpr,
    BM: tilus.constexpr,
    BN: tilus.constexpr,
):
    """A column of a times a row of b at a time, from global memory."""
    bm, bn = tilus.block_idx(0) * BM, tilus.block_idx(1) * BN
    A = tilus.global_view(a, TYPE, (m, k))
    B = tilus.global_view(b, TYPE, (k, n))
    acc = tilus.zeros(f32, (BM, BN))
    for i in range(k):
        x = tilus.load_global(A, (bm, i), (BM, 1))
        y = tilus.load_global(B, (i, bn), (1, BN))
        acc = rank_one(acc, x, y)
    tilus.store_global(tilus.global_view(c, TYPE, (m, n)), tilus.cast(acc, TYPE), (bm, bn))


@tilus.jit
def staged(
    a: tilus.ptr[u16],
    b: tilus.ptr[u16],
    c: tilus.ptr[u16],
    m: i32,
    n: i32,
    k: i32,
    TYPE: tilus.constexpr,
    BM: tilus.constexpr,
    BN: tilus.constexpr,
    BK: tilus.constexpr,
    STAGES: tilus.constexpr,
):
    """BK columns and rows at a time, through shared memory; STAGES of them on their way."""
    bm, bn = tilus.block_idx(0) * BM, tilus.block_idx(1) * BN
    A = tilus.global_view(a, TYPE, (m, k))
    B = tilus.global_view(b, TYPE, (k, n))
    near_a = tilus.allocate_shared(TYPE, (BM, BK))
    near_b = tilus.allocate_shared(TYPE, (BK, BN))
    acc = tilus.zeros(f32, (BM, BN))
    for at in tilus.range(0, k, BK, stages=STAGES):
        tilus.store_shared(near_a, tilus.load_global(A, (bm, at), (BM, BK)))
        tilus.store_shared(near_b, tilus.load_global(B, (at, bn), (BK, BN)))
        for i in range(BK):
            x = tilus.load_shared(near_a, (0, i), (BM, 1))
            y = tilus.load_shared(near_b, (i, 0), (1, BN))
            acc = rank_one(acc, x, y)
    tilus.store_global(tilus.global_view(c, TYPE, (m, n)), tilus.cast(acc, TYPE), (bm, bn))


@tilus.jit
def tensor(
    a: tilus.ptr[u16],
    b: tilus.ptr[u16],
    c: tilus.ptr[u16],
    m: i32,
    n: i32,
    k: i32,
    TYPE: tilus.constexpr,
    BM: tilus.constexpr,
    BN: tilus.constexpr,
    BK: tilus.constexpr,
    STAGES: tilus.constexpr,
):
    """The same with a matrix instruction."""
    bm, bn = tilus.block_idx(0) * BM, tilus.block_idx(1) * BN
    A = tilus.global_view(a, TYPE, (m, k))
    B = tilus.global_view(b, TYPE, (k, n))
    near_a = tilus.allocate_shared(TYPE, (BM, BK))
    near_b = tilus.allocate_shared(TYPE, (BK, BN))
    acc = tilus.zeros(f32, (BM, BN))
    for at in tilus.range(0, k, BK, stages=STAGES):
        tilus.store_shared(near_a, tilus.load_global(A, (bm, at), (BM, BK)))
        tilus.store_shared(near_b, tilus.load_global(B, (at, bn), (BK, BN)))
        acc = tilus.dot(tilus.load_shared(near_a), tilus.load_shared(near_b), acc)
    tilus.store_global(tilus.global_view(c, TYPE, (m, n)), tilus.cast(acc, TYPE), (bm, bn))


STEPS = {  # the kernel of each step, and its constants
    "naive": (naive, {}),
    "staged": (staged, {"BK": 32, "STAGES": 1}),
    "pipelined": (staged, {"BK": 32, "STAGES": 3}),
    "tensor": (tensor, {"BK": 32, "STAGES": 3}),
}
