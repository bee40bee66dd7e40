"""What a running block is made of: register tiles, and memory that watches itself.

    RegisterTile    codes[thread, slot], and the layout that says which element each one is
    Region          bytes, with a record of who last read and wrote each one
    Pointer         a place in a region, and the bounds of what it may touch
    GlobalView      a pointer with extents and strides (in elements)
    SharedTile      a shared region with a layout

Races. A byte remembers its last writer and its last reader as (block, epoch, thread). An epoch ends
at each barrier, so two accesses of one block are ordered when they are by one thread or in
different epochs. Accesses by different blocks are ordered only through semaphores: `order[b]` is
the last epoch of block b that the running block is known to come after. Anything unordered, of
which one is a write, is a race; atomic updates may meet each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import Trap
from tilus.layouts import Layout, SharedLayout

Array = np.ndarray[Any, np.dtype[Any]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

SEVERAL, ATOMIC = -1, -2
I64_MAX = (1 << 63) - 1


# Register tiles


@lru_cache(maxsize=4096)
def index_table(layout: Layout) -> Ints:
    """[threads, slots] -> row-major index of the element held there (the layout's definition)."""
    elements = np.arange(layout.size).reshape(layout.mode_sizes)
    order = [m for m in layout.spatial if m >= 0] + list(layout.local)
    elements = elements.transpose(order)
    for axis, m in enumerate(layout.spatial):
        if m < 0:
            elements = np.expand_dims(elements, axis)
    sizes = [-m if m < 0 else layout.mode_sizes[m] for m in layout.spatial]
    sizes += [layout.mode_sizes[m] for m in layout.local]
    table = np.broadcast_to(elements, sizes).reshape(layout.num_threads, layout.num_slots)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=4096)
def coordinates(layout: Layout) -> tuple[Ints, ...]:
    """For each dimension, [threads, slots] -> the element's index along it."""
    table = index_table(layout)
    if not layout.shape:
        return ()
    return tuple(np.unravel_index(table, layout.shape))


@dataclass
class RegisterTile:
    """A tile as the threads hold it."""

    dtype: DType
    layout: Layout
    codes: Array  # [threads, slots], of dtype.code_dtype

    @classmethod
    def from_logical(cls, values: Array, dtype: DType, layout: Layout) -> RegisterTile:
        """Spread an array of values, of the layout's shape, over the threads."""
        codes = dtype.encode(values).reshape(-1)
        return cls(dtype, layout, codes[index_table(layout)])

    def values(self) -> Array:
        """[threads, slots] -> value."""
        return self.dtype.decode(self.codes)

    def logical_codes(self) -> Array:
        """The codes as an array of the tile's shape; replicas must agree."""
        table = index_table(self.layout)
        out = np.empty(self.layout.size, self.codes.dtype)
        out[table] = self.codes
        if self.layout.is_replicated and not np.array_equal(out[table], self.codes):
            thread, slot = np.argwhere(out[table] != self.codes)[0]
            raise Trap(
                f"thread {thread} holds another value than its replicas in slot {slot}",
                help="a `view` gave replicas different bits",
            )
        return out.reshape(self.layout.shape)

    def logical(self) -> Array:
        """The values as an array of the tile's shape."""
        return self.dtype.decode(self.logical_codes())


# Memory


@dataclass
class Record:
    """Who last did something to each byte of a region."""

    size: int
    block: Array = field(init=False)
    epoch: Array = field(init=False)
    thread: Array = field(init=False)

    def __post_init__(self) -> None:
        # Zeros cost nothing until they are touched; block 0 is nobody.
        self.block = np.zeros(self.size, np.int32)
        self.epoch = np.zeros(self.size, np.int32)
        self.thread = np.zeros(self.size, np.int32)

    def unordered(self, at: Ints, who: Who, threads: Ints, atomic: bool = False) -> Bools:
        """Which of the bytes someone else touched, with nothing ordering it before `who`."""
        block, epoch, thread = self.block[at], self.epoch[at], self.thread[at]
        other_thread = (thread != threads) & (epoch == who.epoch)
        out: Bools = np.where(block == who.block, other_thread, epoch > who.order[block])
        return out & (thread != ATOMIC) if atomic else out

    def note(self, at: Ints, who: Who, threads: Ints) -> None:
        """Enter an access; several threads at one byte become SEVERAL."""
        self.block[at], self.epoch[at] = who.block, who.epoch
        self.thread[at] = threads
        differs = self.thread[at] != threads
        if differs.any():
            self.thread[at[differs]] = SEVERAL

    def note_beside(self, at: Ints, who: Who, threads: Ints) -> None:
        """Enter an access that may meet others of its kind: a read, or an atomic update."""
        block, epoch, thread = self.block[at], self.epoch[at], self.thread[at]
        joins = (block == who.block) & (epoch == who.epoch) & (thread != threads)
        # Those of other blocks that nothing orders before this one stay on record.
        free = (block == who.block) | (epoch <= who.order[block])
        self.note(at[free], who, threads[free])
        self.thread[at[joins]] = SEVERAL


@dataclass
class Who:
    """The running block, as memory sees it."""

    block: int  # counted from 1
    order: Array  # [0, blocks] -> the last epoch of that block known to come before
    epoch: int = 1

    @classmethod
    def at_start(cls, number: int, count: int) -> Who:
        """Block `number` of `count`, which knows of no other."""
        order = np.full(count + 1, -1, np.int32)
        order[0] = np.iinfo(np.int32).max  # nobody comes before everybody
        return cls(number + 1, order)


Label = Callable[[int], str]  # names a byte, for a message


@dataclass
class Region:
    """A piece of memory. `written` is None where everything counts as initialised."""

    name: str
    data: Array  # u8
    address: int = 0  # of its first byte, for alignment
    shared: bool = False
    written: Bools | None = None
    writers: Record = field(init=False)
    readers: Record = field(init=False)
    pending: Bools | None = None  # destinations of copies in flight

    def __post_init__(self) -> None:
        self.writers, self.readers = Record(self.data.size), Record(self.data.size)

    @property
    def kind(self) -> str:
        """`shared` or `global`."""
        return "shared" if self.shared else "global"

    def check_pending(self, at: Ints, threads: Ints, label: Label) -> None:
        """Trap if any of the bytes is the destination of a copy in flight."""
        if self.pending is not None and self.pending[at].any():
            i = int(np.argmax(self.pending[at]))
            raise Trap(
                f"thread {threads[i]} uses {label(at[i])} while an async copy to it is in flight",
                help="copy_async_commit_group, then copy_async_wait_group, before the data is used",
            )

    def check_written(self, at: Ints, threads: Ints, label: Label) -> None:
        """Trap if nobody has written some of the bytes."""
        if self.written is not None and not self.written[at].all():
            i = int(np.argmin(self.written[at]))
            raise Trap(f"thread {threads[i]} reads {label(at[i])}, which nobody has written")

    def check_read(self, at: Ints, who: Who, threads: Ints, label: Label) -> None:
        """Trap on a read of bytes in flight, unwritten, or written by another thread unordered."""
        self.check_pending(at, threads, label)
        self.check_written(at, threads, label)
        bad = self.writers.unordered(at, who, threads)
        if bad.any():
            self._race(at, threads, self.writers, bad, who, "reads", "wrote", label)
        self.readers.note_beside(at, who, threads)

    def check_write(
        self, at: Ints, who: Who, threads: Ints, label: Label, atomic: bool = False
    ) -> None:
        """Trap on a write to bytes that others use unordered; then enter the write."""
        self.check_pending(at, threads, label)
        if atomic:
            self.check_written(at, threads, label)
        bad = self.writers.unordered(at, who, threads, atomic)
        if bad.any():
            self._race(at, threads, self.writers, bad, who, "writes", "wrote", label)
        bad = self.readers.unordered(at, who, threads)
        if bad.any():
            self._race(at, threads, self.readers, bad, who, "writes", "read", label)
        if atomic:
            self.writers.note_beside(at, who, np.full_like(threads, ATOMIC))
        else:
            self.writers.note(at, who, threads)
        if self.written is not None:
            self.written[at] = True

    def _race(
        self,
        at: Ints,
        threads: Ints,
        record: Record,
        bad: Bools,
        who: Who,
        now: str,
        before: str,
        label: Label,
    ) -> None:
        i = int(np.argmax(bad))
        other, block = int(record.thread[at[i]]), int(record.block[at[i]])
        names = {SEVERAL: "several threads", ATOMIC: "an atomic update"}
        whose = names.get(other, f"thread {other}")
        if block != who.block:
            whose += f" of block {block - 1}"
            fix = "blocks are ordered only through semaphore_release and semaphore_acquire"
        else:
            fix = "a barrier (tilus.sync) is missing between them"
        raise Trap(
            f"race: thread {threads[i]} {now} {label(at[i])}, which {whose} {before} with nothing "
            "to order the two",
            help=fix,
        )


@dataclass(frozen=True)
class Pointer:
    """A place in global memory; it may touch the bytes of the region from `start` to `limit`."""

    name: str
    region: Region
    offset: int
    limit: int
    dtype: DType
    start: int = 0


@dataclass(frozen=True)
class GlobalView:
    """A strided view of global memory."""

    pointer: Pointer
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0  # elements


@dataclass(frozen=True)
class SharedTile:
    """A tile in shared memory."""

    region: Region
    dtype: DType
    shape: tuple[int, ...]
    layout: SharedLayout


@dataclass(frozen=True)
class Places:
    """Where each (thread, slot) of a tile lies in a region: first bit, and whether it exists."""

    name: str
    region: Region
    bits: Ints  # [threads, slots], the element's first bit
    mask: Bools
    dtype: DType
    low: int  # bytes of the region that may be touched
    high: int

    def byte(self, at: int) -> str:
        """A byte of the region as a message names it."""
        return f"byte {at - self.low} of {self.name}"


def places(
    memory: GlobalView | SharedTile, offsets: Sequence[int], layout: Layout, dims: Sequence[int]
) -> Places:
    """Places of a tile of `layout` whose corner is at `offsets`.

    Its dimension i lies along dims[i]. Elements outside the extents of the view are masked.
    """
    at: list[Any] = [np.int64(min(o, I64_MAX)) for o in offsets]
    for d, c in zip(dims, coordinates(layout), strict=True):
        at[d] = at[d] + c
    grid = (layout.num_threads, layout.num_slots)
    mask = np.ones(grid, bool)
    for a, extent in zip(at, memory.shape, strict=True):
        mask &= (a >= 0) & (a < extent)
    if isinstance(memory, SharedTile):
        inside = [np.clip(a, 0, e - 1) for a, e in zip(at, memory.shape, strict=True)]
        flat = shared_offset(memory.layout, inside)
        name, region = memory.region.name, memory.region
        low, high, first = 0, region.data.size, 0
    else:
        flat = memory.offset + sum(
            (a * np.int64(s) for a, s in zip(at, memory.strides, strict=True)), np.int64(0)
        )
        p = memory.pointer
        name, region, low, high, first = p.name, p.region, p.start, p.limit, p.offset
    bits = np.broadcast_to(first * 8 + flat * memory.dtype.bits, grid)
    return Places(name, region, bits, mask, memory.dtype, low, high)


def shared_offset(layout: SharedLayout, index: Sequence[Any]) -> Any:
    """`SharedLayout.offset` for arrays of indices."""
    total: Any = np.int64(0)
    mode = 0
    for i, factors in zip(index, layout.modes, strict=True):
        for size, stride in zip(
            reversed(factors), reversed(layout.strides[mode : mode + len(factors)]), strict=True
        ):
            total = total + (i % size) * stride
            i = i // size
        mode += len(factors)
    s = layout.swizzle
    if s is not None:
        total = total ^ ((total >> s.shift) & (((1 << s.bits) - 1) << s.base))
    return total


def spans(p: Places) -> tuple[Ints, Ints]:
    """(bytes touched, thread of each), over the elements that are not masked."""
    bits = p.bits[p.mask]
    threads = np.broadcast_to(np.arange(p.mask.shape[0])[:, None], p.mask.shape)[p.mask]
    first = bits >> 3
    count = ((bits & 7) + p.dtype.bits + 7) >> 3
    width = int(count.max(initial=1))
    at = first[:, None] + np.arange(width)
    used = np.arange(width) < count[:, None]
    return at[used], np.broadcast_to(threads[:, None], at.shape)[used]


def check_bounds(p: Places) -> None:
    """Trap when an unmasked element lies outside what may be touched."""
    low = (p.bits >> 3) < p.low
    high = ((p.bits + p.dtype.bits + 7) >> 3) > p.high
    bad = p.mask & (low | high)
    if bad.any():
        thread, slot = (int(i) for i in np.argwhere(bad)[0])
        byte = p.byte(int(p.bits[thread, slot] >> 3))
        raise Trap(
            f"out of bounds: thread {thread} touches {byte}, which has {p.high - p.low} bytes",
            help="the shape or strides of the view promise more than the memory holds",
        )


def check_alignment(p: Places, vector: int | None) -> None:
    """Trap when an element, or a vector of `vector` slots, is not aligned to its own size.

    A vector must be consecutive and wholly inside or outside the extents.
    """
    bits = p.bits + p.region.address * 8
    step = p.dtype.bits * (vector or 1)
    if step % 8:
        return
    n = vector or 1
    if p.bits.shape[1] % n:
        raise Trap(f"vectors of {n} elements do not divide the {p.bits.shape[1]} a thread holds")
    groups = bits.reshape(bits.shape[0], -1, n)
    mask = p.mask.reshape(groups.shape)
    bad = mask.any(2) & (groups[:, :, 0] % step != 0)
    if bad.any():
        thread, group = (int(i) for i in np.argwhere(bad)[0])
        raise Trap(
            f"misaligned: thread {thread} accesses {step // 8} bytes at address "
            f"{hex(int(groups[thread, group, 0]) // 8)} of {p.region.name}",
            help="accesses are aligned to their own size: lower `vector`, or pass aligned memory",
        )
    if n > 1:
        run = groups[:, :, :1] + np.arange(n) * p.dtype.bits
        torn = ((groups != run) & mask).any(2) | (mask.any(2) & ~mask.all(2))
        if torn.any():
            thread, group = (int(i) for i in np.argwhere(torn)[0])
            raise Trap(
                f"misaligned: the {n} elements of slots {group * n}.. of thread {thread} are not "
                f"one run of {p.name}"
            )


def load(p: Places, other: int) -> Array:
    """Codes at the places, `other` where masked."""
    bits = np.where(p.mask, p.bits, p.low * 8)
    data, width = p.region.data, p.dtype.bits
    out = np.full(bits.shape, other, p.dtype.code_dtype)
    if not p.mask.any():
        return out
    if width % 8 == 0:
        nbytes = width // 8
        raw = data[(bits >> 3)[..., None] + np.arange(nbytes)]
        codes = np.ascontiguousarray(raw).view(p.dtype.code_dtype)[..., 0]
    else:
        first = bits >> 3
        last = np.minimum(first + 1, data.size - 1)
        pair = data[first].astype(np.uint16) | (data[last].astype(np.uint16) << 8)
        codes = ((pair >> (bits & 7).astype(np.uint16)) & ((1 << width) - 1)).astype(
            p.dtype.code_dtype
        )
    return np.where(p.mask, codes, out)


def store(p: Places, codes: Array) -> None:
    """Write codes at the places that are not masked. Two values for one element are a race."""
    bits, codes = p.bits[p.mask], codes[p.mask]
    data, width = p.region.data, p.dtype.bits
    if not bits.size:
        return
    if width % 8 == 0:
        nbytes = width // 8
        at = (bits >> 3)[:, None] + np.arange(nbytes)
        data[at] = np.ascontiguousarray(codes)[:, None].view(np.uint8)
    else:
        where = bits[:, None] + np.arange(width)
        ones = ((codes[:, None] >> np.arange(width).astype(codes.dtype)) & 1).astype(np.uint8)
        np.bitwise_and.at(data, where >> 3, ~(np.uint8(1) << (where & 7).astype(np.uint8)))
        np.bitwise_or.at(data, where >> 3, ones << (where & 7).astype(np.uint8))
    again = load(p, 0)[p.mask]
    if not np.array_equal(again, codes):
        i = int(np.argmax(again != codes))
        threads = np.broadcast_to(np.arange(p.mask.shape[0])[:, None], p.mask.shape)[p.mask]
        raise Trap(
            f"race: thread {threads[i]} and another store different values to "
            f"{p.byte(bits[i] >> 3)}"
        )


@lru_cache(maxsize=1024)
def first_owners(layout: Layout) -> Bools:
    """[threads, slots] -> whether no earlier thread holds the same element."""
    table = index_table(layout)
    _, first = np.unique(table, return_index=True)
    mask = np.zeros(table.size, bool)
    mask[first] = True
    return mask.reshape(table.shape)


def add(p: Places, codes: Array) -> None:
    """Add each code's value to memory, one element after the other."""
    slots = np.argwhere(p.mask)
    chosen = p.bits[p.mask]
    if len(np.unique(chosen)) == len(chosen):
        batches = [p.mask]
    else:  # several elements at one place
        batches = []
        for thread, slot in slots:
            one = np.zeros_like(p.mask)
            one[thread, slot] = True
            batches.append(one)
    for mask in batches:
        at = replace(p, mask=mask)
        old, new = p.dtype.decode(load(at, 0)), p.dtype.decode(codes)
        if p.dtype.is_float:
            total = dtypes.convert(old.astype(np.float64) + new, dtypes.f64, p.dtype)
        else:
            with np.errstate(over="ignore"):
                total = old + new
        store(at, p.dtype.encode(total))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a dense row-major array."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def code_of(value: float, dtype: DType) -> int:
    """The code of one number."""
    kind = np.float64 if dtype.is_float else dtype.value_dtype
    source = dtypes.f64 if dtype.is_float else dtype
    return int(dtype.encode(dtypes.convert(np.array([value], kind), source, dtype))[0])


def check_torn_bytes(p: Places) -> None:
    """Trap when two threads write different parts of one byte: each would undo the other's."""
    if p.dtype.bits % 8 == 0 or not p.mask.any():
        return
    bits = p.bits[p.mask]
    threads = np.broadcast_to(np.arange(p.mask.shape[0])[:, None], p.mask.shape)[p.mask]
    where = (bits[:, None] + np.arange(p.dtype.bits)).reshape(-1)
    owner = np.repeat(threads, p.dtype.bits)
    pairs, inverse = np.unique(np.stack([where >> 3, owner]), axis=1, return_inverse=True)
    parts = np.zeros(pairs.shape[1], np.uint8)
    np.bitwise_or.at(parts, inverse.reshape(-1), np.uint8(1) << (where & 7).astype(np.uint8))
    same_byte = pairs[0, 1:] == pairs[0, :-1]
    torn = same_byte & (parts[1:] != parts[:-1])
    if torn.any():
        i = int(np.argmax(torn))
        raise Trap(
            f"race: threads {pairs[1, i]} and {pairs[1, i + 1]} write different bits of "
            f"{p.byte(pairs[0, i])}",
            help="give each thread whole bytes: runs of 8 elements always are",
        )
