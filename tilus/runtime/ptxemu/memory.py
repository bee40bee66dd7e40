"""Global memory: named buffers at made-up addresses, with guard gaps between them.

>>> memory = Memory()
>>> x = np.arange(4, dtype=np.float32)
>>> address = memory.add("x", x)
>>> address % 256, memory.describe(address + 20)
(0, 'byte 20 of `x`, which has 16 bytes')
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.runtime.ptxemu.types import Array

if TYPE_CHECKING:
    import torch

_FIRST = 0x7F2A_0000_0000
_GAP = 1 << 16  # bytes that belong to nobody after each buffer
NULL_END = 1 << 16  # below lies what a null pointer with a small offset touches

# Where the windows of the other spaces lie among generic addresses; the low 32 bits are offsets.
SHARED_WINDOW = 1 << 40
LOCAL_WINDOW = 2 << 40
PARAM_WINDOW = 3 << 40
WINDOW_SIZE = 1 << 32


@dataclass(frozen=True, eq=False)
class Buffer:
    """A piece of global memory."""

    name: str
    address: int
    data: Array  # u8
    writable: bool = True
    views: dict[int, Array] = field(default_factory=dict)

    def words(self, nbytes: int) -> Array:
        """The bytes as words of `nbytes`, a tail that is shorter left out."""
        if nbytes not in self.views:
            whole = self.data.size // nbytes * nbytes
            self.views[nbytes] = self.data[:whole].view(f"u{nbytes}")
        return self.views[nbytes]


class Memory:
    """Global memory of an emulated device; buffers share the memory of what they are made from."""

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._starts: list[int] = []
        self._end = _FIRST
        self.symbols: dict[tuple[int, str], int] = {}  # (id of a module, variable) -> address

    def add(
        self, name: str, array: Array | torch.Tensor, align: int = 256, writable: bool = True
    ) -> int:
        """Make a NumPy array or a CPU tensor readable and writable by kernels, without a copy.

        Args:
            name: what messages call it.
            array: contiguous; kernels see its memory, not a copy.
            align: the address is a multiple of this, and of nothing greater.
            writable: whether kernels may write to it.

        Returns:
            Its address, to be passed to a kernel.
        """
        data, can_write = _bytes_of(array)
        address = -(-self._end // (2 * align)) * 2 * align + align
        self._buffers.append(Buffer(name, address, data, writable and can_write))
        self._starts.append(address)
        self._end = address + data.size + _GAP
        return address

    def find(self, low: int, high: int) -> Buffer | None:
        """The buffer that holds all bytes of low .. high - 1."""
        at = bisect_right(self._starts, low) - 1
        if at < 0:
            return None
        buffer = self._buffers[at]
        return buffer if high <= buffer.address + buffer.data.size else None

    def describe(self, address: int) -> str:
        """An address as a message names it: the nearest buffer and the offset from its start."""
        at = max(bisect_right(self._starts, address) - 1, 0)
        if address < NULL_END or not self._buffers:
            return hex(address)
        here = self._buffers[at]
        following = self._buffers[min(at + 1, len(self._buffers) - 1)]
        past = address - here.address - here.data.size
        near = following if 0 < following.address - address < past else here
        offset = address - near.address
        if abs(offset) > (1 << 40):
            return f"{hex(address)}, which is near no buffer"
        return f"byte {offset} of `{near.name}`, which has {near.data.size} bytes"


def _bytes_of(array: Any) -> tuple[Array, bool]:
    """The memory of an array or tensor as bytes, and whether it may be written."""
    if not isinstance(array, np.ndarray):
        import torch

        if not array.is_contiguous() or array.device.type != "cpu":
            raise ValueError("a buffer must be a contiguous array or a contiguous CPU tensor")
        raw = array.detach().reshape(-1).view(torch.uint8).numpy()
        return raw, True
    if not array.flags.c_contiguous:
        raise ValueError("a buffer must be a contiguous array or a contiguous CPU tensor")
    return array.reshape(-1).view(np.uint8), bool(array.flags.writeable)
