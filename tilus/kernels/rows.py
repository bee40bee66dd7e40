"""What a layer does to each row by itself, natively; meant as in `tilus.kernels.reference`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tilus.errors import TilusValueError
from tilus.kernels.device import cpu_rows as device
from tilus.kernels.product import compiled

KINDS = ("silu", "gelu_tanh")


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """x / sqrt(mean(x^2) + eps) * weight; with a residual, of x + residual, and that sum too.

    Args:
        x: float [rows, hidden].
        weight: float [hidden].
        eps: added to the mean square.
        residual: float [rows, hidden].

    Returns:
        f32 [rows, hidden], or two of them: (y, x + residual).
    """
    x, weight = x.float().contiguous(), weight.float().contiguous()
    rows, hidden = x.shape
    out = torch.empty(rows, hidden)
    added = residual is not None
    other = residual.float().contiguous() if residual is not None else x
    total = torch.empty(rows, hidden) if added else out
    tensors = (x, other, weight, out, total)
    kernel = compiled(device.rms_norm, {"ADD": added})
    kernel.launch([*(t.data_ptr() for t in tensors), hidden, eps], (rows, 1, 1), tensors)
    return (out, total) if added else out


def gated(gate_up: torch.Tensor, kind: str = "silu") -> torch.Tensor:
    """act(gate) * up: the inside of SwiGLU and GeGLU.

    Args:
        gate_up: float [rows, 2 * inner]: the gate first.
        kind: `silu` or `gelu_tanh`.

    Returns:
        f32 [rows, inner].
    """
    if kind not in KINDS:
        raise TilusValueError(f"`kind` is {kind!r}; it is one of {', '.join(KINDS)}")
    gate_up = gate_up.float().contiguous()
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, inner)
    grid = (-(-inner // device.RUN), rows, 1)
    kernel = compiled(device.gated, {"KIND": kind})
    kernel.launch([gate_up.data_ptr(), out.data_ptr(), inner], grid, (gate_up, out))
    return out


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows side by side: f32 [rows, n] of f32 [rows, n_i], contiguous."""
    rows, width = parts[0].shape[0], sum(part.shape[1] for part in parts)
    out, at = torch.empty(rows, width), 0
    kernel = compiled(device.place, {})
    for part in parts:
        size = part.shape[1]
        grid = (-(-size // device.COPIED), rows, 1)
        args = [part.data_ptr(), out.data_ptr(), size, width, at]
        kernel.launch(args, grid, (part, out))
        at += size
    return out
