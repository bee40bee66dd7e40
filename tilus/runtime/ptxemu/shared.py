"""A block's shared memory: bytes, their shadow, asynchronous copies, and bank conflicts.

Variables are laid out with their declared alignment and no more, with a gap between two of them, so
that running over the end of one is caught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tilus.runtime.ptxemu.races import Fault, Order, Same, Shadow
from tilus.runtime.ptxemu.syntax import Instruction, Variable
from tilus.runtime.ptxemu.traps import PtxTrap
from tilus.runtime.ptxemu.types import Array

_START = 1024  # the system keeps the first KiB, as on sm_90
_GAP = 16
_BANKS = 32
_MAX_PATTERNS = 4096  # of addresses whose wavefronts are remembered


@dataclass(frozen=True)
class SharedLayout:
    """Where the variables of a kernel lie in shared memory."""

    offsets: dict[str, int]
    sizes: dict[str, int]
    end: int

    @classmethod
    def of(cls, variables: Sequence[Variable], dynamic: int) -> SharedLayout:
        """Lay out the variables; those without a size are the `dynamic` bytes at the end."""
        offsets: dict[str, int] = {}
        sizes: dict[str, int] = {}
        end = _START
        for v in (v for v in variables if v.count):
            offsets[v.name] = start = _aligned(end, v.align)
            sizes[v.name] = v.nbytes
            end = start + v.nbytes + _GAP
        unsized = [v for v in variables if not v.count]
        start = _aligned(end, max([16, *(v.align for v in unsized)]))
        for v in unsized:
            offsets[v.name], sizes[v.name] = start, dynamic
        return cls(offsets, sizes, start + dynamic if dynamic else end)

    def describe(self, offset: int) -> str:
        """A byte as a message names it."""
        near = min(
            self.offsets,
            key=lambda v: max(self.offsets[v] - offset, offset - self.offsets[v] - self.sizes[v]),
            default=None,
        )
        if near is None:
            return f"shared byte {offset}; the kernel has no shared memory"
        return f"byte {offset - self.offsets[near]} of shared `{near}` ({self.sizes[near]} bytes)"


def _aligned(offset: int, align: int) -> int:
    """The least offset >= `offset` that is a multiple of `align`, but not of 2 * align >= 32."""
    start = -(-offset // align) * align
    return start + align if align >= 16 and start % (2 * align) == 0 else start


@dataclass
class Copy:
    """Asynchronous copies that one execution of `cp.async` started."""

    instruction: Instruction
    threads: Array
    groups: Array  # of each thread: its count of committed groups when the copy was issued
    at: Array  # shared offsets
    data: Array  # u8 [copies, bytes]


@dataclass
class Banks:
    """Wavefronts that an instruction's accesses to shared memory took."""

    accesses: int = 0  # of warps
    wavefronts: int = 0
    ideal: int = 0


@dataclass
class SharedMemory:
    """The shared memory of one block."""

    layout: SharedLayout
    order: Order
    granule: int  # bytes of the narrowest access
    by_warp: bool
    data: Array = field(init=False)
    shadow: Shadow = field(init=False)
    copies: list[Copy] = field(init=False, default_factory=list)
    in_flight: Array = field(init=False)  # per granule: 1 + the thread whose copy will write it
    committed: Array = field(init=False)  # per thread: groups of copies
    banks: dict[int, Banks] = field(init=False, default_factory=dict)  # by line of the PTX
    _patterns: dict[tuple[int, bytes, bytes], tuple[int, int, int]] = field(
        init=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        size = -(-self.layout.end // 16) * 16
        self.data = np.full(size, 0xEE, np.uint8)
        exists = np.zeros(size, np.bool_)
        for name, offset in self.layout.offsets.items():
            exists[offset : offset + self.layout.sizes[name]] = True
        granules = size // self.granule
        self.shift = self.granule.bit_length() - 1
        self.shadow = Shadow(self.order, granules, self.by_warp, exists[:: self.granule])
        self.in_flight = np.zeros(granules, np.int32)
        self.committed = np.zeros(self.order.threads, np.int32)
        self.views = {n: self.data.view(f"u{n}") for n in (1, 2, 4, 8)}

    def reset(self) -> None:
        """Make it as at the start of a block; what `banks` counted stays."""
        self.data.fill(0xEE)
        self.order.reset()
        self.shadow.reset()
        self.copies = []
        self.in_flight.fill(0)
        self.committed.fill(0)

    # --- plain accesses; `at` are offsets as int64 ---

    def check_place(self, at: Array, nbytes: int, threads: Array, i: Instruction) -> None:
        """Trap unless every access lies in shared memory and is aligned to its size.

        That it lies in a variable is found with the races.
        """
        outside = at.view(np.uint64) > max(self.data.size - nbytes, 0)
        if np.count_nonzero(outside):
            k = int(np.argmax(outside))
            message = f"{nbytes} bytes at {self.layout.describe(int(at[k]))}"
            raise PtxTrap("out of bounds", message, i, int(threads[k]))
        if nbytes > 1:
            odd = at & (nbytes - 1)
            if np.count_nonzero(odd):
                k = int(np.argmax(odd != 0))
                what = self.layout.describe(int(at[k]))
                message = f"{nbytes} bytes at {what}, shared address {int(at[k])}"
                help = f"an access of {nbytes} bytes is aligned to {nbytes} bytes"
                raise PtxTrap("misaligned", message, i, int(threads[k]), help)

    def load(
        self, at: Array, width: int, count: int, threads: Array, i: Instruction, strong: bool
    ) -> Array:
        """Read `count` words of `width` bytes at each offset: [accesses, count]."""
        nbytes = width * count
        self.check_place(at, nbytes, threads, i)
        self.note_read(at, nbytes, threads, i, strong)
        self.count_wavefronts(at, nbytes, threads, i)
        return self.gather(at, width, count)

    def gather(self, at: Array, width: int, count: int) -> Array:
        """The words themselves, nothing checked."""
        first = at >> (width.bit_length() - 1)
        if count == 1:
            return np.asarray(self.views[width][first][:, None])
        return np.asarray(self.views[width][first[:, None] + np.arange(count)])

    def store(self, at: Array, words: Array, threads: Array, i: Instruction, strong: bool) -> None:
        """Write [accesses, count] words."""
        width, count = words.dtype.itemsize, words.shape[1]
        nbytes = width * count
        self.check_place(at, nbytes, threads, i)
        first = at >> (width.bit_length() - 1)
        where = first[:, None] + np.arange(count)

        def same() -> Array:
            equal: Array = (self.views[width][where] == words).all(axis=1)
            return np.repeat(equal, nbytes // self.granule)

        self.note_write(at, nbytes, threads, i, strong, same)
        self.count_wavefronts(at, nbytes, threads, i)
        self.views[width][where] = words
        lost = self.views[width][where] != words
        if np.count_nonzero(lost) and not strong:
            k = int(np.argmax(lost.any(axis=1)))
            what = self.layout.describe(int(at[k]))
            message = f"threads write different values to {what} in one instruction"
            raise PtxTrap("race", message, i, int(threads[k]))

    def _spread(self, at: Array, nbytes: int, threads: Array) -> tuple[Array, Array]:
        """The granules of each access, and the thread of each granule."""
        first = at >> self.shift
        each = nbytes // self.granule
        if each == 1:
            return first, threads
        return (first[:, None] + np.arange(each)).reshape(-1), np.repeat(threads, each)

    def note_read(
        self, at: Array, nbytes: int, threads: Array, i: Instruction, strong: bool
    ) -> None:
        """Check reads against what others did, and enter them."""
        where, who = self._spread(at, nbytes, threads)
        if self.copies:
            self._check_pending(where, who, i)
        fault = self.shadow.read(where, who, strong)
        if fault is not None:
            self._raise(fault, where, who, "reads", i)

    def note_write(
        self,
        at: Array,
        nbytes: int,
        threads: Array,
        i: Instruction,
        strong: bool,
        same: Same | None = None,
    ) -> None:
        """Check writes against what others did, and enter them; `same` as for `Shadow.write`."""
        where, who = self._spread(at, nbytes, threads)
        if self.copies:
            self._check_pending(where, who, i)
        fault = self.shadow.write(where, who, strong, same or (lambda: np.zeros(1, np.bool_)))
        if fault is not None:
            self._raise(fault, where, who, "writes", i)

    def _raise(self, fault: Fault, where: Array, who: Array, does: str, i: Instruction) -> None:
        what = self.layout.describe(int(where[fault.access]) * self.granule)
        thread = int(who[fault.access])
        message = f"thread {thread} {does} {what}; {fault.message}"
        if fault.kind == "out of bounds":
            message = f"thread {thread} {does} {what}"
        help = "a barrier must stand between the two" if fault.kind == "race" else None
        raise PtxTrap(fault.kind, message, i, thread, help)

    # --- asynchronous copies ---

    def start_copy(self, at: Array, data: Array, threads: Array, i: Instruction) -> None:
        """Begin copies of [copies, bytes]; the bytes arrive when their thread has waited."""
        nbytes = data.shape[1]
        self.check_place(at, nbytes, threads, i)
        where, who = self._spread(at, nbytes, threads)
        if self.copies:
            self._check_pending(where, who, i)
        fault = self.shadow.check_write(where, who, False)
        if fault is not None:
            self._raise(fault, where, who, "copies to", i)
        self.count_wavefronts(at, nbytes, threads, i)
        self.in_flight[where] = who + 1
        if np.count_nonzero(twice := self.in_flight[where] != who + 1):
            k = int(np.argmax(twice))
            what = self.layout.describe(int(where[k]) * self.granule)
            message = f"two threads copy to {what} in one instruction"
            raise PtxTrap("race", message, i, int(who[k]))
        self.copies.append(Copy(i, threads, self.committed[threads], at, data))

    def commit(self, threads: Array) -> None:
        """End a group of copies of each thread."""
        self.committed[threads] += 1

    def wait(self, active: Array, newest: int | None) -> None:
        """Threads wait until at most `newest` of their groups are in flight; None: for all copies.

        Args:
            active: bool [threads].
            newest: how many committed groups may stay; None also takes what is not committed.
        """
        left = []
        for copy in self.copies:
            arrives = active[copy.threads]
            if newest is not None:
                arrives &= copy.groups < self.committed[copy.threads] - newest
            if arrives.any():
                self._arrive(copy, arrives)
            if not arrives.all():
                stay = ~arrives
                left.append(
                    Copy(
                        copy.instruction,
                        copy.threads[stay],
                        copy.groups[stay],
                        copy.at[stay],
                        copy.data[stay],
                    )
                )
        self.copies = left

    def _arrive(self, copy: Copy, which: Array) -> None:
        at, data, threads = copy.at[which], copy.data[which], copy.threads[which]
        where, who = self._spread(at, data.shape[1], threads)
        self.in_flight[where] = 0
        self.shadow.note_write(where, who, False)
        self.data[at[:, None] + np.arange(data.shape[1])] = data

    def _check_pending(self, where: Array, who: Array, i: Instruction) -> None:
        busy = self.in_flight[where]
        if np.count_nonzero(busy):
            k = int(np.argmax(busy != 0))
            offset = int(where[k]) * self.granule
            copy = next(c for c in self.copies if _covers(c, offset))
            message = (
                f"thread {int(who[k])} uses {self.layout.describe(offset)} while the copy of "
                f"line {copy.instruction.line} to it is in flight"
            )
            help = "cp.async.commit_group, then cp.async.wait_group, before the data is used"
            raise PtxTrap("pending", message, i, int(who[k]), help)

    # --- bank conflicts ---

    def count_wavefronts(self, at: Array, nbytes: int, threads: Array, i: Instruction) -> None:
        """Add what an access costs to `banks`; patterns of addresses seen before are looked up."""
        relative = at - (at[0] & ~np.int64(127))
        whole = threads.size == self.order.threads
        key = (nbytes, relative.tobytes(), b"" if whole else threads.tobytes())
        found = self._patterns.get(key)
        if found is None:
            if len(self._patterns) > _MAX_PATTERNS:
                self._patterns.clear()
            found = self._patterns[key] = wavefronts(at, nbytes, threads)
        banks = self.banks.get(i.line)
        if banks is None:
            banks = self.banks[i.line] = Banks()
        banks.accesses += found[0]
        banks.wavefronts += found[1]
        banks.ideal += found[2]


def _covers(copy: Copy, offset: int) -> bool:
    size = copy.data.shape[1]
    return bool(((copy.at <= offset) & (offset < copy.at + size)).any())


def wavefronts(at: Array, nbytes: int, threads: Array) -> tuple[int, int, int]:
    """Warps that access, wavefronts they take, and the fewest that could be.

    A wavefront serves each of the 32 banks of 4 bytes once. Accesses of 8 and 16 bytes are served
    for half and for a quarter of a warp at a time; lanes that ask for the same word share it.

    >>> wavefronts(np.arange(32) * 8, 4, np.arange(32))
    (1, 2, 1)
    """
    parts = max(nbytes // 4, 1)
    phase = threads.astype(np.int64) // (32 // parts)  # served together
    words = (at // 4)[:, None] + np.arange(parts)
    span = int(words.max()) + 1
    distinct = np.unique(phase[:, None] * span + words)
    of_phase, word = distinct // span, distinct % span
    _, dense = np.unique(of_phase, return_inverse=True)
    phases = int(dense.max()) + 1
    load = np.bincount(dense.reshape(-1) * _BANKS + word % _BANKS, minlength=phases * _BANKS)
    taken = int(load.reshape(phases, _BANKS).max(axis=1).sum())
    return int(np.unique(threads >> 5).size), taken, phases
