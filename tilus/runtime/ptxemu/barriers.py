"""Threads that wait for others: the 16 barriers of a block, and instructions of whole warps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tilus.runtime.ptxemu.syntax import Instruction
from tilus.runtime.ptxemu.table import RESCHEDULE, Step
from tilus.runtime.ptxemu.traps import PtxTrap
from tilus.runtime.ptxemu.types import Array, Mask

if TYPE_CHECKING:
    from tilus.runtime.ptxemu.block import Block

WAITING = 1 << 30  # a pc: the thread waits for others
EXITED = WAITING + 1  # a pc: the thread has ended
_FREE, _WARP = -1, -2  # `parked`: not at all, at bar.warp.sync; else the pc of a .sync instruction
Vote = Callable[[Array], None]  # what to do with bool [threads] when a bar.red is complete


@dataclass
class _Barrier:
    """One of the 16."""

    waiting: Array  # threads that go on when it is complete
    arrived: Array  # threads that only announced themselves
    ballots: Array  # of bar.red
    expected: int | None = None
    votes: list[Vote] = field(default_factory=list)


class Barriers:
    """Who waits where in a block."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.named: dict[int, _Barrier] = {}
        self.resume = np.zeros(block.padded, np.int32)  # where waiting threads go on
        self.parked = np.full(block.padded, _FREE, np.int32)

    def reset(self) -> None:
        """Nobody waits."""
        self.named.clear()
        self.parked.fill(_FREE)

    def _alive(self) -> Array:
        alive: Array = self.block.pc != EXITED
        return alive

    # --- barriers of the block ---

    def sync(
        self,
        mask: Mask,
        number: int,
        expected: int | None,
        pc: int,
        ballots: Array | None = None,
        vote: Vote | None = None,
    ) -> int | None:
        """Threads wait at a barrier until `expected` threads (None: all) are there."""
        block = self.block
        if mask is None and number not in self.named and expected in (None, block.padded):
            block.shared.order.everybody()
            if vote is not None and ballots is not None:
                vote(ballots)
            return None
        barrier = self._barrier(number, expected, pc)
        lanes = block.lanes(mask)
        barrier.waiting[lanes] = True
        if vote is not None and ballots is not None:
            barrier.ballots[lanes] = ballots[lanes]
            barrier.votes.append(vote)
        self._wait(lanes, pc)
        self.resume[lanes] = pc + 1
        self._release(number)
        return RESCHEDULE

    def arrive(self, mask: Mask, number: int, expected: int, pc: int) -> int:
        """Threads announce themselves at a barrier and go on."""
        barrier = self._barrier(number, expected, pc)
        lanes = self.block.lanes(mask)
        barrier.arrived[lanes] = True
        self.block.pc[lanes] = pc + 1
        self._release(number)
        return RESCHEDULE

    def _barrier(self, number: int, expected: int | None, pc: int) -> _Barrier:
        barrier = self.named.get(number)
        if barrier is None:
            waiting, arrived, ballots = np.zeros((3, self.block.padded), np.bool_)
            barrier = self.named[number] = _Barrier(waiting, arrived, ballots, expected)
        elif barrier.expected != expected:
            counts = [str(n or "all") for n in (barrier.expected, expected)]
            message = f"barrier {number} is used for {counts[0]} and for {counts[1]} threads"
            raise PtxTrap("divergent", message, self.block.program.code[pc])
        return barrier

    def _wait(self, lanes: Array, pc: int) -> None:
        self.block.pc[lanes] = WAITING
        self.resume[lanes] = pc

    def _release(self, number: int) -> None:
        """Let the waiting threads go on if the barrier is complete."""
        barrier, block = self.named[number], self.block
        alive = self._alive()
        there = barrier.waiting | barrier.arrived
        if barrier.expected is None:
            complete = bool((there >= alive).all())
        else:
            by_warp = there.reshape(-1, 32)
            whole = (by_warp | ~alive.reshape(-1, 32)).all(axis=1) & by_warp.any(axis=1)
            complete = 32 * int(np.count_nonzero(whole)) >= barrier.expected
        if not complete:
            return
        self._check_converged(barrier.waiting, alive)
        waiting = np.flatnonzero(barrier.waiting)
        if np.array_equal(barrier.waiting, alive):
            block.shared.order.everybody()
        else:
            block.shared.order.join(np.flatnonzero(there), waiting)
        for vote in barrier.votes:
            vote(barrier.ballots)
        block.pc[waiting] = self.resume[waiting]
        del self.named[number]

    def _check_converged(self, waiting: Array, alive: Array) -> None:
        """The threads of a warp must have come to a barrier by one instruction."""
        at = self.resume.reshape(-1, 32)
        here = waiting.reshape(-1, 32)
        apart = np.where(here, at, 0).max(axis=1) != np.where(here, at, 1 << 30).min(axis=1)
        apart &= here.any(axis=1)
        if apart.any():
            warp = int(np.argmax(apart))
            lines = sorted({int(p) - 1 for p in at[warp][here[warp]]})
            code = self.block.program.code
            places = " and ".join(str(code[p].line) for p in lines)
            message = f"the threads of a warp wait at different barriers, lines {places}"
            raise PtxTrap("divergent", message, code[lines[0]], warp * 32)

    # --- instructions of whole warps ---

    def together(self, i: Instruction, pc: int, wanted: Array, run: Callable[[Mask], None]) -> Step:
        """A step that waits until the lanes in `wanted` (bits, per thread) are at it, then runs."""

        def step(mask: Mask) -> int | None:
            if mask is None:
                run(None)
                return None
            ready = self._gather(mask, wanted, pc)
            if ready is mask:
                run(mask)
                return None
            if ready.any():
                run(ready)
                self.block.pc[ready] = pc + 1
            return RESCHEDULE

        return step

    def warp_barrier(self, pc: int, wanted: Array) -> Step:
        """bar.warp.sync: the lanes may come to it by different instructions."""
        block = self.block

        def step(mask: Mask) -> int | None:
            order = block.shared.order
            if mask is not None:
                lanes = np.flatnonzero(mask)
                self.resume[lanes] = pc + 1
                ready = self._gather(mask, wanted, _WARP)
                go = np.flatnonzero(ready)
                if go.size:
                    order.join_warps(go)
                    block.pc[go] = self.resume[go]
                return None if ready is mask else RESCHEDULE
            if block.padded == 32:
                order.everybody()
            else:
                order.join_warps(block.all_threads)
            return None

        return step

    def _gather(self, mask: Array, wanted: Array, place: int) -> Array:
        """The threads for which an instruction can run now; the others of the mask are parked."""
        waiting = self.parked == place
        here = mask
        if np.count_nonzero(waiting):
            joined = np.repeat(mask.reshape(-1, 32).any(axis=1), 32)
            here = mask | (waiting & joined)
        members = np.where(here, wanted, 0).reshape(-1, 32)
        bits = np.bitwise_or.reduce(members, axis=1)
        asked = (bits[:, None] >> np.arange(32, dtype=np.uint32)) & 1 != 0
        missing = asked & ~here.reshape(-1, 32) & self._alive().reshape(-1, 32)
        complete = ~missing.any(axis=1)
        if complete.all() and here is mask:
            return mask
        ready: Array = here & np.repeat(complete, 32)
        wait = np.flatnonzero(here & ~ready)
        if place != _WARP:
            self._wait(wait, place)
        else:
            kept = self.resume[wait]
            self._wait(wait, place)
            self.resume[wait] = kept
        self.parked[wait] = place
        self.parked[ready] = _FREE
        return ready

    def after_exit(self) -> None:
        """Some threads have ended: whoever waits for them need not any more."""
        for number in list(self.named):
            self._release(number)
        parked = np.flatnonzero(self.parked != _FREE)
        if parked.size:
            at = self.parked[parked]
            self.block.pc[parked] = np.where(at == _WARP, self.resume[parked] - 1, at)
            self.parked[parked] = _FREE

    def deadlock(self) -> None:
        """Say who waits for whom."""
        code = self.block.program.code
        places: dict[int, int] = {}
        where = np.where(self.parked >= 0, self.parked, self.resume - 1)
        waiting = np.flatnonzero(self._alive())
        for pc in where[waiting].tolist():
            places[pc] = places.get(pc, 0) + 1
        text = "; ".join(
            f"{count} at line {code[pc].line} ({code[pc].name})" for pc, count in places.items()
        )
        gone = self.block.threads - waiting.size
        ended = f"; {gone} have ended" if gone else ""
        first = code[int(where[waiting[0]])]
        raise PtxTrap("deadlock", f"threads wait: {text}{ended}", first, int(waiting[0]))
