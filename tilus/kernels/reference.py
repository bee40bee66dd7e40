"""What the kernels of a language model mean: each in plain torch, in f32 or f64 inside.

Kernels have these names and arguments, and are tested against these functions. A call handles
several sequences at once, of any number of new tokens each: their rows lie one after the other, and
`query_start[s]` is the first row of sequence s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, overload

import torch

from tilus.errors import TilusTypeError, TilusValueError
from tilus.kernels.cache import PagedCache
from tilus.kernels.quantized import QuantizedWeight
from tilus.tensor import Tensor

Setting: TypeAlias = float | torch.Tensor  # a number, or one for each row

GATES = ("silu", "gelu_tanh")
_SCORES = 1 << 23  # attention scores held at a time


@overload
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor: ...
@overload
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]: ...
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """x / sqrt(mean(x^2) + eps) * weight; with a residual, of x + residual, and that sum too.

    Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019), eq. 4, with the eps of Llama.

    Args:
        x: float [rows, hidden].
        weight: float [hidden].
        eps: added to the mean square.
        residual: float [rows, hidden].

    Returns:
        f32 [rows, hidden], or two of them: (y, x + residual).
    """
    if residual is None:
        return _normed(x, weight, eps).float()
    total = x.float() + residual.float()
    return _normed(total, weight, eps).float(), total


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.double()


def rope_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    cache: PagedCache,
    layer: int,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """Rotate queries and keys to their positions, store keys and values, return the queries.

    Su et al., "RoFormer" (2021), eq. 34, with the pairs of GPT-NeoX and Hugging Face: number i of
    the first half goes with number i of the second.

        (a, b) -> (a cos - b sin, b cos + a sin)

    Args:
        qkv: float [rows, (heads + 2 kv_heads) * head_dim]: all of q, then of k, then of v.
        positions: i32 [rows]: the row of `cos` and `sin` for each.
        slots: i32 [rows]: where in the cache each row's key and value go.
        cos: f32 [positions, rotary / 2]; what is beyond the first `rotary` numbers of a head stays.
        sin: as `cos`.
        cache: where keys and values go.
        layer: which of the cache's layers.
        q_norm: float [head_dim]: the weight of an RMS norm of each head before it is rotated.
        k_norm: the same for keys.
        eps: of these norms.

    Returns:
        f32 [rows, heads, head_dim].
    """
    rows, width = qkv.shape
    kv_heads, dim = cache.kv_heads, cache.head_dim
    heads = width // dim - 2 * kv_heads
    if width % dim or heads < 1:
        raise TilusTypeError(
            f"`qkv` is {list(qkv.shape)}; with {kv_heads} KV heads of {dim} it has no whole number "
            "of query heads"
        )
    q, k, v = torch.split(qkv.reshape(rows, -1, dim), [heads, kv_heads, kv_heads], dim=1)
    if q_norm is not None:
        q = _normed(q, q_norm, eps)
    if k_norm is not None:
        k = _normed(k, k_norm, eps)
    at = positions.long()
    c, s = cos[at].double()[:, None], sin[at].double()[:, None]  # [rows, 1, rotary / 2]
    cache.store(layer, slots, _rotated(k, c, s).float(), v.float())
    return _rotated(q, c, s).float()


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = cos.shape[-1]
    a, b, rest = torch.split(x.double(), [half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def attention(
    q: torch.Tensor,
    cache: PagedCache,
    layer: int,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention of new tokens to all tokens of their sequences, in a paged cache.

    The last new token of a sequence stands at its end, position `lengths[s] - 1`, the others before
    it; a token at position p sees the keys at j <= p, and with a window only j > p - window. Query
    head h uses KV head h // (heads / kv_heads) (Ainslie et al., "GQA", 2023).

        s[j] = scale * (q . k[j])         with a soft cap c:  c * tanh(scale * (q . k[j]) / c)
        out  = sum_j e^s[j] v[j] / (sum_j e^s[j] + e^sink)      without sinks, no such term

    The soft cap is Gemma 2's, a sink for each head that of gpt-oss. A token that sees no key has 0.

    Args:
        q: f32 [rows, heads, head_dim].
        cache: keys and values, those of the new tokens included.
        layer: which of the cache's layers.
        block_table: i32 [sequences, max_blocks]: each sequence's blocks in order.
        query_start: i32 [sequences + 1]: each sequence's first row of q, and the end.
        lengths: i32 [sequences]: tokens of each sequence, the new ones included.
        scale: of the products.
        window: how many keys a token sees at most, its own included.
        soft_cap: scores stay between -soft_cap and soft_cap.
        sinks: f32 [heads].

    Returns:
        f32 [rows, heads, head_dim].
    """
    rows, heads, dim = q.shape
    group = heads // cache.kv_heads
    out = torch.zeros(rows, heads, dim)
    sink = None if sinks is None else sinks.double().reshape(cache.kv_heads, group, 1, 1)
    starts, ends = query_start.tolist(), lengths.tolist()
    for s, length in enumerate(ends):
        used = -(-length // cache.block_size)
        k, v = (x[:, None, :length].double() for x in cache.read(layer, block_table[s, :used]))
        step = max(1, _SCORES // (heads * max(length, 1)))
        for first in range(starts[s], starts[s + 1], step):
            last = min(first + step, starts[s + 1])
            queries = q[first:last].double().reshape(-1, cache.kv_heads, group, dim)
            scores = queries.permute(1, 2, 0, 3) @ k.transpose(-1, -2) * scale
            if soft_cap is not None:
                scores = soft_cap * torch.tanh(scores / soft_cap)
            p = torch.arange(first, last)[:, None] + (length - starts[s + 1])
            j = torch.arange(length)[None]
            seen = j <= p if window is None else (j <= p) & (j > p - window)
            scores = scores.masked_fill(~seen, -math.inf)
            mixed = _softmax(scores, sink) @ v  # [kv_heads, group, rows, dim]
            out[first:last] = mixed.permute(2, 0, 1, 3).reshape(-1, heads, dim).float()
    return out


def _softmax(scores: torch.Tensor, sink: torch.Tensor | None) -> torch.Tensor:
    """Over the last dimension, 0 where all are -inf."""
    if not scores.shape[-1]:
        return scores
    peak = scores.amax(-1, keepdim=True)
    if sink is not None:
        peak = torch.maximum(peak, sink)
    weights = torch.exp(scores - peak.masked_fill(peak == -math.inf, 0.0))
    total = weights.sum(-1, keepdim=True)
    if sink is not None:
        total = total + torch.exp(sink - peak)
    return weights / total.masked_fill(total == 0, 1.0)


def gated(gate_up: torch.Tensor, kind: str = "silu") -> torch.Tensor:
    """act(gate) * up: the inside of SwiGLU and GeGLU (Shazeer, "GLU Variants", 2020, eq. 6).

        silu(x) = x / (1 + e^-x)    gelu_tanh(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))

    Args:
        gate_up: float [rows, 2 * inner]: the gate first.
        kind: `silu` or `gelu_tanh`.

    Returns:
        f32 [rows, inner].
    """
    gate, up = gate_up.double().chunk(2, -1)
    if kind == "silu":
        active = torch.nn.functional.silu(gate)
    elif kind == "gelu_tanh":
        active = torch.nn.functional.gelu(gate, approximate="tanh")
    else:
        raise TilusValueError(f"`kind` is {kind!r}; it is one of {', '.join(GATES)}")
    return (active * up).float()


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows side by side: f32 [rows, n] of f32 [rows, n_i]."""
    return torch.cat(list(parts), -1)


def embedding(ids: torch.Tensor, table: torch.Tensor | QuantizedWeight) -> torch.Tensor:
    """The rows of a table, f32 [rows, hidden].

    Args:
        ids: i32 or i64 [rows].
        table: float [vocabulary, hidden], or quantised.
    """
    at = ids.long()
    if isinstance(table, torch.Tensor):
        return table[at].float()
    table.check_codes()
    zeros = None if table.zeros is None else _rows(table.zeros, at)
    some = QuantizedWeight(_rows(table.codes, at), _rows(table.scales, at), zeros, table.group_size)
    return some.dequantize()


def _rows(x: Tensor, at: torch.Tensor) -> Tensor:
    n, k = x.shape
    if k * x.dtype.bits % 8:
        return Tensor.from_codes(x.codes()[at], x.dtype)
    return Tensor(x.dtype, (len(at), k), x.storage.reshape(n, -1)[at].reshape(-1))


def sample(
    logits: torch.Tensor,
    temperature: Setting,
    top_k: Setting,
    top_p: Setting,
    min_p: Setting,
    seed: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """Choose a token for each row; the random number depends on seed and position alone.

    The logits are divided by the temperature; of the tokens, most likely first (of equal ones the
    lower id), stay the first `top_k`; of these, those before which there is less than `top_p` of
    their probability (Holtzman et al., "Nucleus sampling", 2019); of these, those with at least
    `min_p` times the probability of the first (Nguyen et al., "Min-p", 2024). Of what stays, the
    token is taken at which the probabilities, summed in the order of the ids, exceed
    `uniform(seed, position)` times their total.

    Args:
        logits: float [rows, vocabulary].
        temperature: 0 takes the most likely token.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
        min_p: 0 keeps all.
        seed: i64 [rows].
        position: i64 [rows]: which token of its sequence is chosen.

    Returns:
        i64 [rows]; -1 where a logit is NaN or +inf, or all are -inf.
    """
    rows, size = logits.shape
    x = logits.double()
    heat, mass, floor = (_column(s, rows).double() for s in (temperature, top_p, min_p))
    keep = _column(top_k, rows).long()
    keep = torch.where(keep == 0, size, keep)
    scaled = torch.where(heat > 0, (x - x.amax(-1, keepdim=True)) / heat.clamp_min(1e-300), x)
    ranked, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(size)[None]
    ranked = ranked.masked_fill(rank >= keep, -math.inf)
    p = torch.softmax(ranked, -1)
    before = p.cumsum(-1) - p
    stays = ((before < mass) & (p >= floor * p[:, :1])) | (rank == 0)
    p = torch.zeros_like(p).scatter(1, order, p * stays)
    pairs = zip(seed.tolist(), position.tolist(), strict=True)
    u = torch.tensor([uniform(s, at) for s, at in pairs], dtype=torch.float64)[:, None]
    sums = p.cumsum(-1)
    chosen = (sums <= u * sums[:, -1:]).sum(-1)
    chosen = torch.where(heat[:, 0] > 0, chosen, order[:, 0])
    bad = x.isnan().any(-1) | (x == math.inf).any(-1) | (x == -math.inf).all(-1)
    return torch.where(bad, -1, chosen)


def _column(setting: Setting, rows: int) -> torch.Tensor:
    """[rows, 1] of a number or one for each row."""
    return torch.as_tensor(setting).reshape(-1, 1).expand(rows, 1)


def uniform(seed: int, position: int) -> float:
    """A number between 0 and 1 for a place in a stream: (top 23 bits + 1/2) / 2^23, exact in f32.

    The bits are word 0 of Philox4x32-10 (Salmon et al., "Parallel random numbers", 2011) with the
    seed's halves, low first, as the key and the position's as the first two words of the counter.

    >>> uniform(0, 0)
    0.39904648065567017
    """
    return ((philox(seed, position)[0] >> 9) + 0.5) / 2**23


def philox(seed: int, position: int) -> tuple[int, int, int, int]:
    """Philox4x32-10 of the key `seed` and the counter `position`, 64 bits each."""
    low = 0xFFFFFFFF
    key = [seed & low, seed >> 32 & low]
    x = [position & low, position >> 32 & low, 0, 0]
    for _ in range(10):
        a, b = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [b >> 32 ^ x[1] ^ key[0], b & low, a >> 32 ^ x[3] ^ key[1], a & low]
        key = [key[0] + 0x9E3779B9 & low, key[1] + 0xBB67AE85 & low]
    return x[0], x[1], x[2], x[3]
