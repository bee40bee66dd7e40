"""Tensors of any element width for the host: a type, a shape, and packed bytes held by torch.

The elements lie in row-major order as one little-endian bit stream (`tilus.dtypes.pack`); only the
last byte is padded. Conversions run on the CPU and come back to the tensor's device.

>>> t = Tensor.from_float(torch.tensor([[0.1, -0.6], [2.0, 7.0]]), dtypes.f4e2m1)
>>> t
Tensor(f4e2m1[2, 2], 2 bytes, cpu: 0, -0.5, 2, 6)
>>> t.codes().tolist(), t.storage.tolist()
([[0, 9], [4, 7]], [144, 116])
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tilus import dtypes
from tilus.dtypes import DType, Kind
from tilus.dtypes.element import Array

# Types whose tensors torch holds one element after the other as we do, and the torch type of each.
_TORCH: dict[DType, torch.dtype] = {
    dtypes.u8: torch.uint8,
    dtypes.u16: torch.uint16,
    dtypes.u32: torch.uint32,
    dtypes.u64: torch.uint64,
    dtypes.i8: torch.int8,
    dtypes.i16: torch.int16,
    dtypes.i32: torch.int32,
    dtypes.i64: torch.int64,
    dtypes.f8e4m3: torch.float8_e4m3fn,
    dtypes.f8e5m2: torch.float8_e5m2,
    dtypes.e8m0: torch.float8_e8m0fnu,
    dtypes.f16: torch.float16,
    dtypes.bf16: torch.bfloat16,
    dtypes.f32: torch.float32,
    dtypes.f64: torch.float64,
    dtypes.bool_: torch.bool,
}
_FROM_TORCH = {there: here for here, there in _TORCH.items()}
_SHOWN = 6  # elements in a repr

__all__ = ["Tensor"]


def to_torch(dtype: DType) -> torch.dtype | None:
    """The torch type with the same codes, or None where torch has none."""
    return _TORCH.get(dtype)


def from_torch(torch_dtype: torch.dtype) -> DType:
    """The type of the elements of a torch tensor.

    >>> from_torch(torch.bfloat16)
    dtype('bf16')
    """
    if not isinstance(torch_dtype, torch.dtype):
        raise TypeError(
            f"torch_dtype must be a torch.dtype, not {type(torch_dtype).__name__}; "
            "for a tensor use `Tensor.from_torch`"
        )
    if torch_dtype not in _FROM_TORCH:
        raise ValueError(
            f"torch_dtype {torch_dtype} has no counterpart with one element after the other; view "
            "the tensor as torch.uint8 and give `Tensor` the element type"
        )
    return _FROM_TORCH[torch_dtype]


class Tensor:
    """Elements of `dtype` in `shape`, packed into `storage`, which is not copied.

    Args:
        dtype: any element type.
        shape: the extents, () for a single element.
        storage: one-dimensional contiguous torch.uint8, `dtype.storage_bytes(numel)` long, on any
            device.
    """

    __slots__ = ("dtype", "shape", "storage")

    dtype: DType
    shape: tuple[int, ...]
    storage: torch.Tensor

    def __init__(self, dtype: DType, shape: Sequence[int], storage: torch.Tensor) -> None:
        self.dtype = _checked_dtype(dtype)
        self.shape = tuple(int(extent) for extent in shape)
        self.storage = storage
        if any(extent < 0 for extent in self.shape):
            raise ValueError(f"shape must not have negative extents: {list(self.shape)}")
        if not isinstance(storage, torch.Tensor) or storage.dtype != torch.uint8:
            kind = storage.dtype if isinstance(storage, torch.Tensor) else type(storage).__name__
            raise TypeError(
                f"storage must be a torch.uint8 tensor, not {kind}; `Tensor.from_torch` takes "
                "tensors of values, `Tensor.from_codes` tensors of codes"
            )
        if storage.dim() != 1 or not storage.is_contiguous():
            raise ValueError(
                f"storage must be one-dimensional and contiguous, not {list(storage.shape)} with "
                f"strides {list(storage.stride())}; use storage.reshape(-1).contiguous()"
            )
        need = dtype.storage_bytes(self.numel)
        if storage.numel() != need:
            raise ValueError(
                f"storage has {storage.numel()} bytes, but {self._type()} packs {self.numel} "
                f"elements of {dtype.bits} bits into {need}"
            )

    # --- making ---

    @staticmethod
    def from_float(x: torch.Tensor, dtype: DType) -> Tensor:
        """The floating-point tensor `x` converted to `dtype` as `cast` does.

        To float and codebook types it rounds to the nearest value, to integers toward zero: divide
        by a scale and round before.
        """
        _checked_dtype(dtype)
        if not _checked_tensor(x, "x").is_floating_point():
            raise TypeError(
                f"x must be a floating-point tensor, not {x.dtype}; integers that are codes go "
                "through `Tensor.from_codes`, other integers through x.double()"
            )
        source = Tensor.from_torch(x)
        values = dtypes.convert(source._values(), source.dtype, dtype)
        return _packed(dtype, values.shape, dtype.encode(values), x.device)

    @staticmethod
    def from_codes(codes: torch.Tensor, dtype: DType) -> Tensor:
        """A tensor of the shape of `codes`, integers from 0 to 2^bits-1 of any integer type."""
        _checked_dtype(dtype)
        kind = _FROM_TORCH.get(_checked_tensor(codes, "codes").dtype)
        if kind is None or not kind.is_integer:
            raise TypeError(
                f"codes must be an integer tensor, not {codes.dtype}; values go through "
                "`Tensor.from_float`"
            )
        array = codes.detach().cpu().numpy()
        if array.size and (array.min() < 0 or int(array.max()) >> dtype.bits):
            raise ValueError(
                f"codes of {dtype} are 0 to {(1 << dtype.bits) - 1}, but codes has values from "
                f"{array.min()} to {array.max()}"
            )
        return _packed(dtype, array.shape, array.astype(dtype.code_dtype), codes.device)

    @staticmethod
    def from_torch(x: torch.Tensor) -> Tensor:
        """The same elements, without a copy if `x` is contiguous."""
        dtype = from_torch(_checked_tensor(x, "x").dtype)
        return Tensor(dtype, x.shape, _flat(x.detach().contiguous()).view(torch.uint8))

    # --- reading ---

    @property
    def numel(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes the packed elements occupy."""
        return self.storage.numel()

    @property
    def device(self) -> torch.device:
        """Where the storage is."""
        return self.storage.device

    def codes(self) -> torch.Tensor:
        """Every element's code, as the narrowest unsigned torch type, in this shape."""
        codes = self._codes(self.numel).reshape(self.shape)
        return torch.from_numpy(codes).to(self.device)

    def to_float(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Every element's value, converted to the floating torch type `dtype` as `cast` does."""
        target = from_torch(dtype)
        if target.kind is not Kind.FLOAT:
            raise TypeError(f"dtype must be a floating-point torch type, not {dtype}")
        values = dtypes.convert(self._values(), self.dtype, target)
        return _packed(target, self.shape, target.encode(values), self.device).to_torch()

    def to_torch(self) -> torch.Tensor:
        """The same elements as a torch tensor without a copy, for types that torch has."""
        there = to_torch(self.dtype)
        if there is None:
            raise TypeError(
                f"torch has no type with the codes of {self.dtype}; use `to_float()` for the "
                "values, `codes()` for the codes or `storage` for the bytes"
            )
        if self.storage.storage_offset() % self.dtype.nbytes:
            raise ValueError(
                f"storage does not start at a multiple of {self.dtype.nbytes} bytes, as torch "
                f"needs for {there}; use `clone()` first"
            )
        return _flat(self.storage).view(there).reshape(self.shape)

    # --- the same bits elsewhere or as something else ---

    def to(self, device: torch.device | str) -> Tensor:
        """This tensor on `device`; the same storage if it is there already."""
        return Tensor(self.dtype, self.shape, self.storage.to(device))

    def clone(self) -> Tensor:
        """A copy with a storage of its own."""
        return Tensor(self.dtype, self.shape, self.storage.clone())

    def view(self, dtype: DType) -> Tensor:
        """The same bits as elements of `dtype`; the last extent changes with the element's width.

        >>> Tensor.from_torch(torch.arange(6, dtype=torch.uint8)).view(dtypes.u3).shape
        (16,)
        """
        _checked_dtype(dtype)
        if dtype.bits == self.dtype.bits:
            return Tensor(dtype, self.shape, self.storage)
        row = (self.shape[-1] if self.shape else 1) * self.dtype.bits
        if not self.shape or row % dtype.bits:
            raise ValueError(
                f"a row of {self._type()} has {row} bits and cannot be viewed as {dtype} of "
                f"{dtype.bits} bits: the last extent must make them divide"
            )
        return Tensor(dtype, (*self.shape[:-1], row // dtype.bits), self.storage)

    def equal(self, other: Tensor) -> bool:
        """Whether type, shape and every code agree; padding bits and device do not matter."""
        if self.dtype != other.dtype or self.shape != other.shape:
            return False
        full, rest = divmod(self.numel * self.dtype.bits, 8)
        mine, theirs = self.storage, other.storage.to(self.device)
        if not torch.equal(mine[:full], theirs[:full]):
            return False
        return not rest or ((int(mine[full]) ^ int(theirs[full])) & ((1 << rest) - 1)) == 0

    def __repr__(self) -> str:
        text = f"{self._type()}, {self.nbytes} bytes, {self.device}"
        if self.device.type == "cpu" and self.numel:  # elsewhere it would wait for the device
            values = self._values(min(self.numel, _SHOWN)).tolist()
            shown = [f"{v:.6g}" if isinstance(v, float) else str(v) for v in values]
            text += f": {', '.join(shown)}{', ...' if self.numel > _SHOWN else ''}"
        return f"Tensor({text})"

    def _type(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    def _codes(self, count: int) -> Array:
        used = self.storage[: self.dtype.storage_bytes(count)]
        return dtypes.unpack(used.detach().cpu().numpy(), self.dtype.bits, count)

    def _values(self, count: int | None = None) -> Array:
        """The first `count` values in one dimension, or all in this shape."""
        if count is not None:
            return self.dtype.decode(self._codes(count))
        return self.dtype.decode(self._codes(self.numel)).reshape(self.shape)


def _packed(dtype: DType, shape: Sequence[int], codes: Array, device: torch.device) -> Tensor:
    """The tensor with these codes, on `device`."""
    return Tensor(dtype, shape, torch.from_numpy(dtypes.pack(codes, dtype.bits)).to(device))


def _flat(x: torch.Tensor) -> torch.Tensor:
    """Contiguous `x` in one dimension with stride 1, which `reshape` leaves as it is for size 1."""
    return x.as_strided((x.numel(),), (1,))


def _checked_tensor(x: torch.Tensor, name: str) -> torch.Tensor:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(x).__name__}")
    return x


def _checked_dtype(dtype: DType) -> DType:
    if not isinstance(dtype, DType):
        raise TypeError(
            f"dtype must be an element type of tilus, not {dtype!r}; names go through "
            "`tilus.dtypes.dtype`, types of torch through `tilus.tensor.from_torch`"
        )
    return dtype
