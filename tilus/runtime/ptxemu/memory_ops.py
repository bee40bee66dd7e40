"""Loads, stores, address conversions and atomics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tilus.runtime.ptxemu.floats import narrow, wide
from tilus.runtime.ptxemu.memory import (
    LOCAL_WINDOW,
    PARAM_WINDOW,
    SHARED_WINDOW,
    WINDOW_SIZE,
)
from tilus.runtime.ptxemu.spaces import WINDOWS
from tilus.runtime.ptxemu.syntax import Address, Instruction, Operand, Sink, Sym, Vector
from tilus.runtime.ptxemu.table import Modifiers, Step, machine, not_emulated
from tilus.runtime.ptxemu.traps import PtxTrap
from tilus.runtime.ptxemu.types import PRED, U64, Array, Mask, Type

if TYPE_CHECKING:
    from tilus.runtime.ptxemu.block import Block

_SPACES = ("global", "shared", "local", "param", "const")
_ORDERS = ("weak", "relaxed", "acquire", "release", "acq_rel", "volatile")
_SCOPES = ("cta", "cluster", "gpu", "sys")


def space_of(m: Modifiers) -> str:
    """Take the state space of an instruction."""
    space = m.choice(*_SPACES, "shared::cta", "param::entry", "param::func", default="generic")
    return space.split("::")[0]


def drop_hints(m: Modifiers) -> None:
    """Take cache operators and other advice: they change no value."""
    m.flag("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "unified")
    for name in list(m.left):
        if name.startswith(("L1::", "L2::")):
            m.left.remove(name)


def _strong(m: Modifiers) -> bool:
    order = m.choice(*_ORDERS, default="weak")
    m.flag(*_SCOPES, "mmio")
    return order != "weak"


@machine("ld", "ldu")
def _ld(i: Instruction, m: Modifiers, b: Block) -> Step:
    strong = _strong(m)
    space = space_of(m)
    drop_hints(m)
    lanes = int(m.choice("v2", "v4", "v8", default="v1")[1:])
    t = m.type()
    where = i.args[1]
    if space == "param" and isinstance(where, Address) and isinstance(where.base, Sym):
        return _ld_param(i, b, t, lanes, where.base.name, where.base.offset + where.offset)
    address = b.address(i, where)
    width = t.dtype.itemsize
    count = lanes * t.lanes
    scatter = _scatter(i, b, t, lanes)

    def step(mask: Mask) -> None:
        threads = b.lanes(mask)
        words = b.spaces.load(space, address(threads), width, count, threads, i, strong)
        b.polled |= strong
        scatter(words, mask, threads)

    return step


def _ld_param(i: Instruction, b: Block, t: Type, lanes: int, name: str, offset: int) -> Step:
    """A parameter of the kernel, or of a call, which is known before any thread runs."""
    scatter = _scatter(i, b, t, lanes)
    width, count = t.dtype.itemsize, lanes * t.lanes
    if (i.function, name) in b.program.call_params:
        private = b.call_param(i, i.function, name).view(f"u{width}")
        first = offset // width
        return lambda mask: scatter(
            private[b.lanes(mask), first : first + count], mask, b.lanes(mask)
        )
    start = b.program.param_offsets[name] + offset
    words = b.spaces.params[start : start + width * count].view(f"u{width}")
    everyone = np.broadcast_to(words, (b.padded, count))
    return lambda mask: scatter(everyone[b.lanes(mask)], mask, b.lanes(mask))


def _scatter(i: Instruction, b: Block, t: Type, lanes: int) -> Callable[[Array, Mask, Array], None]:
    """A function that puts loaded words [threads, count] into the destination."""
    first = i.args[0]
    items = first.items if isinstance(first, Vector) else (first,)
    if len(items) != lanes:
        raise not_emulated(i, "this number of destinations")
    outs = [b.target(i, item, t) for item in items]
    kind = t.dtype

    def scatter(words: Array, mask: Mask, threads: Array) -> None:
        typed = words.view(kind) if words.flags.c_contiguous else words.copy().view(kind)
        for k, out in enumerate(outs):
            if out is not None:
                value = typed[:, k] if t.lanes == 1 else typed[:, k * t.lanes : (k + 1) * t.lanes]
                if mask is None and threads.size == out.shape[0]:
                    out[...] = value
                else:
                    out[threads] = value

    return scatter


@machine("st")
def _st(i: Instruction, m: Modifiers, b: Block) -> Step:
    strong = _strong(m)
    space = space_of(m)
    drop_hints(m)
    lanes = int(m.choice("v2", "v4", "v8", default="v1")[1:])
    t = m.type()
    where, what = i.args[0], i.args[1]
    items = what.items if isinstance(what, Vector) else (what,)
    if len(items) != lanes:
        raise not_emulated(i, "this number of sources")
    sources = [b.source(i, item, t).view(f"u{t.dtype.itemsize}") for item in items]
    if space == "param" and isinstance(where, Address) and isinstance(where.base, Sym):
        width = t.dtype.itemsize
        private = b.call_param(i, i.function, where.base.name).view(f"u{width}")
        first = (where.base.offset + where.offset) // width

        def put(mask: Mask) -> None:
            threads = b.lanes(mask)
            for k, source in enumerate(sources):
                private[threads, first + k] = source[threads]

        return put
    address = b.address(i, where)

    def step(mask: Mask) -> None:
        threads = b.lanes(mask)
        words = np.empty((threads.size, lanes, t.lanes), sources[0].dtype)
        for k, source in enumerate(sources):
            words[:, k] = (source if threads is b.everyone else source[threads]).reshape(
                threads.size, -1
            )
        words = words.reshape(threads.size, -1)
        b.spaces.store(space, address(threads), words, threads, i, strong)

    return step


@machine("cvta")
def _cvta(i: Instruction, m: Modifiers, b: Block) -> Step:
    to = m.flag("to")
    space = space_of(m)
    t = m.type()
    if t.bits != 64:
        raise not_emulated(i)
    base = np.uint64(WINDOWS.get(space, 0))
    source = b.source(i, i.args[1], U64)
    write = b.writer(i, i.args[0], U64)
    if to:
        return lambda mask: write(source - base, mask)
    return lambda mask: write(source + base, mask)


@machine("isspacep")
def _isspacep(i: Instruction, m: Modifiers, b: Block) -> Step:
    space = space_of(m)
    source = b.source(i, i.args[1], U64)
    write = b.writer(i, i.args[0], PRED)
    windows = [np.uint64(w) for w in (SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW)]

    def inside(base: np.uint64) -> Array:
        out: Array = source - base < np.uint64(WINDOW_SIZE)
        return out

    if space in WINDOWS:
        return lambda mask: write(inside(np.uint64(WINDOWS[space])), mask)
    return lambda mask: write(~(inside(windows[0]) | inside(windows[1]) | inside(windows[2])), mask)


# Atomics: the new value of a word from the old one, the operand and, for cas, a second one


def _minimum(old: Array, value: Array, _: Array) -> Array:
    out: Array = np.minimum(old, value)
    return out


_UPDATES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "min": _minimum,
    "max": lambda old, value, _: np.maximum(old, value),
    "and": lambda old, value, _: old & value,
    "or": lambda old, value, _: old | value,
    "xor": lambda old, value, _: old ^ value,
    "exch": lambda old, value, _: value,
    "inc": lambda old, value, _: np.where(old >= value, 0, old + 1).astype(old.dtype),
    "dec": lambda old, value, _: np.where((old == 0) | (old > value), value, old - 1).astype(
        old.dtype
    ),
    "cas": lambda old, value, new: np.where(old == value, new, old),
}


def _add(t: Type) -> Callable[[Array, Array, Array], Array]:
    if t.is_float and t.name.startswith("bf16"):
        return lambda old, value, _: narrow(wide(old, t) + wide(value, t), t)
    return lambda old, value, _: old + value


@machine("atom", "red")
def _atom(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.flag(*_ORDERS)
    m.flag(*_SCOPES)
    space = space_of(m)
    drop_hints(m)
    m.flag("noftz")
    op = m.choice("add", *_UPDATES)
    lanes = int(m.choice("v2", "v4", "v8", default="v1")[1:])
    t = m.type()
    if not op or lanes > 1 or t.bits == 128:
        raise not_emulated(i)
    update = _add(t) if op == "add" else _UPDATES[op]
    result: Operand = Sink()
    args = i.args
    if i.opcode == "atom":
        result, *rest = args
        args = tuple(rest)
    address = b.address(i, args[0])
    value = b.source(i, args[1], t)
    second = b.source(i, args[2], t) if op == "cas" else value
    out = b.target(i, result, t)
    width = t.nbytes

    def step(mask: Mask) -> None:
        threads = b.lanes(mask)
        b.polled = True
        for kind, at, which in b.spaces.split(space, address(threads)):
            some = threads[which]
            words = _words(b, kind, at, width, some, i)
            for view, index, part in words:
                who = some[part]
                old = _in_turn(b, view, index, value[who], second[who], t, update)
                if out is not None:
                    out[who] = old

    return step


def _words(
    b: Block, space: str, at: Array, width: int, threads: Array, i: Instruction
) -> list[tuple[Array, Array, Array]]:
    """The words that atomics change: (memory as words, index of each, which accesses)."""
    if space == "shared":
        offset = at.view(np.int64)
        shared = b.shared
        shared.check_place(offset, width, threads, i)
        shared.note_read(offset, width, threads, i, True)
        shared.note_write(offset, width, threads, i, True)
        return [(shared.views[width], offset // width, np.arange(at.size))]
    if space != "global":
        raise PtxTrap("out of bounds", f"an atomic in the {space} space", i, int(threads[0]))
    out = []
    for buffer, offset, which in b.spaces.global_parts(at, width, threads, i):
        b.spaces.check_writable(buffer, threads[which], i)
        out.append((buffer.words(width), offset // width, np.arange(at.size)[which]))
    return out


def _in_turn(
    b: Block,
    words: Array,
    index: Array,
    value: Array,
    second: Array,
    t: Type,
    update: Callable[[Array, Array, Array], Array],
) -> Array:
    """Update words one after the other where they collide; the order is the scheduler's choice."""
    turn = b.rng.permutation(index.size) if b.seed is not None else np.arange(index.size)
    old = np.empty_like(value)
    while turn.size:
        _, first = np.unique(index[turn], return_index=True)
        now = turn[first]
        before = t.view(words[index[now]])
        old[now] = before
        after = np.ascontiguousarray(update(before, value[now], second[now]))
        words[index[now]] = after.view(words.dtype).reshape(-1)
        turn = np.delete(turn, first)
    return old
