"""The reference kernels against other ways to compute the same, and their laws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tilus.errors import TilusTypeError, TilusValueError
from tilus.kernels import quantize_weight, reference
from tilus.kernels.cache import TINY, PagedCache, quantized

BLOCK = 4


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


# ---- norms, gates, embeddings --------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm(eps: float) -> None:
    x, weight, more = random(5, 24), random(24), random(5, 24, seed=1)
    want = torch.nn.functional.rms_norm(x, (24,), weight, eps)
    torch.testing.assert_close(reference.rms_norm(x, weight, eps), want)
    y, total = reference.rms_norm(x, weight, eps, more)
    torch.testing.assert_close(total, x + more)
    torch.testing.assert_close(y, reference.rms_norm(x + more, weight, eps))
    half = reference.rms_norm(x.bfloat16(), weight, eps)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, reference.rms_norm(x.bfloat16().float(), weight, eps))


def test_gates() -> None:
    x = random(3, 20) * 4
    gate, up = x[:, :10], x[:, 10:]
    torch.testing.assert_close(reference.gated(x), torch.nn.functional.silu(gate) * up)
    inside = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    want = gate / 2 * (1 + torch.tanh(inside)) * up
    torch.testing.assert_close(reference.gated(x, "gelu_tanh"), want)
    with pytest.raises(TilusValueError, match="`kind` is 'relu'"):
        reference.gated(x, "relu")


def test_embeddings() -> None:
    table, ids = random(40, 48), torch.tensor([3, 39, 0, 3], dtype=torch.int32)
    assert torch.equal(reference.embedding(ids, table), table[ids.long()])
    assert reference.embedding(ids, table.bfloat16()).dtype == torch.float32
    for dtype, group in [("u4", 16), ("i3", None), ("f6e3m2", 16)]:
        weight = quantize_weight(table, dtype, group_size=group)
        assert torch.equal(reference.embedding(ids, weight), weight.dequantize()[ids.long()])
    odd = quantize_weight(table[:, :5].contiguous(), "u3", group_size=None)  # rows of 15 bits
    assert torch.equal(reference.embedding(ids, odd), odd.dequantize()[ids.long()])


# ---- rope and the cache --------------------------------------------------------------------------


def tables(positions: int, rotary: int) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.arange(positions)[:, None] * 0.3 ** torch.arange(rotary // 2)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("rotary", [8, 4])
def test_rope_turns_complex_numbers(rotary: int) -> None:
    cache = PagedCache(2, 3, BLOCK, 2, 8)
    qkv, cos, sin = random(5, 7 * 8), *tables(20, rotary)
    positions = torch.tensor([0, 3, 19, 4, 4], dtype=torch.int32)
    slots = torch.tensor([11, 0, 5, 6, 2], dtype=torch.int32)
    q = reference.rope_store(qkv, positions, slots, cos, sin, cache, 1)
    heads = qkv.reshape(5, 7, 8)
    half = rotary // 2
    turn = torch.complex(cos, sin)[positions.long()][:, None]
    turned = torch.complex(heads[..., :half], heads[..., half:rotary]) * turn
    want = torch.cat([turned.real, turned.imag, heads[..., rotary:]], -1)
    torch.testing.assert_close(q, want[:, :3])
    for row, slot in enumerate(slots.tolist()):
        block, place = divmod(slot, BLOCK)
        torch.testing.assert_close(cache.k[1, block, :, place], want[row, 3:5])
        assert torch.equal(cache.v[1, block, :, place], heads[row, 5:])
    assert not cache.k[0].any() and not cache.v[0].any()
    assert cache.k.any(-1).sum() == 2 * len(slots)


def test_heads_are_normed_before_they_are_turned() -> None:
    cache, plain = PagedCache(1, 2, BLOCK, 1, 8), PagedCache(1, 2, BLOCK, 1, 8)
    qkv, at = random(3, 4 * 8), torch.arange(3, dtype=torch.int32)
    q_norm, k_norm = random(8, seed=1), random(8, seed=2)
    cos, sin = tables(3, 8)
    q = reference.rope_store(qkv, at, at, cos, sin, cache, 0, q_norm, k_norm, 0.1)
    normed = qkv.clone()
    for head, weight in ((0, q_norm), (1, q_norm), (2, k_norm)):
        part = slice(8 * head, 8 * head + 8)
        normed[:, part] = reference.rms_norm(qkv[:, part], weight, 0.1)
    torch.testing.assert_close(q, reference.rope_store(normed, at, at, cos, sin, plain, 0))
    torch.testing.assert_close(cache.k, plain.k)
    assert torch.equal(cache.v, plain.v)


def test_widths_that_are_no_heads_are_refused() -> None:
    cache, at = PagedCache(1, 1, BLOCK, 2, 8), torch.zeros(1, dtype=torch.int32)
    for width in (32, 41):
        with pytest.raises(TilusTypeError, match="no whole number of query heads"):
            reference.rope_store(torch.zeros(1, width), at, at, *tables(1, 8), cache, 0)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8"])
def test_caches_give_back_what_they_hold(dtype: str) -> None:
    cache = PagedCache(2, 5, BLOCK, 3, 8, dtype)
    k, v = random(6, 3, 8) * 10, random(6, 3, 8, seed=1)
    slots = torch.tensor([4, 5, 6, 7, 16, 17], dtype=torch.int32)
    cache.store(1, slots, k, v)
    for got, x in zip(cache.read(1, torch.tensor([1, 4])), (k, v), strict=True):
        x = x.transpose(0, 1)
        step = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "i8": 1 / 254}[dtype]
        limit = step * (x.abs().amax(-1, keepdim=True) if dtype == "i8" else x.abs())
        assert ((got[:, :6] - x).abs() <= limit * 1.0001).all() and not got[:, 6:].any()
    assert cache.slots == 20
    held = [x for x in (cache.k, cache.v, cache.k_scale, cache.v_scale) if x is not None]
    assert cache.nbytes == sum(x.nbytes for x in held)


def test_rows_of_bytes() -> None:
    x = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [TINY / 2, 0.0, 0.0], [3e38, 1e38, -3e38]])
    codes, scales = quantized(x)
    assert codes.tolist() == [[64, -127, 32], [0, 0, 0], [0, 0, 0], [127, 42, -127]]
    assert scales.tolist() == pytest.approx([2 / 127, 0, 0, 3e38 / 127])
    for bad in (math.nan, math.inf):
        codes, scales = quantized(torch.tensor([[1.0, bad]]))
        assert (codes * scales[:, None]).isnan().any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "u4"}, "`dtype` is u4; it is one of f32, f16, bf16, i8"),
        ({"blocks": 0}, "`blocks` is 0"),
        ({"head_dim": -8}, "`head_dim` is -8"),
        ({"blocks": 1 << 50}, "`blocks` is .*; the cache would take"),
    ],
)
def test_absurd_caches_are_refused(changes: dict[str, Any], message: str) -> None:
    sizes = dict(layers=1, blocks=1, block_size=BLOCK, kv_heads=1, head_dim=8)
    with pytest.raises((TilusTypeError, TilusValueError), match=message):
        PagedCache(**{**sizes, **changes})


# ---- attention -----------------------------------------------------------------------------------


def filled(lengths: list[int], kv_heads: int, dim: int, dtype: str = "f32") -> Any:
    """A cache whose other slots are NaN, the block table, and keys and values of each sequence."""
    most = max(-(-n // BLOCK) for n in lengths) or 1
    cache = PagedCache(2, 2 * most * len(lengths), BLOCK, kv_heads, dim, dtype)
    if dtype == "f32":
        cache.k.fill_(math.nan)
        cache.v.fill_(math.nan)
    order = torch.randperm(cache.blocks, generator=torch.Generator().manual_seed(2))
    table = order[: most * len(lengths)].reshape(len(lengths), most).int()
    pairs = []
    for s, n in enumerate(lengths):
        k, v = random(n, kv_heads, dim, seed=s), random(n, kv_heads, dim, seed=s + 50)
        at = torch.arange(n)
        cache.store(1, table[s][at // BLOCK] * BLOCK + at % BLOCK, k, v)
        pairs.append((k, v))
    return cache, table, pairs


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, length: int, **how: Any) -> Any:
    """One head, one row at a time, as the docstring says."""
    out, cap, sink = [], how.get("soft_cap"), how.get("sink")
    for i, row in enumerate(q.double()):
        p = length - len(q) + i
        first = 0 if how.get("window") is None else max(0, p - how["window"] + 1)
        s = [how["scale"] * float(row @ k[j].double()) for j in range(first, p + 1)]
        s = [x if cap is None else cap * math.tanh(x / cap) for x in s]
        total = sum(map(math.exp, s)) + (0.0 if sink is None else math.exp(sink))
        weights = [math.exp(x) / total for x in s]
        mixed = sum((w * v[first + n].double() for n, w in enumerate(weights)), torch.zeros(1))
        out.append(mixed.expand(v.shape[1]))
    return torch.stack(out).float()


@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("soft_cap", [None, 0.7])
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention(window: int | None, soft_cap: float | None, sunk: bool, kv_heads: int) -> None:
    """Prefill, a chunk, decode, and more queries than keys, in one call."""
    lengths, counts = [7, 10, 13, 2], [7, 4, 1, 4]
    cache, table, pairs = filled(lengths, kv_heads, 8)
    start = torch.tensor([0, 7, 11, 12, 16], dtype=torch.int32)
    q, sinks = random(16, 6, 8), random(6) if sunk else None
    how: dict[str, Any] = {"scale": 0.6, "window": window, "soft_cap": soft_cap}
    got = reference.attention(q, cache, 1, table, start, torch.tensor(lengths), **how, sinks=sinks)
    for s, (k, v) in enumerate(pairs):
        hidden = max(0, counts[s] - lengths[s])  # rows that stand before the sequence
        first, last = int(start[s]), int(start[s + 1])
        assert not got[first : first + hidden].any()
        rows = slice(first + hidden, last)
        for h in range(6):
            kv = h // (6 // kv_heads)
            sink = None if sinks is None else float(sinks[h])
            want = by_hand(q[rows, h], k[:, kv], v[:, kv], lengths[s], **how, sink=sink)
            torch.testing.assert_close(got[rows, h], want)


def test_attention_is_torchs() -> None:
    cache, table, [(k, v)] = filled([33], 2, 16)
    q, start = random(33, 4, 16), torch.tensor([0, 33])
    got = reference.attention(q, cache, 1, table, start, torch.tensor([33]), 0.25)
    wide = (x.transpose(0, 1) for x in (q, k, v))
    want = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(got, want.transpose(0, 1))


def test_attention_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are taken in steps where there are many, with the same result."""
    cache, table, _ = filled([21], 2, 8)
    q, start = random(17, 4, 8), torch.tensor([0, 17])
    rest = (cache, 1, table, start, torch.tensor([21]), 0.3, 4)
    want = reference.attention(q, *rest)
    monkeypatch.setattr(reference, "_SCORES", 300)
    assert torch.equal(reference.attention(q, *rest), want)


def test_no_keys_no_rows_no_sequences() -> None:
    cache, table, _ = filled([3], 1, 8)
    none = torch.zeros(0, dtype=torch.int32)
    out = reference.attention(random(0, 2, 8), cache, 1, table[:0], torch.zeros(1).int(), none, 1.0)
    assert out.shape == (0, 2, 8)
    start, empty = torch.tensor([0, 2]), torch.tensor([0])
    assert not reference.attention(random(2, 2, 8), cache, 1, table, start, empty, 1.0).any()


def test_large_scores_do_not_overflow() -> None:
    cache, table, [(k, v)] = filled([5], 1, 8)
    q = 1e4 * k[2].reshape(1, 1, 8)
    out = reference.attention(q, cache, 1, table, torch.tensor([0, 1]), torch.tensor([5]), 1.0)
    best = (k[:, 0] @ q[0, 0]).argmax()
    torch.testing.assert_close(out[0, 0], v[best, 0])


@pytest.mark.parametrize("dtype", ["f16", "bf16", "i8"])
def test_attention_over_narrow_caches(dtype: str) -> None:
    """What is computed is attention over what the cache gives back."""
    cache, table, _ = filled([9], 2, 8, dtype)
    wide = PagedCache(2, cache.blocks, BLOCK, 2, 8)
    k, v = (x[:, :9].transpose(0, 1) for x in cache.read(1, table[0]))
    at = torch.arange(9)
    wide.store(1, table[0][at // BLOCK] * BLOCK + at % BLOCK, k, v)
    rest = (1, table, torch.tensor([0, 9]), torch.tensor([9]), 0.4)
    q = random(9, 4, 8)
    assert torch.equal(reference.attention(q, cache, *rest), reference.attention(q, wide, *rest))


# ---- sampling ------------------------------------------------------------------------------------


def test_philox_is_the_published_one() -> None:
    """Known answers of the authors' Random123, and laws of the key and counter."""
    assert reference.philox(0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert reference.philox(-1, 5) == reference.philox((1 << 64) - 1, 5)
    words = {reference.philox(seed, at)[0] for seed in range(-20, 20) for at in range(100)}
    assert len(words) == 4000
    assert reference.philox(1, 0) != reference.philox(1 << 32, 0) != reference.philox(0, 1 << 32)


def test_uniform_numbers() -> None:
    u = torch.tensor([reference.uniform(7, at) for at in range(4000)], dtype=torch.float64)
    assert 0 < u.min() < 0.002 and 0.998 < u.max() < 1
    counts = (u * 20).long().bincount(minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 44  # chi squared, 19 degrees: p = 0.001
    assert (u.float().double() == u).all()


def chosen(logits: torch.Tensor, many: int = 4000, seed: int = 3, **how: Any) -> torch.Tensor:
    """Many tokens from one row of logits."""
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **how}
    rows = logits.expand(many, -1)
    seeds = torch.full((many,), seed)
    return reference.sample(rows, *settings.values(), seeds, torch.arange(many))


WARPED: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0, "top_k": 4},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"temperature": 1.5, "top_k": 7, "top_p": 0.7, "min_p": 0.1},
    {"top_k": 1},
    {"top_p": 0.0},
    {"top_k": 99},
]


@pytest.mark.parametrize("how", WARPED, ids=str)
def test_tokens_come_as_often_as_transformers_would_take_them(how: dict[str, Any]) -> None:
    from transformers.generation import logits_process as theirs

    logits = random(1, 12) * 1.5
    warped = logits / how.get("temperature", 1.0)
    if 0 < how.get("top_k", 0) < 12:
        warped = theirs.TopKLogitsWarper(how["top_k"])(None, warped)
    if how.get("top_p", 1.0) < 1:
        warped = theirs.TopPLogitsWarper(how["top_p"])(None, warped)
    if how.get("min_p"):
        warped = theirs.MinPLogitsWarper(how["min_p"])(None, warped)
    p = warped.softmax(-1)[0]
    counts = chosen(logits, **how).bincount(minlength=12)
    assert not counts[p == 0].any()
    expected = p[p > 0] * 4000
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < 40


def test_what_a_token_depends_on() -> None:
    logits = random(6, 50)
    seeds = torch.tensor([1, 1, 2, -5, 1 << 40, 1])
    at = torch.tensor([0, 1, 0, 9, 4, 1 << 33])
    settings = (1.2, 0, 0.95, 0.01)
    want = reference.sample(logits, *settings, seeds, at)
    alone = [
        reference.sample(logits[i : i + 1], *settings, seeds[i : i + 1], at[i : i + 1])
        for i in range(6)
    ]
    assert torch.equal(torch.cat(alone), want)
    same = logits[:1].expand(200, -1)
    one = torch.ones(200, dtype=torch.int64)
    by_place = reference.sample(same, 1.0, 0, 1.0, 0.0, one, torch.arange(200))
    by_seed = reference.sample(same, 1.0, 0, 1.0, 0.0, torch.arange(200), one)
    assert by_place.unique().numel() > 20 and by_seed.unique().numel() > 20


def test_settings_of_each_row() -> None:
    logits = random(1, 30).expand(4, -1)
    same = torch.zeros(4, dtype=torch.int64)
    heat, keep = torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([0, 1, 0, 5])
    mass, floor = torch.tensor([1.0, 1.0, 0.0, 0.9]), torch.tensor([0.0, 0.0, 0.0, 0.3])
    got = reference.sample(logits, heat, keep, mass, floor, same, same)
    assert got[:3].tolist() == [int(logits[0].argmax())] * 3
    last = reference.sample(logits[:1], 2.0, 5, 0.9, 0.3, same[:1], same[:1])
    assert got[3] == last[0]


def test_equal_logits_and_extremes() -> None:
    zeros = torch.zeros(1, 10)
    assert chosen(zeros, 1, temperature=0.0).tolist() == [0]
    assert set(chosen(zeros, 500, top_k=3).tolist()) == {0, 1, 2}
    assert set(chosen(zeros, 500).tolist()) == set(range(10))
    hidden = torch.tensor([[-math.inf, 1.0, -math.inf, 1e30]])
    assert set(chosen(hidden, 50).tolist()) == {3}
    assert set(chosen(hidden[:, :3], 50, temperature=100.0).tolist()) == {1}
    assert set(chosen(random(1, 9) * 1e4, 50, temperature=1e-6).tolist()) == {
        int((random(1, 9) * 1e4).argmax())
    }


def test_logits_that_are_no_numbers() -> None:
    logits = torch.zeros(4, 5)
    logits[0, 3], logits[1, 2], logits[2] = math.nan, math.inf, -math.inf
    same = torch.zeros(4, dtype=torch.int64)
    for heat in (0.0, 1.0):
        got = reference.sample(logits, heat, 0, 1.0, 0.0, same, same)
        assert got[:3].tolist() == [-1, -1, -1] and got[3] >= 0
