"""Sums that tell how well scales and zero points fit weights, natively."""

from __future__ import annotations

import torch

from tilus.dtypes import DType
from tilus.kernels.device import cpu_fit as device
from tilus.kernels.product import compiled
from tilus.kernels.quantized import GROUPS


def fits(size: int) -> bool:
    """Whether `fit_sums` takes groups of so many weights."""
    return size in GROUPS


def fit_sums(
    groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, codes: DType
) -> tuple[torch.Tensor, ...]:
    """The sums of r r, r p, p p, r and p over each group, f32 [n, g] each.

    p = code - zero is what stands for a weight in units of the scale, r = w - scale p what is left.

    Args:
        groups: weights f32 [n, g, size].
        scale: f32 [n, g].
        zero: f32 [n, g], for unsigned integers.
        codes: their element type; integers are rounded and kept in its range.
    """
    n, count, size = groups.shape
    groups, scale = groups.contiguous(), scale.contiguous()
    zeros = scale if zero is None else zero.contiguous()
    out = torch.empty(5, n, count)
    tensors = (groups, scale, zeros, out)
    constants = {
        "SIZE": size, "CODES": codes, "LOW": float(codes.min), "HIGH": float(codes.max),
        "ZERO": zero is not None,
    }  # fmt: skip
    compiled(device.fit_sums, constants).launch(
        [*(t.data_ptr() for t in tensors), n * count],
        (-(-n * count // device.GROUPS), 1, 1),
        tensors,
    )
    return out.unbind(0)
