"""The element types with names, the makers of further ones, and the look-up by name."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from tilus.dtypes.element import DType, Kind

_LUT_TEXT = re.compile(r"lut(\d+)(?:_(\w+))?\(([^()]*)\)", re.ASCII)
_FLOAT_NAME = re.compile(r"f(\d+)e(\d+)m(\d+)", re.ASCII)


@cache
def float_(e: int, m: int) -> DType:
    """The signed float with `e` exponent and `m` mantissa bits, 8 bits or fewer in all.

    >>> float_(4, 3) == f8e4m3, float_(2, 1).max
    (True, 6.0)
    """
    bits = 1 + e + m
    if e < 1 or m < 0 or bits > 8:
        raise ValueError(
            f"float_({e}, {m}): a small float has a sign, at least 1 exponent bit and at most 8 "
            "bits in all; wider ones are f16, bf16, tf32, f32 and f64"
        )
    return DType(f"f{bits}e{e}m{m}", bits, Kind.FLOAT, e, m)


def lut(bits: int, values: Iterable[float], name: str | None = None) -> DType:
    """A codebook: code `i` means `values[i]`, rounded to f32 (and -0.0 to 0.0) once, here.

    All 2^bits values are needed; where a format uses fewer codes, repeat one: encoding takes the
    lowest code of the nearest value. A tie between two values goes to the lower code. `name` only
    adorns the type's text.

    >>> ternary = lut(2, [-1, 0, 1, 0], name="ternary")
    >>> ternary.encode([-0.9, 0.2, 7.0]).tolist(), str(ternary)
    ([0, 1, 2], 'lut2_ternary(-1.0,0.0,1.0,0.0)')
    """
    given = tuple(values)
    if not 1 <= bits <= 8:
        raise ValueError(f"bits of a codebook must be 1 to 8, not {bits}")
    if len(given) != 1 << bits:
        raise ValueError(
            f"values: a codebook of {bits} bits has {1 << bits} values, got {len(given)}; "
            "repeat a value for codes that are not used"
        )
    if name is not None and not re.fullmatch(r"\w+", name, re.ASCII):
        raise ValueError(
            f"name of a codebook must be letters, digits and underscores, not {name!r}"
        )
    with np.errstate(over="ignore"):
        table = tuple(float(np.float32(value)) + 0.0 for value in given)
    for index, value in enumerate(table):
        if not math.isfinite(value):
            raise ValueError(f"values[{index}] = {given[index]} is not finite in f32")
    text = ",".join(map(repr, table))
    return DType(f"lut{bits}{f'_{name}' if name else ''}({text})", bits, Kind.LUT, values=table)


def _integers(letter: str, kind: Kind) -> list[DType]:
    return [DType(f"{letter}{bits}", bits, kind) for bits in (*range(1, 9), 16, 32, 64)]


u1, u2, u3, u4, u5, u6, u7, u8, u16, u32, u64 = _integers("u", Kind.UINT)
i1, i2, i3, i4, i5, i6, i7, i8, i16, i32, i64 = _integers("i", Kind.INT)

f3e1m1 = float_(1, 1)
f4e2m1 = float_(2, 1)  # elements of MXFP4 and NVFP4
f5e2m2 = float_(2, 2)
f5e3m1 = float_(3, 1)
f6e2m3 = float_(2, 3)  # elements of MXFP6
f6e3m2 = float_(3, 2)  # elements of MXFP6
f7e2m4 = float_(2, 4)
f7e3m3 = float_(3, 3)
f7e4m2 = float_(4, 2)
f7e5m1 = float_(5, 1)
f8e4m3 = float_(4, 3)  # OCP OFP8 E4M3, the "fn" variant
f8e5m2 = float_(5, 2)  # OCP OFP8 E5M2
e8m0 = DType("e8m0", 8, Kind.FLOAT, 8, 0)  # scale of the OCP MX formats: no sign, no zero

f16 = DType("f16", 16, Kind.FLOAT, 5, 10)
bf16 = DType("bf16", 16, Kind.FLOAT, 8, 7)
tf32 = DType("tf32", 32, Kind.FLOAT, 8, 10)  # an f32 whose low 13 bits are 0
f32 = DType("f32", 32, Kind.FLOAT, 8, 23)
f64 = DType("f64", 64, Kind.FLOAT, 11, 52)
bool_ = DType("bool", 8, Kind.BOOL)

# fmt: off
# The "4-bit NormalFloat" of QLoRA (arXiv 2305.14314), with the values of bitsandbytes.
nf4 = DType("nf4", 4, Kind.LUT, values=(
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
))
# The table of llama.cpp's IQ4_NL and IQ4_XS.
iq4nl = DType("iq4nl", 4, Kind.LUT, values=(
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0,
    1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
))
# fmt: on

#: Every type with a name, all `float_(e, m)` included.
ALL_TYPES: tuple[DType, ...] = (
    *_integers("u", Kind.UINT),
    *_integers("i", Kind.INT),
    *(float_(bits - 1 - m, m) for bits in range(2, 9) for m in range(bits - 1)),
    *(e8m0, f16, bf16, tf32, f32, f64, bool_, nf4, iq4nl),
)

#: Those of at most 8 bits.
NARROW_TYPES: tuple[DType, ...] = tuple(t for t in ALL_TYPES if t.bits <= 8)

# By name, and by the names of NumPy, torch and ml_dtypes. `float8_e4m3` is left out on purpose: it
# is an IEEE-like format in ml_dtypes and the "fn" variant elsewhere.
_BY_NAME: dict[str, DType] = {
    **{t.name: t for t in ALL_TYPES},
    **{f"uint{t.bits}": t for t in ALL_TYPES if t.kind is Kind.UINT},
    **{f"int{t.bits}": t for t in ALL_TYPES if t.kind is Kind.INT},
    "half": f16,
    "float16": f16,
    "bfloat16": bf16,
    "tfloat32": tf32,
    "float": f32,
    "float32": f32,
    "double": f64,
    "float64": f64,
    "float4_e2m1fn": f4e2m1,
    "float6_e2m3fn": f6e2m3,
    "float6_e3m2fn": f6e3m2,
    "float8_e4m3fn": f8e4m3,
    "float8_e5m2": f8e5m2,
    "float8_e8m0fnu": e8m0,
}


def dtype(name: str | DType) -> DType:
    """The type called `name`, also by its NumPy or torch name; reads back every `str(DType)`.

    >>> dtype("f6e3m2"), dtype("bfloat16"), dtype("lut1(-1.0,1.0)").max
    (dtype('f6e3m2'), dtype('bf16'), 1.0)
    """
    if isinstance(name, DType):
        return name
    if not isinstance(name, str):
        raise TypeError(
            f"name must be a str such as 'f16', not {type(name).__name__}; "
            "types of NumPy go through `from_numpy`, of torch through `tilus.tensor.from_torch`"
        )
    if name in _BY_NAME:
        return _BY_NAME[name]
    if match := _LUT_TEXT.fullmatch(name):
        bits, lut_name, values = match.groups()
        try:
            return lut(int(bits), map(float, values.split(",")), lut_name)
        except ValueError as error:
            raise ValueError(f"element type {name!r}: {error}") from None
    hint = (
        "there are u1..u8 u16 u32 u64, i1..i8 i16 i32 i64, small floats such as f6e3m2, e8m0, "
        "f16 bf16 tf32 f32 f64, bool, nf4, iq4nl and codebooks such as lut1(-1.0,1.0)"
    )
    lower = name.lower()
    close = [lower] if lower in _BY_NAME else difflib.get_close_matches(lower, _BY_NAME, 3, 0.5)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    if match := _FLOAT_NAME.fullmatch(name):
        _, e, m = map(int, match.groups())
        hint = f"a sign, {e} exponent and {m} mantissa bits are {1 + e + m} bits; {hint}"
    raise ValueError(f"unknown element type {name!r}; {hint}")


def from_numpy(numpy_dtype: np.dtype[Any] | type[np.generic]) -> DType:
    """The type of the elements of a NumPy array; knows those of `ml_dtypes` by name."""
    name = np.dtype(numpy_dtype).name
    if name not in _BY_NAME:
        raise ValueError(f"numpy_dtype {name} has no counterpart among the element types")
    return _BY_NAME[name]
