"""Rows of a table of embeddings, natively; meant as in `tilus.kernels.reference`."""

from __future__ import annotations

import torch

from tilus import dtypes
from tilus.errors import TilusTypeError
from tilus.kernels.device import cpu_embedding as device
from tilus.kernels.panels import PANEL
from tilus.kernels.product import compiled, operand, packed, panel_format
from tilus.kernels.quantized import QuantizedWeight
from tilus.runtime.cpu import host_target
from tilus.tensor import from_torch

IDS = (torch.int32, torch.int64)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def embedding(
    ids: torch.Tensor, table: torch.Tensor | QuantizedWeight, *, activations: str = "int8"
) -> torch.Tensor:
    """The rows of a table, f32 [rows, hidden], equal to the reference's in every bit.

    A quantised table is read from the memory that products with it read.

    Args:
        ids: i32 or i64 [rows], contiguous; each below the vocabulary, which is not checked.
        table: f32, f16 or bf16 [vocabulary, hidden], contiguous, or quantised.
        activations: `int8` or `exact`, as in products of f32 with the table: it decides how the
            table lies in memory.

    Raises:
        TilusTypeError: an argument is out of place, by name.
    """
    if ids.dim() != 1 or ids.dtype not in IDS or not ids.is_contiguous():
        raise TilusTypeError(
            f"`ids` is {ids.dtype} {list(ids.shape)}; it must be contiguous i32 or i64 [rows]"
        )
    kind = from_torch(ids.dtype)
    if isinstance(table, QuantizedWeight):
        return _from_codes(ids, table, kind, activations)
    if table.dim() != 2 or table.dtype not in FLOATS or not table.is_contiguous():
        raise TilusTypeError(
            f"`table` is {table.dtype} {list(table.shape)}; it must be contiguous f32, f16 or bf16 "
            "[vocabulary, hidden], or quantised"
        )
    vocabulary, hidden = table.shape
    out = torch.empty(len(ids), hidden)
    tensors = (ids, table, out)
    kernel = compiled(device.gather_floats, {"ID": kind, "TYPE": from_torch(table.dtype)})
    grid = (len(ids), -(-hidden // device.RUN), 1)
    kernel.launch([*(t.data_ptr() for t in tensors), vocabulary, hidden], grid, tensors)
    return out


def _from_codes(
    ids: torch.Tensor, table: QuantizedWeight, kind: dtypes.DType, activations: str
) -> torch.Tensor:
    """The same of a quantised table."""
    form = panel_format(table, operand(table.dtype, dtypes.f32, activations, host_target()))
    data, columns = packed(table, form)
    hidden = table.shape[1]
    out = torch.empty(len(ids), hidden)
    tensors = (ids, data, columns, out)
    kernel = compiled(device.gather_codes, {"ID": kind, "form": form, "WEIGHTS": table.dtype})
    panels, chunks = len(columns) // PANEL, data.shape[1]
    grid = (len(ids), -(-chunks // device.SHARE), 1)
    kernel.launch([*(t.data_ptr() for t in tensors), panels, chunks, hidden], grid, tensors)
    return out
