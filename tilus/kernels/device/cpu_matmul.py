"""Quantised products on a CPU: any weight type against 8-bit, bf16 or f32 activations.

    y[m, n] = sum over groups g of
              scale[g, n] * x_scale[m, g] * (sum over k in g of x[m, k] * w[k, n]
                                             - zero[g, n] * sum over k in g of x[m, k])

    x --arrange_rows--> blocks of rows, with scales and sums --matmul_panels--> y

Against 8-bit activations the inner sum is an integer dot: x is rounded to i8, one scale for each
row and chunk of k, and weights are one or two unsigned bytes (`tilus.kernels.integers`). Against
others weights are multiplied as the numbers they stand for. A block makes one panel
(`tilus.kernels.panels`) of a stack of TALL blocks of BM rows; chunk by chunk, what it reads lies
together. A row's result does not depend on how many there are:

    few rows     codes are taken apart in registers and multiplied at once
    many rows    the codes of a chunk are taken apart once, into near memory, for all blocks of rows
"""

import tilus
from tilus import f32, i8, i32, u8
from tilus.kernels.panels import PANEL

AHEAD = 4096  # bytes of weights that are asked for ahead of their use, for one row
NEAR, FAR = 1024, 8192  # the same in two steps: into the second cache first
TWO_STEPS = (5, 6, 7)  # bits of codes that take so long to take apart that this pays


@tilus.jit(num_threads=1)
def arrange_rows(
    x: tilus.ptr[u8],  # [rows, k] of TYPE
    out: tilus.ptr[u8],  # [stacks, chunks, TALL, BM, chunk] of the format's operand
    out_scale: tilus.ptr[f32],  # [stacks, chunks, TALL, BM], for 8-bit integers
    out_sum: tilus.ptr[u8],  # [stacks, chunks, TALL, groups, BM]: minus the sums over groups
    rows: i32,
    k: i32,
    chunks: i32,
    form: tilus.constexpr,  # PanelFormat
    TYPE: tilus.constexpr,
    BM: tilus.constexpr,
    TALL: tilus.constexpr,
    SPLIT: tilus.constexpr,  # chunks of a block
    WHOLE: tilus.constexpr,  # x is [row blocks * BM, chunks * chunk], with nothing left over
):
    """Rows as the operand of a product, chunk by chunk."""
    block = tilus.block_idx(0)
    blocks = tilus.grid_dim(0)
    if WHOLE:
        rows, k = blocks * BM, chunks * form.chunk
    X = tilus.global_view(x, TYPE, (rows, k))
    stack, place = block // TALL, block % TALL
    stacks = (blocks + TALL - 1) // TALL
    Q = tilus.global_view(out, form.operand, (stacks, chunks, TALL, BM, form.chunk))
    S = tilus.global_view(out_scale, f32, (stacks, chunks, TALL, BM))
    T = tilus.global_view(out_sum, form.sums, (stacks, chunks, TALL, form.groups, BM))
    row, one = tilus.layouts.local(1, form.chunk), tilus.layouts.local(1, 1)
    start = tilus.block_idx(1) * SPLIT
    for c in range(start, min(start + SPLIT, chunks)):
        for r in range(BM):
            at = (block * BM + r, c * form.chunk)
            t = tilus.cast(tilus.load_global(X, at, (1, form.chunk)), f32)
            if form.operand == i8:
                # The largest magnitude, by its bits: NaN is larger than infinity, and neither
                # becomes a number, as the scale is NaN or infinite and the code 0.
                bits = tilus.view(tilus.convert_layout(t, row), i32, row) & 0x7FFFFFFF
                peak = tilus.convert_layout(tilus.max(bits, dim=1, keepdims=True), one)
                peak = tilus.view(peak, f32, one)
                inverse = tilus.where(peak > 0.0, 127.0 / peak, 0.0)
                q = tilus.cast(tilus.round(t * inverse), i8)
                tilus.store_global(S, peak / 127.0, (stack, c, place, r), dims=(2, 3))
            else:
                q = tilus.cast(t, form.operand)
            tilus.store_global(Q, q, (stack, c, place, r, 0), dims=(3, 4))
            wide = tilus.cast(q, form.sums)
            for g in tilus.static_range(form.groups):
                part = wide[:, g * form.span : (g + 1) * form.span]
                tilus.store_global(T, -tilus.sum(part, dim=1), (stack, c, place, g, r))


@tilus.jit
def decode(W, panel, c, at: tilus.constexpr, form: tilus.constexpr):
    """The codes [step, 16] that begin at byte `at` of a chunk, one in a byte."""
    codes = None
    for plane in form.planes:
        size = plane.nbytes(form.step)
        flat = tilus.layouts.local(size)
        raw = tilus.load_global(W, (panel, c, at), (size,), layout=flat)
        at += size
        part = tilus.view(raw, tilus.dtype(f"u{plane.bits}"), plane.layout(form.step))
        if plane.bits < 8:
            part = tilus.cast(part, u8)
        if plane.shift:
            part = part << plane.shift
        codes = part if codes is None else codes | part
    return codes


@tilus.jit
def stored_row(W, panel, c, at: tilus.constexpr, dtype: tilus.constexpr):
    """One number for each column of the panel, from byte `at` of a chunk on: [1, 16]."""
    size = PANEL * dtype.bits // 8
    raw = tilus.load_global(W, (panel, c, at), (size,), layout=tilus.layouts.local(size))
    return tilus.expand_dims(tilus.view(raw, dtype, tilus.layouts.local(PANEL)), 0)


@tilus.jit
def weights_of(codes, zero, part: tilus.constexpr, form: tilus.constexpr, TYPE: tilus.constexpr):
    """Codes [step, 16] of TYPE as the weights of a dot: unsigned bytes, or numbers."""
    if form.form is not None:
        if part.table is None:
            return codes
        index = tilus.cast(codes, tilus.dtype(f"u{form.bits}"))
        return tilus.lookup(index, tilus.constant(u8, part.table))
    if form.bits < 8:
        codes = tilus.cast(codes, tilus.dtype(f"u{form.bits}"))
    codes = tilus.view(tilus.convert_layout(codes, form.order), TYPE, form.order)
    if zero is None:
        return tilus.cast(codes, form.operand)
    return tilus.cast(tilus.cast(codes, f32) - zero, form.operand)


@tilus.jit
def zero_of(W, panel, c, g: tilus.constexpr, form: tilus.constexpr):
    """The zero points of a group, if they are subtracted from each weight."""
    if form.zeros_apply == "weight":
        at = g * form.group_bytes + form.scale_bytes
        return tilus.cast(stored_row(W, panel, c, at, form.zero), f32)
    return None


@tilus.jit
def scaled(total, acc, x_row, sums, W, panel, c, g: tilus.constexpr, form: tilus.constexpr):
    """`total` and the dots of a group, the latter with zero points and scales."""
    head = g * form.group_bytes
    whole = None
    for part, a in zip(form.parts, acc, strict=True):
        weighted = a * part.weight if part.weight != 1 else a
        whole = weighted if whole is None else whole + weighted
    whole = tilus.cast(whole, f32)
    if form.zeros_apply == "end":
        zero = tilus.cast(stored_row(W, panel, c, head + form.scale_bytes, form.zero), f32)
        whole = tilus.fma(tilus.cast(sums, f32), zero, whole)
    if form.operand == i8:
        factor = x_row * (1.0 / form.form.factor) if form.form.factor != 1.0 else x_row
        if form.group:
            factor = factor * tilus.cast(stored_row(W, panel, c, head, form.scale), f32)
        else:
            factor = tilus.broadcast(factor, whole.shape)
        return tilus.fma(whole, factor, total)
    if form.group:
        factor = tilus.cast(stored_row(W, panel, c, head, form.scale), f32)
        return tilus.fma(whole, tilus.broadcast(factor, whole.shape), total)
    return total + whole


@tilus.jit
def begun(sums, W, panel, c, g: tilus.constexpr, form: tilus.constexpr, BM: tilus.constexpr):
    """What the dots of a group begin with: zero points times sums, where both are integers."""
    acc = ()
    for part in form.parts:
        if form.operand != i8:
            acc = (*acc, tilus.zeros(f32, (BM, PANEL)))
        elif form.zeros_apply == "begin":
            at = g * form.group_bytes + form.scale_bytes
            zero = tilus.cast(stored_row(W, panel, c, at, u8), i32)
            acc = (*acc, sums * zero)
        else:
            acc = (*acc, tilus.broadcast(sums * part.zero, (BM, PANEL)))
    return acc


@tilus.jit
def ask_for(F, place, nbytes: tilus.constexpr, form: tilus.constexpr, BM: tilus.constexpr):
    """Prefetch what comes some way behind a place of the weights."""
    if BM >= 4:
        tilus.prefetch(F, (place + AHEAD // 2,), (nbytes,))
    elif form.bits in TWO_STEPS:
        tilus.prefetch(F, (place + FAR,), (nbytes,), level=2)
        tilus.prefetch(F, (place + NEAR,), (nbytes,))
    else:
        tilus.prefetch(F, (place + AHEAD,), (nbytes,))


@tilus.jit
def few_rows(total, here, W, F, X, XS, XT, panel, stack, c, form: tilus.constexpr,
             WEIGHTS: tilus.constexpr, BM: tilus.constexpr):  # fmt: skip
    """`total` [BM, 16] and a chunk's part of it; codes are used as they are taken apart."""
    # Many requests at once would block the loads behind them: dots go between.
    parts = 4 if BM >= 4 else 1
    size, lines = form.step // parts, tilus.cdiv(form.step_bytes, 64)
    x_row = tilus.load_global(XS, (stack, c, 0, 0, 0), (BM, 1))
    for g in tilus.static_range(form.groups):
        sums = tilus.load_global(XT, (stack, c, 0, g, 0, 0), (BM, 1))
        acc = begun(sums, W, panel, c, g, form, BM)
        zero = zero_of(W, panel, c, g, form)
        for s in tilus.static_range(form.span // form.step):
            row = g * form.span + s * form.step
            at = g * form.group_bytes + form.head_bytes + s * form.step_bytes
            codes = decode(W, panel, c, at, form)
            for i in tilus.static_range(parts):
                lo, hi = i * lines // parts, (i + 1) * lines // parts
                if hi > lo:
                    ask_for(F, here + at + lo * 64, (hi - lo) * 64, form, BM)
                xs = tilus.load_global(X, (stack, c, 0, 0, row + i * size), (BM, size))
                before = acc
                acc = ()
                for part, a in zip(form.parts, before, strict=True):
                    ready = weights_of(codes, zero, part, form, WEIGHTS)
                    acc = (*acc, tilus.dot(xs, ready[i * size : (i + 1) * size, :], a))
        total = scaled(total, acc, x_row, sums, W, panel, c, g, form)
    return total


@tilus.jit
def unfold(near, W, panel, c, form: tilus.constexpr, WEIGHTS: tilus.constexpr):
    """A chunk's weights in shared memory, part by part, each [chunk, 16] in the format's order."""
    steps = form.span // form.step
    for s in tilus.static_range(form.chunk // form.step):
        g = s // steps
        codes = decode(W, panel, c, (g + 1) * form.head_bytes + s * form.step_bytes, form)
        zero = zero_of(W, panel, c, g, form)
        for p, part in enumerate(form.parts):
            ready = weights_of(codes, zero, part, form, WEIGHTS)
            ready = tilus.convert_layout(ready, form.order)
            flat = tilus.view(ready, form.weight, tilus.layouts.local(form.step * PANEL))
            tilus.store_shared(near, flat, ((p * form.chunk + s * form.step) * PANEL,))


@tilus.jit
def one_block(total, near, W, X, XS, XT, panel, stack, c, b, form: tilus.constexpr,
              BM: tilus.constexpr):  # fmt: skip
    """`total` [BM, 16] of block b of a stack and a chunk's part of it, with weights near by."""
    flat = tilus.layouts.local(form.step * PANEL)
    x_row = tilus.load_global(XS, (stack, c, b, 0, 0), (BM, 1))
    for g in tilus.static_range(form.groups):
        sums = tilus.load_global(XT, (stack, c, b, g, 0, 0), (BM, 1))
        acc = begun(sums, W, panel, c, g, form, BM)
        for s in tilus.static_range(form.span // form.step):
            row = g * form.span + s * form.step
            xs = tilus.load_global(X, (stack, c, b, 0, row), (BM, form.step))
            before = acc
            acc = ()
            for p, a in enumerate(before):
                at = ((p * form.chunk + row) * PANEL,)
                ready = tilus.load_shared(near, at, (form.step * PANEL,), layout=flat)
                acc = (*acc, tilus.dot(xs, tilus.view(ready, form.weight, form.order), a))
        total = scaled(total, acc, x_row, sums, W, panel, c, g, form)
    return total


@tilus.jit(num_threads=1)
def matmul_panels(
    x: tilus.ptr[u8],  # [stacks, chunks, TALL, BM, chunk] of the format's operand
    x_scale: tilus.ptr[f32],  # [stacks, chunks, TALL, BM], for 8-bit integers
    x_sum: tilus.ptr[u8],  # [stacks, chunks, TALL, groups, BM]: minus the sums
    w: tilus.ptr[u8],  # [panels, chunks, bytes]
    w_scale: tilus.ptr[f32],  # [n] of each column, in whole panels, if the format has no groups
    bias: tilus.ptr[f32],  # [n]
    out: tilus.ptr[u8],  # [rows, n] of TYPE
    rows: i32,
    n: i32,
    chunks: i32,
    row_blocks: i32,
    form: tilus.constexpr,  # PanelFormat
    WEIGHTS: tilus.constexpr,  # the element type of the codes
    TYPE: tilus.constexpr,
    BIAS: tilus.constexpr,
    BM: tilus.constexpr,
    TALL: tilus.constexpr,  # row blocks of a stack, which a block multiplies; 1: few rows
):
    """One panel of the product, for TALL * BM rows."""
    panel = tilus.block_idx(0)
    panels = tilus.grid_dim(0)
    W = tilus.global_view(w, u8, (panels, chunks, form.chunk_bytes))
    F = tilus.global_view(w, u8, (panels * chunks * form.chunk_bytes,))
    stacks = tilus.grid_dim(1)
    X = tilus.global_view(x, form.operand, (stacks, chunks, TALL, BM, form.chunk))
    XS = tilus.global_view(x_scale, f32, (stacks, chunks, TALL, BM, 1))
    XT = tilus.global_view(x_sum, form.sums, (stacks, chunks, TALL, form.groups, BM, 1))
    C = tilus.global_view(w_scale, f32, (panels * PANEL,))
    B = tilus.global_view(bias, f32, (n,))
    Y = tilus.global_view(out, TYPE, (rows, n))
    stack = tilus.block_idx(1)
    first = stack * TALL
    count = min(row_blocks - first, TALL)
    if TALL > 1:
        near = tilus.allocate_shared(form.weight, (len(form.parts) * form.chunk * PANEL,))
        so_far = tilus.allocate_shared(f32, (TALL * BM, PANEL))
        for b in range(count):
            tilus.store_shared(so_far, tilus.zeros(f32, (BM, PANEL)), (b * BM, 0))
    total = tilus.zeros(f32, (BM, PANEL))
    for c in range(chunks):
        here = (panel * chunks + c) * form.chunk_bytes
        if TALL == 1:
            total = few_rows(total, here, W, F, X, XS, XT, panel, stack, c, form, WEIGHTS, BM)
        else:
            unfold(near, W, panel, c, form, WEIGHTS)
            share = tilus.cdiv(form.chunk_bytes, TALL)
            for b in range(count):
                tilus.prefetch(F, (here + form.chunk_bytes + b * share,), (share,))
                block = tilus.load_shared(so_far, (b * BM, 0), (BM, PANEL))
                block = one_block(block, near, W, X, XS, XT, panel, stack, c, b, form, BM)
                tilus.store_shared(so_far, block, (b * BM, 0))
    for b in range(count):
        if TALL > 1:
            total = tilus.load_shared(so_far, (b * BM, 0), (BM, PANEL))
        if not form.group:
            scale = tilus.load_global(C, (panel * PANEL,), (PANEL,))
            total = total * tilus.expand_dims(scale, 0)
        if BIAS:
            total = total + tilus.expand_dims(tilus.load_global(B, (panel * PANEL,), (PANEL,)), 0)
        tilus.store_global(Y, tilus.cast(total, TYPE), ((first + b) * BM, panel * PANEL))
