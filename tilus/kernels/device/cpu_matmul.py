"""Quantised products on a CPU: any weight type against 8-bit activations.

    y[m, n] = sum over groups g of
              scale[g, n] * x_scale[m, g] * sum over k in g of x[m, k] * w[k, n]

The inner sum is an integer dot: activations are rounded to i8, one scale for each row and chunk of
k; weights are one or two unsigned bytes (`tilus.kernels.integers`). A zero point enters as the
initial value of the sum, -zero * sum(x). A block makes one panel (`tilus.kernels.panels`) of some
rows; a row's result does not depend on how many there are.
"""

import tilus
from tilus import f32, i8, i32, u8
from tilus.kernels.panels import PANEL


@tilus.jit(num_threads=1)
def quantize_rows(
    x: tilus.ptr[u8],  # [rows, k] of TYPE
    out: tilus.ptr[i8],  # [row blocks, chunks, BM, CHUNK]
    out_scale: tilus.ptr[f32],  # [row blocks, chunks, BM]
    out_sum: tilus.ptr[i32],  # [row blocks, steps, BM]: sums over STEP of k
    rows: i32,
    k: i32,
    chunks: i32,
    TYPE: tilus.constexpr,
    BM: tilus.constexpr,
    CHUNK: tilus.constexpr,
    STEP: tilus.constexpr,  # rows of k a zero point is for
):
    """BM rows as 8-bit integers, each with a scale for every CHUNK of k."""
    block = tilus.block_idx(0)
    blocks = tilus.grid_dim(0)
    X = tilus.global_view(x, TYPE, (rows, k))
    Q = tilus.global_view(out, i8, (blocks, chunks, BM, CHUNK))
    S = tilus.global_view(out_scale, f32, (blocks, chunks, BM, 1))
    T = tilus.global_view(out_sum, i32, (blocks, chunks, CHUNK // STEP, BM, 1))
    for c in range(chunks):
        t = tilus.cast(tilus.load_global(X, (block * BM, c * CHUNK), (BM, CHUNK)), f32)
        peak = tilus.max(tilus.abs(t), dim=1, keepdims=True)
        inverse = tilus.where(peak > 0.0, 127.0 / peak, 0.0)
        q = tilus.cast(tilus.round(t * inverse), i8)
        tilus.store_global(Q, q, (block, c, 0, 0))
        # NaN and infinity must not become numbers: 0 times them is NaN.
        poison = tilus.sum(t * 0.0, dim=1, keepdims=True)
        tilus.store_global(S, peak / 127.0 + poison, (block, c, 0, 0))
        wide = tilus.cast(q, i32)
        for s in tilus.static_range(CHUNK // STEP):
            part = wide[:, s * STEP : (s + 1) * STEP]
            tilus.store_global(T, tilus.sum(part, dim=1, keepdims=True), (block, c, s, 0, 0))


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


@tilus.jit(num_threads=1)
def matmul_i8(
    x: tilus.ptr[i8],  # [row blocks, chunks, BM, chunk]
    x_scale: tilus.ptr[f32],  # [row blocks, chunks, BM]
    x_sum: tilus.ptr[i32],  # [row blocks, chunks, groups of a chunk, BM]
    w: tilus.ptr[u8],  # [panels, chunks, bytes]
    w_scale: tilus.ptr[f32],  # [n] of each column, in whole panels, if the format has no groups
    bias: tilus.ptr[f32],  # [n], in whole panels
    out: tilus.ptr[u8],  # [rows, n] of TYPE
    rows: i32,
    n: i32,
    chunks: i32,
    form: tilus.constexpr,  # PanelFormat
    TYPE: tilus.constexpr,
    BIAS: tilus.constexpr,
    BM: tilus.constexpr,
    BLOCKS: tilus.constexpr,  # row blocks of a block
):
    """One panel of the product, for BLOCKS * BM rows."""
    panel = tilus.block_idx(0)
    W = tilus.global_view(w, u8, (tilus.grid_dim(0), chunks, form.chunk_bytes))
    row_blocks = tilus.grid_dim(1) * BLOCKS
    rows_of_group = form.chunk // form.groups
    X = tilus.global_view(x, i8, (row_blocks, chunks, BM, form.chunk))
    XS = tilus.global_view(x_scale, f32, (row_blocks, chunks, BM, 1))
    XT = tilus.global_view(x_sum, i32, (row_blocks, chunks, form.groups, BM, 1))
    C = tilus.global_view(w_scale, f32, (tilus.grid_dim(0) * PANEL,))
    B = tilus.global_view(bias, f32, (tilus.grid_dim(0) * PANEL,))
    Y = tilus.global_view(out, TYPE, (rows, n))
    step_bytes = form.step * PANEL * form.bits // 8
    for b in range(BLOCKS):
        block = tilus.block_idx(1) * BLOCKS + b
        total = tilus.zeros(f32, (BM, PANEL))
        for c in range(chunks):
            x_row = tilus.load_global(XS, (block, c, 0, 0), (BM, 1))
            for g in tilus.static_range(form.groups):
                sums = tilus.load_global(XT, (block, c, g, 0, 0), (BM, 1))
                end = form.code_bytes + g * form.group_bytes
                acc = ()
                for part in form.form.parts:
                    if form.zeros:
                        zero = stored_row(W, panel, c, end + form.scale_bytes, u8)
                        acc = (*acc, -(sums * tilus.cast(zero, i32)))
                    else:
                        acc = (*acc, tilus.broadcast(sums * -part.zero, (BM, PANEL)))
                for s in tilus.static_range(rows_of_group // form.step):
                    row = g * rows_of_group + s * form.step
                    codes = decode(W, panel, c, row // form.step * step_bytes, form)
                    xs = tilus.load_global(X, (block, c, 0, row), (BM, form.step))
                    before = acc
                    acc = ()
                    for part, a in zip(form.form.parts, before, strict=True):
                        weights = codes
                        if part.table is not None:
                            index = tilus.cast(codes, tilus.dtype(f"u{form.bits}"))
                            weights = tilus.lookup(index, tilus.constant(u8, part.table))
                        acc = (*acc, tilus.dot(xs, weights, a))
                whole = None
                for part, a in zip(form.form.parts, acc, strict=True):
                    weighted = a * part.weight if part.weight != 1 else a
                    whole = weighted if whole is None else whole + weighted
                factor = x_row * (1.0 / form.form.factor) if form.form.factor != 1.0 else x_row
                if form.group:
                    scale = stored_row(W, panel, c, end, form.scale)
                    factor = factor * tilus.cast(scale, f32)
                else:
                    factor = tilus.broadcast(factor, (BM, PANEL))
                total = tilus.fma(tilus.cast(whole, f32), factor, total)
        if not form.group:
            scale = tilus.load_global(C, (panel * PANEL,), (PANEL,))
            total = total * tilus.expand_dims(scale, 0)
        if BIAS:
            total = total + tilus.expand_dims(tilus.load_global(B, (panel * PANEL,), (PANEL,)), 0)
        tilus.store_global(Y, tilus.cast(total, TYPE), (block * BM, panel * PANEL))


@tilus.jit(num_threads=1)
def matmul_exact(
    x: tilus.ptr[f32],  # [row blocks, chunks, BM, chunk]
    w: tilus.ptr[u8],  # [panels, chunks, bytes]
    w_scale: tilus.ptr[f32],  # [n] of each column, in whole panels, if the format has no groups
    bias: tilus.ptr[f32],  # [n], in whole panels
    out: tilus.ptr[u8],  # [rows, n] of TYPE
    rows: i32,
    n: i32,
    chunks: i32,
    form: tilus.constexpr,  # PanelFormat
    WEIGHTS: tilus.constexpr,  # the element type of the codes
    TYPE: tilus.constexpr,
    BIAS: tilus.constexpr,
    BM: tilus.constexpr,
    BLOCKS: tilus.constexpr,
):
    """One panel of the product in f32, for BLOCKS * BM rows."""
    panel = tilus.block_idx(0)
    W = tilus.global_view(w, u8, (tilus.grid_dim(0), chunks, form.chunk_bytes))
    X = tilus.global_view(x, f32, (tilus.grid_dim(1) * BLOCKS, chunks, BM, form.chunk))
    C = tilus.global_view(w_scale, f32, (tilus.grid_dim(0) * PANEL,))
    B = tilus.global_view(bias, f32, (tilus.grid_dim(0) * PANEL,))
    Y = tilus.global_view(out, TYPE, (rows, n))
    rows_of_group = form.chunk // form.groups
    step_bytes = form.step * PANEL * form.bits // 8
    whole = tilus.layouts.local(form.step, PANEL)
    for b in range(BLOCKS):
        block = tilus.block_idx(1) * BLOCKS + b
        total = tilus.zeros(f32, (BM, PANEL))
        for c in range(chunks):
            for g in tilus.static_range(form.groups):
                end = form.code_bytes + g * form.group_bytes
                part = tilus.zeros(f32, (BM, PANEL))
                for s in tilus.static_range(rows_of_group // form.step):
                    row = g * rows_of_group + s * form.step
                    codes = decode(W, panel, c, row // form.step * step_bytes, form)
                    if form.bits < 8:
                        codes = tilus.cast(codes, tilus.dtype(f"u{form.bits}"))
                    codes = tilus.view(tilus.convert_layout(codes, whole), WEIGHTS, whole)
                    weights = tilus.cast(codes, f32)
                    if form.zeros:
                        zero = stored_row(W, panel, c, end + form.scale_bytes, u8)
                        weights = weights - tilus.cast(zero, f32)
                    xs = tilus.load_global(X, (block, c, 0, row), (BM, form.step))
                    part = tilus.dot(xs, weights, part)
                if form.group:
                    factor = tilus.cast(stored_row(W, panel, c, end, form.scale), f32)
                    total = tilus.fma(part, tilus.broadcast(factor, (BM, PANEL)), total)
                else:
                    total = total + part
        if not form.group:
            total = total * tilus.expand_dims(tilus.load_global(C, (panel * PANEL,), (PANEL,)), 0)
        if BIAS:
            total = total + tilus.expand_dims(tilus.load_global(B, (panel * PANEL,), (PANEL,)), 0)
        tilus.store_global(Y, tilus.cast(total, TYPE), (block * BM, panel * PANEL))
