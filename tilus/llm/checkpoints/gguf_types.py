"""The element types of GGUF files, and their blocks taken apart into codes, scales, zero points.

A block holds 32 or 256 neighbours of a row, their scales and, in some types, minima. Codes are
kept as they are. Types without minima keep their values bit for bit. Of the others, w = d*q + m,
we store the zero point -m/d in f32; the weights then differ from d*q + m computed in f32 by at most
2^-22 (|d*q| + |m|), as two f32 evaluations of one formula do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusValueError
from tilus.kernels.quantized import QuantizedWeight
from tilus.tensor import Tensor

Array: TypeAlias = NDArray[Any]

_AT_ONCE = 1 << 18  # weights taken apart together, so that they stay in the cache


class Parts(NamedTuple):
    """What some blocks hold."""

    codes: Array  # u8 [blocks, elements]
    scales: Array  # f16 or f32, or codes of narrower types, [blocks, groups]
    zeros: Array | None = None  # f32 [blocks, groups]


@dataclass(frozen=True)
class Packed:
    """How blocks become a `QuantizedWeight`."""

    codes: DType
    scales: DType
    affine: bool  # has zero points
    group: int
    take_apart: Callable[[Array], Parts]  # of blocks [count, nbytes]


@dataclass(frozen=True)
class GgmlType:
    """An element type of GGUF files."""

    name: str
    elements: int  # in a block
    nbytes: int  # of a block
    dense: torch.dtype | None = None
    packed: Packed | None = None
    nearest: tuple[DType, int] | None = None  # type and group size it is converted to


def pack_blocks(ggml: GgmlType, data: torch.Tensor, n: int, k: int) -> QuantizedWeight:
    """The weight [n, k] whose blocks are the bytes `data`."""
    packed = ggml.packed
    assert packed is not None
    groups = k // packed.group
    row_bytes = k * packed.codes.bits // 8  # whole: k is a multiple of 32
    codes = torch.empty(n, row_bytes, dtype=torch.uint8)
    scales = torch.empty(n, groups * packed.scales.nbytes, dtype=torch.uint8)
    zeros = torch.empty(n, groups * 4, dtype=torch.uint8) if packed.affine else None
    blocks = data.numpy().reshape(n, k // ggml.elements, ggml.nbytes)
    step = max(1, _AT_ONCE // k)
    for row in range(0, n, step):
        rows = slice(row, min(row + step, n))
        with np.errstate(all="ignore"):  # what comes out of NaN and infinities is refused
            parts = packed.take_apart(blocks[rows].reshape(-1, ggml.nbytes))
        if not _finite(parts.scales, packed.scales):
            raise TilusValueError("has scales that are NaN or infinite")
        if parts.zeros is not None and not np.isfinite(parts.zeros).all():
            raise TilusValueError("has minima that are NaN or infinite")
        codes[rows] = _bytes(dtypes.pack(parts.codes, packed.codes.bits), codes[rows])
        scales[rows] = _bytes(parts.scales, scales[rows])
        if zeros is not None and parts.zeros is not None:
            zeros[rows] = _bytes(parts.zeros, zeros[rows])
    return QuantizedWeight(
        Tensor(packed.codes, (n, k), codes.reshape(-1)),
        Tensor(packed.scales, (n, groups), scales.reshape(-1)),
        Tensor(dtypes.f32, (n, groups), zeros.reshape(-1)) if zeros is not None else None,
        packed.group,
    )


def _bytes(numbers: Array, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers).view(np.uint8)).reshape(like.shape)


def _finite(numbers: Array, kind: DType) -> bool:
    values = numbers if kind.bits > 8 else kind.decode(numbers)
    return bool(np.isfinite(values).all())


# --- the parts of blocks ---


def _half(blocks: Array, at: int) -> Array:
    """The f16 at a byte of each block, [count, 1]."""
    half: Array = np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)
    return half


def _wide(blocks: Array, at: int) -> Array:
    return _half(blocks, at).astype(np.float32)


def _fields(data: Array, bits: int, run: int) -> Array:
    """Fields of bytes as codes: the lowest field of `run` bytes in a row, then their next one.

    [count, bytes] to [count, bytes * 8 / bits].
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields: Array = (data.reshape(len(data), -1, 1, run) >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(data), -1)


def _affine(codes: Array, scale: Array, minimum: Array) -> Parts:
    """scale * code + minimum as scale * (code - zero).

    Where the scale is 0, every weight of the group is the minimum: -minimum * (0 - 1).
    """
    flat = scale == 0
    scales = np.where(flat, -minimum, scale)
    zeros = -minimum.astype(np.float32) / np.where(flat, 1, scale).astype(np.float32)
    if flat.any():
        grouped = codes.reshape(*scale.shape, -1)
        codes = np.where(flat[:, :, None], np.uint8(0), grouped).reshape(codes.shape)
    return Parts(codes, scales, np.where(flat, np.float32(1), zeros))


def _q4_0(blocks: Array) -> Parts:
    return Parts(_fields(blocks[:, 2:], 4, 16) ^ 8, _half(blocks, 0))  # code - 8 in i4


def _q4_1(blocks: Array) -> Parts:
    return _affine(_fields(blocks[:, 4:], 4, 16), _half(blocks, 0), _half(blocks, 2))


def _fifth_bits(low: Array, high: Array) -> Array:
    codes: Array = low | _fields(high, 1, 1) << 4
    return codes


def _q5_0(blocks: Array) -> Parts:
    codes = _fifth_bits(_fields(blocks[:, 6:], 4, 16), blocks[:, 2:6])
    return Parts(codes ^ 16, _half(blocks, 0))


def _q5_1(blocks: Array) -> Parts:
    codes = _fifth_bits(_fields(blocks[:, 8:], 4, 16), blocks[:, 4:8])
    return _affine(codes, _half(blocks, 0), _half(blocks, 2))


def _q8_0(blocks: Array) -> Parts:
    return Parts(blocks[:, 2:], _half(blocks, 0))


def _q2_k(blocks: Array) -> Parts:
    both, d, least = blocks[:, :16], _wide(blocks, 80), _wide(blocks, 82)
    return _affine(_fields(blocks[:, 16:80], 2, 32), d * (both & 15), -(least * (both >> 4)))


def _q3_k(blocks: Array) -> Parts:
    codes = _fields(blocks[:, 32:96], 2, 32) | _fields(blocks[:, :32], 1, 32) << 2
    low, high = _fields(blocks[:, 96:104], 4, 8), _fields(blocks[:, 104:108], 2, 4)
    scales = (low | high << 4).astype(np.float32) - 32
    return Parts(codes ^ 4, _wide(blocks, 108) * scales)


def _scales_and_minima(blocks: Array) -> tuple[Array, Array]:
    """Of Q4_K and Q5_K: f32 [count, 8], from 6-bit fields in 12 bytes."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, (rest & 15) | (first >> 6) << 4], axis=1)
    minima = np.concatenate([second & 63, (rest >> 4) | (second >> 6) << 4], axis=1)
    return _wide(blocks, 0) * scales, -(_wide(blocks, 2) * minima)


def _q4_k(blocks: Array) -> Parts:
    return _affine(_fields(blocks[:, 16:], 4, 32), *_scales_and_minima(blocks))


def _q5_k(blocks: Array) -> Parts:
    codes = _fields(blocks[:, 48:], 4, 32) | _fields(blocks[:, 16:48], 1, 32) << 4
    return _affine(codes, *_scales_and_minima(blocks))


def _q6_k(blocks: Array) -> Parts:
    codes = _fields(blocks[:, :128], 4, 64) | _fields(blocks[:, 128:192], 2, 32) << 4
    return Parts(codes ^ 32, _wide(blocks, 208) * blocks[:, 192:208].view(np.int8))


def _iq4_nl(blocks: Array) -> Parts:
    return Parts(_fields(blocks[:, 2:], 4, 16), _half(blocks, 0))


def _iq4_xs(blocks: Array) -> Parts:
    low, high = _fields(blocks[:, 4:8], 4, 1), _fields(blocks[:, 2:4], 2, 1)
    scales = (low | high << 4).astype(np.float32) - 32
    return Parts(_fields(blocks[:, 8:], 4, 16), _wide(blocks, 0) * scales)


def _mxfp4(blocks: Array) -> Parts:
    return Parts(_fields(blocks[:, 1:], 4, 16), blocks[:, :1])


def _nvfp4(blocks: Array) -> Parts:
    stored = blocks[:, :4]
    scales = np.where(stored == 0x7F, 0, stored & 0x7F)  # without a sign; the one NaN means 0
    return Parts(_fields(blocks[:, 4:], 4, 8), scales.astype(np.uint8))


_F16, _F32 = dtypes.f16, dtypes.f32
_FEW = dtypes.u4, 32
_TERNARY = dtypes.lut(2, (-1, 0, 1, 0), "ternary")

#: By the number that files use. Q8_1 and Q8_K are of intermediate results, not of files.
GGML_TYPES: dict[int, GgmlType] = {
    0: GgmlType("F32", 1, 4, torch.float32),
    1: GgmlType("F16", 1, 2, torch.float16),
    2: GgmlType("Q4_0", 32, 18, packed=Packed(dtypes.i4, _F16, False, 32, _q4_0)),
    3: GgmlType("Q4_1", 32, 20, packed=Packed(dtypes.u4, _F16, True, 32, _q4_1)),
    6: GgmlType("Q5_0", 32, 22, packed=Packed(dtypes.i5, _F16, False, 32, _q5_0)),
    7: GgmlType("Q5_1", 32, 24, packed=Packed(dtypes.u5, _F16, True, 32, _q5_1)),
    8: GgmlType("Q8_0", 32, 34, packed=Packed(dtypes.i8, _F16, False, 32, _q8_0)),
    10: GgmlType("Q2_K", 256, 84, packed=Packed(dtypes.u2, _F32, True, 16, _q2_k)),
    11: GgmlType("Q3_K", 256, 110, packed=Packed(dtypes.i3, _F32, False, 16, _q3_k)),
    12: GgmlType("Q4_K", 256, 144, packed=Packed(dtypes.u4, _F32, True, 32, _q4_k)),
    13: GgmlType("Q5_K", 256, 176, packed=Packed(dtypes.u5, _F32, True, 32, _q5_k)),
    14: GgmlType("Q6_K", 256, 210, packed=Packed(dtypes.i6, _F32, False, 16, _q6_k)),
    16: GgmlType("IQ2_XXS", 256, 66, nearest=_FEW),
    17: GgmlType("IQ2_XS", 256, 74, nearest=_FEW),
    18: GgmlType("IQ3_XXS", 256, 98, nearest=_FEW),
    19: GgmlType("IQ1_S", 256, 50, nearest=_FEW),
    20: GgmlType("IQ4_NL", 32, 18, packed=Packed(dtypes.iq4nl, _F16, False, 32, _iq4_nl)),
    21: GgmlType("IQ3_S", 256, 110, nearest=_FEW),
    22: GgmlType("IQ2_S", 256, 82, nearest=_FEW),
    23: GgmlType("IQ4_XS", 256, 136, packed=Packed(dtypes.iq4nl, _F32, False, 32, _iq4_xs)),
    24: GgmlType("I8", 1, 1),
    25: GgmlType("I16", 1, 2),
    26: GgmlType("I32", 1, 4),
    27: GgmlType("I64", 1, 8),
    28: GgmlType("F64", 1, 8),
    29: GgmlType("IQ1_M", 256, 56, nearest=_FEW),
    30: GgmlType("BF16", 1, 2, torch.bfloat16),
    34: GgmlType("TQ1_0", 256, 54, nearest=(_TERNARY, 256)),
    35: GgmlType("TQ2_0", 256, 66, nearest=(_TERNARY, 256)),
    39: GgmlType("MXFP4", 32, 17, packed=Packed(dtypes.f4e2m1, dtypes.e8m0, False, 32, _mxfp4)),
    40: GgmlType("NVFP4", 64, 36, packed=Packed(dtypes.f4e2m1, dtypes.f8e4m3, False, 16, _nvfp4)),
    41: GgmlType("Q1_0", 128, 18, nearest=(_TERNARY, 128)),
}
