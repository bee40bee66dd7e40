"""Native rotations and stores against the reference: the same cache, byte for byte where exact."""

from __future__ import annotations

import pytest
import torch

from tilus.errors import TilusTypeError
from tilus.kernels import reference, rope
from tilus.kernels.cache import PagedCache
from tilus.kernels.kv_cache import PanelCache

PAGE = 16


def both(kind: str, heads: int, kv_heads: int, dim: int, rotary: int, norms: bool, x=None):
    """(queries, cache) of native code and of the reference."""
    torch.manual_seed(heads * dim)
    rows, pages = 5, 4
    if x is None:
        x = torch.randn(rows, (heads + 2 * kv_heads) * dim)
    positions = torch.tensor([3, 0, 40, 7, 8], dtype=torch.int32)
    slots = torch.tensor([63, 0, 17, 33, 34], dtype=torch.int32)
    angles = torch.randn(50, rotary // 2)
    weights = (torch.randn(dim), torch.randn(dim)) if norms else (None, None)
    rest = (positions, slots, angles.cos(), angles.sin())
    found = []
    for made, store in ((PanelCache, rope.rope_store), (PagedCache, reference.rope_store)):
        cache = made(2, pages, PAGE, kv_heads, dim, kind)
        found.append((store(x, *rest, cache, 1, *weights, 1e-5), cache))
    return found, slots


def contents(cache: PanelCache, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [rows, kv_heads, dim] as stored; of bytes, their codes."""
    form, n = cache.form, len(slots)
    page, place = slots.long() // form.page, slots.long() % form.page
    k = cache.k[1][page, :, place // 16, :, place % 16].flatten(2)
    v = cache.v[1].permute(0, 3, 5, 1, 2, 4)[page, place // form.depth, place % form.depth]
    zero = 128 if form.scaled else 0
    k, v = (t.reshape(n, cache.kv_heads, form.wide).float() - zero for t in (k, v))
    assert form.wide == form.dim or not (k + zero)[..., form.dim :].any()
    return k[..., : form.dim], v[..., : form.dim]


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "i8"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "rotary", "norms"),
    [(4, 2, 64, 64, False), (3, 1, 32, 16, True), (2, 2, 8, 8, False), (4, 4, 40, 24, True)],
)
def test_like_the_reference(kind, heads, kv_heads, dim, rotary, norms) -> None:
    ((q, native), (want, plain)), slots = both(kind, heads, kv_heads, dim, rotary, norms)
    torch.testing.assert_close(q, want, rtol=1e-5, atol=1e-5)
    k, v = contents(native, slots)
    page, place = slots.long() // PAGE, slots.long() % PAGE
    slack = {"f32": 1e-5, "f16": 2e-3, "bf16": 1.6e-2, "i8": 1.0}[kind]  # i8: of a code
    for got, there in ((k, plain.k[1]), (v, plain.v[1])):
        expected = there[page, :, place].float()
        torch.testing.assert_close(got, expected, rtol=slack if kind != "i8" else 0, atol=slack)
        assert (got != expected).float().mean() < 0.02 or kind == "f32"
    if kind == "i8":
        assert plain.k_scale is not None and plain.v_scale is not None
        for got, there in ((native.k_scale, plain.k_scale), (native.v_scale, plain.v_scale)):
            torch.testing.assert_close(
                got[1][page, :, place], there[1][page, :, place], rtol=1e-6, atol=0
            )
    assert not native.k[0].any() and not native.v[0].any()


def test_values_without_a_number_stay_so() -> None:
    x = torch.randn(5, 4 * 16)
    x[1, 20], x[2, 40], x[3] = torch.nan, torch.inf, 0.0
    ((q, native), (want, plain)), slots = both("i8", 2, 1, 16, 16, False, x)
    page, place = slots.long() // PAGE, slots.long() % PAGE
    torch.testing.assert_close(q, want, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert plain.k_scale is not None and plain.v_scale is not None
    for got, there in ((native.k_scale, plain.k_scale), (native.v_scale, plain.v_scale)):
        got, there = got[1][page, :, place], there[1][page, :, place]
        assert torch.equal(got.isfinite(), there.isfinite())
        assert (got[3] == 0).all()


def test_misshaped_rows_are_refused() -> None:
    cache = PanelCache(1, 1, 16, 2, 16, "f32")
    one = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(TilusTypeError, match="no multiple of 2 query heads"):
        rope.rope_store(
            torch.zeros(1, 7 * 16), one, one, torch.ones(1, 8), torch.ones(1, 8), cache, 0
        )
