"""Attention over a paged cache on a CPU, for prefill and decoding alike.

    s[r, j] = scale * sum over d of q[r, d] * k[j, d]            visible keys j of row r
    y[r, d] = sum over j of softmax(s[r])[j] * v[j, d]

A block takes a tile of rows of queries that share a head of keys (the GROUP heads of a token, then
those of the next token), and goes through a run of keys, a page of the cache at a time:

    s = q . k, 16 keys at a time --> m, l, p = online softmax, row by row --> y = y * alpha + p . v

for BM rows at a time, whose sums stay in registers.

Pages are stored as dots want them (`tilus.kernels.kv_cache`), so both products read memory from
end to end. Runs of SPLIT keys are separate blocks whose results (m, l, y) `merge_splits` puts
together in their order; a run begins at a multiple of SPLIT, so that a row's result does not depend
on the batch. Exponentials are to base 2. The online softmax is that of Milakov and Gimelshein
(2018), the merge that of FlashAttention-2 (Dao, 2023), section 3.
"""

import tilus
from tilus import f32, i32, u8

LANES = 16  # keys, or numbers of a head, that a dot makes at a time
FEW = 4  # rows of a block that computes less than it waits
LOWEST = -1e30  # less than any score; not infinite, so that differences are numbers


@tilus.jit
def rows_of_query(q_near, QV, first, row, rows, kv_head, form: tilus.constexpr,
                  ROWS: tilus.constexpr, GROUP: tilus.constexpr):  # fmt: skip
    """The queries of a tile in shared memory, as dots take them."""
    for r in range(ROWS):
        token, head = first + (row + r) // GROUP, kv_head * GROUP + (row + r) % GROUP
        x = tilus.zeros(f32, (1, form.dim))
        if row + r < rows:
            x = tilus.load_global(QV, (token, head, 0), (1, form.dim), dims=(1, 2))
        tilus.store_shared(q_near, tilus.cast(x, form.operand), (r, 0))


@tilus.jit
def scores(s_near, q_near, b, KV, page, kv_head, NEXT, ahead, form: tilus.constexpr,
           BM: tilus.constexpr):  # fmt: skip
    """Unscaled scores [BM, page] of block b of queries and the keys of a page.

    Few rows wait for memory: as much is asked for of what is needed next, from `ahead` on.
    """
    size = LANES * form.step
    for p in range(form.page // LANES):
        acc = tilus.zeros(f32, (BM, LANES))
        for d in tilus.static_range(form.dim // form.step):
            at = (page, kv_head, p, d * size)
            raw = tilus.load_global(KV, at, (size,), dims=(3,), layout=tilus.layouts.local(size))
            k = tilus.cast(tilus.view(raw, form.stored, form.order), form.operand)
            if BM <= FEW:
                tilus.prefetch(NEXT, (ahead + (p * form.dim // form.step + d) * size,), (size,))
            x = tilus.load_shared(q_near, (b * BM, d * form.step), (BM, form.step))
            acc = tilus.dot(x, k, acc)
        tilus.store_shared(s_near, acc, (0, p * LANES))


@tilus.jit
def values(y_near, p_near, a_near, b, VV, page, kv_head, NEXT, ahead, form: tilus.constexpr,
           BM: tilus.constexpr):  # fmt: skip
    """y = y * alpha + p . v for block b and the values of a page; `ahead` as in `scores`."""
    size = LANES * form.step
    alpha = tilus.load_shared(a_near, (0, 0), (BM, 1))
    for p in range(form.dim // LANES):
        acc = tilus.load_shared(y_near, (b * BM, p * LANES), (BM, LANES)) * alpha
        for j in tilus.static_range(form.page // form.step):
            at = (page, kv_head, p, j * size)
            raw = tilus.load_global(VV, at, (size,), dims=(3,), layout=tilus.layouts.local(size))
            v = tilus.cast(tilus.view(raw, form.stored, form.order), form.operand)
            if BM <= FEW:
                tilus.prefetch(NEXT, (ahead + (p * form.page // form.step + j) * size,), (size,))
            x = tilus.load_shared(p_near, (0, j * form.step), (BM, form.step))
            acc = tilus.dot(x, v, acc)
        tilus.store_shared(y_near, acc, (b * BM, p * LANES))


@tilus.jit(num_threads=1)
def attend(
    q: tilus.ptr[f32],  # [tokens, heads, dim]
    k: tilus.ptr[u8],  # [pages, kv heads, page / 16, bytes]
    v: tilus.ptr[u8],  # [pages, kv heads, dim / 16, bytes]
    table: tilus.ptr[i32],  # [sequences, pages of the longest]
    tiles: tilus.ptr[i32],  # [tiles, 4]: sequence, its first token, its tokens, first row
    lengths: tilus.ptr[i32],  # [sequences]: keys, those of the new tokens included
    part_out: tilus.ptr[f32],  # [tiles, kv heads, splits, ROWS, dim]
    part_state: tilus.ptr[f32],  # [tiles, kv heads, splits, ROWS, 2]: m and l
    tokens: i32,
    pages: i32,
    sequences: i32,
    longest: i32,  # pages of a row of the table
    scale: f32,  # with log2(e) in it; divided by the cap if there is one
    cap: f32,  # soft cap times log2(e), or 0
    window: i32,  # keys that are visible, at most
    form: tilus.constexpr,  # KvFormat
    BM: tilus.constexpr,
    ROWS: tilus.constexpr,  # of a tile: blocks of BM that pass over a page while it is near
    GROUP: tilus.constexpr,  # query heads for a head of keys
    SPLIT: tilus.constexpr,  # keys of a block: a multiple of the page
    CAPPED: tilus.constexpr,
):
    """ROWS rows of queries and one run of keys."""
    tile, kv_head, split = tilus.block_idx(0), tilus.block_idx(1), tilus.block_idx(2)
    tile_count, heads, splits = tilus.grid_dim(0), tilus.grid_dim(1), tilus.grid_dim(2)
    QV = tilus.global_view(q, f32, (tokens, heads * GROUP, form.dim))
    KV = tilus.global_view(k, form.raw, (pages, heads, form.page // LANES, LANES * form.dim))
    VV = tilus.global_view(v, form.raw, (pages, heads, form.dim // LANES, LANES * form.page))
    KF = tilus.global_view(k, form.raw, (pages * heads * (form.page * form.dim),))
    VF = tilus.global_view(v, form.raw, (pages * heads * (form.page * form.dim),))
    TV = tilus.global_view(table, i32, (sequences, longest))
    LV = tilus.global_view(tiles, i32, (tile_count, 4))
    NV = tilus.global_view(lengths, i32, (sequences,))
    PV = tilus.global_view(part_out, f32, (tile_count, heads, splits, ROWS, form.dim))
    SV = tilus.global_view(part_state, f32, (tile_count, heads, splits, ROWS, 2))
    sequence = tilus.item(tilus.load_global(LV, (tile, 0), (1,), dims=(1,)))
    first = tilus.item(tilus.load_global(LV, (tile, 1), (1,), dims=(1,)))
    count = tilus.item(tilus.load_global(LV, (tile, 2), (1,), dims=(1,)))
    row = tilus.item(tilus.load_global(LV, (tile, 3), (1,), dims=(1,)))
    length = tilus.item(tilus.load_global(NV, (sequence,), (1,)))
    rows = count * GROUP
    past = length - count  # keys before the sequence's first new token
    last = past + min(row + ROWS - 1, rows - 1) // GROUP  # the last key a row of the tile sees
    lowest = max(0, past + row // GROUP - window + 1)
    start = max(split * SPLIT, lowest // form.page * form.page)
    stop = min(split * SPLIT + SPLIT, last + 1)
    q_near = tilus.allocate_shared(form.operand, (ROWS, form.dim))
    s_near = tilus.allocate_shared(f32, (BM, form.page))
    p_near = tilus.allocate_shared(form.operand, (BM, form.page))
    y_near = tilus.allocate_shared(f32, (ROWS, form.dim))
    a_near = tilus.allocate_shared(f32, (BM, 1))
    m_near = tilus.allocate_shared(f32, (ROWS, 1))
    l_near = tilus.allocate_shared(f32, (ROWS, 1))
    rows_of_query(q_near, QV, first, row, rows, kv_head, form, ROWS, GROUP)
    tilus.store_shared(m_near, tilus.full(f32, (ROWS, 1), LOWEST), (0, 0))
    tilus.store_shared(l_near, tilus.zeros(f32, (ROWS, 1)), (0, 0))
    for r in range(ROWS):
        tilus.store_shared(y_near, tilus.zeros(f32, (1, form.dim)), (r, 0))
    keys = tilus.expand_dims(tilus.arange(form.page), 0)
    for b in range(start // form.page, tilus.cdiv(max(start, stop), form.page)):
        page = tilus.item(tilus.load_global(TV, (sequence, b), (1,), dims=(1,)))
        here = b * form.page
        after = tilus.item(tilus.load_global(TV, (sequence, b + 1), (1,), dims=(1,)))
        this_place = (page * heads + kv_head) * (form.page * form.dim)
        next_place = (after * heads + kv_head) * (form.page * form.dim)
        for i in range(tilus.cdiv(min(ROWS, rows - row), BM)):
            scores(s_near, q_near, i, KV, page, kv_head, VF, this_place, form, BM)
            for j in range(BM):
                r = i * BM + j
                s = tilus.load_shared(s_near, (j, 0), (1, form.page)) * scale
                if CAPPED:
                    s = tilus.tanh(s) * cap
                sees = past + (row + r) // GROUP
                if here + form.page > min(sees + 1, stop) or here <= sees - window:
                    at = keys + here
                    s = tilus.where((at <= sees) & (at > sees - window) & (at < stop), s, LOWEST)
                before = tilus.load_shared(m_near, (r, 0), (1, 1))
                m = tilus.maximum(before, tilus.max(s, dim=1, keepdims=True))
                p = tilus.where(s > LOWEST, tilus.exp2(s - m), 0.0)
                alpha = tilus.exp2(before - m)
                total = tilus.load_shared(l_near, (r, 0), (1, 1)) * alpha
                tilus.store_shared(l_near, total + tilus.sum(p, dim=1, keepdims=True), (r, 0))
                tilus.store_shared(m_near, m, (r, 0))
                tilus.store_shared(a_near, alpha, (j, 0))
                tilus.store_shared(p_near, tilus.cast(p, form.operand), (j, 0))
            values(y_near, p_near, a_near, i, VV, page, kv_head, KF, next_place, form, BM)
    for r in range(ROWS):
        y = tilus.load_shared(y_near, (r, 0), (1, form.dim))
        m = tilus.load_shared(m_near, (r, 0), (1, 1))
        total = tilus.load_shared(l_near, (r, 0), (1, 1))
        at = (tile, kv_head, split, r, 0)
        tilus.store_global(PV, y, at, dims=(3, 4))
        tilus.store_global(SV, tilus.concat([m, total], dim=1), at, dims=(3, 4))


@tilus.jit(num_threads=1)
def merge_splits(
    part_out: tilus.ptr[f32],
    part_state: tilus.ptr[f32],
    tiles: tilus.ptr[i32],
    sinks: tilus.ptr[f32],  # [heads], times log2(e)
    out: tilus.ptr[f32],
    tokens: i32,
    splits: i32,
    DIM: tilus.constexpr,
    ROWS: tilus.constexpr,
    GROUP: tilus.constexpr,
    SINKS: tilus.constexpr,
):
    """The rows of a tile from what its runs of keys gave."""
    tile, kv_head = tilus.block_idx(0), tilus.block_idx(1)
    tile_count, heads = tilus.grid_dim(0), tilus.grid_dim(1)
    PV = tilus.global_view(part_out, f32, (tile_count, heads, splits, ROWS, DIM))
    SV = tilus.global_view(part_state, f32, (tile_count, heads, splits, ROWS, 2))
    LV = tilus.global_view(tiles, i32, (tile_count, 4))
    OV = tilus.global_view(out, f32, (tokens, heads * GROUP, DIM))
    KV = tilus.global_view(sinks, f32, (heads * GROUP,))
    first = tilus.item(tilus.load_global(LV, (tile, 1), (1,), dims=(1,)))
    count = tilus.item(tilus.load_global(LV, (tile, 2), (1,), dims=(1,)))
    row = tilus.item(tilus.load_global(LV, (tile, 3), (1,), dims=(1,)))
    for r in range(min(ROWS, count * GROUP - row)):
        token, head = first + (row + r) // GROUP, kv_head * GROUP + (row + r) % GROUP
        m = tilus.full(f32, (1, 1), LOWEST)
        total = tilus.zeros(f32, (1, 1))
        if SINKS:
            m = tilus.reshape(tilus.load_global(KV, (head,), (1,)), (1, 1))
            total = tilus.full(f32, (1, 1), 1.0)
        y = tilus.zeros(f32, (1, DIM))
        for s in range(splits):
            at = (tile, kv_head, s, r, 0)
            state = tilus.load_global(SV, at, (1, 2), dims=(3, 4))
            other, weight = state[:, 0:1], state[:, 1:2]
            top = tilus.maximum(m, other)
            alpha, beta = tilus.exp2(m - top), tilus.exp2(other - top)
            total = total * alpha + weight * beta
            y = y * alpha + tilus.load_global(PV, at, (1, DIM), dims=(3, 4)) * beta
            m = top
        y = y / tilus.where(total > 0.0, total, 1.0)
        tilus.store_global(OV, y, (token, head, 0), dims=(1, 2))
