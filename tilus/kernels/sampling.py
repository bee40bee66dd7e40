"""Choosing a token for each row, natively; meant as in `tilus.kernels.reference`."""

from __future__ import annotations

import torch

from tilus.errors import TilusTypeError
from tilus.kernels.device import cpu_sampling as device
from tilus.kernels.product import compiled
from tilus.kernels.reference import Setting


def sample(
    logits: torch.Tensor,
    temperature: Setting,
    top_k: Setting,
    top_p: Setting,
    min_p: Setting,
    seed: torch.Tensor,
    position: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `tilus.kernels.reference.sample`, natively; a graph reads all tensors when it is replayed.

    Probabilities are rounded to f32, so that at a boundary the choice may be the neighbour of the
    reference's. Tokens of less than e^-60 of the first one's probability are never taken.

    Args:
        logits: f32 [rows, vocabulary], contiguous, as are all tensors.
        temperature: a number or f32 [rows]; 0 takes the most likely token.
        top_k: a number or i64 [rows]; 0 keeps all.
        top_p: a number or f32 [rows]; 1 keeps all.
        min_p: a number or f32 [rows], at most 1; 0 keeps all.
        seed: i64 [rows].
        position: i64 [rows].
        out: i64 [rows] for the result.

    Returns:
        i64 [rows]; -1 where a logit is NaN or +inf, or all are -inf.

    Raises:
        TilusTypeError: an argument is out of place, by name.
    """
    if logits.dim() != 2 or not logits.shape[1]:
        raise TilusTypeError(f"`logits` is {list(logits.shape)}; it must be f32 [rows, vocabulary]")
    rows, size = logits.shape
    out = torch.empty(rows, dtype=torch.int64) if out is None else out
    _check("logits", logits, torch.float32, (rows, size))
    for name, x in (("seed", seed), ("position", position), ("out", out)):
        _check(name, x, torch.int64, (rows,))
    heat = _setting("temperature", temperature, torch.float32, rows)
    keep = _setting("top_k", top_k, torch.int64, rows)
    mass = _setting("top_p", top_p, torch.float32, rows)
    floor = _setting("min_p", min_p, torch.float32, rows)
    if not rows:
        return out
    chunks = -(-size // device.CHUNK)
    peaks, cuts = torch.empty(rows, chunks), torch.empty(rows, 2)
    last = torch.empty(rows, dtype=torch.int32)
    weights, sums = torch.empty(rows, size), torch.empty(rows, chunks, dtype=torch.float64)
    parts = -(-chunks // device.SHARE)
    for kernel, grid, tensors in (
        (device.find_peaks, (parts, rows, 1), (logits, peaks)),
        (device.keep_first, (rows, 1, 1), (logits, peaks, heat, keep, cuts, last)),
        (device.weigh, (parts, rows, 1), (logits, peaks, heat, cuts, last, weights, sums)),
        (
            device.choose,
            (rows, 1, 1),
            (logits, peaks, heat, mass, floor, seed, position, cuts, weights, sums, out),
        ),
    ):
        args = [*(t.data_ptr() for t in tensors), size, chunks]
        compiled(kernel, {}).launch(args, grid, tensors)
    return out


def _setting(name: str, x: Setting, dtype: torch.dtype, rows: int) -> torch.Tensor:
    """A setting for each row."""
    if not isinstance(x, torch.Tensor):
        return torch.full((rows,), x, dtype=dtype)
    _check(name, x, dtype, (rows,))
    return x


def _check(name: str, x: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Tensors are not converted, as a graph would not record that."""
    if x.dtype != dtype or tuple(x.shape) != shape or not x.is_contiguous():
        raise TilusTypeError(
            f"`{name}` is {x.dtype} {list(x.shape)}; it must be contiguous {dtype} {list(shape)}"
        )
