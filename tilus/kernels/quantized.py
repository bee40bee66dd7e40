"""Quantised weights, and products with them: `quantize_weight` and `matmul`.

w [n, k]  ~  scale[n, g] * (value(code[n, k]) - zero[n, g])        g = k // group

x --quantize_rows--> i8 in blocks of rows, with scales and sums --matmul_i8--> y [m, n]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError, TilusValueError
from tilus.ir.passes import lower
from tilus.ir.target import Target
from tilus.kernels.device import cpu_matmul
from tilus.kernels.integers import integer_form
from tilus.kernels.panels import PANEL, PanelFormat
from tilus.runtime.cpu import CpuKernel, compile_cpu, host_target
from tilus.tensor import Tensor, from_torch

SCALES = (dtypes.f16, dtypes.bf16, dtypes.f32, dtypes.e8m0, dtypes.f8e4m3)
GROUPS = (16, 32, 64, 128, 256)
ROWS = 8  # rows whose sums stay in registers
TALL = 8  # row blocks that pass over a panel while it is near


@dataclass
class QuantizedWeight:
    """A weight matrix [n, k] as codes, scales and zero points (see the module)."""

    codes: Tensor  # [n, k]
    scales: Tensor  # [n, k / group]
    zeros: Tensor | None  # u8 [n, k / group]
    group_size: int  # 0: one scale for each row
    _packed: dict[Any, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> DType:
        """The element type of the codes."""
        return self.codes.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k): outputs, inputs."""
        n, k = self.codes.shape
        return n, k

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return sum(t.nbytes for t in (self.codes, self.scales, self.zeros) if t is not None)

    def dequantize(self) -> torch.Tensor:
        """The weights these codes stand for, f32 [n, k]."""
        n, k = self.shape
        group = self.group_size or k
        w = self.codes.to_float().reshape(n, k // group, group)
        if self.zeros is not None:
            w = w - self.zeros.to_float()[:, :, None]
        return (w * self.scales.to_float()[:, :, None]).reshape(n, k)


def quantize_weight(
    weight: torch.Tensor,
    dtype: DType | str,
    *,
    group_size: int | None = 128,
    scale_dtype: DType | str = "f16",
    zero_point: bool | None = None,
) -> QuantizedWeight:
    """Quantise a weight matrix by rounding to the nearest code.

    Args:
        weight: float [n, k], finite.
        dtype: the element type of the codes, at most 8 bits.
        group_size: 16, 32, 64, 128 or 256 neighbours along k share a scale; None: a whole row.
        scale_dtype: f16, bf16, f32, e8m0 or f8e4m3.
        zero_point: an integer zero point for each group (unsigned integers; theirs by default).

    Raises:
        TilusTypeError, TilusValueError: an argument is out of place, by name.
    """
    kind = dtypes.dtype(dtype) if isinstance(dtype, str) else dtype
    scale_kind = dtypes.dtype(scale_dtype) if isinstance(scale_dtype, str) else scale_dtype
    n, k, group = _check(weight, kind, group_size, scale_kind)
    unsigned = kind.kind is dtypes.Kind.UINT
    asymmetric = unsigned if zero_point is None else zero_point
    if asymmetric and not unsigned:
        raise TilusTypeError(f"`zero_point`: only unsigned integers have one, not {kind}")
    groups = weight.detach().float().reshape(n, k // group, group)
    if asymmetric:
        low, high = groups.amin(2).clamp_max(0), groups.amax(2).clamp_min(0)
        scale = _stored((high - low) / kind.max, scale_kind)
        zero = torch.round(-low / _nonzero(scale)).clamp(0, kind.max)
    else:
        largest = min(max(kind.max, -kind.min), 2.0**15)  # so that scales are not subnormal
        scale = _stored(groups.abs().amax(2) / largest, scale_kind)
        zero = None
    scaled = groups / _nonzero(scale)[:, :, None]
    if zero is not None:
        scaled = scaled + zero[:, :, None]
    if kind.is_integer:
        scaled = scaled.round().clamp(kind.min, kind.max)
    return QuantizedWeight(
        Tensor.from_float(scaled.reshape(n, k), kind),
        Tensor.from_float(scale, scale_kind),
        Tensor.from_float(zero, dtypes.u8) if zero is not None else None,
        0 if group_size is None else group,
    )


def _check(
    weight: torch.Tensor, kind: DType, group_size: int | None, scale: DType
) -> tuple[int, int, int]:
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        raise TilusTypeError("`weight` must be a float tensor [n, k]")
    n, k = weight.shape
    if kind.bits > 8 or kind == dtypes.bool_ or kind == dtypes.e8m0:
        raise TilusTypeError(f"`dtype` is {kind}; weights have at most 8 bits")
    if scale not in SCALES:
        names = ", ".join(map(str, SCALES))
        raise TilusTypeError(f"`scale_dtype` is {scale}; it is one of {names}")
    if group_size is not None and group_size not in GROUPS:
        raise TilusValueError(f"`group_size` is {group_size}; it is one of {GROUPS} or None")
    if group_size is not None and k % group_size:
        raise TilusValueError(f"`weight` has k = {k}, no multiple of the group, {group_size}")
    if not n or not k:
        raise TilusValueError(f"`weight` is empty: {list(weight.shape)}")
    if not torch.isfinite(weight).all():
        raise TilusValueError("`weight` holds NaN or infinity")
    return n, k, group_size or k


def _stored(scale: torch.Tensor, kind: DType) -> torch.Tensor:
    """Scales as their type holds them."""
    return Tensor.from_float(scale, kind).to_float()


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 1.0, scale)


def panel_format(weight: QuantizedWeight, activations: str = "int8") -> PanelFormat:
    """How a weight lies in memory for products with 8-bit or with exact activations."""
    chunk = min(max(weight.group_size, 32), 256) if weight.group_size else 256
    if not weight.group_size and weight.shape[1] < 256:
        chunk = -(-weight.shape[1] // 32) * 32
    return PanelFormat(
        weight.dtype.bits,
        chunk,
        weight.group_size,
        weight.scales.dtype,
        integer_form(weight.dtype) if activations == "int8" else None,
        weight.zeros is not None,
    )


@dataclass(frozen=True)
class _Tiling:
    """How the rows of a product are cut: blocks of `height`, `tall` of them for a thread block."""

    rows: int
    height: int
    tall: int
    supers: int

    @classmethod
    def of(cls, rows: int) -> _Tiling:
        height = min(ROWS, 1 << (rows - 1).bit_length())
        blocks = -(-rows // height)
        tall = min(TALL, blocks)
        return cls(rows, height, tall, -(-blocks // tall))

    @property
    def blocks(self) -> int:
        """Row blocks, those of padding included."""
        return self.supers * self.tall


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
            weights' values are integers (see `tilus.kernels.integers`), and multiplies the others
            in f32; `exact` multiplies all in f32.

    Returns:
        [..., n] of x's type. A row's result does not depend on the others.
    """
    n, k = weight.shape
    kind = _activation(x, k)
    if activations not in ("int8", "exact"):
        raise TilusValueError(f"`activations` is {activations!r}; it is `int8` or `exact`")
    if bias is not None and tuple(bias.shape) != (n,):
        raise TilusTypeError(f"`bias` is {list(bias.shape)}; it must be [{n}]")
    rows = x.numel() // k
    out = torch.empty(*x.shape[:-1], n, dtype=x.dtype)
    if rows == 0:
        return out
    form = panel_format(weight, activations)
    data, column_scales = _packed(weight, form)
    chunks, t = data.shape[1], _Tiling.of(rows)
    constants: dict[str, Any] = {
        "form": form, "TYPE": kind, "BIAS": bias is not None, "BM": t.height, "BLOCKS": t.tall,
    }  # fmt: skip
    if form.form is not None:
        kernel, inputs = cpu_matmul.matmul_i8, _rounded(x, kind, form, t, chunks)
    else:
        kernel, inputs = cpu_matmul.matmul_exact, [_blocked(x, form, t, chunks)]
        constants["WEIGHTS"] = weight.dtype
    tensors = (
        *inputs,
        data,
        column_scales,
        _padded(bias, n) if bias is not None else column_scales,
    )
    _kernel(kernel, tuple(constants.items()), host_target()).launch(
        [*(i.data_ptr() for i in tensors), out.data_ptr(), rows, n, chunks],
        (data.shape[0], t.supers, 1),
    )
    return out


def _rounded(
    x: torch.Tensor, kind: DType, form: PanelFormat, t: _Tiling, chunks: int
) -> list[torch.Tensor]:
    """Activations as 8-bit integers in blocks of rows, their scales, and sums over groups."""
    q = torch.empty(t.blocks, chunks, t.height, form.chunk, dtype=torch.int8)
    scales = torch.empty(t.blocks, chunks, t.height)
    sums = torch.empty(t.blocks, chunks, form.groups, t.height, dtype=torch.int32)
    names = {"TYPE": kind, "BM": t.height, "CHUNK": form.chunk, "STEP": form.chunk // form.groups}
    x = x.contiguous()
    _kernel(cpu_matmul.quantize_rows, tuple(names.items()), host_target()).launch(
        [*(i.data_ptr() for i in (x, q, scales, sums)), t.rows, x.shape[-1], chunks],
        (t.blocks, 1, 1),
    )
    return [q, scales, sums]


def _blocked(x: torch.Tensor, form: PanelFormat, t: _Tiling, chunks: int) -> torch.Tensor:
    """Activations in f32, in the same blocks."""
    k = x.shape[-1]
    flat = torch.zeros(t.blocks * t.height, chunks * form.chunk)
    flat[: t.rows, :k] = x.reshape(t.rows, k)
    return flat.reshape(t.blocks, t.height, chunks, form.chunk).transpose(1, 2).contiguous()


def _activation(x: torch.Tensor, k: int) -> DType:
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16) or x.device.type != "cpu":
        raise TilusTypeError(f"`x` is {x.dtype} on {x.device}; it must be f32, f16 or bf16 on cpu")
    if x.dim() == 0 or x.shape[-1] != k:
        raise TilusTypeError(f"`x` is {list(x.shape)}; its last dimension must be k = {k}")
    return from_torch(x.dtype)


def _padded(x: torch.Tensor, n: int) -> torch.Tensor:
    out = torch.zeros(-(-n // PANEL) * PANEL)
    out[:n] = x
    return out


def _packed(weight: QuantizedWeight, form: PanelFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight's bytes for a format, and its scales by column; made once."""
    if form not in weight._packed:
        n, k = weight.shape
        wide, deep = -(-n // PANEL) * PANEL, -(-k // form.chunk) * form.chunk
        codes = torch.zeros(deep, wide, dtype=torch.uint8)
        codes[:k, :n] = weight.codes.codes().T
        size = form.scale.bits // 8
        rows = deep // (form.group or form.chunk)
        scales = torch.zeros(rows, wide, size, dtype=torch.uint8)
        raw = weight.scales.storage.reshape(n, -1, size).transpose(0, 1)
        scales[: raw.shape[0], :n] = raw
        zeros = None
        if weight.zeros is not None:
            zeros = torch.zeros(rows, wide, dtype=torch.uint8)
            given = weight.zeros.codes().T
            zeros[: rows if not form.group else len(given), :n] = given
        weight._packed[form] = form.pack(codes, scales, zeros)
        weight._packed["columns"] = _padded(weight.scales.to_float()[:, 0], n)
    return weight._packed[form], weight._packed["columns"]


@lru_cache(maxsize=1024)
def _kernel(kernel: Any, constants: tuple[tuple[str, Any], ...], target: Target) -> CpuKernel:
    return compiled(kernel, dict(constants), target)


def compiled(kernel: Any, constants: dict[str, Any], target: Target | None = None) -> CpuKernel:
    """Native code of a kernel for one thread a block."""
    target = target or host_target()
    return compile_cpu(lower(kernel.trace(constants, 1), target), target)


__all__ = ["QuantizedWeight", "matmul", "quantize_weight"]
