"""Rows of a table on a CPU: of floats as they lie, of codes from the panels that products read."""

import tilus
from tilus import f32, i32, u8
from tilus.kernels.panels import PANEL
from tilus.layouts import Layout

RUN = 256  # numbers of a row that a block copies
SHARE = 4  # chunks of a row that a block takes apart


@tilus.jit(num_threads=1)
def gather_floats(
    ids: tilus.ptr[i32],  # [rows] of ID
    table: tilus.ptr[f32],  # [vocabulary, hidden] of TYPE
    out: tilus.ptr[f32],  # [rows, hidden]
    vocabulary: i32,
    hidden: i32,
    ID: tilus.constexpr,
    TYPE: tilus.constexpr,
):
    """RUN numbers of one row of a table of floats."""
    row, rows, at = tilus.block_idx(0), tilus.grid_dim(0), tilus.block_idx(1) * RUN
    T = tilus.global_view(table, TYPE, (vocabulary, hidden))
    Y = tilus.global_view(out, f32, (rows, hidden))
    token = read_id(ids, row, rows, ID)
    x = tilus.load_global(T, (token, at), (RUN,), dims=(1,))
    tilus.store_global(Y, tilus.cast(x, f32), (row, at), dims=(1,))


@tilus.jit(num_threads=1)
def gather_codes(
    ids: tilus.ptr[i32],  # [rows] of ID
    w: tilus.ptr[u8],  # [panels, chunks, bytes]
    w_scale: tilus.ptr[f32],  # [n] of each column, in whole panels, if the format has no groups
    out: tilus.ptr[f32],  # [rows, hidden]
    panels: i32,
    chunks: i32,
    hidden: i32,
    ID: tilus.constexpr,
    form: tilus.constexpr,  # PanelFormat
    WEIGHTS: tilus.constexpr,  # the element type of the codes
):
    """SHARE chunks of one row of a quantised table, (value - zero point) * scale."""
    row, rows, first = tilus.block_idx(0), tilus.grid_dim(0), tilus.block_idx(1) * SHARE
    C = tilus.global_view(w_scale, f32, (panels * PANEL,))
    Y = tilus.global_view(out, f32, (rows, hidden))
    token = read_id(ids, row, rows, ID)
    panel, place = token // PANEL, token % PANEL
    scale = tilus.load_global(C, (token,), (1,))
    for c in range(first, min(first + SHARE, chunks)):
        for g in tilus.static_range(form.groups):
            at = g * form.group_bytes
            if form.group:
                S = parts_of(w, panels, chunks, at, 1, 1, form.scale, form)
                scale = tilus.load_global(S, (panel, c, 0, place, 0), (1,), dims=(3,))
                scale = tilus.cast(scale, f32)
            if form.zero is not None:
                Z = parts_of(w, panels, chunks, at + form.scale_bytes, 1, 1, form.zero, form)
                zero = tilus.load_global(Z, (panel, c, 0, place, 0), (1,), dims=(3,))
                zero = tilus.cast(zero, f32)
            for s in range(form.span // form.step):
                start = at + form.head_bytes + s * form.step_bytes
                codes = column(w, panels, chunks, panel, c, place, start, form, WEIGHTS)
                values = tilus.cast(codes, f32)
                if form.zero is not None:
                    values = values - zero
                k = c * form.chunk + g * form.span + s * form.step
                tilus.store_global(Y, values * scale, (row, k), dims=(1,))


@tilus.jit
def read_id(ids, row, rows, ID: tilus.constexpr):
    """The id of a row."""
    view = tilus.global_view(ids, ID, (rows,))
    return tilus.cast(tilus.item(tilus.load_global(view, (row,), (1,))), i32)


@tilus.jit
def parts_of(w, panels, chunks, at, lines: tilus.constexpr,
             depth: tilus.constexpr, dtype: tilus.constexpr, form: tilus.constexpr):  # fmt: skip
    """[panels, chunks, lines, 16, depth] elements that begin at byte `at` of every chunk."""
    size = form.chunk_bytes * 8 // dtype.bits
    shape = (panels, chunks, lines, PANEL, depth)
    strides = (chunks * size, size, PANEL * depth, depth, 1)
    return tilus.global_view(w, dtype, shape, strides, at * 8 // dtype.bits)


def column_layout(step, codes):
    """Who lies where in the lanes of one column: each holds `codes` codes, far apart in k."""
    return Layout((step,), ((codes, step // codes),), (), (1, 0))


@tilus.jit
def column(w, panels, chunks, panel, c, place, at, form: tilus.constexpr,
           WEIGHTS: tilus.constexpr):  # fmt: skip
    """The codes [step] of one column, of type WEIGHTS, that begin at byte `at` of a chunk."""
    codes = None
    for plane in form.planes:
        together = max(1, min(8 // plane.bits, form.step // 4))  # codes of a lane
        shape = (form.step // together // plane.depth, 1, plane.depth)
        lane = tilus.dtype(f"u{plane.bits * together}")
        V = parts_of(w, panels, chunks, at, shape[0], plane.depth, lane, form)
        flat = tilus.layouts.local(*shape)
        raw = tilus.load_global(V, (panel, c, 0, place, 0), shape, dims=(2, 3, 4), layout=flat)
        order = column_layout(form.step, together)
        part = tilus.view(raw, tilus.dtype(f"u{plane.bits}"), order)
        if plane.bits < 8:
            part = tilus.cast(part, u8)
        if plane.shift:
            part = part << plane.shift
        codes = part if codes is None else codes | part
        at += plane.nbytes(form.step)
    if form.form is not None and form.form.flip:
        codes = codes ^ form.form.flip
    if form.bits < 8:
        codes = tilus.cast(codes, tilus.dtype(f"u{form.bits}"))
    flat = tilus.layouts.local(form.step)
    return tilus.view(tilus.convert_layout(codes, flat), WEIGHTS, flat)
