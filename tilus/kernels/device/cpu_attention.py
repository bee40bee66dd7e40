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

Against a cache of bytes both products are dots of integers. Queries, and probabilities times the
scales of their values, are rounded to 15 bits, in two signed bytes:

    x ~ unit * (128 * high + low)        |128 * high + low| <= 16256

The bytes of the cache are codes plus 128; what that adds is subtracted as 128 times the sum of x.
"""

import tilus
from tilus import f32, i8, i32, u8

LANES = 16  # keys, or numbers of a head, that a dot makes at a time
FEW = 4  # rows of a block that computes less than it waits
LOWEST = -1e30  # less than any score; not infinite, so that differences are numbers
LARGEST = 16256.0  # 128 * 127: of numbers in two signed bytes
ROUND = 1.5 * 2**23  # numbers added to it are rounded, and lie in its low bits


@tilus.jit
def peak_of(x):
    """The largest magnitude of a row [1, n]; NaN if one is there."""
    row, one = tilus.layouts.local(*x.shape), tilus.layouts.local(1, 1)
    bits = tilus.view(tilus.convert_layout(x, row), i32, row) & 0x7FFFFFFF
    peak = tilus.convert_layout(tilus.max(bits, dim=1, keepdims=True), one)
    return tilus.view(peak, f32, one)


@tilus.jit
def store_operand(near, bias_near, x, bias_at, r, form: tilus.constexpr):
    """A row [1, n] as an operand in row r; of integers its planes, and minus 128 times its sum."""
    if form.scaled:
        flat = tilus.layouts.local(*x.shape)
        rounded = tilus.convert_layout(x + ROUND, flat)
        whole = (tilus.view(rounded, i32, flat) & 0x7FFFFF) - 0x400000
        high = (whole + 64) >> 7
        tilus.store_shared(near, tilus.cast(high, i8), (0, r, 0), dims=(1, 2))
        tilus.store_shared(near, tilus.cast(whole - (high << 7), i8), (1, r, 0), dims=(1, 2))
        total = tilus.sum(whole, dim=1, keepdims=True)
        tilus.store_shared(bias_near, -128 * total, (bias_at, 0))
    else:
        tilus.store_shared(near, tilus.cast(x, form.operand), (0, r, 0), dims=(1, 2))


@tilus.jit
def rows_of_query(
    q_near,
    bias_near,
    unit_near,
    QV,
    first,
    row,
    rows,
    kv_head,
    form: tilus.constexpr,
    ROWS: tilus.constexpr,
    GROUP: tilus.constexpr,
):
    """The queries of a tile in shared memory, as dots take them."""
    for r in range(ROWS):
        token, head = first + (row + r) // GROUP, kv_head * GROUP + (row + r) % GROUP
        x = tilus.zeros(f32, (1, form.wide))
        if row + r < rows:
            x = tilus.load_global(QV, (token, head, 0), (1, form.wide), dims=(1, 2))
        if form.scaled:
            peak = peak_of(x)
            tilus.store_shared(unit_near, peak / LARGEST, (r, 0))
            x = x * tilus.where(peak > 0.0, LARGEST / peak, 0.0)
        store_operand(q_near, bias_near, x, r, r, form)


@tilus.jit
def begun(bias_near, r, form: tilus.constexpr, BM: tilus.constexpr):
    """What the sums of each plane begin with, [BM, 16]."""
    acc = (tilus.zeros(form.sums, (BM, LANES)),)
    if form.scaled:
        bias = tilus.load_shared(bias_near, (r, 0), (BM, 1))
        acc = (*acc, tilus.broadcast(bias, (BM, LANES)))
    return acc


@tilus.jit
def multiplied(acc, x_near, r, d, raw, form: tilus.constexpr, BM: tilus.constexpr):
    """The sums and a dot more: rows r... of an operand, numbers d..., and what `raw` holds."""
    w = tilus.cast(tilus.view(raw, form.stored, form.order), form.weight)
    before = acc
    acc = ()
    for plane, a in enumerate(before):
        x = tilus.load_shared(x_near, (plane, r, d), (BM, form.step), dims=(1, 2))
        acc = (*acc, tilus.dot(x, w, a))
    return acc


@tilus.jit
def summed(acc, form: tilus.constexpr):
    """The planes' sums as one number, f32."""
    if form.scaled:
        return tilus.cast(acc[0] * 128 + acc[1], f32)
    return acc[0]


@tilus.jit
def scores(s_near, q_near, bias_near, unit_near, b, KV, KS, page, kv_head, F, ahead,
           form: tilus.constexpr, BM: tilus.constexpr):  # fmt: skip
    """Unscaled scores [BM, page] of block b of queries and the keys of a page.

    Few rows wait for memory: they ask for the next page's keys, which begin at `ahead`.
    """
    size = LANES * form.step
    steps = form.wide // form.step
    for p in range(form.page // LANES):
        acc = begun(bias_near, b * BM, form, BM)
        for d in tilus.static_range(steps):
            at = (page, kv_head, p, d * size)
            raw = tilus.load_global(KV, at, (size,), dims=(3,), layout=tilus.layouts.local(size))
            if BM <= FEW:
                tilus.prefetch(F, (ahead + (p * steps + d) * size,), (size,), level=2)
            acc = multiplied(acc, q_near, b * BM, d * form.step, raw, form, BM)
        s = summed(acc, form)
        if form.scaled:
            s = s * tilus.load_shared(unit_near, (b * BM, 0), (BM, 1))
            s = s * tilus.load_global(KS, (page, kv_head, p * LANES), (1, LANES), dims=(1, 2))
        tilus.store_shared(s_near, s, (0, p * LANES))


@tilus.jit
def values(y_near, p_near, p_bias, unit, a_near, b, VV, page, kv_head, F, ahead,
           form: tilus.constexpr, BM: tilus.constexpr):  # fmt: skip
    """y = y * alpha + p . v for block b and the values of a page.

    Few rows ask for half as much of the next page's, from `ahead` on.
    """
    size = LANES * form.step
    steps = form.page // form.step
    alpha = tilus.load_shared(a_near, (0, 0), (BM, 1))
    for p in range(form.wide // LANES):
        y = tilus.load_shared(y_near, (b * BM, p * LANES), (BM, LANES)) * alpha
        acc = begun(p_bias, 0, form, BM) if form.scaled else (y,)
        for j in tilus.static_range(steps):
            at = (page, kv_head, p, j * size)
            raw = tilus.load_global(VV, at, (size,), dims=(3,), layout=tilus.layouts.local(size))
            if BM <= FEW and j % 2 == 0:
                half = (p * steps + j) * size // 2
                tilus.prefetch(F, (ahead + half,), (size,), level=2)
            acc = multiplied(acc, p_near, 0, j * form.step, raw, form, BM)
        y = y + summed(acc, form) * unit if form.scaled else acc[0]
        tilus.store_shared(y_near, y, (b * BM, p * LANES))


@tilus.jit(num_threads=1)
def attend(
    q: tilus.ptr[f32],  # [tokens, heads, dim]
    k: tilus.ptr[u8],  # [pages, kv heads, page / 16, bytes]
    v: tilus.ptr[u8],  # [pages, kv heads, wide / 16, bytes]
    k_scale: tilus.ptr[f32],  # [pages, kv heads, page], if the format is scaled
    v_scale: tilus.ptr[f32],
    table: tilus.ptr[i32],  # [sequences, pages of the longest]
    tiles: tilus.ptr[i32],  # [tiles, 4]: sequence, its first token, its tokens, first row
    lengths: tilus.ptr[i32],  # [sequences]: keys, those of the new tokens included
    part_out: tilus.ptr[f32],  # [tiles, kv heads, splits, ROWS, wide]
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
    KV = tilus.global_view(k, form.raw, (pages, heads, form.page // LANES, LANES * form.wide))
    VV = tilus.global_view(v, form.raw, (pages, heads, form.wide // LANES, LANES * form.page))
    KF = tilus.global_view(k, form.raw, (pages * heads * (form.page * form.wide),))
    VF = tilus.global_view(v, form.raw, (pages * heads * (form.page * form.wide),))
    KS = tilus.global_view(k_scale, f32, (pages, heads, form.page))
    VS = tilus.global_view(v_scale, f32, (pages, heads, form.page))
    TV = tilus.global_view(table, i32, (sequences, longest))
    LV = tilus.global_view(tiles, i32, (tile_count, 4))
    NV = tilus.global_view(lengths, i32, (sequences,))
    PV = tilus.global_view(part_out, f32, (tile_count, heads, splits, ROWS, form.wide))
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
    q_near = tilus.allocate_shared(form.operand, (form.planes, ROWS, form.wide))
    q_bias = tilus.allocate_shared(i32, (ROWS, 1))
    q_unit = tilus.allocate_shared(f32, (ROWS, 1))
    s_near = tilus.allocate_shared(f32, (BM, form.page))
    p_near = tilus.allocate_shared(form.operand, (form.planes, BM, form.page))
    p_bias = tilus.allocate_shared(i32, (BM, 1))
    y_near = tilus.allocate_shared(f32, (ROWS, form.wide))
    a_near = tilus.allocate_shared(f32, (BM, 1))
    m_near = tilus.allocate_shared(f32, (ROWS, 1))
    l_near = tilus.allocate_shared(f32, (ROWS, 1))
    rows_of_query(q_near, q_bias, q_unit, QV, first, row, rows, kv_head, form, ROWS, GROUP)
    tilus.store_shared(m_near, tilus.full(f32, (ROWS, 1), LOWEST), (0, 0))
    tilus.store_shared(l_near, tilus.zeros(f32, (ROWS, 1)), (0, 0))
    for r in range(ROWS):
        tilus.store_shared(y_near, tilus.zeros(f32, (1, form.wide)), (r, 0))
    keys = tilus.expand_dims(tilus.arange(form.page), 0)
    unit = tilus.zeros(f32, (1, 1))
    scales = tilus.zeros(f32, (1, form.page))
    for b in range(start // form.page, tilus.cdiv(max(start, stop), form.page)):
        page = tilus.item(tilus.load_global(TV, (sequence, b), (1,), dims=(1,)))
        here = b * form.page
        after = tilus.item(tilus.load_global(TV, (sequence, b + 1), (1,), dims=(1,)))
        ahead = (after * heads + kv_head) * (form.page * form.wide)
        half = form.page * form.wide // 2
        if form.scaled:
            scales = tilus.load_global(VS, (page, kv_head, 0), (1, form.page), dims=(1, 2))
            scales = tilus.where(keys + here < stop, scales, 0.0)
            peak = peak_of(scales)
            unit = peak / LARGEST
            scales = scales * tilus.where(peak > 0.0, LARGEST / peak, 0.0)
        for i in range(tilus.cdiv(min(ROWS, rows - row), BM)):
            scores(
                s_near, q_near, q_bias, q_unit, i, KV, KS, page, kv_head, KF, ahead, form, BM
            )  # fmt: skip
            for j in range(BM):
                r = i * BM + j
                if BM <= FEW:
                    tilus.prefetch(VF, (ahead + j * (half // BM),), (half // BM,), level=2)
                s = tilus.load_shared(s_near, (j, 0), (1, form.page)) * scale
                if CAPPED:
                    s = tilus.tanh(s) * cap
                sees = past + (row + r) // GROUP
                if here + form.page > min(sees + 1, stop) or here <= sees - window:
                    at = keys + here
                    s = tilus.where((at <= sees) & (at > sees - window) & (at < stop), s, LOWEST)
                before = tilus.load_shared(m_near, (r, 0), (1, 1))
                m = tilus.maximum(before, tilus.max(s, dim=1, keepdims=True))
                p = tilus.where(s != LOWEST, tilus.exp2(s - m), 0.0)  # NaN stays
                alpha = tilus.exp2(before - m)
                total = tilus.load_shared(l_near, (r, 0), (1, 1)) * alpha
                tilus.store_shared(l_near, total + tilus.sum(p, dim=1, keepdims=True), (r, 0))
                tilus.store_shared(m_near, m, (r, 0))
                tilus.store_shared(a_near, alpha, (j, 0))
                store_operand(p_near, p_bias, p * scales if form.scaled else p, j, j, form)
            rest = ahead + half
            values(y_near, p_near, p_bias, unit, a_near, i, VV, page, kv_head, VF, rest, form, BM)
    for r in range(ROWS):
        y = tilus.load_shared(y_near, (r, 0), (1, form.wide))
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
    form: tilus.constexpr,  # KvFormat
    ROWS: tilus.constexpr,
    GROUP: tilus.constexpr,
    SINKS: tilus.constexpr,
):
    """The rows of a tile from what its runs of keys gave."""
    tile, kv_head = tilus.block_idx(0), tilus.block_idx(1)
    tile_count, heads = tilus.grid_dim(0), tilus.grid_dim(1)
    PV = tilus.global_view(part_out, f32, (tile_count, heads, splits, ROWS, form.wide))
    SV = tilus.global_view(part_state, f32, (tile_count, heads, splits, ROWS, 2))
    LV = tilus.global_view(tiles, i32, (tile_count, 4))
    OV = tilus.global_view(out, f32, (tokens, heads * GROUP, form.dim))
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
        y = tilus.zeros(f32, (1, form.wide))
        for s in range(splits):
            at = (tile, kv_head, s, r, 0)
            state = tilus.load_global(SV, at, (1, 2), dims=(3, 4))
            other, weight = state[:, 0:1], state[:, 1:2]
            top = tilus.maximum(m, other)
            alpha, beta = tilus.exp2(m - top), tilus.exp2(other - top)
            total = total * alpha + weight * beta
            y = y * alpha + tilus.load_global(PV, at, (1, form.wide), dims=(3, 4)) * beta
            m = top
        y = y / tilus.where(total > 0.0, total, 1.0)
        tilus.store_global(OV, y, (token, head, 0), dims=(1, 2))
