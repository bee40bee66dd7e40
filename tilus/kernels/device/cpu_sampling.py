"""Choosing tokens on a CPU without sorting.

    logits --find_peaks--> the largest of every chunk
           --keep_first--> top-k: what is above a cut, or equal to it up to an id
           --weigh-------> weights e^((x - largest) / temperature) of these, and sums of chunks
           --choose------> top-p as another cut, min-p, the token

A cut is found by bisection between two values that occur; chunks whose largest is below both are
not looked at. Sums have one order, whatever the threads: within a chunk, then chunk by chunk.
"""

import tilus
from tilus import f32, f64, i32, i64, u64

CHUNK = 256  # logits of a chunk
LANES = 64  # of which so many are looked at together
SUMS = 16  # of a row, side by side
SHARE = 64  # chunks of a block, where a row is shared among blocks
FAR = 60.0  # so many temperatures below the largest, weights count as 0
COLDEST = 1e-30  # temperatures below, but 0, count as this
LARGEST = 3.4028234663852886e38  # of f32
NONE = 0x7FFFFFFF  # an id above all
LOW = 0xFFFFFFFF  # the lower half of 64 bits


@tilus.jit(num_threads=1)
def find_peaks(
    logits: tilus.ptr[f32],  # [rows, size]
    peaks: tilus.ptr[f32],  # [rows, chunks]
    size: i32,
    chunks: i32,
):
    """The largest logits of SHARE chunks; infinite where one is NaN."""
    row, rows, first = tilus.block_idx(1), tilus.grid_dim(1), tilus.block_idx(0) * SHARE
    X = tilus.global_view(logits, f32, (rows, size))
    P = tilus.global_view(peaks, f32, (rows, chunks))
    for c in range(first, min(first + SHARE, chunks)):
        x = chunk_of(X, row, c)
        x = tilus.where(x < float("inf"), x, float("inf"))
        tilus.store_global(P, tilus.max(x, dim=0, keepdims=True), (row, c), dims=(1,))


@tilus.jit(num_threads=1)
def keep_first(
    logits: tilus.ptr[f32],  # [rows, size]
    peaks: tilus.ptr[f32],  # [rows, chunks]
    temperature: tilus.ptr[f32],  # [rows]
    top_k: tilus.ptr[i64],  # [rows]
    cuts: tilus.ptr[f32],  # [rows, 2]: the largest logit, the least that stays
    last: tilus.ptr[i32],  # [rows]: of logits equal to the least, the last id that stays
    size: i32,
    chunks: i32,
):
    """Top-k of a row."""
    row, rows = tilus.block_idx(0), tilus.grid_dim(0)
    X = tilus.global_view(logits, f32, (rows, size))
    P = tilus.global_view(peaks, f32, (rows, chunks))
    C = tilus.global_view(cuts, f32, (rows, 2))
    L = tilus.global_view(last, i32, (rows,))
    heat = number(tilus.global_view(temperature, f32, (rows,)), row)
    k = number(tilus.global_view(top_k, i64, (rows,)), row)
    top = -float("inf")
    for c in range(tilus.cdiv(chunks, CHUNK)):
        top = max(top, tilus.item(tilus.max(chunk_of(P, row, c), dim=0, keepdims=True)))
    cut, until = max(top - FAR * max(heat, COLDEST), -LARGEST), NONE
    is_cut = 0 < k and k < tilus.cast(size, i64)
    if is_cut and heat > 0.0 and -LARGEST <= top <= LARGEST:
        limit = tilus.cast(k, f64)
        if k <= tilus.cast(chunks, i64):
            cut, _ = least(P, None, None, row, chunks, limit, cut, top)
        cut, above = least(X, None, P, row, size, limit, cut, top)
        until = last_of(X, P, row, size, cut, tilus.cast(limit - above, i32))
    tilus.store_global(C, tilus.full(f32, (1,), top), (row, 0), dims=(1,))
    tilus.store_global(C, tilus.full(f32, (1,), cut), (row, 1), dims=(1,))
    tilus.store_global(L, tilus.full(i32, (1,), until), (row,))


@tilus.jit(num_threads=1)
def weigh(
    logits: tilus.ptr[f32],  # [rows, size]
    peaks: tilus.ptr[f32],  # [rows, chunks]
    temperature: tilus.ptr[f32],  # [rows]
    cuts: tilus.ptr[f32],  # [rows, 2]
    last: tilus.ptr[i32],  # [rows]
    weights: tilus.ptr[f32],  # [rows, size]; only chunks that reach the cut are written
    sums: tilus.ptr[f64],  # [rows, chunks]: of weights
    size: i32,
    chunks: i32,
):
    """The weights of SHARE chunks of a row; 0 where top-k takes the logit away."""
    row, rows, first = tilus.block_idx(1), tilus.grid_dim(1), tilus.block_idx(0) * SHARE
    X = tilus.global_view(logits, f32, (rows, size))
    P = tilus.global_view(peaks, f32, (rows, chunks))
    C = tilus.global_view(cuts, f32, (rows, 2))
    W = tilus.global_view(weights, f32, (rows, size))
    S = tilus.global_view(sums, f64, (rows, chunks))
    heat = number(tilus.global_view(temperature, f32, (rows,)), row)
    until = number(tilus.global_view(last, i32, (rows,)), row)
    top, cut = element(C, row, 0), element(C, row, 1)
    if heat > 0.0:
        for c in range(first, min(first + SHARE, chunks)):
            total = tilus.zeros(f64, (1,))
            if element(P, row, c) >= cut:
                x = chunk_of(X, row, c)
                w = tilus.where(stays(x, c, cut, until), weight_of(x, top, heat), 0.0)
                tilus.store_global(W, w, (row, c * CHUNK), dims=(1,))
                total = tilus.sum(tilus.cast(w, f64), dim=0, keepdims=True)
            tilus.store_global(S, total, (row, c), dims=(1,))


@tilus.jit(num_threads=1)
def choose(
    logits: tilus.ptr[f32],  # [rows, size]
    peaks: tilus.ptr[f32],  # [rows, chunks]
    temperature: tilus.ptr[f32],  # [rows]
    top_p: tilus.ptr[f32],  # [rows]
    min_p: tilus.ptr[f32],  # [rows]
    seed: tilus.ptr[u64],  # [rows]
    position: tilus.ptr[u64],  # [rows]
    cuts: tilus.ptr[f32],  # [rows, 2]
    weights: tilus.ptr[f32],  # [rows, size]
    sums: tilus.ptr[f64],  # [rows, chunks]
    out: tilus.ptr[i64],  # [rows]
    size: i32,
    chunks: i32,
):
    """The token of a row."""
    row, rows = tilus.block_idx(0), tilus.grid_dim(0)
    X = tilus.global_view(logits, f32, (rows, size))
    P = tilus.global_view(peaks, f32, (rows, chunks))
    C = tilus.global_view(cuts, f32, (rows, 2))
    W = tilus.global_view(weights, f32, (rows, size))
    S = tilus.global_view(sums, f64, (rows, chunks))
    Y = tilus.global_view(out, i64, (rows,))
    heat = number(tilus.global_view(temperature, f32, (rows,)), row)
    mass = number(tilus.global_view(top_p, f32, (rows,)), row)
    floor = number(tilus.global_view(min_p, f32, (rows,)), row)
    top, cut = element(C, row, 0), element(C, row, 1)
    token = -1
    if -LARGEST <= top <= LARGEST:
        if heat > 0.0:
            if mass < 1.0 or floor > 0.0:
                until = NONE
                if mass < 1.0:
                    total = total_of(S, row, chunks)
                    limit = max(tilus.cast(mass, f64) * total, 1e-30)
                    cut, above = least(X, W, P, row, size, limit, cut, top)
                    weight = weight_of(tilus.full(f32, (1,), cut), top, heat)
                    room = tilus.ceil((limit - above) / tilus.cast(weight, f64))
                    until = last_of(X, P, row, size, cut, tilus.item(tilus.cast(room, i32)))
                restrict(X, W, P, S, row, chunks, cut, until, floor)
            draw = uniform(number_tile(seed, rows, row), number_tile(position, rows, row))
            token = crossing(W, S, row, chunks, tilus.item(draw))
        else:
            token = last_of(X, P, row, size, top, 1)
    tilus.store_global(Y, tilus.full(i64, (1,), tilus.cast(token, i64)), (row,))


@tilus.jit
def chunk_of(X, row, c):
    """A chunk of a row, -inf beyond its end."""
    return tilus.load_global(X, (row, c * CHUNK), (CHUNK,), dims=(1,), other=-float("inf"))


@tilus.jit
def element(V, row, i):
    """One number of a row."""
    return tilus.item(tilus.load_global(V, (row, i), (1,), dims=(1,)))


@tilus.jit
def number(V, row):
    """A row's setting."""
    return tilus.item(tilus.load_global(V, (row,), (1,)))


@tilus.jit
def number_tile(pointer, rows, row):
    """A row's 64 bits."""
    return tilus.load_global(tilus.global_view(pointer, u64, (rows,)), (row,), (1,))


@tilus.jit
def weight_of(x, top, heat):
    """e^((x - top) / heat), of halves, as the difference may be beyond f32."""
    return tilus.exp((x * 0.5 - top * 0.5) * (2.0 / max(heat, COLDEST)))


@tilus.jit
def stays(x, c, cut, until):
    """Which logits of chunk c are above a cut, or equal to it with an id up to `until`."""
    ids = tilus.arange(CHUNK) + c * CHUNK
    return (x > cut) | ((x == cut) & (ids <= until))


@tilus.jit
def least(X, W, P, row, size, limit, low, high):
    """The least value of a row, from `low` to `high`, with less than `limit` above it.

    What is above is measured by the weights W, or counted. The largest of the row is `high`; P is
    None, or has the largest of each chunk. Returns the value and what is above it.
    """
    above_high = f64(0.0)
    while low < high:
        middle = low * 0.5 + high * 0.5
        if middle >= high or middle < low:
            middle = low
        parts = tilus.zeros(f64, (SUMS,))
        above, under = tilus.full(f32, (LANES,), high), tilus.full(f32, (LANES,), -float("inf"))
        for c in range(tilus.cdiv(size, CHUNK)):
            if P is None or element(P, row, c) >= low:
                x = chunk_of(X, row, c)
                w = tilus.full(f32, (CHUNK,), 1.0)
                if W is not None:
                    w = tilus.load_global(W, (row, c * CHUNK), (CHUNK,), dims=(1,))
                part = tilus.zeros(f32, (LANES,))
                for i in tilus.static_range(0, CHUNK, LANES):
                    t = x[i : i + LANES]
                    is_above = t > middle
                    part += tilus.where(is_above, w[i : i + LANES], 0.0)
                    above = tilus.where(is_above & (t < above), t, above)
                    under = tilus.where(is_above | (t <= under), under, t)
                part = tilus.sum(tilus.reshape(part, (LANES // SUMS, SUMS)), dim=0)
                parts += tilus.cast(part, f64)
        total = tilus.item(tilus.sum(parts, dim=0, keepdims=True))
        below = tilus.item(tilus.max(under, dim=0, keepdims=True))
        if total >= limit or below < low:
            low = tilus.item(tilus.min(above, dim=0, keepdims=True))
        else:
            high, above_high = below, total
    return high, above_high


@tilus.jit
def last_of(X, P, row, size, value, count):
    """The id of the `count`-th logit that equals `value`; NONE if there are fewer."""
    found, c = NONE, 0
    while c * CHUNK < size and found == NONE:
        if element(P, row, c) >= value:
            same = tilus.cast(chunk_of(X, row, c) == value, i32)
            here = tilus.item(tilus.sum(same, dim=0, keepdims=True))
            if here >= count:
                before = tilus.cast(tilus.cumsum(same, dim=0) < count, i32)
                found = c * CHUNK + tilus.item(tilus.sum(before, dim=0, keepdims=True))
            count -= here
        c += 1
    return found


@tilus.jit
def restrict(X, W, P, S, row, chunks, cut, until, floor):
    """Take away the weights below the cut, and those below `floor`."""
    for c in range(chunks):
        total = tilus.zeros(f64, (1,))
        if element(P, row, c) >= cut:
            x = chunk_of(X, row, c)
            w = tilus.load_global(W, (row, c * CHUNK), (CHUNK,), dims=(1,))
            w = tilus.where(stays(x, c, cut, until) & (w >= floor), w, 0.0)
            tilus.store_global(W, w, (row, c * CHUNK), dims=(1,))
            total = tilus.sum(tilus.cast(w, f64), dim=0, keepdims=True)
        tilus.store_global(S, total, (row, c), dims=(1,))


@tilus.jit
def total_of(S, row, chunks):
    """The sum of a row's weights."""
    total = f64(0.0)
    for c in range(chunks):
        total += element(S, row, c)
    return total


@tilus.jit
def crossing(W, S, row, chunks, share):
    """The first id up to which the weights are more than `share` of their total."""
    target = share * total_of(S, row, chunks)
    before, c = f64(0.0), 0
    part = element(S, row, 0)
    while before + part <= target and c < chunks - 1:
        before += part
        c += 1
        part = element(S, row, c)
    w = tilus.load_global(W, (row, c * CHUNK), (CHUNK,), dims=(1,))
    up_to = before + tilus.cumsum(tilus.cast(w, f64), dim=0)
    passed = tilus.sum(tilus.cast(up_to <= target, i32), dim=0, keepdims=True)
    # Sums of one chunk in another order may fall short of the target by a rounding.
    ids = tilus.where(w > 0.0, tilus.arange(CHUNK), 0)
    return c * CHUNK + min(tilus.item(passed), tilus.item(tilus.max(ids, dim=0, keepdims=True)))


@tilus.jit
def uniform(seed, position):
    """A number between 0 and 1 for a place in a stream: the reference's, bit for bit."""
    key, other_key = seed & LOW, seed >> 32
    a, b = position & LOW, position >> 32
    c, d = tilus.zeros(u64, (1,)), tilus.zeros(u64, (1,))
    for _ in tilus.static_range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b = (second >> 32) ^ b ^ key, second & LOW
        c, d = (first >> 32) ^ d ^ other_key, first & LOW
        key, other_key = (key + 0x9E3779B9) & LOW, (other_key + 0xBB67AE85) & LOW
    return (tilus.cast(a >> 9, f64) + 0.5) * 2.0**-23
