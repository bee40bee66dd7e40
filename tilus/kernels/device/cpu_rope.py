"""Rotations of queries and keys, and the way of keys and values into a cache, on a CPU."""

import tilus
from tilus import f32, i32, u8
from tilus.kernels.device.cpu_attention import LANES, peak_of
from tilus.kernels.kv_cache import ZERO

CODES = 127.0  # the largest code of bytes
TINY = 2.0**-100  # rows of bytes without a greater number are zero, so that 127 / peak is finite


@tilus.jit
def head_of(X, H, COS, SIN, row, head, at, eps, dim: tilus.constexpr, HALF: tilus.constexpr,
            NORM: tilus.constexpr):  # fmt: skip
    """A head [1, dim], normed if NORM, its first 2 * HALF numbers turned to position `at`."""
    x = tilus.load_global(X, (row, head, 0), (1, dim), dims=(1, 2))
    if NORM:
        mean = tilus.sum(x * x, dim=1, keepdims=True) / (dim * 1.0)
        w = tilus.load_global(H, (0,), (dim,))
        x = x * (1.0 / tilus.sqrt(mean + eps)) * tilus.expand_dims(w, 0)
    c = tilus.load_global(COS, (at, 0), (1, HALF), dims=(0, 1))
    s = tilus.load_global(SIN, (at, 0), (1, HALF), dims=(0, 1))
    a, b = x[:, 0:HALF], x[:, HALF : 2 * HALF]
    if 2 * HALF == dim:
        return tilus.concat([a * c - b * s, b * c + a * s], dim=1)
    return tilus.concat([a * c - b * s, b * c + a * s, x[:, 2 * HALF : dim]], dim=1)


@tilus.jit
def stored(x, S, page, kv_head, place, form: tilus.constexpr):
    """A head [1, dim] as a cache stores it, [1, wide]; its scale goes to S."""
    if form.scaled:
        peak = peak_of(x)
        peak = tilus.where(peak <= TINY, 0.0, peak)  # NaN stays
        tilus.store_global(S, peak / CODES, (page, kv_head, place), dims=(1, 2))
        q = tilus.round(x * tilus.where(peak > 0.0, CODES / peak, 0.0))
        x = tilus.cast(tilus.cast(q, i32) + ZERO, u8)
    else:
        x = tilus.cast(x, form.stored)
    if form.wide > form.dim:
        x = tilus.concat([x, tilus.zeros(form.stored, (1, form.wide - form.dim))], dim=1)
    return x


@tilus.jit(num_threads=1)
def rope_store(
    qkv: tilus.ptr[f32],  # [rows, heads of queries, of keys, of values, dim]
    q_norm: tilus.ptr[f32],  # [dim], if QN
    k_norm: tilus.ptr[f32],  # [dim], if KN
    positions: tilus.ptr[i32],  # [rows]
    slots: tilus.ptr[i32],  # [rows]
    cos: tilus.ptr[f32],  # [places, HALF]
    sin: tilus.ptr[f32],
    k: tilus.ptr[u8],  # [pages, kv heads, page / 16, bytes]
    v: tilus.ptr[u8],  # [pages, kv heads, wide / 16, bytes]
    k_scale: tilus.ptr[f32],  # [pages, kv heads, page], if the format is scaled
    v_scale: tilus.ptr[f32],
    out: tilus.ptr[f32],  # [rows, heads of queries, dim]
    places: i32,
    pages: i32,
    eps: f32,
    form: tilus.constexpr,  # KvFormat
    GROUP: tilus.constexpr,  # query heads for a head of keys
    HALF: tilus.constexpr,
    QN: tilus.constexpr,
    KN: tilus.constexpr,
):
    """A head of keys and values of one row, and the queries that read it."""
    row, head = tilus.block_idx(0), tilus.block_idx(1)
    rows, heads = tilus.grid_dim(0), tilus.grid_dim(1)
    dim, depth = form.dim, form.depth
    X = tilus.global_view(qkv, f32, (rows, heads * (GROUP + 2), dim))
    Y = tilus.global_view(out, f32, (rows, heads * GROUP, dim))
    QH = tilus.global_view(q_norm, f32, (dim,))
    KH = tilus.global_view(k_norm, f32, (dim,))
    COS = tilus.global_view(cos, f32, (places, HALF))
    SIN = tilus.global_view(sin, f32, (places, HALF))
    P = tilus.global_view(positions, i32, (rows,))
    N = tilus.global_view(slots, i32, (rows,))
    K = tilus.global_view(
        k, form.stored, (pages, heads, form.page // LANES, form.wide // depth, LANES, depth)
    )
    V = tilus.global_view(
        v, form.stored, (pages, heads, form.wide // LANES, form.page // depth, LANES, depth)
    )
    KS = tilus.global_view(k_scale, f32, (pages, heads, form.page))
    VS = tilus.global_view(v_scale, f32, (pages, heads, form.page))
    at = tilus.item(tilus.load_global(P, (row,), (1,)))
    slot = tilus.item(tilus.load_global(N, (row,), (1,)))
    page, place = slot // form.page, slot % form.page
    for g in range(GROUP):
        one = head * GROUP + g
        q = head_of(X, QH, COS, SIN, row, one, at, eps, dim, HALF, QN)
        tilus.store_global(Y, q, (row, one, 0), dims=(1, 2))
    x = head_of(X, KH, COS, SIN, row, heads * GROUP + head, at, eps, dim, HALF, KN)
    x = tilus.reshape(stored(x, KS, page, head, place, form), (form.wide // depth, depth))
    tilus.store_global(K, x, (page, head, place // LANES, 0, place % LANES, 0), dims=(3, 5))
    x = tilus.load_global(X, (row, heads * (GROUP + 1) + head, 0), (1, dim), dims=(1, 2))
    x = tilus.reshape(stored(x, VS, page, head, place, form), (form.wide // LANES, LANES))
    tilus.store_global(V, x, (page, head, 0, place // depth, 0, place % depth), dims=(2, 4))
