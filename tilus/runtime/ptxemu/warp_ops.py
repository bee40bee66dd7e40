"""Instructions by which the lanes of a warp exchange values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.runtime.ptxemu.floats import extremum
from tilus.runtime.ptxemu.syntax import Instruction, Not, Operand, Pair, Sink
from tilus.runtime.ptxemu.table import Modifiers, Step, machine, not_emulated
from tilus.runtime.ptxemu.types import B32, PRED, U32, Array, Mask

if TYPE_CHECKING:
    from tilus.runtime.ptxemu.block import Block

_ALL = np.uint32(0xFFFFFFFF)
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def _active(b: Block, mask: Mask) -> Array:
    """bool [warps, 32]."""
    if mask is None:
        return np.ones((b.padded >> 5, 32), np.bool_)
    return mask.reshape(-1, 32)


def _members(b: Block, mask: Mask, wanted: Array) -> Array:
    """For each lane, which lanes take part with it: bool [warps, 32, 32]."""
    asked = (wanted.reshape(-1, 32, 1) & _BITS) != 0
    out: Array = asked & _active(b, mask)[:, None, :]
    return out


def _split(i: Instruction) -> tuple[Operand, Operand]:
    first = i.args[0]
    return (first.first, first.second) if isinstance(first, Pair) else (first, Sink())


@machine("shfl")
def _shfl(i: Instruction, m: Modifiers, b: Block) -> Step:
    if not m.flag("sync"):
        raise not_emulated(i, "a shuffle without .sync")
    how = m.choice("up", "down", "bfly", "idx")
    m.type()
    to, inside = _split(i)
    write, write_inside = b.writer(i, to, B32), b.writer(i, inside, PRED)
    value, by, limits, wanted = (b.source(i, a, U32) for a in i.args[1:])
    lane = b.lane.astype(np.int64)
    first = np.arange(b.padded) & ~31
    cached: tuple[bytes, bytes, Array, Array] | None = None

    def sources() -> tuple[Array, Array]:
        """For each thread: the thread whose value it gets, and whether that is in range."""
        nonlocal cached
        key = by.tobytes(), limits.tobytes()
        if cached is not None and cached[:2] == key:
            return cached[2:]
        offset = (by & np.uint32(31)).astype(np.int64)
        clamp = (limits & np.uint32(31)).astype(np.int64)
        segment = ((limits >> np.uint32(8)) & np.uint32(31)).astype(np.int64)
        highest = (lane & segment) | (clamp & ~segment)
        source = {
            "up": lane - offset,
            "down": lane + offset,
            "bfly": lane ^ offset,
            "idx": (lane & segment) | (offset & ~segment),
        }[how]
        good = source >= highest if how == "up" else source <= highest
        cached = (*key, first + np.where(good, source, lane), good)
        return cached[2:]

    def run(mask: Mask) -> None:
        source, good = sources()
        out = value[source]
        if mask is not None:
            # What an absent lane would have given is undefined.
            out = np.where(mask[source], out, np.uint32(0xDEADBEEF))
        write(out, mask)
        write_inside(good, mask)

    return b.barriers.together(i, b.here, wanted, run)


@machine("vote")
def _vote(i: Instruction, m: Modifiers, b: Block) -> Step:
    if not m.flag("sync"):
        raise not_emulated(i, "a vote without .sync")
    how = m.choice("all", "any", "uni", "ballot")
    t = m.type()
    write = b.writer(i, i.args[0], t)
    given = i.args[1]
    predicate = b.source(i, given, PRED)
    negated = isinstance(given, Not)
    wanted = b.source(i, i.args[2], U32)

    def run(mask: Mask) -> None:
        mine = (~predicate if negated else predicate).reshape(-1, 1, 32)
        members = _members(b, mask, wanted)
        true, false = members & mine, members & ~mine
        if how == "ballot":
            out = np.where(true, _BITS, np.uint32(0)).sum(axis=2, dtype=np.uint32)
        elif how == "any":
            out = true.any(axis=2)
        elif how == "all":
            out = ~false.any(axis=2)
        else:
            out = ~(true.any(axis=2) & false.any(axis=2))
        write(out.reshape(-1), mask)

    return b.barriers.together(i, b.here, wanted, run)


@machine("match")
def _match(i: Instruction, m: Modifiers, b: Block) -> Step:
    how = m.choice("any", "all")
    m.flag("sync")
    t = m.type()
    to, every = _split(i)
    write, write_every = b.writer(i, to, B32), b.writer(i, every, PRED)
    value, wanted = b.source(i, i.args[1], t), b.source(i, i.args[2], U32)

    def run(mask: Mask) -> None:
        values = value.reshape(-1, 32)
        members = _members(b, mask, wanted)
        same = (values[:, :, None] == values[:, None, :]) & members
        agree = (same == members).all(axis=2)
        out = np.where(same, _BITS, np.uint32(0)).sum(axis=2, dtype=np.uint32)
        if how == "all":
            out = np.where(agree, out, np.uint32(0))
        write(out.reshape(-1), mask)
        write_every(agree.reshape(-1), mask)

    return b.barriers.together(i, b.here, wanted, run)


@machine("redux")
def _redux(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.flag("sync")
    op = m.choice("add", "min", "max", "and", "or", "xor")
    absolute, nan = m.flag("abs"), m.flag("NaN")
    t = m.type()
    write = b.writer(i, i.args[0], t)
    value, wanted = b.source(i, i.args[1], t), b.source(i, i.args[2], U32)
    neutral, merge = _neutral(op, t.dtype), _merge(op)

    def run(mask: Mask) -> None:
        values = np.abs(value) if absolute else value
        members = _members(b, mask, wanted)
        rows = np.broadcast_to(values.reshape(-1, 1, 32), members.shape)
        if t.is_float:
            write(_float_redux(rows, members, op == "max", nan).reshape(-1), mask)
            return
        out = merge.reduce(np.where(members, rows, neutral), axis=2)
        write(out.astype(t.dtype).reshape(-1), mask)

    def _float_redux(rows: Array, members: Array, largest: bool, nan: bool) -> Array:
        pick = extremum(t, largest, nan, False)
        worst = np.float32(-np.inf if largest else np.inf)
        out = np.where(members[:, :, 0], rows[:, :, 0], worst)
        for k in range(1, 32):
            out = np.where(members[:, :, k], pick(out, rows[:, :, k]), out)
        return out

    return b.barriers.together(i, b.here, wanted, run)


def _merge(op: str) -> np.ufunc:
    table: dict[str, np.ufunc] = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    return table[op]


def _neutral(op: str, dtype: np.dtype[Any]) -> Any:
    """What changes nothing in a reduction."""
    if op in ("add", "or", "xor") or dtype.kind == "f":
        return dtype.type(0)
    info = np.iinfo(dtype)
    if op == "and":
        return np.array(-1, np.int64).astype(dtype)
    return dtype.type(info.max if op == "min" else info.min)


@machine("activemask")
def _activemask(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.type()
    write = b.writer(i, i.args[0], U32)

    def step(mask: Mask) -> None:
        bits = np.where(_active(b, mask), _BITS, np.uint32(0)).sum(axis=1, dtype=np.uint32)
        write(np.repeat(bits, 32), mask)

    return step


@machine("elect")
def _elect(i: Instruction, m: Modifiers, b: Block) -> Step:
    """elect.sync d|p, mask: the lowest member."""
    m.flag("sync")
    to, chosen = _split(i)
    write, write_chosen = b.writer(i, to, U32), b.writer(i, chosen, PRED)
    wanted = b.source(i, i.args[1], U32)

    def run(mask: Mask) -> None:
        leader = _members(b, mask, wanted).argmax(axis=2).reshape(-1)
        write(leader.astype(np.uint32), mask)
        write_chosen(leader == b.lane, mask)

    return b.barriers.together(i, b.here, wanted, run)
