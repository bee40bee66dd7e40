"""Element types of any width: what a code means, how values round to codes, how codes are packed.

A *code* is the bit pattern of one element, held in an unsigned integer; a *value* is what it means.
`DType.decode` takes codes to values, `DType.encode` takes values to codes, `convert` is the meaning
of the `cast` instruction, and `pack`/`unpack` go between codes and the bytes of memory.

==========  ==============================================  ==================================
family      members                                         values outside the type
==========  ==============================================  ==================================
integers    `u1..u8 u16 u32 u64 i1..i8 i16 i32 i64`         wrap (from floats: saturate)
floats      `float_(e, m)` up to 8 bits: `f6e3m2 f8e4m3`    saturate to `max`, infinities too
scales      `e8m0` = 2^(code-127), 0xFF is NaN              saturate, 0 -> 2^-127, < 0 -> NaN
wide        `f16 bf16 tf32 f32 f64`                         IEEE 754: overflow to infinity
codebooks   `nf4`, `iq4nl`, `lut(bits, values)`             nearest entry
bool        `bool_`, one byte like NumPy's and torch's      anything but 0 is true
==========  ==============================================  ==================================

A float of `e` exponent and `m` mantissa bits has bias 2^(e-1)-1, keeps subnormals, and means
`M * 2^(1-bias-m)` where its exponent field E is 0, else `(2^m + M) * 2^(E-bias-m)`; with `e` = 1
the bias is 0, so `f3e1m1` is 0, 1, 2, 3. The only floats of at most 8 bits with special values are
`f8e4m3` ("fn": NaN at 0x7F and 0xFF, no infinity), `f8e5m2` (infinities and NaNs as in IEEE 754)
and `e8m0`; in all others the all-ones exponent is an ordinary one.

Rounding is to nearest, ties to even, subnormals included, and always directly from the source,
never twice. Where `m` = 0 neither neighbour of a tie is even and the larger magnitude is taken, as
IEEE 754-2019 section 4.3.1 says; 0 counts as even. NaN becomes the type's positive NaN, or +0 where
it has none; between `f16`, `f32` and `f64` a NaN's sign and payload are not part of the meaning.

>>> f4e2m1.decode(f4e2m1.encode([0.2, 0.25, 0.75, 2.5, -7.0])).tolist()
[0.0, 0.0, 1.0, 2.0, -6.0]
>>> unpack(pack(i3.encode([1, -2, 3]), bits=3), bits=3, count=3).tolist()
[1, 6, 3]
"""

from tilus.dtypes.element import DType, Kind, convert
from tilus.dtypes.named import (
    ALL_TYPES,
    NARROW_TYPES,
    bf16,
    bool_,
    dtype,
    e8m0,
    f3e1m1,
    f4e2m1,
    f5e2m2,
    f5e3m1,
    f6e2m3,
    f6e3m2,
    f7e2m4,
    f7e3m3,
    f7e4m2,
    f7e5m1,
    f8e4m3,
    f8e5m2,
    f16,
    f32,
    f64,
    float_,
    from_numpy,
    i1,
    i2,
    i3,
    i4,
    i5,
    i6,
    i7,
    i8,
    i16,
    i32,
    i64,
    iq4nl,
    lut,
    nf4,
    tf32,
    u1,
    u2,
    u3,
    u4,
    u5,
    u6,
    u7,
    u8,
    u16,
    u32,
    u64,
)
from tilus.dtypes.packing import pack, unpack

# fmt: off
__all__ = [
    "ALL_TYPES", "NARROW_TYPES", "DType", "Kind",
    "bf16", "bool_", "convert", "dtype", "e8m0",
    "f3e1m1", "f4e2m1", "f5e2m2", "f5e3m1", "f6e2m3", "f6e3m2",
    "f7e2m4", "f7e3m3", "f7e4m2", "f7e5m1", "f8e4m3", "f8e5m2",
    "f16", "f32", "f64", "float_", "from_numpy",
    "i1", "i2", "i3", "i4", "i5", "i6", "i7", "i8", "i16", "i32", "i64",
    "iq4nl", "lut", "nf4", "pack", "tf32",
    "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u16", "u32", "u64", "unpack",
]
# fmt: on
