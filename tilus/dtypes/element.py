"""The element type itself: what it is, what its codes mean, and conversion between two of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilus.dtypes import rounding
from tilus.dtypes.packing import checked_codes, code_dtype

Array: TypeAlias = NDArray[Any]


class Kind(Enum):
    """What family of meanings a type's codes have."""

    UINT = "uint"
    INT = "int"
    FLOAT = "float"
    LUT = "lut"
    BOOL = "bool"


@dataclass(frozen=True, repr=False)
class DType:
    """An element type; equal by value, so it can be a key or a compile-time constant.

    Get one from the constants of `tilus.dtypes`, `dtype(name)`, `float_(e, m)` or `lut(...)`, which
    check what they are given; `name` is what `dtype` reads back.
    """

    name: str
    bits: int
    kind: Kind
    exponent_bits: int = 0
    mantissa_bits: int = 0
    values: tuple[float, ...] = ()  # LUT: the value of each code

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"dtype({self.name!r})"

    # --- what it is ---

    @property
    def is_integer(self) -> bool:
        """Whether values are integers; `bool` is not one."""
        return self.kind in (Kind.UINT, Kind.INT)

    @property
    def is_float(self) -> bool:
        """Whether values are real numbers, so that arithmetic is floating: floats and codebooks."""
        return self.kind in (Kind.FLOAT, Kind.LUT)

    @property
    def is_small_float(self) -> bool:
        """Whether it is a float of at most 8 bits, `e8m0` included and codebooks not."""
        return self.kind is Kind.FLOAT and self.bits <= 8

    @property
    def is_signed(self) -> bool:
        """Whether some value is negative."""
        if self.kind is Kind.LUT:
            return self.min < 0
        if self.kind is Kind.FLOAT:
            return self.bits > self.magnitude_bits
        return self.kind is Kind.INT

    @property
    def is_subbyte(self) -> bool:
        """Whether an element is narrower than a byte."""
        return self.bits < 8

    @property
    def has_infinity(self) -> bool:
        """Whether some codes are infinities: `f8e5m2` and the wide floats."""
        return self.kind is Kind.FLOAT and (self.bits > 8 or self.format == (5, 2))

    @property
    def has_nan(self) -> bool:
        """Whether some code is NaN: the types with infinities, `f8e4m3` and `e8m0`."""
        return self.has_infinity or (self.kind is Kind.FLOAT and self.format in ((4, 3), (8, 0)))

    @property
    def nbytes(self) -> int:
        """Bytes of one element; a ValueError for types narrower than a byte."""
        if self.is_subbyte:
            raise ValueError(
                f"one {self} element has {self.bits} bits, not a whole number of bytes; "
                "count the bytes of many elements with `storage_bytes(count)`"
            )
        return self.bits // 8

    def storage_bytes(self, count: int) -> int:
        """Bytes that `count` packed elements occupy, the last one padded."""
        return (count * self.bits + 7) // 8

    @cached_property
    def code_dtype(self) -> np.dtype[Any]:
        """The narrowest NumPy unsigned type that holds one code."""
        return code_dtype(self.bits)

    @cached_property
    def value_dtype(self) -> np.dtype[Any]:
        """The NumPy type of decoded values; float32 for all floats but `f16` and `f64`."""
        if self.kind is Kind.BOOL:
            return np.dtype(np.bool_)
        if self.is_integer:
            return np.dtype(f"{'i' if self.is_signed else 'u'}{self.code_dtype.itemsize}")
        return np.dtype({(5, 10): np.float16, (11, 52): np.float64}.get(self.format, np.float32))

    @cached_property
    def min(self) -> int | float:
        """The least finite value; of `e8m0` the smallest power of two."""
        if self.kind is Kind.LUT:
            return min(self.values)
        if self.kind is Kind.FLOAT:
            return -self.max if self.is_signed else self._magnitude(0)
        return -(1 << (self.bits - 1)) if self.is_signed else 0

    @cached_property
    def max(self) -> int | float:
        """The greatest finite value."""
        if self.kind is Kind.LUT:
            return max(self.values)
        if self.kind is Kind.FLOAT:
            return self._magnitude(self.max_code)
        return 1 if self.kind is Kind.BOOL else (1 << (self.bits - self.is_signed)) - 1

    # --- how a float's bits are laid out: sign, exponent, mantissa ---

    @property
    def format(self) -> tuple[int, int]:
        """Exponent and mantissa bits of a float; (0, 0) for other types."""
        return (self.exponent_bits, self.mantissa_bits)

    @property
    def magnitude_bits(self) -> int:
        """Bits of a float without its sign, and without the low 13 of `tf32`."""
        return self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is subtracted from a float's exponent field: 2^(e-1)-1; 127 for `e8m0`."""
        if self.kind is not Kind.FLOAT:
            raise ValueError(f"{self} is not a float and has no exponent bias")
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def infinity_code(self) -> int:
        """The magnitude bits of infinity, where there is one."""
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits

    @property
    def max_code(self) -> int:
        """The magnitude bits of a float's `max`."""
        if self.has_infinity:
            return self.infinity_code - 1
        return (1 << self.magnitude_bits) - (2 if self.has_nan else 1)

    @property
    def nan_code(self) -> int:
        """The magnitude bits that NaN is encoded as: the quiet NaN, or 0 where there is none."""
        if self.has_infinity:
            return self.infinity_code | (1 << (self.mantissa_bits - 1))
        return self.max_code + 1 if self.has_nan else 0

    def _magnitude(self, code: int) -> float:
        """What the magnitude bits `code` of a float mean, if neither infinite nor NaN."""
        if not self.is_signed:
            return math.ldexp(1.0, code - self.bias)
        exponent = code >> self.mantissa_bits
        significand = code & ((1 << self.mantissa_bits) - 1)
        if exponent:
            significand |= 1 << self.mantissa_bits
        return math.ldexp(significand, max(exponent, 1) - self.bias - self.mantissa_bits)

    # --- what its codes mean ---

    def decode(self, codes: Array) -> Array:
        """The values of unsigned integer `codes`, as `value_dtype`; may share memory with `codes`.

        A `bool` code is true unless 0; the low 13 bits of a `tf32` code are ignored.
        """
        codes = checked_codes(codes, self.bits, f"a code of {self}")
        if self.kind is Kind.LUT or self.is_small_float:
            return np.asarray(_decode_table(self).take(codes))
        if self.kind is Kind.BOOL:
            return np.asarray(codes != 0)
        codes = codes.astype(self.code_dtype, copy=False)
        if self.kind is Kind.INT and self.is_subbyte:
            unused = 8 - self.bits  # move the sign to bit 7 and back
            return np.asarray((codes << unused).view(np.int8) >> unused)
        if self.format == (8, 7):
            codes = np.asarray(codes.astype(np.uint32) << 16)
        elif self.format == (8, 10):
            codes = np.asarray(codes & 0xFFFFE000)
        return codes.view(self.value_dtype)

    def encode(self, values: ArrayLike) -> Array:
        """The codes of `values`, as `code_dtype`, rounded as `tilus.dtypes` says.

        Integer types take integers (and wrap), all others take integers and floats; may share
        memory with `values`.
        """
        array = _checked_numbers(values, self)
        flat = np.ascontiguousarray(array).reshape(-1)
        if self.is_integer:
            if flat.dtype.kind == "f":
                raise TypeError(
                    f"values for {self} must be integers, not {flat.dtype}; "
                    "`convert` says how floats become integers"
                )
            codes = flat.astype(self.code_dtype, copy=False)
            if self.is_subbyte:
                codes = codes & ((1 << self.bits) - 1)
        elif self.kind is Kind.BOOL:
            codes = (flat != 0).view(np.uint8)
        elif self.kind is Kind.LUT:
            codes = rounding.encode_lut(self.values, flat)
        else:
            codes = rounding.encode_float(self, flat)
        return codes.reshape(array.shape)


@lru_cache(maxsize=256)
def _decode_table(dt: DType) -> Array:
    """The value of every code of a codebook or small float; read-only."""
    if dt.kind is Kind.LUT:
        table = np.array(dt.values, np.float32)
    else:
        count = 1 << dt.magnitude_bits
        table = np.full(count, np.nan, np.float32)
        table[: dt.max_code + 1] = [dt._magnitude(code) for code in range(dt.max_code + 1)]
        if dt.has_infinity:
            table[dt.infinity_code] = np.inf
        if dt.is_signed:
            table = np.concatenate([table, -table])
    table.flags.writeable = False
    return table


def _checked_numbers(values: ArrayLike, dt: DType) -> Array:
    """`values` as an array of native bools, integers or floats of at most 64 bits."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(
            f"values for {dt} must be bools, integers, float16, float32 or float64, "
            f"not {array.dtype}"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def convert(values: Array, src: DType, dst: DType) -> Array:
    """What `cast` means: values of `src` to values of `dst`, as `dst.value_dtype`.

    Float to integer rounds toward zero and saturates, NaN gives 0; integer to integer wraps;
    integer or float to float rounds once, to nearest even, and overflows as `encode` does; anything
    to `bool` is `!= 0`; `bool` to anything is 0 or 1. May share memory with `values`.

    >>> from tilus.dtypes import f32, u8
    >>> convert(np.float32([-1.7, 300.0, np.nan]), f32, u8).tolist()
    [0, 255, 0]
    """
    values = np.asarray(values)
    if values.dtype != src.value_dtype:
        raise TypeError(f"values of {src} must be {src.value_dtype}, not {values.dtype}")
    if src == dst:
        return values
    if dst.is_integer and src.is_float:
        return _truncate(values, dst)
    return dst.decode(dst.encode(values))


def _truncate(values: Array, dst: DType) -> Array:
    """Floats to the integers of `dst`: toward zero, saturating, NaN to 0."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        x = np.asarray(values, np.float64)  # exact; so are both bounds below
        too_big = x >= float(dst.max + 1)
        too_small = x < float(dst.min)
        inside = np.where(too_big | too_small | np.isnan(x), 0.0, x)
    result = np.asarray(inside.astype(dst.value_dtype))
    result[too_big] = dst.max
    result[too_small] = dst.min
    return result
