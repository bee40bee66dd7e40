"""Instructions that say where to go on, who waits, and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.runtime.ptxemu.barriers import EXITED
from tilus.runtime.ptxemu.printf import print_formatted, string_at
from tilus.runtime.ptxemu.syntax import Imm, Instruction, Operand, Reg, Sym
from tilus.runtime.ptxemu.table import (
    RESCHEDULE,
    Modifiers,
    Step,
    machine,
    not_emulated,
)
from tilus.runtime.ptxemu.traps import PtxTrap
from tilus.runtime.ptxemu.types import PRED, U32, Array, Mask

if TYPE_CHECKING:
    from tilus.runtime.ptxemu.block import Block


@machine("bra")
def _bra(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.flag("uni")
    label = i.args[0]
    if not isinstance(label, Sym):
        raise not_emulated(i)
    target = b.program.target(i, label.name)
    return lambda mask: target


@machine("brx")
def _brx(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.flag("idx", "uni")
    table = i.args[1]
    if not isinstance(table, Sym):
        raise not_emulated(i)
    labels = b.program.function(i).branch_targets[table.name]
    targets = np.array([b.program.target(i, label) for label in labels], np.int32)
    index = b.source(i, i.args[0], U32)

    def step(mask: Mask) -> int:
        lanes = b.lanes(mask)
        if (beyond := index[lanes] >= targets.size).any():
            thread = int(lanes[np.argmax(beyond)])
            message = f"entry {index[thread]} of a table of {targets.size} branch targets"
            raise PtxTrap("out of bounds", message, i, thread)
        b.pc[lanes] = targets[index[lanes]]
        return RESCHEDULE

    return step


@machine("exit")
def _exit(i: Instruction, m: Modifiers, b: Block) -> Step:
    return b.exit


@machine("call")
def _call(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.flag("uni")
    here = b.here
    call = b.program.function(i).calls[here - b.program.starts[i.function]]
    callee = b.program.module.functions.get(call.callee)
    if callee is None or not callee.has_body:
        return _external(i, b, call.callee, call.arguments)
    entry = b.program.starts[callee.name]
    given = [b.call_param(i, i.function, a.name) for a in call.arguments if isinstance(a, Sym)]
    wanted = [b.call_param(i, callee.name, p.name) for p in callee.params]
    if len(given) != len(wanted) or len(given) != len(call.arguments):
        raise not_emulated(i, "a call whose arguments are not parameters of the caller")

    def step(mask: Mask) -> int:
        lanes = b.lanes(mask)
        for source, target in zip(given, wanted, strict=True):
            target[lanes] = source[lanes]
        depth = b.depth[lanes]
        while len(b.return_pcs) <= depth.max():
            b.return_pcs.append(np.zeros(b.padded, np.int32))
        for level in np.unique(depth):
            b.return_pcs[level][lanes[depth == level]] = here + 1
        b.depth[lanes] += 1
        return entry

    return step


@machine("ret")
def _ret(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.flag("uni")
    function = b.program.function(i)
    if function.is_entry:
        return b.exit
    results = [b.call_param(i, function.name, r.name) for r in function.results]

    def step(mask: Mask) -> int:
        lanes = b.lanes(mask)
        b.depth[lanes] -= 1
        depth = b.depth[lanes]
        for level in np.unique(depth):
            some = lanes[depth == level]
            b.pc[some] = b.return_pcs[level][some]
        back = b.pc[lanes]
        for pc in np.unique(back):
            caller = b.program.code[pc - 1]
            names = b.program.function(caller).calls[pc - 1 - b.program.starts[caller.function]]
            for source, name in zip(results, names.results, strict=True):
                some = lanes[back == pc]
                b.call_param(caller, caller.function, name)[some] = source[some]
        return RESCHEDULE

    return step


def _external(i: Instruction, b: Block, name: str, arguments: tuple[Operand, ...]) -> Step:
    """Functions that the driver brings: printf and failed assertions."""
    given = [b.call_param(i, i.function, a.name) for a in arguments if isinstance(a, Sym)]
    if name == "vprintf":

        def printf(mask: Mask) -> None:
            lanes = b.lanes(mask)
            formats, values = (_pointers(g, lanes) for g in given)
            b.output += print_formatted(b.spaces, formats, values, lanes, i)

        return printf
    if name == "__assertfail":

        def fail(mask: Mask) -> None:
            lanes = b.lanes(mask)[:1]
            at = [int(_pointers(given[k], lanes)[0]) for k in (0, 1)]
            text, file = (string_at(b.spaces, a, int(lanes[0]), i) for a in at)
            line = int(given[2][lanes[0]].view(np.uint32)[0])
            message = f"`{text}` failed, {file.rsplit('/', 1)[-1]}:{line}"
            raise PtxTrap("assertion", message, i, int(lanes[0]))

        return fail
    raise not_emulated(i, f"the external function {name}")


def _pointers(param: Array, lanes: Array) -> Array:
    words: Array = param.view(np.uint64)[lanes, 0]
    return words


@machine("trap", "brkpt")
def _trap(i: Instruction, m: Modifiers, b: Block) -> Step:
    def step(mask: Mask) -> None:
        raise PtxTrap("trap", f"the kernel ran {i.opcode}", i, int(b.lanes(mask)[0]))

    return step


@machine("nanosleep")
def _nanosleep(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.type()

    def step(mask: Mask) -> None:
        b.polled = True

    return step


@machine("membar", "fence", "prefetch", "prefetchu", "discard", "applypriority", "createpolicy")
def _nothing(i: Instruction, m: Modifiers, b: Block) -> Step:
    """What changes no value here: accesses already take effect in order, and caches are none."""
    m.left.clear()
    if i.opcode == "createpolicy":
        write = b.writer(i, i.args[0], U32)
        return lambda mask: write(np.zeros(b.padded, np.uint32), mask)
    return lambda mask: None


@machine("pmevent", "griddepcontrol")
def _event(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.left.clear()
    return lambda mask: None


@machine("bar", "barrier")
def _bar(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.flag("cta")
    m.flag("aligned")
    here = b.here
    if m.flag("warp"):
        m.flag("sync")
        return b.barriers.warp_barrier(here, b.source(i, i.args[0], U32))
    kind = m.choice("sync", "arrive", "red")
    if kind == "red":
        return _bar_red(i, m, b)
    number = _uniform(i, b, i.args[0])
    expected = _uniform(i, b, i.args[1]) if len(i.args) > 1 else None

    def step(mask: Mask) -> int | None:
        count = None if expected is None else int(expected[b.lanes(mask)[0]])
        numbers = np.unique(number[b.lanes(mask)]) if varies else number[:1]
        to: int | None = None
        for which in numbers.tolist():
            part = mask
            if len(numbers) > 1:
                part = (number == which) if mask is None else mask & (number == which)
                count = None if expected is None else int(expected[np.argmax(part)])
            if kind == "arrive":
                to = b.barriers.arrive(part, which, count or b.padded, here)
            else:
                to = b.barriers.sync(part, which, count, here)
        return to

    varies = isinstance(i.args[0], Reg)
    return step


def _uniform(i: Instruction, b: Block, operand: Operand) -> Array:
    if not isinstance(operand, (Imm, Reg)):
        raise not_emulated(i)
    return b.source(i, operand, U32)


def _bar_red(i: Instruction, m: Modifiers, b: Block) -> Step:
    """bar.red.popc.u32 d, a{, b}, p and bar.red.{and,or}.pred."""
    here = b.here
    how = m.choice("popc", "and", "or")
    t = m.type()
    args = i.args
    number = _uniform(i, b, args[1])
    expected = _uniform(i, b, args[2]) if len(args) == 4 else None
    ballots = b.source(i, args[-1], PRED)
    negated = not isinstance(args[-1], Reg) and not isinstance(args[-1], Imm)
    write = b.writer(i, args[0], t)

    def step(mask: Mask) -> int | None:
        given = ~ballots if negated else ballots.copy()
        lanes = b.lanes(mask)
        chosen = np.zeros(b.padded, np.bool_)
        chosen[lanes] = True

        def vote(all_ballots: Array) -> None:
            alive = b.pc != EXITED
            voters = all_ballots[alive] if mask is None or expected is None else all_ballots
            value: Any = np.count_nonzero(voters)
            if how != "popc":
                value = voters.all() if how == "and" else voters.any()
            write(np.full(b.padded, value, t.dtype), chosen)

        count = None if expected is None else int(expected[lanes[0]])
        return b.barriers.sync(mask, int(number[lanes[0]]), count, here, given, vote)

    return step
