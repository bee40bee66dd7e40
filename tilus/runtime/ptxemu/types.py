"""The types of PTX: how wide, of what kind, and which NumPy array holds them.

A register is an array of unsigned words, one for each thread; `Type.view` reads it as the type an
instruction names. Packed types become a second axis: `f16x2` is float16 of shape [threads, 2].
NumPy has no `bf16`, `e4m3` and `e5m2`: those stay codes (unsigned integers) until they are decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]] | None  # None: every thread of the block


@dataclass(frozen=True)
class Type:
    """A PTX type, or one of the packed forms that conversions and half instructions name."""

    name: str
    bits: int  # of the whole, all lanes together
    kind: Literal["u", "s", "b", "f", "p"]  # unsigned, signed, untyped bits, float, predicate
    dtype: np.dtype[Any]  # of one lane
    lanes: int = 1

    def __str__(self) -> str:
        return self.name

    @property
    def is_float(self) -> bool:
        """Whether it holds floats, packed or not."""
        return self.kind == "f"

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.bits // 8

    @property
    def element(self) -> Type:
        """The type of one lane."""
        return TYPES[self.name[: self.name.rindex("x")]] if self.lanes > 1 else self

    def view(self, register: Array) -> Array:
        """A register's low bits read as this type; shares memory.

        >>> TYPES["s16"].view(np.uint32([0x0001FFFE])).tolist()
        [-2]
        """
        if self.kind == "p" or register.dtype == self.dtype:
            return register
        threads = register.shape[0]
        parts = register.view(self.dtype).reshape(threads, -1)
        return parts[:, 0] if self.lanes == 1 else parts[:, : self.lanes]


def _types() -> dict[str, Type]:
    out = {"pred": Type("pred", 1, "p", np.dtype(np.bool_))}
    for bits in (8, 16, 32, 64):
        out[f"u{bits}"] = Type(f"u{bits}", bits, "u", np.dtype(f"u{bits // 8}"))
        out[f"b{bits}"] = Type(f"b{bits}", bits, "b", np.dtype(f"u{bits // 8}"))
        out[f"s{bits}"] = Type(f"s{bits}", bits, "s", np.dtype(f"i{bits // 8}"))
        if bits > 8:
            out[f"f{bits}"] = Type(f"f{bits}", bits, "f", np.dtype(f"f{bits // 8}"))
    out["b128"] = Type("b128", 128, "b", np.dtype(np.uint64), 2)
    out["bf16"] = Type("bf16", 16, "f", np.dtype(np.uint16))
    out["tf32"] = Type("tf32", 32, "f", np.dtype(np.float32))
    for name in ("e4m3", "e5m2"):
        out[name] = Type(name, 8, "f", np.dtype(np.uint8))
    for name in ("f16", "bf16", "u16", "s16", "f32", "e4m3", "e5m2"):
        one = out[name]
        out[f"{name}x2"] = Type(f"{name}x2", one.bits * 2, one.kind, one.dtype, 2)
    return out


TYPES = _types()
PRED, U8, U32, U64, S32, B32, F32 = (
    TYPES[name] for name in ("pred", "u8", "u32", "u64", "s32", "b32", "f32")
)


def signed(t: Type) -> Type:
    """The signed integer type of the same width."""
    return TYPES[f"s{t.bits}"]


def unsigned(t: Type) -> Type:
    """The unsigned integer type of the same width."""
    return TYPES[f"u{t.bits}"]


def wider(t: Type) -> Type:
    """The integer type of twice the width."""
    return TYPES[f"{t.kind}{t.bits * 2}"]
