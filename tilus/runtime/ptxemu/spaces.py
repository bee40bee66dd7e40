"""State spaces: every load and store of a block goes through `Spaces`, which checks its address.

Addresses are uint64, one for each thread that accesses; `threads` says which thread each is of. A
generic address lies in the window of its space (memory.py), or is a global one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.runtime.ptxemu.memory import (
    LOCAL_WINDOW,
    NULL_END,
    PARAM_WINDOW,
    SHARED_WINDOW,
    WINDOW_SIZE,
    Buffer,
    Memory,
)
from tilus.runtime.ptxemu.shared import SharedMemory
from tilus.runtime.ptxemu.syntax import Instruction
from tilus.runtime.ptxemu.traps import PtxTrap
from tilus.runtime.ptxemu.types import Array

WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAM_WINDOW}
_OF_WINDOW = {base >> 40: space for space, base in WINDOWS.items()}
_LAST_WINDOW = (PARAM_WINDOW >> 40) + 1


@dataclass
class Spaces:
    """The memories that the threads of one block see."""

    memory: Memory
    shared: SharedMemory
    local: Array  # u8 [threads, bytes]
    params: Array  # u8, of the kernel
    recent: Buffer | None = None  # global buffer of the last access

    def load(
        self,
        space: str,
        at: Array,
        width: int,
        count: int,
        threads: Array,
        i: Instruction,
        strong: bool = False,
    ) -> Array:
        """Words [accesses, count] of `width` bytes at the addresses."""
        if space == "shared":
            return self.shared.load(at.view(np.int64), width, count, threads, i, strong)
        if space in ("global", "const"):
            return self._global_load(at, width, count, threads, i)
        if space == "generic":
            one = self._one_space(at)
            if one is not None:
                return self.load(one[0], at - np.uint64(one[1]), width, count, threads, i, strong)
            out = np.empty((at.size, count), f"u{width}")
            for kind, base, which in self._by_space(at):
                local = at[which] - np.uint64(base)
                out[which] = self.load(kind, local, width, count, threads[which], i, strong)
            return out
        data = self.local if space == "local" else self.params
        return data.reshape(-1).view(f"u{width}")[
            self._private_index(space, at, width, count, threads, i)
        ]

    def store(
        self,
        space: str,
        at: Array,
        words: Array,
        threads: Array,
        i: Instruction,
        strong: bool = False,
    ) -> None:
        """Write words [accesses, count]."""
        if space == "shared":
            self.shared.store(at.view(np.int64), words, threads, i, strong)
        elif space == "global":
            self._global_store(at, words, threads, i)
        elif space == "generic":
            for kind, base, which in self._by_space(at):
                self.store(
                    kind, at[which] - np.uint64(base), words[which], threads[which], i, strong
                )
        elif space == "local":
            width, count = words.dtype.itemsize, words.shape[1]
            index = self._private_index(space, at, width, count, threads, i)
            self.local.reshape(-1).view(f"u{width}")[index] = words
        else:
            raise PtxTrap("read-only", f"a store to the {space} space", i, int(threads[0]))

    def split(self, space: str, at: Array) -> list[tuple[str, Array, Array]]:
        """The spaces that addresses lie in: (space, addresses in it, which accesses)."""
        if space != "generic":
            return [(space, at, np.arange(at.size))]
        return [(kind, at[w] - np.uint64(base), w) for kind, base, w in self._by_space(at)]

    def _one_space(self, at: Array) -> tuple[str, int] | None:
        """The space that all the addresses lie in, and its window."""
        low, high = int(at.min()) >> 40, int(at.max()) >> 40
        if low > 3:
            return "global", 0
        if low != high:
            return None
        space = _OF_WINDOW.get(low, "global")
        return space, WINDOWS.get(space, 0)

    def _by_space(self, at: Array) -> list[tuple[str, int, Array]]:
        window = np.minimum(at >> np.uint64(40), np.uint64(_LAST_WINDOW))
        out = []
        for number in np.unique(window):
            space = _OF_WINDOW.get(int(number), "global")
            out.append((space, WINDOWS.get(space, 0), np.flatnonzero(window == number)))
        merged = [x for x in out if x[0] != "global"]
        rest = [x[2] for x in out if x[0] == "global"]
        if rest:
            merged.append(("global", 0, np.sort(np.concatenate(rest))))
        return merged

    # --- global ---

    def global_parts(
        self, at: Array, nbytes: int, threads: Array, i: Instruction
    ) -> list[tuple[Buffer, Array, Any]]:
        """The buffers that accesses lie in: (buffer, offsets in it, which accesses)."""
        if nbytes > 1 and np.count_nonzero(at & np.uint64(nbytes - 1)):
            k = int(np.argmax(at & np.uint64(nbytes - 1) != 0))
            message = f"{nbytes} bytes at {self.memory.describe(int(at[k]))}"
            help = f"an access of {nbytes} bytes is aligned to {nbytes} bytes"
            raise PtxTrap("misaligned", message, i, int(threads[k]), help)
        low, high = int(at.min()), int(at.max()) + nbytes
        buffer = self.recent
        if buffer is None or low < buffer.address or high > buffer.address + buffer.data.size:
            buffer = self.memory.find(low, high)
        if buffer is not None:
            self.recent = buffer
            return [(buffer, (at - np.uint64(buffer.address)).view(np.int64), slice(None))]
        groups: dict[Buffer, list[int]] = {}
        for k, address in enumerate(at.tolist()):
            one = self.memory.find(address, address + nbytes)
            if one is None:
                kind = "null" if address < NULL_END else "out of bounds"
                message = f"{nbytes} bytes at {self.memory.describe(address)}"
                raise PtxTrap(kind, message, i, int(threads[k]))
            groups.setdefault(one, []).append(k)
        return [
            (one, (at[which] - np.uint64(one.address)).view(np.int64), which)
            for one, which in ((one, np.array(ks)) for one, ks in groups.items())
        ]

    def _global_load(
        self, at: Array, width: int, count: int, threads: Array, i: Instruction
    ) -> Array:
        parts = self.global_parts(at, width * count, threads, i)
        if len(parts) == 1:
            buffer, offset, _ = parts[0]
            return buffer.words(width)[(offset // width)[:, None] + np.arange(count)]
        out = np.empty((at.size, count), f"u{width}")
        for buffer, offset, which in parts:
            out[which] = buffer.words(width)[(offset // width)[:, None] + np.arange(count)]
        return out

    def _global_store(self, at: Array, words: Array, threads: Array, i: Instruction) -> None:
        width, count = words.dtype.itemsize, words.shape[1]
        for buffer, offset, which in self.global_parts(at, width * count, threads, i):
            self.check_writable(buffer, threads[which], i)
            index = (offset // width)[:, None] + np.arange(count)
            buffer.words(width)[index] = words[which]

    def check_writable(self, buffer: Buffer, threads: Array, i: Instruction) -> None:
        """Trap if kernels may not write to the buffer."""
        if not buffer.writable:
            message = f"a store to `{buffer.name}`, which is not writable"
            raise PtxTrap("read-only", message, i, int(threads[0]))

    # --- local and param ---

    def _private_index(
        self, space: str, at: Array, width: int, count: int, threads: Array, i: Instruction
    ) -> Array:
        """Indices [accesses, count] of words in `local` or `params`."""
        nbytes = width * count
        size = self.local.shape[1] if space == "local" else self.params.size
        outside = (at > np.uint64(WINDOW_SIZE)) | (at + np.uint64(nbytes) > np.uint64(size))
        kind, bad = "out of bounds", outside
        if not outside.any():
            kind, bad = "misaligned", at & np.uint64(nbytes - 1) != 0
        if bad.any():
            k = int(np.argmax(bad))
            message = f"{nbytes} bytes at byte {int(at[k])} of {space} memory ({size} bytes)"
            raise PtxTrap(kind, message, i, int(threads[k]))
        start = threads * size if space == "local" else 0
        first = (at.view(np.int64) + start) // width
        out: Array = first[:, None] + np.arange(count)
        return out
