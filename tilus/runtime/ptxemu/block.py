"""A running block: registers as arrays over its threads, and who runs when.

Every instruction is bound once, on its first execution, to a closure over the arrays it works on.
`Block.pc` says for each thread where it is. The scheduler picks a pc and the threads there, and
runs them together until they part, wait, or come to where others wait to be joined: the smallest
pc first, so that threads which parted meet again. Without a seed all warps run in step; with one,
random sets of warps run for a random while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilus.runtime.ptxemu.barriers import EXITED, WAITING, Barriers
from tilus.runtime.ptxemu.program import Program
from tilus.runtime.ptxemu.spaces import Spaces
from tilus.runtime.ptxemu.syntax import (
    Address,
    Imm,
    Instruction,
    Not,
    Operand,
    Pair,
    Reg,
    Sink,
    Sym,
)
from tilus.runtime.ptxemu.table import (
    ALU,
    MACHINE,
    RESCHEDULE,
    Alu,
    Modifiers,
    Step,
    not_emulated,
)
from tilus.runtime.ptxemu.traps import Index, PtxTrap
from tilus.runtime.ptxemu.types import PRED, TYPES, U32, U64, Array, Mask, Type, signed

_PREEMPT = 24  # mean number of instructions between two switches, with a seed
_POLLS = 8  # times a block looks at a flag before other blocks get their turn


class Block:
    """The threads of one block, and the storage to run further blocks when it is done."""

    def __init__(
        self,
        program: Program,
        spaces: Spaces,
        block_dim: Index,
        grid_dim: Index,
        symbols: dict[str, int],
        seed: int | None,
        output: list[str],
    ) -> None:
        self.program = program
        self.spaces = spaces
        self.shared = spaces.shared
        self.block_dim, self.grid_dim = block_dim, grid_dim
        self.symbols = symbols  # addresses of global and const variables
        self.threads = block_dim[0] * block_dim[1] * block_dim[2]
        self.padded = -(-self.threads // 32) * 32
        self.seed = seed
        self.index: Index = (0, 0, 0)
        self.rng = np.random.default_rng(0)
        self.steps: list[Step | None] = [None] * len(program.code)
        self.registers: dict[tuple[str, str], Array] = {}
        self.call_params: dict[tuple[str, str], Array] = {}
        self.carry = np.zeros(self.padded, np.bool_)
        self.all_threads = np.arange(self.threads)
        # The same array if no lane of the last warp is missing: then no gather is needed.
        self.everyone = self.all_threads if self.padded == self.threads else np.empty(0, np.int64)
        self.lane = np.arange(self.padded) & 31
        self.specials = self._specials()
        self.pc = np.full(self.padded, EXITED, np.int32)
        self.barriers = Barriers(self)
        self.return_pcs: list[Array] = []
        self.depth = np.zeros(self.padded, np.int32)
        self.counts = np.zeros(len(program.code) + 1, np.int64)
        self.here = 0  # the pc being bound
        self.active = 0  # threads in the running mask
        self.polled = False  # a load or atomic may have looked at another thread's flag
        self.avoid = -1  # the pc of threads that just gave way
        self.executed = 0  # since the block was started
        self.output = output  # of the whole launch

    def start(self, index: Index, number: int) -> None:
        """Begin block `index`, the `number`-th of the grid; nothing of an earlier one is left."""
        self.index = index
        self.rng = np.random.default_rng([self.seed or 0, number])
        for name, value in zip("xyz", index, strict=True):
            self.specials[f"%ctaid.{name}"].fill(value)
        poison = self.rng.integers(0, 255, dtype=np.uint8)
        for register in (*self.registers.values(), *self.call_params.values(), self.spaces.local):
            register.view(np.uint8).fill(poison & 1 if register.dtype == np.bool_ else poison)
        self.shared.reset()
        self.barriers.reset()
        self.depth.fill(0)
        self.pc.fill(EXITED)
        self.pc[: self.threads] = self.program.entry
        self.avoid, self.polled, self.executed = -1, False, 0

    # --- operands, as handlers bind them ---

    def register(self, i: Instruction, reg: Reg) -> Array:
        """The words of a register, one for each thread."""
        key = (i.function, reg.name)
        if key not in self.registers:
            if reg.name.startswith("%") and reg.name in self.specials:
                return self.specials[reg.name]
            t = self.program.function(i).registers.get(reg.name)
            if t is None:
                raise not_emulated(i, f"the register {reg.name}")
            shape = (self.padded, 2) if t.bits == 128 else (self.padded,)
            kind = "?" if t is PRED else f"u{min(t.bits, 64) // 8}"
            self.registers[key] = np.zeros(shape, kind)
        return self.registers[key]

    def source(self, i: Instruction, operand: Operand, t: Type) -> Array:
        """The values of an operand, as an array that later writes to it change."""
        if isinstance(operand, Reg):
            register = self.register(i, operand)
            if (t is PRED) != (register.dtype == np.bool_) or t.bits > _bits(register):
                raise PtxTrap("invalid", f"{operand.name} cannot be read as .{t}", i)
            return t.view(register)
        if isinstance(operand, Not):
            return self.source(i, operand.reg, t)  # whoever takes predicates negates it
        if isinstance(operand, Imm):
            return self._constant(immediate(operand, t), t)
        if isinstance(operand, Sym):
            return self._constant(self.address_of(i, operand), t)
        raise not_emulated(i, f"the operand {operand}")

    def _constant(self, bits: int, t: Type) -> Array:
        if t is PRED:
            return np.full(self.padded, bits != 0)
        word = np.uint64(bits & ((1 << 64) - 1))
        return t.view(np.full(self.padded, word, np.uint64))

    def target(self, i: Instruction, operand: Operand, t: Type) -> Array | None:
        """The array to assign results of type `t` to; None for a sink.

        Where the register is wider than the type, assigning extends the value as PTX says.
        """
        if isinstance(operand, Sink):
            return None
        if not isinstance(operand, Reg):
            raise not_emulated(i, f"the destination {operand}")
        register = self.register(i, operand)
        bits = _bits(register)
        if (t is PRED) != (register.dtype == np.bool_) or t.bits > bits:
            raise PtxTrap("invalid", f"{operand.name} cannot hold a .{t}", i)
        if t.bits < bits and t.bits <= 64:
            wide = TYPES[f"u{min(bits, 64)}"]
            return (signed(wide) if t.kind == "s" else wide).view(register)
        return t.view(register)

    def writer(self, i: Instruction, operand: Operand, t: Type) -> Callable[[Array, Mask], None]:
        """A function that assigns values of all threads, where the mask says so."""
        out = self.target(i, operand, t)
        if out is None:
            return lambda values, mask: None
        flat = out.ndim == 1

        def write(values: Array, mask: Mask) -> None:
            if mask is None:
                out[...] = values
            else:
                np.copyto(out, values, "unsafe", mask if flat else mask[:, None])

        return write

    def address_of(self, i: Instruction, symbol: Sym) -> int:
        """The address of a variable in its own space."""
        name = symbol.name
        if (i.function, name) in self.program.local_offsets:
            return self.program.local_offsets[i.function, name] + symbol.offset
        if name in self.shared.layout.offsets:
            return self.shared.layout.offsets[name] + symbol.offset
        if name in self.program.param_offsets:
            return self.program.param_offsets[name] + symbol.offset
        if name in self.symbols:
            return self.symbols[name] + symbol.offset
        raise not_emulated(i, f"the address of {name}")

    def address(self, i: Instruction, operand: Operand) -> Callable[[Array], Array]:
        """A function from threads to the addresses that `[base + offset]` means for them."""
        if not isinstance(operand, Address):
            raise not_emulated(i, f"the address {operand}")
        base, offset = operand.base, np.uint64(operand.offset & ((1 << 64) - 1))
        if isinstance(base, Reg):
            register = self.register(i, base)
            everyone = self.everyone
            if register.dtype == np.uint64:
                return lambda threads: (
                    (register if threads is everyone else register[threads]) + offset
                )
            short = np.uint32(operand.offset & ((1 << 32) - 1))
            return lambda threads: (
                (register if threads is everyone else register[threads]) + short
            ).astype(np.uint64)
        if isinstance(base, Imm):
            fixed = base.value + operand.offset
        else:
            fixed = self.address_of(i, base) + operand.offset
        return lambda threads: np.full(threads.size, fixed, np.uint64)

    def call_param(self, i: Instruction, function: str, name: str) -> Array:
        """The bytes [threads, size] of a parameter of a device function, or of a call of one."""
        key = (function, name)
        if key not in self.program.call_params:
            raise not_emulated(i, f"the parameter {name}")
        if key not in self.call_params:
            size = -(-self.program.call_params[key].nbytes // 16) * 16
            self.call_params[key] = np.zeros((self.padded, size), np.uint8)
        return self.call_params[key]

    def lanes(self, mask: Mask) -> Array:
        """The threads of a mask, counted through the block."""
        return self.all_threads if mask is None else np.flatnonzero(mask)

    # --- binding ---

    def bind(self, pc: int) -> Step:
        """Make the closure of an instruction, once."""
        i = self.program.code[pc]
        self.here = pc
        mods = Modifiers(i)
        if i.opcode in ALU:
            spec = ALU[i.opcode](i, mods)
            step = self._alu_step(i, spec)
        elif i.opcode in MACHINE:
            step = MACHINE[i.opcode](i, mods, self)
        else:
            raise not_emulated(i)
        mods.done()
        self.steps[pc] = step = self._guarded(i, pc, step)
        return step

    def _guarded(self, i: Instruction, pc: int, step: Step) -> Step:
        if i.guard is None:
            return step
        predicate, negated = self.source(i, i.guard.reg, PRED), i.guard.negated

        def guarded(mask: Mask) -> int | None:
            chosen = ~predicate if negated else predicate
            if mask is not None:
                chosen = chosen & mask
            count = np.count_nonzero(chosen)
            if count == 0:
                return None
            if count == self.active:
                return step(mask)
            to = step(chosen if mask is not None or negated else chosen.copy())
            if to is None:
                return None
            if to != RESCHEDULE:
                self.pc[chosen] = to
            self.pc[~chosen if mask is None else mask & ~chosen] = pc + 1
            return RESCHEDULE

        return guarded

    def _alu_step(self, i: Instruction, spec: Alu) -> Step:
        first = i.args[0]
        results: tuple[Operand, ...] = (first,)
        if isinstance(first, Pair):
            results = (first.first, first.second)
        elif len(spec.dst) == 2:
            results = (first, Sink())
        if len(i.args) - 1 != len(spec.src) or len(results) != len(spec.dst):
            raise not_emulated(i, "this number of operands")
        sources = [self.source(i, a, t) for a, t in zip(i.args[1:], spec.src, strict=True)]
        if spec.carry_in:
            sources.append(self.carry)
        function = spec.function
        if len(results) == 1 and not spec.carry_out:
            out = self.target(i, results[0], spec.dst[0])
            if out is not None:
                return _single(function, out, sources)
        writers = [self.writer(i, r, t) for r, t in zip(results, spec.dst, strict=True)]
        if spec.carry_out:
            carry = self.carry
            writers.append(lambda values, mask: np.copyto(carry, values, where=_where(mask)))
        single = len(writers) == 1

        def step(mask: Mask) -> None:
            values = function(*sources)
            for write, value in zip(writers, (values,) if single else values, strict=True):
                write(value, mask)

        return step

    # --- running ---

    def run(self, limit: int) -> bool:
        """Run until all threads have exited; False when the block gives way to others.

        Raises:
            PtxTrap: a fault; its thread and block indices are filled in.
        """
        try:
            return self._run(limit)
        except PtxTrap as trap:
            trap.block_index = self.index
            if trap.thread is not None:
                x, y, _ = self.block_dim
                t = trap.thread
                trap.thread_index = (t % x, t // x % y, t // (x * y))
            raise

    def _run(self, limit: int) -> bool:
        steps, polls = self.steps, 0
        quantum = int(self.rng.integers(64, 1024)) if self.seed is not None else limit
        while True:
            picked = self._pick(limit)
            if picked is None:
                return True
            pc, mask, stop, budget = picked
            self.active = self.threads if mask is None else int(np.count_nonzero(mask))
            warps = self.padded >> 5 if mask is None else _warps_in(mask)
            start, first = pc, budget
            while True:
                step = steps[pc] or self.bind(pc)
                to = step(mask)
                budget -= 1
                if to is None:
                    pc += 1
                    if pc == stop or budget <= 0:
                        break
                    continue
                self.counts[start] += warps
                self.counts[pc + 1] -= warps
                back = to <= pc
                start = pc = to
                if to == RESCHEDULE or to >= stop or budget <= 0:
                    break
                if back and self.polled:
                    self.avoid = pc
                    polls += 1
                    break
            if pc != RESCHEDULE:
                self.counts[start] += warps
                self.counts[pc] -= warps
                if mask is None:
                    self.pc.fill(pc)
                else:
                    self.pc[mask] = pc
            self.polled = False
            self.executed += first - budget
            if self.executed > limit:
                i = self.program.code[min(max(pc, 0), len(steps) - 1)]
                message = f"a block has run {self.executed} steps and is not done"
                raise PtxTrap("no progress", message, i)
            quantum -= first - budget
            if polls >= _POLLS or quantum <= 0:
                return False

    def _pick(self, limit: int) -> tuple[int, Mask, int, int] | None:
        """The next pc to run, the threads there, where to stop, and after how many steps."""
        at, budget = self.pc, limit
        if self.seed is not None:
            budget = int(self.rng.geometric(1 / _PREEMPT))
            chosen = np.repeat(self.rng.random(self.padded >> 5) < 0.5, 32)
            some = np.where(chosen, self.pc, WAITING)
            if some.min() < WAITING:
                at = some
        low = int(at.min())
        if low >= WAITING:
            if low == EXITED:
                return None
            self.barriers.deadlock()
        if low == self.avoid:
            others = np.unique(at[(at < WAITING) & (at != low)])
            if others.size:
                low = int(self.rng.choice(others))
        self.avoid = -1
        mask = at == low
        if np.count_nonzero(mask) == self.padded:
            return low, None, WAITING, budget
        later = at[at > low]
        return low, mask, int(later.min()) if later.size else WAITING, budget

    def exit(self, mask: Mask) -> int:
        """Threads end."""
        self.pc[self.lanes(mask)] = EXITED
        self.barriers.after_exit()
        return RESCHEDULE

    # --- special registers ---

    def _specials(self) -> dict[str, Array]:
        n = self.padded
        thread = np.arange(n)
        x, y, z = self.block_dim
        out: dict[str, Any] = {
            "%tid.x": thread % x,
            "%tid.y": thread // x % y,
            "%tid.z": thread // (x * y) % z,
            "%laneid": thread & 31,
            "%warpid": thread >> 5,
            "%nwarpid": 32,
            "%smid": 0,
            "%nsmid": 1,
            "%gridid": 0,
            "%clock": 0,
            "%clock_hi": 0,
            "%dynamic_smem_size": max(
                (self.shared.layout.sizes[v.name] for v in self.program.shared if not v.count),
                default=0,
            ),
            "%total_smem_size": self.shared.layout.end,
            "%lanemask_eq": 1 << (thread & 31),
            "%lanemask_lt": (1 << (thread & 31)) - 1,
            "%lanemask_le": (2 << (thread & 31)) - 1,
            "%lanemask_gt": 0xFFFFFFFF & ~((2 << (thread & 31)) - 1),
            "%lanemask_ge": 0xFFFFFFFF & ~((1 << (thread & 31)) - 1),
            "%cluster_ctarank": 0,
            "%cluster_nctarank": 1,
            "%is_explicit_cluster": 0,
        }
        for k, axis in enumerate("xyz"):
            out[f"%ntid.{axis}"] = self.block_dim[k]
            out[f"%nctaid.{axis}"] = self.grid_dim[k]
            out[f"%clusterid.{axis}"] = 0
            out[f"%ctaid.{axis}"] = 0
            out[f"%cluster_ctaid.{axis}"] = 0
            out[f"%cluster_nctaid.{axis}"] = 1
        arrays = {k: np.broadcast_to(v, n).astype(U32.dtype) for k, v in out.items()}
        for name in ("%clock64", "%globaltimer"):
            arrays[name] = np.zeros(n, U64.dtype)
        return arrays


def immediate(operand: Imm, t: Type) -> int:
    """The bits of an immediate read as type `t`."""
    if operand.float_bits == 64 and t.name in ("f32", "b32", "f16"):
        wide = np.array([operand.value], np.uint64).view(np.float64)
        return int(wide.astype(np.float32).view(np.uint32)[0])
    if operand.float_bits == 32 and t.name == "f64":
        wide = np.array([operand.value], np.uint32).view(np.float32).astype(np.float64)
        return int(wide.view(np.uint64)[0])
    if not operand.float_bits and t.name == "f32":
        return int(np.float32(operand.value).view(np.uint32))
    if not operand.float_bits and t.name == "f64":
        return int(np.float64(operand.value).view(np.uint64))
    return operand.value


def _single(function: Callable[..., Any], out: Array, sources: list[Array]) -> Step:
    """A step with one result; ufuncs write it in place."""
    flat = out.ndim == 1
    if isinstance(function, np.ufunc) and all(s.dtype == out.dtype for s in sources):

        def in_place(mask: Mask) -> None:
            if mask is None:
                function(*sources, out=out)
            else:
                function(*sources, out=out, where=mask if flat else mask[:, None])

        return in_place

    def step(mask: Mask) -> None:
        values = function(*sources)
        if mask is None:
            out[...] = values
        else:
            np.copyto(out, values, "unsafe", mask if flat else mask[:, None])

    return step


def _bits(register: Array) -> int:
    return 1 if register.dtype == np.bool_ else register.dtype.itemsize * 8 * register[0].size


def _where(mask: Mask) -> Any:
    return True if mask is None else mask


def _warps_in(mask: Array) -> int:
    return int(np.count_nonzero(mask.reshape(-1, 32).any(axis=1)))
