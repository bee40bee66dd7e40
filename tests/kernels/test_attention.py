"""Native attention over a paged cache against the reference, in all its variants."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tilus.kernels import reference
from tilus.kernels.attention import attention, plan
from tilus.kernels.cache import PagedCache
from tilus.kernels.kv_cache import PanelCache

SLACK = {
    "f32": 1e-5,
    "f16": 1e-5,
    "i8": 2e-4,
    "bf16": 1.5e-2,
}  # bf16: queries and weights are rounded, too


def case(
    dtype: str, heads: int, kv_heads: int, dim: int, queries: list[int], lengths: list[int]
) -> tuple[Any, ...]:
    """Both caches, with sequences scattered over their pages, the page table, and queries."""
    page = 64
    torch.manual_seed(0)
    longest, count = max(-(-n // page) for n in lengths), len(lengths)
    pages = longest * count + 3
    caches = [c(2, pages, page, kv_heads, dim, dtype) for c in (PanelCache, PagedCache)]
    table = torch.randperm(pages)[: longest * count].reshape(count, longest).int()
    for s, n in enumerate(lengths):
        at = torch.arange(n)
        slots = table[s][at // page] * page + at % page
        k, v = torch.randn(n, kv_heads, dim), torch.randn(n, kv_heads, dim)
        for cache in caches:
            cache.store(1, slots, k, v)
    return (*caches, table, torch.randn(sum(queries), heads, dim))


def both(
    dtype: str,
    heads: int,
    kv_heads: int,
    dim: int,
    queries: list[int],
    lengths: list[int],
    **variant: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The native result and the reference's."""
    native, plain, table, q = case(dtype, heads, kv_heads, dim, queries, lengths)
    starts = torch.tensor([0, *torch.tensor(queries).cumsum(0).tolist()], dtype=torch.int32)
    rest = (1, table, starts, torch.tensor(lengths, dtype=torch.int32), dim**-0.5)
    return (
        attention(q, native, *rest, **variant),
        reference.attention(q, plain, *rest, **variant),
    )


@pytest.mark.parametrize("dtype", SLACK)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "queries", "lengths", "variant"),
    [
        (8, 2, 64, [1, 1], [70, 5], {}),
        (6, 2, 32, [20, 1, 3], [20, 130, 67], {}),
        (4, 4, 64, [33], [100], {"window": 13}),
        (4, 4, 32, [1], [200], {"window": 65}),
        (4, 1, 64, [9, 1], [40, 200], {"soft_cap": 2.0}),
        (14, 2, 64, [2], [64], {}),
        (1, 1, 128, [1], [1], {}),
        (4, 2, 8, [3, 1], [70, 5], {}),
        (3, 1, 40, [1, 11], [64, 90], {"window": 20}),
    ],
)
def test_like_the_reference(dtype, heads, kv_heads, dim, queries, lengths, variant) -> None:
    got, want = both(dtype, heads, kv_heads, dim, queries, lengths, **variant)
    assert (got - want).abs().max() <= SLACK[dtype] * want.abs().max()


@pytest.mark.parametrize("cap", [None, 2.0])
def test_sinks(cap: float | None) -> None:
    sinks = torch.tensor([0.5, -3.0, 4.0, 30.0])
    got, want = both("f32", 4, 2, 32, [3, 1], [50, 9], sinks=sinks, soft_cap=cap)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    plain, _ = both("f32", 4, 2, 32, [3, 1], [50, 9], soft_cap=cap)
    assert (got[:, 3] - plain[:, 3]).abs().max() > 0.1


def test_splits_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilus.kernels.attention.SPLIT", 64)
    got, want = both("f32", 4, 2, 32, [5, 1], [300, 40], window=150)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_a_sequence_alone_is_the_same() -> None:
    """Bit for bit: its rows do not depend on the others of the batch."""
    cache, _, table, q = case("bf16", 8, 2, 64, [1, 1], [200, 90])
    starts, lengths = torch.tensor([0, 1, 2]), torch.tensor([200, 90])
    got = attention(q, cache, 1, table, starts, lengths, 0.125)
    for i in range(2):
        one = slice(i, i + 1)
        alone = attention(q[one], cache, 1, table[one], starts[:2], lengths[one], 0.125)
        assert torch.equal(got[one], alone)


def test_plan_covers_every_row_once() -> None:
    tiles, rows = plan(torch.tensor([0, 3, 3, 10]), 4)
    seen = [
        (s, row + r)
        for s, _, count, row in tiles.tolist()
        for r in range(rows)
        if row + r < count * 4
    ]
    assert sorted(seen) == [(0, r) for r in range(12)] + [(2, r) for r in range(28)]
