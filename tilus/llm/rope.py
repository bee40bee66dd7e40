"""Tables of cosines and sines for rotary position embeddings, as transformers 5 computes them.

A head of `dim` numbers has dim / 2 frequencies f[i] = theta^(-2i / dim), which the kinds change:

    linear   f / factor
    dynamic  theta grows with the length n of the sequence, beyond the original length:
             theta * (factor * n / original - factor + 1)^(dim / (dim - 2))
    yarn     f where a frequency turns at least beta_fast times over the original length,
             f / factor where it turns at most beta_slow times, and a ramp between
    llama3   f where a wave is shorter than original / high_freq_factor, f / factor where it is
             longer than original / low_freq_factor, and a blend between

The length that `dynamic` goes by is how many tokens of the sequence are known when a token is
computed. Keys in the cache keep the angles they were stored with.
"""

from __future__ import annotations

import math

import torch

from tilus.llm.config import Rope

_FIRST = 1024  # positions in a table at first

Angles = tuple[torch.Tensor, torch.Tensor]  # cos, sin


def frequencies(rope: Rope, dim: int, length: int = 0) -> torch.Tensor:
    """f32 [dim / 2]: by how much each pair of numbers turns from one position to the next."""
    theta = rope.theta
    if rope.kind == "dynamic" and length > rope.original:
        growth = rope.factor * length / rope.original - (rope.factor - 1)
        theta *= growth ** (dim / (dim - 2))
    f = 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    if rope.kind == "linear":
        return f / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, f)
    if rope.kind == "yarn":
        return _yarn(rope, f, dim)
    return f


def _llama3(rope: Rope, f: torch.Tensor) -> torch.Tensor:
    wave = 2 * math.pi / f
    low, high = rope.low_freq_factor, rope.high_freq_factor
    blend = ((rope.original / wave - low) / (high - low)).clamp(0, 1)
    smooth = (1 - blend) * f / rope.factor + blend * f
    scaled = torch.where(wave > rope.original / low, f / rope.factor, smooth)
    return torch.where(wave < rope.original / high, f, scaled)


def _yarn(rope: Rope, f: torch.Tensor, dim: int) -> torch.Tensor:
    def index(turns: float) -> float:
        """Of the frequency that turns so often over the original length."""
        period = rope.original / (turns * 2 * math.pi)
        return dim * math.log(period) / (2 * math.log(rope.theta))

    low, high = index(rope.beta_fast), index(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return f / rope.factor * ramp + f * (1 - ramp)


def angles(rope: Rope, f: torch.Tensor, positions: torch.Tensor) -> Angles:
    """Cosines and sines, f32 [positions, dim / 2] each."""
    turned = positions.float()[:, None] * f
    return turned.cos() * rope.attention_factor, turned.sin() * rope.attention_factor


class Tables:
    """The tables of a model, which grow as longer sequences come."""

    def __init__(self, rope: Rope, dim: int) -> None:
        self.rope = rope
        self.dim = dim
        self._whole: Angles | None = None

    def up_to(self, length: int) -> Angles:
        """Angles of all positions below `length`, and perhaps of more; a row each."""
        if self._whole is None or len(self._whole[0]) < length:
            size = max(_FIRST, 1 << (length - 1).bit_length())
            f = frequencies(self.rope, self.dim)
            self._whole = angles(self.rope, f, torch.arange(size))
        return self._whole

    def rows(self, positions: torch.Tensor, totals: list[int], counts: list[int]) -> Angles:
        """Angles of some tokens, a row each, where they depend on the sequence's length.

        Args:
            positions: [rows]: where each token stands.
            totals: for each sequence, its length.
            counts: for each sequence, how many of the tokens are its.
        """
        parts = [
            angles(self.rope, frequencies(self.rope, self.dim, total), some)
            for total, some in zip(totals, torch.split(positions, counts), strict=True)
        ]
        return torch.cat([c for c, _ in parts]), torch.cat([s for _, s in parts])
