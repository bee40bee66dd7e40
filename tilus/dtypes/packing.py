"""Codes of any width packed into bytes: one little-endian bit stream, low bits first."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[Any]


def code_dtype(bits: int) -> np.dtype[Any]:
    """The narrowest NumPy unsigned type of at least `bits` bits, 1 to 64."""
    if not 1 <= bits <= 64:
        raise ValueError(f"bits must be 1 to 64, not {bits}")
    return np.dtype(f"u{1 if bits <= 8 else 2 if bits <= 16 else 4 if bits <= 32 else 8}")


def checked_codes(codes: ArrayLike, bits: int, what: str) -> Array:
    """`codes` as an array of native unsigned integers below 2^bits, or an error about `what`."""
    array = np.asarray(codes)
    if array.dtype.kind != "u":
        raise TypeError(
            f"codes must be unsigned integers, not {array.dtype}; "
            f"convert integers with codes.astype(np.{code_dtype(bits)})"
        )
    if array.dtype.itemsize * 8 > bits and array.size:
        largest = int(array.max())
        if largest >> bits:
            raise ValueError(f"{what} is 0 to {(1 << bits) - 1}, but codes contains {largest}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def pack(codes: Array, bits: int) -> NDArray[np.uint8]:
    """The bytes of `codes` in order, element i being bits [i*bits, (i+1)*bits) of the stream.

    `codes` are unsigned integers below 2^bits of any shape, `bits` is 1 to 64; the unused high bits
    of the last byte are 0.

    >>> pack(np.array([1, 2, 3], np.uint8), bits=4).tolist()
    [33, 3]
    """
    held = code_dtype(bits)
    flat = np.ascontiguousarray(checked_codes(codes, bits, f"a code of {bits} bits")).reshape(-1)
    if bits in (8, 16, 32, 64):
        return flat.astype(f"<u{bits // 8}").view(np.uint8)
    if bits > 8:
        each = flat.astype(f"<u{held.itemsize}").view(np.uint8).reshape(flat.size, held.itemsize)
        stream = np.unpackbits(each, axis=1, bitorder="little")[:, :bits]
        return np.packbits(stream, bitorder="little")
    groups = np.zeros((-(-flat.size // 8), 8), np.uint8)  # 8 codes fill `bits` whole bytes
    groups.reshape(-1)[: flat.size] = flat
    words = np.zeros(len(groups), "<u8")
    for i in range(8):
        words |= groups[:, i].astype("<u8") << np.uint64(i * bits)
    data = np.ascontiguousarray(words.view(np.uint8).reshape(-1, 8)[:, :bits]).reshape(-1)
    return data[: (flat.size * bits + 7) // 8]


def unpack(data: NDArray[np.uint8], bits: int, count: int, bit_offset: int = 0) -> Array:
    """The first `count` codes of `bits` bits from bit `bit_offset` of `data` on; inverts `pack`.

    The result is one-dimensional and of the narrowest unsigned type; `data` may be longer.

    >>> unpack(np.array([33, 3], np.uint8), bits=4, count=2, bit_offset=4).tolist()
    [2, 3]
    """
    held = code_dtype(bits)
    data = np.asarray(data)
    if data.dtype != np.uint8:
        raise TypeError(f"data must be uint8, not {data.dtype}; use data.view(np.uint8)")
    if count < 0 or bit_offset < 0:
        raise ValueError(f"count ({count}) and bit_offset ({bit_offset}) must not be negative")
    end = bit_offset + count * bits
    if end > data.size * 8:
        raise ValueError(
            f"data has {data.size} bytes, but {count} codes of {bits} bits from bit {bit_offset} "
            f"on need {(end + 7) // 8}"
        )
    data = np.ascontiguousarray(data).reshape(-1)[bit_offset // 8 : (end + 7) // 8]
    offset = bit_offset % 8
    if offset == 0 and bits in (8, 16, 32, 64):
        return data.view(f"<u{bits // 8}").astype(held)
    if bits > 8:
        stream = np.unpackbits(data, bitorder="little")[offset : offset + count * bits]
        each = np.zeros((count, held.itemsize * 8), np.uint8)
        each[:, :bits] = stream.reshape(count, bits)
        return np.packbits(each, bitorder="little").view(f"<u{held.itemsize}").astype(held)
    groups = -(-count // 8)  # of 8 codes in `bits` bytes
    padded = np.zeros(groups * bits + 1, np.uint8)  # one byte more, to shift bits from
    padded[: data.size] = data
    if offset:
        padded[:-1] = (padded[:-1] >> offset) | (padded[1:] << (8 - offset))
    words = np.zeros((groups, 8), np.uint8)
    words[:, :bits] = padded[:-1].reshape(groups, bits)
    word = words.view("<u8")[:, 0]
    codes = np.empty((groups, 8), np.uint8)
    for i in range(8):
        codes[:, i] = (word >> np.uint64(i * bits)) & np.uint64((1 << bits) - 1)
    return codes.reshape(-1)[:count]
