"""RoPE scaling that a GGUF file gives as one divisor for each frequency, back in its parameters.

`llama3` scaling divides the frequency f of a wave w = 2 pi / f by

    d = 1 / (s + (1 - s) / factor),   s = (original / w - low) / (high - low), held in [0, 1]

so s is a line over 1 / w, which two frequencies with 0 < s < 1 fix. Only the ratios of original,
low and high count.
"""

from __future__ import annotations

import math
from typing import Any

import torch

_PUBLISHED = (8192.0, 1.0, 4.0)  # original, low and high of Llama 3.1 to 3.3
_CLOSE = 1e-5  # what divisors may be off by, in relation; writers compute them in f32


def divided(divisors: torch.Tensor, theta: float, positions: int) -> dict[str, Any]:
    """`rope_scaling` that divides frequencies so: `llama3` if it can be, else `longrope`.

    Args:
        divisors: f64 [head_dim / 2].
        theta: the base of the frequencies.
        positions: the context's length.
    """
    n = len(divisors)
    waves = 2 * math.pi * theta ** (torch.arange(n, dtype=torch.float64) / n)
    factor = float(divisors.max())
    for original, low, high in (_PUBLISHED, _line(divisors, waves, factor)):
        found = _llama3(waves, factor, original, low, high)
        if original >= 1 and torch.allclose(found, divisors, rtol=_CLOSE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "original_max_position_embeddings": round(original),
                "low_freq_factor": low * round(original) / original,
                "high_freq_factor": high * round(original) / original,
            }
    return {
        "rope_type": "longrope",
        "factor": 1.0,
        "attention_factor": 1.0,
        "short_factor": divisors.tolist(),
        "long_factor": divisors.tolist(),
        "original_max_position_embeddings": positions,
    }


def _llama3(
    waves: torch.Tensor, factor: float, original: float, low: float, high: float
) -> torch.Tensor:
    s = ((original / waves - low) / (high - low)).clamp(0, 1)
    return 1 / (s + (1 - s) / factor)


def _line(divisors: torch.Tensor, waves: torch.Tensor, factor: float) -> tuple[float, ...]:
    """original, low and high by two frequencies on the slope; original is 0 if there are none."""
    s = (1 / divisors - 1 / factor) / (1 - 1 / factor) if factor > 1 else torch.zeros(0)
    on = ((s > 1e-3) & (s < 1 - 1e-3)).nonzero().flatten()
    if len(on) < 2:
        return 0.0, 1.0, 4.0
    one, other = int(on[0]), int(on[-1])
    slope = float((s[one] - s[other]) / (1 / waves[one] - 1 / waves[other]))
    least = slope / float(waves[one]) - float(s[one])  # low / (high - low)
    if not (slope > 0 and least > 0):
        return 0.0, 1.0, 4.0
    return slope / least, 1.0, 1 + 1 / least
