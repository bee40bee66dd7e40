"""Products with quantised weights on a CPU: `matmul`.

x --arrange_rows--> blocks of rows, with scales and sums --matmul_panels--> y [m, n]

A `Plan` holds what depends only on the weight and the number of rows: the weight's bytes, the two
kernels, and their arguments, in which a call changes a few addresses.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError, TilusValueError
from tilus.ir.target import Target
from tilus.kernels import ops
from tilus.kernels.device import cpu_matmul
from tilus.kernels.integers import integer_form
from tilus.kernels.panels import PANEL, PanelFormat
from tilus.kernels.quantized import QuantizedWeight, dense_weight
from tilus.lang import kept
from tilus.options import options
from tilus.runtime.cpu import host_target
from tilus.runtime.program import CpuKernel, Launch, Program, recording
from tilus.tensor import Tensor

ROWS = 8  # rows whose sums stay in registers
TALL = 8  # blocks of rows that pass over a chunk of weights while it is near
NEAR_BYTES = 512 << 10  # of activations that stay near meanwhile

_CODES = {16: torch.int16, 32: torch.int32}  # bits of dense weights as integers
_FLOATS = {
    torch.float32: dtypes.f32,
    torch.float16: dtypes.f16,
    torch.bfloat16: dtypes.bf16,
}


def matmul(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    activations: str = "int8",
) -> torch.Tensor:
    """x @ weight.T (+ bias).

    Args:
        x: f32, f16 or bf16 [..., k] on the CPU.
        weight: of `quantize_weight`.
        bias: float [n].
        activations: `int8` rounds x to 8 bits, one scale for each row and chunk of k, where the
            weights' values are integers (see `tilus.kernels.integers`), and to bf16 for others;
            `exact` multiplies x as it is, bf16 as bf16 and others as f32, and adds in f32.

    Returns:
        [..., n] of x's type. A row's result does not depend on the others.

    Raises:
        TilusTypeError, TilusValueError: an argument is out of place, by name.
    """
    if torch.compiler.is_compiling() or type(x) is not torch.Tensor or _needs_gradient(x, bias):
        return _through_torch(x, weight, bias, activations)
    n, k = weight.shape
    kind = _FLOATS.get(x.dtype)
    if kind is None or not x.is_cpu:
        raise TilusTypeError(f"`x` is {x.dtype} on {x.device}; it must be f32, f16 or bf16 on cpu")
    if x.dim() == 0 or x.shape[-1] != k:
        raise TilusTypeError(f"`x` is {list(x.shape)}; its last dimension must be k = {k}")
    if bias is not None and (tuple(bias.shape) != (n,) or bias.dtype not in _FLOATS):
        raise TilusTypeError(f"`bias` is {bias.dtype} {list(bias.shape)}; it must be float [{n}]")
    rows = x.numel() // k
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype)
    if rows == 0:
        return out
    features = options.cpu_features
    key = (rows, kind, bias is None, activations, torch.get_num_threads(), features)
    plan = weight.plans.get(key)
    if plan is None:
        plan = weight.plans[key] = _plan(weight, rows, kind, bias is not None, activations)
    plan.run(x.contiguous(), out, None if bias is None else bias.float().contiguous())
    return out


def _needs_gradient(x: torch.Tensor, bias: torch.Tensor | None) -> bool:
    asked = x.requires_grad or (bias is not None and bias.requires_grad)
    return asked and torch.is_grad_enabled()


def _through_torch(
    x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None, activations: str
) -> torch.Tensor:
    """The same as an operator that torch knows."""
    if not isinstance(x, torch.Tensor):
        raise TilusTypeError(f"`x` is a {type(x).__name__}; it must be a tensor")
    codes, scales, zeros, types, sizes = ops.raw(weight)
    y: torch.Tensor = ops.quantized_matmul(x, codes, scales, zeros, bias, types, sizes, activations)
    return y


def operand(weight: DType, activations: DType, how: str, target: Target) -> DType:
    """What activations are multiplied as: i8, bf16 or f32.

    Args:
        weight: the type of the codes.
        activations: the type of x.
        how: `int8` or `exact`.
        target: only a CPU with an instruction for it multiplies in bf16.
    """
    if how not in ("int8", "exact"):
        raise TilusValueError(f"`activations` is {how!r}; it is `int8` or `exact`")
    if how == "int8" and integer_form(weight) is not None:
        return dtypes.i8
    wants_half = how == "int8" or activations == dtypes.bf16
    can = "avx512bf16" in target.features and _fits_bf16(weight)
    return dtypes.bf16 if wants_half and can else dtypes.f32


@lru_cache(maxsize=256)
def _fits_bf16(weight: DType) -> bool:
    """Whether all values of a type, but NaN, are values of bf16, and none is subnormal there."""
    if weight.bits > 8:
        return weight == dtypes.bf16
    values = weight.decode(np.arange(1 << weight.bits, dtype=np.uint8)).astype(np.float32)
    finite = values[np.isfinite(values)]
    exact = (finite.view(np.uint32) & 0xFFFF == 0).all()
    return bool(exact and (np.abs(finite[finite != 0]) >= 2.0**-126).all())


def panel_format(weight: QuantizedWeight, operand: DType) -> PanelFormat:
    """How a weight lies in memory for products with activations multiplied as `operand`."""
    chunk = min(max(weight.group_size, 32), 256) if weight.group_size else 256
    if not weight.group_size and weight.shape[1] < 256:
        chunk = -(-weight.shape[1] // 32) * 32
    return PanelFormat(
        weight.dtype.bits,
        chunk,
        weight.group_size,
        weight.scales.dtype,
        integer_form(weight.dtype) if operand == dtypes.i8 else None,
        operand,
        weight.zeros.dtype if weight.zeros is not None else None,
    )


@dataclass(frozen=True)
class Tiling:
    """How rows are cut: blocks of `height`, up to `tall` of them for a thread block."""

    height: int
    blocks: int
    tall: int

    @classmethod
    def of(cls, rows: int, row_bytes: int) -> Tiling:
        """For rows of so many bytes of activations."""
        blocks = -(-rows // ROWS)
        height = -(-rows // blocks)
        return cls(height, blocks, max(1, min(TALL, blocks, NEAR_BYTES // (height * row_bytes))))

    @property
    def stacks(self) -> int:
        """Thread blocks along the rows."""
        return -(-self.blocks // self.tall)


@dataclass(frozen=True)
class Plan:
    """A product with one weight and a number of rows, ready to run."""

    program: Program
    owned: tuple[torch.Tensor, ...]  # memory that its arguments point to
    scratch: int  # bytes a call needs for itself
    parts: tuple[tuple[int, int], ...]  # (place in the program's values, byte of the scratch)
    x: int  # where in the program's values the address of x goes
    out: int
    bias: int

    def run(self, x: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Compute, or record it in the graph being made; all tensors are contiguous."""
        space = torch.empty(self.scratch, dtype=torch.uint8)
        values = self.program.values.copy()
        base = space.data_ptr()
        for place, offset in self.parts:
            values[place] = base + offset
        values[self.x] = x.data_ptr()
        values[self.out] = out.data_ptr()
        if bias is not None:
            values[self.bias] = bias.data_ptr()
        graph = recording()
        if graph is not None:
            graph.add(self.program.changed(values), (x, out, bias, space, self.owned))
        else:
            self.program.run(self.program.packed(values), self.program.blocks)


def _plan(weight: QuantizedWeight, rows: int, kind: DType, bias: bool, how: str) -> Plan:
    target = host_target()
    form = panel_format(weight, operand(weight.dtype, kind, how, target))
    n, k = weight.shape
    data, columns = packed(weight, form)
    panels, chunks, _ = data.shape
    size = form.operand.bits // 8
    t = Tiling.of(rows, chunks * form.chunk * size)
    threads = torch.get_num_threads()
    split = chunks if t.blocks >= threads else -(-chunks // threads)
    whole = rows == t.blocks * t.height and k == chunks * form.chunk
    arrange = compiled(
        cpu_matmul.arrange_rows,
        {
            "form": form,
            "TYPE": kind,
            "BM": t.height,
            "TALL": t.tall,
            "SPLIT": split,
            "WHOLE": whole,
        },
        target,
    )
    product = compiled(
        cpu_matmul.matmul_panels,
        {
            "form": form, "WEIGHTS": weight.dtype, "TYPE": kind, "BIAS": bias,
            "BM": t.height, "TALL": t.tall,
        },
        target,
    )  # fmt: skip
    height = t.stacks * t.tall * t.height
    starts, end = [], 0
    for nbytes in (
        height * chunks * form.chunk * size,
        height * chunks * 4,
        height * chunks * form.groups * 4,
    ):
        starts.append(end)
        end += -(-nbytes // 64) * 64
    at_weight = data.data_ptr(), columns.data_ptr()
    program = Program(
        [
            Launch(arrange, (0, 0, 0, 0, rows, k, chunks), (t.blocks, -(-chunks // split), 1)),
            Launch(
                product,
                (0, 0, 0, *at_weight, *at_weight[1:], 0, rows, n, chunks, t.blocks),
                (panels, t.stacks, 1),
            ),
        ]
    )
    at = program.place
    parts = [(at(0, 1 + i), start) for i, start in enumerate(starts)]
    parts += [(at(1, i), start) for i, start in enumerate(starts)]
    return Plan(program, (data, columns), end, tuple(parts), at(0, 0), at(1, 6), at(1, 5))


def prepare(weight: torch.Tensor | QuantizedWeight) -> QuantizedWeight:
    """A weight packed for products with f32, and only those.

    The products round x to 8 bits, or to bf16, where `matmul` does. Dense weights [n, k] in f32,
    f16 or bf16 stay what they are.
    """
    if isinstance(weight, torch.Tensor):
        weight = dense_weight(weight)
    how = operand(weight.dtype, dtypes.f32, "int8", host_target())
    packed(weight, panel_format(weight, how))
    weight.drop_codes()
    return weight


def packed(weight: QuantizedWeight, form: PanelFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight's bytes for a format, and its scales by column; made once."""
    if form not in weight.plans:
        weight.check_codes()
        n, k = weight.shape
        wide, deep = -(-n // PANEL) * PANEL, -(-k // form.chunk) * form.chunk
        kind = _CODES[weight.dtype.bits] if weight.dtype.bits > 8 else torch.uint8
        codes = torch.zeros(deep, wide, dtype=kind)
        if weight.dtype.bits > 8:
            codes[:k, :n] = weight.codes.storage.view(kind).reshape(n, k).T
        else:
            codes[:k, :n] = weight.codes.codes().T
        rows = deep // (form.group or form.chunk)
        scales = _by_group(weight.scales, rows, wide)
        zeros = _by_group(weight.zeros, rows, wide) if weight.zeros is not None else None
        if zeros is not None and not form.group:
            zeros[:] = zeros[0].clone()
        if not torch.isfinite(weight.scales.to_float()).all():
            raise TilusValueError("`weight` has scales that are NaN or infinite")
        columns = torch.zeros(wide)
        columns[:n] = weight.scales.to_float()[:, 0]
        weight.plans[form] = form.pack(codes, scales, zeros), columns
    found: tuple[torch.Tensor, torch.Tensor] = weight.plans[form]
    return found


def _by_group(x: Tensor, rows: int, columns: int) -> torch.Tensor:
    """Bytes [rows, columns, bytes of an element] of [n, groups] numbers; 0 beyond them."""
    n, groups = x.shape
    size = x.dtype.bits // 8
    out = torch.zeros(rows, columns, size, dtype=torch.uint8)
    out[:groups, :n] = x.storage.reshape(n, groups, size).transpose(0, 1)
    return out


_spent = [0.0]  # seconds of compiling


@lru_cache(maxsize=1024)
def _compiled(kernel: Any, constants: tuple[tuple[str, Any], ...], target: Target) -> CpuKernel:
    start = time.perf_counter()
    try:
        return kept.native(kernel, kernel.signature.complete(dict(constants)), {}, set(), target)[0]
    finally:
        _spent[0] += time.perf_counter() - start


def clock() -> float:
    """Seconds, as `time.perf_counter` counts them, without those in which kernels were compiled."""
    return time.perf_counter() - _spent[0]


def compiled(kernel: Any, constants: dict[str, Any], target: Target | None = None) -> CpuKernel:
    """Native code of a kernel for one thread a block; made once."""
    return _compiled(kernel, tuple(constants.items()), target or host_target())


def forget() -> None:
    """Drop what was compiled in this process; weights keep their plans."""
    _compiled.cache_clear()


__all__: Sequence[str] = ["QuantizedWeight", "matmul"]
