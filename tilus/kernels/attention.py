"""Attention over a paged cache: the plan of tiles, and the launches."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from tilus.kernels.device import cpu_attention as device
from tilus.kernels.kv_cache import PanelCache
from tilus.kernels.product import compiled

BLOCK = 8  # rows of queries whose sums stay in registers
ROWS = 64  # rows of a tile, at most
SPLIT = 4096  # keys of a block
EVERYTHING = 1 << 30  # a window that hides nothing
LOG2E = math.log2(math.e)


def plan(query_start: torch.Tensor, group: int) -> tuple[torch.Tensor, int]:
    """Tiles i32 [tiles, 4] (sequence, first token, tokens, first row), and the rows of a tile."""
    starts = query_start.tolist()
    counts = [b - a for a, b in pairwise(starts)]
    most = max((c * group for c in counts), default=0)
    rows = min(ROWS, most if most <= BLOCK else -(-most // BLOCK) * BLOCK) if most else 1
    tiles = [
        (s, starts[s], count, row)
        for s, count in enumerate(counts)
        for row in range(0, count * group, rows)
    ]
    return torch.tensor(tiles, dtype=torch.int32).reshape(-1, 4), rows


def attention(
    q: torch.Tensor,
    cache: PanelCache,
    layer: int,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `tilus.kernels.reference.attention`, natively."""
    tokens, heads, dim = q.shape
    out = torch.empty(tokens, heads, dim)
    form, kv_heads = cache.form, cache.kv_heads
    group = heads // kv_heads
    tiles, rows = plan(query_start, group)
    if not len(tiles):
        return out
    longest = block_table.shape[1]
    splits = max(1, -(-longest * form.page // SPLIT))
    part = torch.empty(len(tiles), kv_heads, splits, rows, form.wide)
    state = torch.empty(len(tiles), kv_heads, splits, rows, 2)
    constants = {
        "form": form, "BM": min(rows, BLOCK), "ROWS": rows, "GROUP": group,
        "SPLIT": SPLIT, "CAPPED": soft_cap is not None,
    }  # fmt: skip
    q, table = q.float().contiguous(), block_table.int().contiguous()
    sizes = lengths.int().contiguous()
    factor = scale / soft_cap if soft_cap is not None else scale * LOG2E
    stored = [t[layer] for t in (cache.k, cache.v, cache.k_scale, cache.v_scale)]
    sources = (q, *stored, table, tiles, sizes, part, state)
    compiled(device.attend, constants).launch(
        [
            *(t.data_ptr() for t in sources),
            tokens, cache.pages, len(sizes), longest, factor,
            soft_cap * LOG2E if soft_cap is not None else 0.0,
            EVERYTHING if window is None else window,
        ],
        (len(tiles), kv_heads, splits),
        sources,
    )  # fmt: skip
    names = {"form": form, "ROWS": rows, "GROUP": group, "SINKS": sinks is not None}
    bias = (sinks.float() * LOG2E).contiguous() if sinks is not None else out
    ends = (part, state, tiles, bias, out)
    compiled(device.merge_splits, names).launch(
        [*(t.data_ptr() for t in ends), tokens, splits], (len(tiles), kv_heads, 1), ends
    )
    return out
