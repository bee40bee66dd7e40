"""cp.async: copies from global to shared memory that go on while the threads do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilus.runtime.ptxemu.memory_ops import drop_hints
from tilus.runtime.ptxemu.syntax import Imm, Instruction, Not, Reg
from tilus.runtime.ptxemu.table import Modifiers, Step, machine, not_emulated
from tilus.runtime.ptxemu.traps import PtxTrap
from tilus.runtime.ptxemu.types import PRED, U32, Array, Mask

if TYPE_CHECKING:
    from tilus.runtime.ptxemu.block import Block


@machine("cp")
def _cp(i: Instruction, m: Modifiers, b: Block) -> Step:
    if not m.flag("async") or "bulk" in m.left or "mbarrier" in m.left:
        raise not_emulated(i)
    if m.flag("commit_group"):
        return lambda mask: b.shared.commit(b.lanes(mask))
    if m.flag("wait_all"):
        return lambda mask: _wait(b, mask, None)
    if m.flag("wait_group"):
        newest = i.args[0]
        if not isinstance(newest, Imm):
            raise not_emulated(i)
        return lambda mask: _wait(b, mask, newest.value)
    return _copy(i, m, b)


def _wait(b: Block, mask: Mask, newest: int | None) -> None:
    active = np.zeros(b.padded, np.bool_)
    active[b.lanes(mask)] = True
    b.shared.wait(active, newest)


def _copy(i: Instruction, m: Modifiers, b: Block) -> Step:
    """cp.async.cX.shared.global [dst], [src], size{, bytes or ignore}{, policy}."""
    m.flag("ca", "cg")
    m.flag("shared", "shared::cta")
    m.flag("global")
    drop_hints(m)
    cache_policy = "L2::cache_hint" in i.modifiers
    size_operand, *more = i.args[2:]
    if cache_policy:
        more = more[:-1]
    if not isinstance(size_operand, Imm) or len(more) > 1:
        raise not_emulated(i)
    size = size_operand.value
    to, source = b.address(i, i.args[0]), b.address(i, i.args[1])
    given: Array | None = None
    ignored: Array | None = None
    negated = False
    if more and _is_predicate(i, b, more[0]):
        ignored, negated = b.source(i, more[0], PRED), isinstance(more[0], Not)
    elif more:
        given = b.source(i, more[0], U32)

    def step(mask: Mask) -> None:
        threads = b.lanes(mask)
        if given is None and ignored is None:
            data = _fetch(b, source(threads), size, size, threads, i)
            b.shared.start_copy(to(threads).view(np.int64), data, threads, i)
            return
        count = np.full(threads.size, size) if given is None else given[threads].astype(np.int64)
        if ignored is not None:
            count = np.where(ignored[threads] ^ negated, 0, count)
        if (count > size).any():
            k = int(np.argmax(count > size))
            message = f"{count[k]} source bytes for a copy of {size}"
            raise PtxTrap("out of bounds", message, i, int(threads[k]))
        data = np.zeros((threads.size, size), np.uint8)
        at = source(threads)
        for nbytes in np.unique(count[count > 0]).tolist():
            which = np.flatnonzero(count == nbytes)
            data[which, :nbytes] = _fetch(b, at[which], nbytes, size, threads[which], i)
        b.shared.start_copy(to(threads).view(np.int64), data, threads, i)

    return step


def _is_predicate(i: Instruction, b: Block, operand: object) -> bool:
    if isinstance(operand, Not):
        return True
    return isinstance(operand, Reg) and b.register(i, operand).dtype == np.bool_


def _fetch(b: Block, at: Array, nbytes: int, size: int, threads: Array, i: Instruction) -> Array:
    """The first bytes of sources that are aligned to the size of the copy."""
    odd = at & np.uint64(size - 1) != 0
    if odd.any():
        k = int(np.argmax(odd))
        message = f"the source of a copy of {size} bytes, {b.spaces.memory.describe(int(at[k]))}"
        raise PtxTrap("misaligned", message, i, int(threads[k]))
    width = min(nbytes & -nbytes, 8)
    words = b.spaces.load("global", at, width, nbytes // width, threads, i)
    return np.ascontiguousarray(words).view(np.uint8).reshape(at.size, nbytes)
