"""Launching a kernel: arguments, blocks in the order the scheduler chooses, and the report.

Blocks run one after the other until one gives way: it looked at a flag in vain, or, with a seed,
its time is over. Then another one goes on or begins, so that blocks that wait for each other get on
as they do on a device that holds `resident` of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tilus.runtime.ptxemu import (  # noqa: F401  # each enters its instructions in the table
    arith,
    async_ops,
    bits,
    control,
    matrix_ops,
    memory_ops,
    moves,
    warp_ops,
)
from tilus.runtime.ptxemu.block import Block, immediate
from tilus.runtime.ptxemu.memory import Memory
from tilus.runtime.ptxemu.program import (
    Program,
    has_partial_barriers,
    link,
    narrowest_shared_access,
)
from tilus.runtime.ptxemu.races import Order
from tilus.runtime.ptxemu.shared import Banks, SharedLayout, SharedMemory
from tilus.runtime.ptxemu.spaces import Spaces
from tilus.runtime.ptxemu.syntax import Module, Pointer, Variable
from tilus.runtime.ptxemu.traps import Index, PtxTrap
from tilus.runtime.ptxemu.types import Array

Argument: TypeAlias = "int | float | bool | bytes | Array"
Extent: TypeAlias = "int | Sequence[int]"


@dataclass(frozen=True)
class Conflict:
    """What one instruction's accesses to shared memory cost."""

    line: int
    text: str
    accesses: int  # by warps
    wavefronts: int
    ideal: int  # wavefronts without bank conflicts


@dataclass
class Report:
    """What a launch did."""

    blocks: int = 0
    instructions: Counter[str] = field(default_factory=Counter)  # by opcode, each warp counts
    lines: Counter[int] = field(default_factory=Counter)  # the same by line of the PTX
    conflicts: list[Conflict] = field(default_factory=list)
    steps: int = 0  # array operations of the emulator: one serves all warps in step
    output: list[str] = field(default_factory=list)  # what kernels printed

    @property
    def bank_conflicts(self) -> int:
        """Wavefronts of shared memory beyond those without conflicts."""
        return sum(c.wavefronts - c.ideal for c in self.conflicts)


def launch(
    module: Module,
    kernel: str,
    grid: Extent,
    block: Extent,
    args: Sequence[Argument],
    memory: Memory,
    *,
    dynamic_shared: int = 0,
    seed: int | None = None,
    resident: int = 16,
    max_steps: int = 20_000_000,
) -> Report:
    """Run a kernel.

    Args:
        module: parsed PTX.
        kernel: the name of an `.entry`.
        grid: blocks along up to three axes.
        block: threads along up to three axes.
        args: one for each parameter: numbers, addresses from `Memory.add`, the bytes of structs.
        memory: where addresses point to.
        dynamic_shared: bytes of `extern .shared` memory.
        seed: None runs all warps of a block in step and blocks in order. A number chooses random
            orders of blocks, warps and colliding atomics.
        resident: how many blocks may have begun and not ended.
        max_steps: of a block, after which it is taken to make no progress.

    Raises:
        PtxTrap: a fault, or an instruction that is not emulated.
    """
    program = link(module, kernel)
    grid_dim, block_dim = _extent(grid), _extent(block)
    _check_block(program, block_dim)
    params = _pack(program, args)
    symbols = _place_variables(module, memory)
    with np.errstate(all="ignore"):
        run = _Run(program, grid_dim, block_dim, params, memory, symbols, dynamic_shared, seed)
        run.all_blocks(resident, max_steps)
    return run.report()


@dataclass
class _Run:
    """One launch while it goes on."""

    program: Program
    grid_dim: Index
    block_dim: Index
    params: Array
    memory: Memory
    symbols: dict[str, int]
    dynamic_shared: int
    seed: int | None
    slots: list[Block] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    done: int = 0
    steps: int = 0

    def all_blocks(self, resident: int, max_steps: int) -> None:
        """Run the grid."""
        count = int(np.prod(self.grid_dim))
        order = np.arange(count)
        if self.seed is not None:
            order = np.random.default_rng(self.seed).permutation(count)
        waiting = iter(order.tolist())
        free: list[Block] = []
        active: list[Block] = []
        more = True
        while active or more:
            begun = None
            if more and len(active) < resident:
                number = next(waiting, None)
                more = number is not None
                if number is not None:
                    begun = free.pop() if free else self._new_block()
                    begun.start(self._index(number), number)
                    active.append(begun)
            if not active:
                break
            one = active.pop() if begun is not None else active.pop(0)
            if one.run(max_steps):
                free.append(one)
                self.done += 1
                self.steps += one.executed
            else:
                active.append(one)

    def _index(self, number: int) -> Index:
        x, y, _ = self.grid_dim
        return (number % x, number // x % y, number // (x * y))

    def _new_block(self) -> Block:
        threads = int(np.prod(self.block_dim))
        padded = -(-threads // 32) * 32
        code = self.program.code
        layout = SharedLayout.of(self.program.shared, self.dynamic_shared)
        shared = SharedMemory(
            layout, Order(padded), narrowest_shared_access(code), has_partial_barriers(code)
        )
        local = np.zeros((padded, -(-self.program.local_bytes // 16) * 16), np.uint8)
        spaces = Spaces(self.memory, shared, local, self.params)
        dims = self.block_dim, self.grid_dim
        block = Block(self.program, spaces, *dims, self.symbols, self.seed, self.output)
        self.slots.append(block)
        return block

    def report(self) -> Report:
        """Sum up what the blocks counted."""
        out = Report(self.done, steps=self.steps, output=self.output)
        code = self.program.code
        banks: dict[int, Banks] = {}
        for slot in self.slots:
            for i, n in zip(code, np.cumsum(slot.counts)[:-1].tolist(), strict=True):
                if n:
                    out.instructions[i.opcode] += n
                    out.lines[i.line] += n
            for line, one in slot.shared.banks.items():
                total = banks.setdefault(line, Banks())
                total.accesses += one.accesses
                total.wavefronts += one.wavefronts
                total.ideal += one.ideal
        texts = {i.line: i.text for i in code}
        out.conflicts = [
            Conflict(line, texts[line], b.accesses, b.wavefronts, b.ideal)
            for line, b in sorted(banks.items())
        ]
        return out


def _extent(given: Extent) -> Index:
    sizes = [given] if isinstance(given, int) else [int(n) for n in given]
    if not 1 <= len(sizes) <= 3 or any(n < 1 for n in sizes):
        raise PtxTrap("launch", f"a grid or block is one to three positive sizes, not {given}")
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def _check_block(program: Program, block_dim: Index) -> None:
    threads = int(np.prod(block_dim))
    kernel = program.kernel
    required = (*kernel.required_threads, 1, 1)[:3]
    most = int(np.prod(kernel.max_threads)) if kernel.max_threads else 1024
    if threads > min(most, 1024):
        raise PtxTrap("launch", f"{kernel.name} has {threads} threads, and may have {most}")
    if kernel.required_threads and required != block_dim:
        raise PtxTrap("launch", f"{kernel.name} needs blocks of {required}, not {block_dim}")


def _pack(program: Program, args: Sequence[Argument]) -> Array:
    """The kernel's parameters as bytes."""
    kernel = program.kernel
    if len(args) != len(kernel.params):
        message = f"{kernel.name} has {len(kernel.params)} parameters, got {len(args)} arguments"
        raise PtxTrap("launch", message)
    out = np.zeros(-(-program.param_bytes // 16) * 16 + 16, np.uint8)
    for param, arg in zip(kernel.params, args, strict=True):
        data = _argument(param, arg)
        if len(data) != param.nbytes:
            message = f"{param.name} has {param.nbytes} bytes, the argument {len(data)}"
            raise PtxTrap("launch", message)
        start = program.param_offsets[param.name]
        out[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return out


def _argument(param: Variable, arg: Argument) -> bytes:
    if isinstance(arg, (bytes, bytearray)):
        return bytes(arg)
    if isinstance(arg, np.ndarray):
        return arg.tobytes()
    if isinstance(arg, np.generic):
        arg = arg.item()
    if param.is_array:
        raise PtxTrap("launch", f"{param.name} is a struct of {param.nbytes} bytes: pass its bytes")
    if isinstance(arg, float) or param.type.is_float:
        kind: Any = {2: np.float16, 4: np.float32, 8: np.float64}[param.nbytes]
        return np.array(arg, kind).tobytes()
    return (int(arg) & ((1 << 8 * param.nbytes) - 1)).to_bytes(param.nbytes, "little")


def _place_variables(module: Module, memory: Memory) -> dict[str, int]:
    """Give the module's global and const variables addresses, once for each memory."""
    found = [v for v in module.variables.values() if v.space in ("global", "const")]
    fresh = [v for v in found if (id(module), v.name) not in memory.symbols]
    data = {v.name: np.zeros(max(v.nbytes, 1), np.uint8) for v in fresh}
    for v in fresh:
        address = memory.add(v.name, data[v.name], v.align, v.space == "global")
        memory.symbols[id(module), v.name] = address
    out = {v.name: memory.symbols[id(module), v.name] for v in found}
    for v in fresh:
        words = data[v.name][: v.nbytes].view(f"u{v.type.nbytes}")
        for k, value in enumerate(v.initial):
            if isinstance(value, Pointer):
                words[k] = out[value.name] + value.offset
            else:
                words[k] = immediate(value, v.type) & ((1 << v.type.bits) - 1)
    return out
