"""Quantised weights: codes, scales and zero points, and `quantize_weight`, which makes them.

w [n, k]  ~  scale[n, g] * (value(code[n, k]) - zero[n, g])        g = k // group
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError, TilusValueError
from tilus.tensor import Tensor, to_torch

SCALES = (dtypes.f16, dtypes.bf16, dtypes.f32, dtypes.e8m0, dtypes.f8e4m3)
GROUPS = (16, 32, 64, 128, 256)


@dataclass
class QuantizedWeight:
    """A weight matrix [n, k] as codes, scales and zero points (see the module)."""

    codes: Tensor  # [n, k]
    scales: Tensor  # [n, k / group]
    zeros: Tensor | None  # u8 or float [n, k / group]
    group_size: int  # 0: one scale for each row
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)  # of `kernels.matmul`
    types: str = field(init=False, repr=False)  # the element types' names

    def __post_init__(self) -> None:
        tensors = (self.codes, self.scales, self.zeros)
        self.types = " ".join(str(t.dtype) for t in tensors if t is not None)

    @property
    def dtype(self) -> DType:
        """The element type of the codes."""
        return self.codes.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k): outputs, inputs."""
        n, k = self.codes.shape
        return n, k

    def drop_codes(self) -> None:
        """Forget the codes, once a product has packed them: what else needs them is an error."""
        gone = torch.empty(self.codes.nbytes, dtype=torch.uint8, device="meta")
        self.codes = Tensor(self.codes.dtype, self.codes.shape, gone)

    def check_codes(self) -> None:
        """Raise an error if `drop_codes` was called."""
        if self.codes.storage.is_meta:
            raise TilusValueError(
                "`weight` has dropped its codes after they were packed for native products; load "
                "it anew for other uses"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points; of a dense matrix, of its numbers."""
        if self.dtype.bits > 8:
            return self.codes.nbytes
        return sum(t.nbytes for t in (self.codes, self.scales, self.zeros) if t is not None)

    def dequantize(self) -> torch.Tensor:
        """The weights these codes stand for, f32 [n, k]."""
        self.check_codes()
        n, k = self.shape
        group = self.group_size or k
        w = self.codes.to_float().reshape(n, k // group, group)
        if self.zeros is not None:
            w = w - self.zeros.to_float()[:, :, None]
        return (w * self.scales.to_float()[:, :, None]).reshape(n, k)


@dataclass(frozen=True)
class Scheme:
    """The element types of a quantised weight's tensors, and rounding to the nearest code."""

    codes: DType
    scales: DType
    zeros: DType | None

    @staticmethod
    def of(
        dtype: DType | str,
        scale_dtype: DType | str = "f16",
        zero_point: bool | Literal["float"] | None = None,
    ) -> Scheme:
        """The types that these arguments of `quantize_weight` ask for."""
        kind = dtypes.dtype(dtype) if isinstance(dtype, str) else dtype
        scale = dtypes.dtype(scale_dtype) if isinstance(scale_dtype, str) else scale_dtype
        if kind.bits > 8 or kind == dtypes.bool_ or kind == dtypes.e8m0:
            raise TilusTypeError(f"`dtype` is {kind}; weights have at most 8 bits")
        if scale not in SCALES:
            names = ", ".join(map(str, SCALES))
            raise TilusTypeError(f"`scale_dtype` is {scale}; it is one of {names}")
        unsigned = kind.kind is dtypes.Kind.UINT
        if not (unsigned if zero_point is None else zero_point):
            return Scheme(kind, scale, None)
        if not unsigned:
            raise TilusTypeError(f"`zero_point`: only unsigned integers have one, not {kind}")
        if zero_point != "float":
            return Scheme(kind, scale, dtypes.u8)
        return Scheme(kind, scale, scale if scale in (dtypes.bf16, dtypes.f32) else dtypes.f16)

    def nearest(self, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scales and zero points, as stored, with which codes span f32 groups [n, k / g, g]."""
        kind = self.codes
        if not torch.isfinite(groups).all():
            raise TilusValueError("`weight` holds NaN or infinity")
        if self.zeros is None:
            largest = min(max(kind.max, -kind.min), 2.0**15)  # so that scales are not subnormal
            return self.stored_scale(groups.abs().amax(2) / largest), None
        low, high = groups.amin(2), groups.amax(2)
        if self.zeros == dtypes.u8:  # 0 is to be a code
            low, high = low.clamp_max(0), high.clamp_min(0)
        scale = self.stored_scale((high - low) / kind.max)
        return scale, self.stored_zero(-low / _nonzero(scale))

    def stored_scale(self, scale: torch.Tensor) -> torch.Tensor:
        """Scales as their type holds them."""
        return _stored(scale, self.scales)

    def stored_zero(self, zero: torch.Tensor) -> torch.Tensor:
        """Zero points as their type holds them: integer ones are codes."""
        assert self.zeros is not None
        if self.zeros == dtypes.u8:
            return zero.round().clamp(0, self.codes.max)
        return _stored(zero, self.zeros)

    def scaled(
        self, groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None
    ) -> torch.Tensor:
        """Weights in units of codes; of integers, the codes' values themselves."""
        scaled = groups / _nonzero(scale)[:, :, None]
        if zero is not None:
            scaled = scaled + zero[:, :, None]
        if self.codes.is_integer:
            scaled = scaled.round().clamp(self.codes.min, self.codes.max)
        return scaled


def quantize_weight(
    weight: torch.Tensor,
    dtype: DType | str,
    *,
    group_size: int | None = 128,
    scale_dtype: DType | str = "f16",
    zero_point: bool | Literal["float"] | None = None,
) -> QuantizedWeight:
    """Quantise a weight matrix by rounding to the nearest code.

    Args:
        weight: float [n, k], finite.
        dtype: the element type of the codes, at most 8 bits.
        group_size: 16, 32, 64, 128 or 256 neighbours along k share a scale; None: a whole row.
        scale_dtype: f16, bf16, f32, e8m0 or f8e4m3.
        zero_point: True for an integer zero point in each group (unsigned integers; theirs by
            default), `"float"` for one that is not rounded, False for none.

    Raises:
        TilusTypeError, TilusValueError: an argument is out of place, by name.
    """
    scheme = Scheme.of(dtype, scale_dtype, zero_point)
    n, k, group = check_weight(weight, group_size)
    groups = weight.detach().float().reshape(n, k // group, group)
    scale, zero = scheme.nearest(groups)
    scaled = scheme.scaled(groups, scale, zero).reshape(n, k)
    return QuantizedWeight(
        Tensor.from_float(scaled, scheme.codes),
        Tensor.from_float(scale, scheme.scales),
        Tensor.from_float(zero, scheme.zeros) if zero is not None and scheme.zeros else None,
        0 if group_size is None else group,
    )


def dense_weight(weight: torch.Tensor) -> QuantizedWeight:
    """A dense matrix [n, k] in f32, f16 or bf16 for the same products: its codes are its numbers.

    They are not copied; each row has a scale of 1.
    """
    codes = Tensor.from_torch(weight.detach().contiguous())
    ones = Tensor.from_torch(torch.ones(len(weight), 1))
    return QuantizedWeight(codes, ones, None, 0)


def check_weight(
    weight: torch.Tensor | QuantizedWeight, group_size: int | None
) -> tuple[int, int, int]:
    """(n, k, weights that share a scale) of a weight matrix that can be cut into such groups."""
    if not isinstance(weight, QuantizedWeight) and not (
        isinstance(weight, torch.Tensor) and weight.dim() == 2 and weight.is_floating_point()
    ):
        raise TilusTypeError("`weight` must be a float tensor [n, k]")
    n, k = weight.shape
    if group_size is not None and group_size not in GROUPS:
        raise TilusValueError(f"`group_size` is {group_size}; it is one of {GROUPS} or None")
    if group_size is not None and k % group_size:
        raise TilusValueError(f"`weight` has k = {k}, no multiple of the group, {group_size}")
    if not n or not k:
        raise TilusValueError(f"`weight` is empty: {list(weight.shape)}")
    return n, k, group_size or k


def _stored(scale: torch.Tensor, kind: DType) -> torch.Tensor:
    """Scales as their type holds them."""
    there = to_torch(kind) if kind.bits > 8 else None
    stored = scale.to(there).float() if there else Tensor.from_float(scale, kind).to_float()
    if not torch.isfinite(stored).all():
        raise TilusValueError(
            f"`weight` is too large for {kind} scales and zero points; use bf16 or f32 scales"
        )
    return stored


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 1.0, scale)
