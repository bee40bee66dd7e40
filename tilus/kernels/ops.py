"""Quantised products as an operator of torch: `torch.ops.tilus.quantized_matmul`.

`tilus.kernels.matmul` calls it where torch looks on: under `torch.compile` and `torch.export`, on
fake tensors, and where a gradient is asked for (with respect to x and the bias). Its arguments are
tensors and plain values; what is made from a weight is kept as long as the tensor of its codes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from tilus import dtypes
from tilus.dtypes import DType
from tilus.kernels.quantized import QuantizedWeight
from tilus.tensor import Tensor

_plans: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

Raw = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, str, list[int]]


def raw(weight: QuantizedWeight) -> Raw:
    """A weight as the operator takes it."""
    zeros = weight.zeros.storage if weight.zeros is not None else None
    n, k = weight.shape
    sizes = [n, k, weight.group_size]
    weight.check_codes()
    return weight.codes.storage, weight.scales.storage, zeros, weight.types, sizes


@lru_cache(maxsize=1024)
def _types(names: str) -> list[DType]:
    return [dtypes.dtype(name) for name in names.split(" ")]


def _weight(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    types: str,
    sizes: list[int],
) -> QuantizedWeight:
    n, k, group = sizes
    kinds, groups = _types(types), k // (group or k)
    plans: dict[Any, Any] | None = _plans.get(codes)  # type: ignore[no-untyped-call]
    if plans is None:
        plans = _plans[codes] = {}
    return QuantizedWeight(
        Tensor(kinds[0], (n, k), codes),
        Tensor(kinds[1], (n, groups), scales),
        Tensor(kinds[2], (n, groups), zeros) if zeros is not None else None,
        group,
        plans,
    )


@torch.library.custom_op("tilus::quantized_matmul", mutates_args=(), device_types="cpu")
def quantized_matmul(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    types: str,
    sizes: list[int],
    activations: str,
) -> torch.Tensor:
    """x @ weight.T (+ bias); see `tilus.kernels.matmul`.

    Args:
        x: [..., k].
        codes, scales, zeros: the bytes of `QuantizedWeight`'s tensors.
        bias: [n].
        types: their element types' names, with spaces between.
        sizes: n, k and the group size.
        activations: `int8` or `exact`.
    """
    from tilus.kernels.product import matmul

    with torch.no_grad():
        weight = _weight(codes, scales, zeros, types, sizes)
        return matmul(x, weight, bias, activations=activations)


@quantized_matmul.register_fake
def _(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    types: str,
    sizes: list[int],
    activations: str,
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], sizes[0]))


@torch.library.custom_op("tilus::dequantize", mutates_args=())
def dequantize(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    types: str,
    sizes: list[int],
) -> torch.Tensor:
    """The weights as the numbers they stand for, f32 [n, k]; arguments as above."""
    return _weight(codes, scales, zeros, types, sizes).dequantize()


@dequantize.register_fake
def _(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    types: str,
    sizes: list[int],
) -> torch.Tensor:
    return scales.new_empty((sizes[0], sizes[1]), dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, codes, scales, zeros, bias, ctx.types, ctx.sizes, _ = inputs
    ctx.save_for_backward(codes, scales, zeros)
    ctx.x_type, ctx.bias_type = x.dtype, None if bias is None else bias.dtype


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    """Of x and the bias, with the weights as the numbers they stand for."""
    codes, scales, zeros = ctx.saved_tensors
    for_x = for_bias = None
    if ctx.needs_input_grad[0]:
        dense = dequantize(codes, scales, zeros, ctx.types, ctx.sizes)
        for_x = (grad.float() @ dense).to(ctx.x_type)
    if ctx.needs_input_grad[4]:
        for_bias = grad.float().reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_type)
    return for_x, None, None, None, for_bias, None, None, None


quantized_matmul.register_autograd(_gradients, setup_context=_save)
