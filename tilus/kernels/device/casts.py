"""Taking weights apart, and nothing else: what `tilus.kernels.casts` counts."""

import tilus
from tilus import u8
from tilus.kernels.device.cpu_matmul import decode, weights_of
from tilus.kernels.panels import PANEL


@tilus.jit(num_threads=1)
def take_apart(
    w: tilus.ptr[u8],  # [count, bytes of a chunk]
    out: tilus.ptr[u8],  # [count, parts, weights]
    count: tilus.i32,
    form: tilus.constexpr,  # PanelFormat of one group a chunk
    WEIGHTS: tilus.constexpr,
):
    """The operands of a dot for `count` chunks of weights, each part of them."""
    size = form.step * PANEL
    W = tilus.global_view(w, u8, (1, count, form.chunk_bytes))
    Y = tilus.global_view(out, form.weight, (count, len(form.parts) * size))
    for c in range(count):
        codes = decode(W, 0, c, form.head_bytes, form)
        for p, part in enumerate(form.parts):
            ready = tilus.convert_layout(weights_of(codes, None, part, form, WEIGHTS), form.order)
            flat = tilus.view(ready, form.weight, tilus.layouts.local(size))
            tilus.store_global(Y, flat, (c, p * size), dims=(1,))
