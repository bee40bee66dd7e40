"""How well codes with given scales and zero points stand for weights, on a CPU."""

import tilus
from tilus import f32, i32

GROUPS = 16  # of weights, which a block goes through


@tilus.jit(num_threads=1)
def fit_sums(
    w: tilus.ptr[f32],  # [groups, SIZE]
    scale: tilus.ptr[f32],  # [groups]
    zero: tilus.ptr[f32],  # [groups], if ZERO
    out: tilus.ptr[f32],  # [5, groups]
    groups: i32,
    SIZE: tilus.constexpr,
    CODES: tilus.constexpr,  # the element type of the codes
    LOW: tilus.constexpr,  # its least and largest value
    HIGH: tilus.constexpr,
    ZERO: tilus.constexpr,
):
    """Of each group the sums of r r, r p, p p, r and p; p = code - zero, r = w - scale p."""
    W = tilus.global_view(w, f32, (groups, SIZE))
    S = tilus.global_view(scale, f32, (groups,))
    Z = tilus.global_view(zero, f32, (groups,))
    Y = tilus.global_view(out, f32, (5, groups))
    start = tilus.block_idx(0) * GROUPS
    for g in range(start, min(start + GROUPS, groups)):
        x = tilus.load_global(W, (g, 0), (SIZE,), dims=(1,))
        s = tilus.load_global(S, (g,), (1,))
        p = x / tilus.where(s == 0.0, 1.0, s)
        if ZERO:
            z = tilus.load_global(Z, (g,), (1,))
            p = p + z
        if CODES.is_integer:
            p = tilus.minimum(tilus.maximum(tilus.round(p), LOW), HIGH)
        else:
            p = tilus.cast(tilus.cast(p, CODES), f32)
        if ZERO:
            p = p - z
        r = x - p * s
        for i, t in enumerate((r * r, r * p, p * p, r, p)):
            tilus.store_global(Y, tilus.sum(t, dim=0, keepdims=True), (i, g), dims=(1,))
