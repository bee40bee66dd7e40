"""Which accesses to shared memory are ordered, and which race.

Time is a counter that each synchronisation moves on. `Order.floor` is the time up to which
everybody knows everything: the last barrier of the whole block. For barriers of some threads and of
warps, `known[t, u]` is the time up to which thread t comes after what thread u did; it is made when
such a barrier first runs.

`Shadow` remembers the last writer and the last reader of each granule as one word,

    time << 13 | strong << 12 | thread        thread SEVERAL: more than one

A granule is the narrowest access of the kernel, so that nothing smaller than it is ever touched.
Atomic, volatile and relaxed accesses are strong: they do not race with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from tilus.runtime.ptxemu.types import Array

SEVERAL = 0xFFF
_STRONG = 1 << 12
_TIME = 13
_UNWRITTEN = -1
_NOBODYS = 1 << 62  # a granule that no variable has


Same: TypeAlias = Callable[[], Array]


class Fault(NamedTuple):
    """What is wrong with one of the accesses that were checked."""

    access: int  # which one
    kind: Literal["out of bounds", "uninitialised", "race"]
    message: str  # what other access it meets


@dataclass
class Order:
    """What each thread of a block is known to come after."""

    threads: int  # a multiple of 32
    now: int = 1
    floor: int = 0
    known: Array | None = None  # [thread, other thread] -> time
    _by_warp: tuple[int, Array] | None = None

    def reset(self) -> None:
        """Begin anew."""
        self.now, self.floor, self.known, self._by_warp = 1, 0, None, None

    def everybody(self) -> None:
        """A barrier of the whole block."""
        self.floor = self.now
        self.now += 1

    def join(self, releasing: Array, acquiring: Array) -> None:
        """A barrier: `acquiring` threads come after all that `releasing` ones did."""
        known = self._knowledge()
        row = known[releasing].max(axis=0)
        row[releasing] = self.now
        known[acquiring] = np.maximum(known[acquiring], row)
        self.now += 1

    def join_warps(self, lanes: Array) -> None:
        """Barriers of single warps, among those of their lanes that are in `lanes`."""
        known = self._knowledge()
        warps = np.unique(lanes >> 5)
        if lanes.size == warps.size * 32:
            rows = known.reshape(-1, 32, self.threads)
            joint = rows[warps].max(axis=1)
            own = (warps[:, None] * 32 + np.arange(32))[:, :]
            np.put_along_axis(joint, own, self.now, axis=1)
            rows[warps] = joint[:, None, :]
        else:
            for warp in warps:
                group = lanes[lanes >> 5 == warp]
                row = known[group].max(axis=0)
                row[group] = self.now
                known[group] = row
        self.now += 1

    def _knowledge(self) -> Array:
        if self.known is None:
            self.known = np.zeros((self.threads, self.threads), np.int32)
        return self.known

    def before(self, others: Array, times: Array, threads: Array) -> Array:
        """Whether what `others` did at `times` comes before what `threads` do now."""
        out: Array = (times <= self.floor) | (others == threads)
        if self.known is not None:
            one = np.where(others == SEVERAL, 0, others)
            out = out | (others != SEVERAL) & (self.known[threads, one] >= times)
        return out

    def warps_before(self, times: Array, threads: Array) -> Array:
        """Whether reads by warps at `times` [n, warps] come before what `threads` do now."""
        assert self.known is not None
        if self._by_warp is None or self._by_warp[0] != self.now:
            own = self.known.copy()
            np.fill_diagonal(own, np.iinfo(np.int32).max)
            self._by_warp = self.now, own.reshape(self.threads, -1, 32).min(axis=2)
        done: Array = times <= np.maximum(self._by_warp[1][threads], self.floor)
        return np.asarray(done.all(axis=1))


@dataclass
class Shadow:
    """Who last wrote and read each granule of a block's shared memory."""

    order: Order
    granules: int
    by_warp: bool  # the kernel has barriers of some threads only
    exists: Array  # which granules belong to a variable
    writer: Array = field(init=False)
    reader: Array = field(init=False)
    warp_reads: Array = field(init=False)  # [granule, warp] -> time of the last read

    def __post_init__(self) -> None:
        self.writer = np.where(self.exists, _UNWRITTEN, _NOBODYS)
        self.reader = np.zeros(self.granules, np.int64)
        warps = self.order.threads // 32 if self.by_warp else 0
        self.warp_reads = np.zeros((self.granules if warps else 0, warps), np.int32)

    def reset(self) -> None:
        """Forget all accesses."""
        self.writer[...] = np.where(self.exists, _UNWRITTEN, _NOBODYS)
        self.reader.fill(0)
        self.warp_reads.fill(0)

    def _limit(self) -> int:
        return self.order.floor << _TIME | SEVERAL | _STRONG

    def read(self, at: Array, threads: Array, strong: bool) -> Fault | None:
        """Check and enter reads of granules `at`, each by the thread beside it."""
        written = self.writer[at]
        late = written.view(np.uint64) > self._limit()
        if np.count_nonzero(late):
            fault = self._meets(np.flatnonzero(late), written, threads, strong, "wrote")
            if fault is not None:
                return fault
        self._note_read(at, threads, strong)
        return None

    def write(self, at: Array, threads: Array, strong: bool, same: Same) -> Fault | None:
        """Check and enter writes to granules `at`.

        Several threads may write the same value without order: `same` says, when it is needed,
        which granules hold the value already.
        """
        fault = self.check_write(at, threads, strong)
        if fault is not None and (again := same()).any():
            last = self.writer[at]
            again &= (last > self._limit()) & (last != _UNWRITTEN)
            others, times = last & SEVERAL, last >> _TIME
            again &= ~self.order.before(others, times, threads)
            rest = np.flatnonzero(~again)
            fault = self.check_write(at[rest], threads[rest], strong)
            if fault is not None:
                return Fault(int(rest[fault.access]), fault.kind, fault.message)
            threads = np.where(again, SEVERAL, threads)
        if fault is None:
            self.note_write(at, threads, strong)
        return fault

    def check_write(self, at: Array, threads: Array, strong: bool) -> Fault | None:
        """Whether a write would race, without entering it."""
        limit = self._limit()
        written = self.writer[at]
        late = written > limit
        if np.count_nonzero(late):
            fault = self._meets(np.flatnonzero(late), written, threads, strong, "wrote")
            if fault is not None:
                return fault
        read = self.reader[at]
        late = read > limit
        if np.count_nonzero(late):
            which = np.flatnonzero(late)
            if self.by_warp and self.order.known is not None:
                which = self._not_ordered_by_warp(which, at, read, threads)
            return self._meets(which, read, threads, strong, "read")
        return None

    def note_write(self, at: Array, threads: Array, strong: bool) -> None:
        """Enter writes that are known not to race."""
        base = self.order.now << _TIME | (_STRONG if strong else 0)
        new = threads | base
        self.writer[at] = new
        differs = self.writer[at] != new
        if np.count_nonzero(differs):
            self.writer[at[differs]] = base | SEVERAL

    def _note_read(self, at: Array, threads: Array, strong: bool) -> None:
        base = self.order.now << _TIME | (_STRONG if strong else 0)
        earlier = self.reader[at]
        new = threads | base
        self.reader[at] = new
        differs = self.reader[at] != new
        late = earlier > self._limit()
        if np.count_nonzero(late):
            which = np.flatnonzero(late)
            others, times = earlier[which] & SEVERAL, earlier[which] >> _TIME
            differs[which] |= ~self.order.before(others, times, threads[which])
            if strong and not (earlier[which] & _STRONG).all():
                base ^= _STRONG
        if np.count_nonzero(differs):
            self.reader[at[differs]] = base | SEVERAL
        if self.by_warp:
            self.warp_reads[at, threads >> 5] = self.order.now

    def _not_ordered_by_warp(self, which: Array, at: Array, read: Array, threads: Array) -> Array:
        """Those of `which` whose several readers do not all come before."""
        several = (read[which] & SEVERAL) == SEVERAL
        some = which[several]
        done = self.order.warps_before(self.warp_reads[at[some]], threads[some])
        keep = ~several
        keep[several] = ~done
        return np.asarray(which[keep])

    def _meets(
        self, which: Array, records: Array, threads: Array, strong: bool, did: str
    ) -> Fault | None:
        """The first of the accesses `which` that its record does not come before."""
        found = records[which]
        outside = found == _NOBODYS
        if outside.any():
            return Fault(int(which[np.argmax(outside)]), "out of bounds", "no variable has it")
        empty = found == _UNWRITTEN
        if did == "wrote" and empty.any():
            i = int(which[np.argmax(empty)])
            return Fault(i, "uninitialised", "nobody has written it")
        others, times = found & SEVERAL, found >> _TIME
        bad = ~self.order.before(others, times, threads[which])
        if strong:
            bad &= (found & _STRONG) == 0
        if not bad.any():
            return None
        first = int(np.argmax(bad))
        other = int(others[first])
        who = "several threads" if other == SEVERAL else f"thread {other}"
        return Fault(int(which[first]), "race", f"{who} {did} it, and nothing orders the two")
