"""Weights of any type as integers, for products with 8-bit activations.

Every finite value v of a type of at most 8 bits is looked for as v * factor = 256 * high + low with
a power of two `factor`, both parts bytes. Then a product with the type is one or two integer dots:

    one part     all integers, iq4nl, ternary, f3e1m1, f4e2m1, f5e2m2, f6e2m3, f7e2m4    exact
    two parts    f5e3m1 (to +-192), f6e3m2 (+-448), f7e3m3 (+-960)                       exact
    two parts    codebooks of real numbers (nf4)             error <= 2^-15 of the largest value
    none         types with a wider range (f7e4m2, f8e4m3 ...): multiply in bf16
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tilus.dtypes import DType, Kind


@dataclass(frozen=True)
class Part:
    """Unsigned bytes that stand for `weight` * (byte - zero)."""

    table: tuple[float, ...] | None  # code -> byte; None: the code itself
    weight: int
    zero: int


@dataclass(frozen=True)
class IntegerForm:
    """A type's values as integers: the sum of the parts, divided by `factor`."""

    parts: tuple[Part, ...]
    factor: float
    flip: int = 0  # codes are stored with these bits turned round: two's complement becomes offset

    @property
    def is_plain(self) -> bool:
        """Whether the codes are the integers, so that a zero point can be subtracted."""
        return self.parts[0].table is None


@lru_cache(maxsize=256)
def integer_form(dtype: DType) -> IntegerForm | None:
    """How values of a type become integers; None where they cannot."""
    if dtype.kind is Kind.UINT:
        return IntegerForm((Part(None, 1, 0),), 1.0)
    if dtype.kind is Kind.INT:
        half = 1 << (dtype.bits - 1)
        return IntegerForm((Part(None, 1, half),), 1.0, flip=half)
    if dtype.bits > 8:
        return None
    values = dtype.decode(np.arange(1 << dtype.bits, dtype=np.uint8)).astype(np.float64)
    if not np.isfinite(values).all():
        return None
    largest = float(np.abs(values).max())
    for power in range(16):
        scaled = values * 2.0**power
        if (scaled == np.rint(scaled)).all():
            return _parts(scaled, 2.0**power)
        if largest * 2.0 ** (power + 1) > 32767:
            break
    if dtype.kind is not Kind.LUT:
        return None
    factor = 2.0 ** math.floor(math.log2(32767 / largest))
    return _parts(np.rint(values * factor), factor)


def _parts(integers: np.ndarray[Any, np.dtype[np.float64]], factor: float) -> IntegerForm | None:
    """Whole numbers as one or two bytes each."""
    low, high = integers.min(), integers.max()
    if low >= -128 and high <= 127:
        return IntegerForm((Part(tuple(integers + 128), 1, 128),), factor)
    if low < -32768 or high > 32767:
        return None
    above = np.floor(integers / 256)
    return IntegerForm(
        (Part(tuple(above + 128), 256, 128), Part(tuple(integers - 256 * above), 1, 0)), factor
    )
