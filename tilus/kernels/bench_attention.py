"""Measuring attention over a paged cache beside the machine's limits, and torch's, in one run.

    decode     one token behind many: bytes of the cache beside what all threads can read
    prefill    many tokens: operations that causality leaves beside bf16 dots from registers

Several layers' caches are read in turn, which together exceed the last-level cache; decode is one
replay of a `tilus.Graph`, as in a model. Limits are probed before and after each round; shares are
medians of the rounds' own. torch reads keys and values that lie one after the other.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tilus.kernels.attention import attention
from tilus.kernels.bench import COLD_BYTES, ROUNDS, limits, seconds
from tilus.kernels.kv_cache import PanelCache
from tilus.runtime.program import Graph

PAGE = 64  # tokens
LAYERS = 4  # at least


@dataclass(frozen=True)
class Case:
    """What to measure."""

    kv: str
    heads: int
    kv_heads: int
    head_dim: int
    keys: int  # tokens of the sequence
    queries: int  # of these, the last ones; 1: decode

    @property
    def operations(self) -> int:
        """Of both products, for the keys that each query sees."""
        pairs = self.queries * self.keys - self.queries * (self.queries - 1) // 2
        return 4 * self.heads * self.head_dim * pairs


def measure(case: Case) -> dict[str, Any]:
    """Times, rates, their share of the limits, the error, and torch's time."""
    torch.manual_seed(0)
    pages = -(-case.keys // PAGE)
    whole = PanelCache(1, pages, PAGE, case.kv_heads, case.head_dim, case.kv).nbytes
    nbytes = whole * case.keys // (pages * PAGE)
    layers = max(LAYERS, -(-COLD_BYTES // whole)) if case.queries == 1 else 1
    cache = PanelCache(layers, pages, PAGE, case.kv_heads, case.head_dim, case.kv)
    k, v = torch.randn(2, case.keys, case.kv_heads, case.head_dim)
    q = torch.randn(case.queries, case.heads, case.head_dim)
    table, at = torch.randperm(pages, dtype=torch.int32)[None], torch.arange(case.keys)
    slots = table[0].long()[at // PAGE] * PAGE + at % PAGE
    for layer in range(layers):
        cache.store(layer, slots, k, v)
    starts = torch.tensor([0, case.queries], dtype=torch.int32)
    lengths = torch.tensor([case.keys], dtype=torch.int32)

    def ours(layer: int) -> torch.Tensor:
        return attention(q, cache, layer, table, starts, lengths, case.head_dim**-0.5)

    with Graph() as graph:
        for layer in range(layers):
            ours(layer)
    theirs, want = _torch(q, k, v, layers)
    error = (ours(0).double() - want).square().mean().sqrt() / want.square().mean().sqrt()
    found = _rounds({"": graph.replay, "torch": theirs}, layers)
    us = statistics.median(t for t, _, _ in found[""])
    return {
        "kv": case.kv, "heads": case.heads, "kv_heads": case.kv_heads, "head_dim": case.head_dim,
        "keys": case.keys, "queries": case.queries, "us": us,
        "gbps": nbytes / us / 1e3,
        "of_stream": statistics.median(nbytes / t / 1e3 / s for t, s, _ in found[""]),
        "gflops": case.operations / us / 1e3,
        "of_peak": statistics.median(case.operations / t / 1e3 / p for t, _, p in found[""]),
        "error": float(error),
        "torch_us": statistics.median(t for t, _, _ in found["torch"]),
    }  # fmt: skip


def _rounds(
    runs: dict[str, Callable[[], object]], layers: int
) -> dict[str, list[tuple[float, float, float]]]:
    """(microseconds a layer, GB/s, GFLOP/s) of each round."""
    reader, _, floats = limits(torch.get_num_threads())
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            before = max(reader.rate() for _ in range(2)), floats.rate()
            spent = seconds(run) / layers * 1e6
            after = max(reader.rate() for _ in range(2)), floats.rate()
            found[name].append((spent, (before[0] + after[0]) / 2, (before[1] + after[1]) / 2))
    return found


def _torch(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, copies: int
) -> tuple[Callable[[], object], torch.Tensor]:
    """torch's attention in bf16, and the exact result.

    The query heads of a group are rows of one head of keys, which is faster than `enable_gqa`.
    """
    tokens, heads, dim = q.shape
    keys, kv_heads, _ = k.shape
    seen = torch.arange(keys)[None] <= torch.arange(keys - tokens, keys)[:, None]
    rows = q.reshape(tokens, kv_heads, -1, dim).permute(1, 2, 0, 3).reshape(1, kv_heads, -1, dim)
    keys_of, values_of = (t.permute(1, 0, 2)[None].contiguous() for t in (k, v))
    mask = seen.repeat(heads // kv_heads, 1) if tokens > 1 else None
    run = torch.nn.functional.scaled_dot_product_attention
    exact = run(rows.double(), keys_of.double(), values_of.double(), attn_mask=mask)
    exact = exact.reshape(kv_heads, -1, tokens, dim).permute(2, 0, 1, 3).reshape(q.shape)
    half = rows.bfloat16()
    stored = [(keys_of.bfloat16(), values_of.bfloat16()) for _ in range(copies)]
    return lambda: [run(half, a, b, attn_mask=mask) for a, b in stored], exact
