"""What a kernel costs, estimated from its program: bytes moved and operations done.

    block = max(bytes / BANDWIDTH, operations / RATE) + steps * STEP + BLOCK     in seconds
    grid  = block * ceil(blocks / threads)

It is for ranking variants of one kernel, not for saying how long one takes. The block in the middle
of the grid stands for all of them, and the iteration in the middle of a loop for the whole loop, so
triangular loops count by their average. Of a branch that only the run can decide the dearer side
counts; a loop whose end only the run knows is taken to go round `UNKNOWN` times.

Ignored are: caches, registers, shared memory, layouts and their conversions; masks (a tile counts
whole, also where it reaches beyond its view); `break`; how dear an operation is beside another one;
how many threads a block has; latencies, and whether anything waits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilus.errors import TilusError
from tilus.ir.expr import Apply, Const, Expr, GridIndex, Value, evaluate
from tilus.ir.inst import Inst
from tilus.ir.instructions.arith import Elementwise, Lookup
from tilus.ir.instructions.matrix import Dot
from tilus.ir.instructions.memory import CopyAsync
from tilus.ir.instructions.reduce import Reduce, Scan
from tilus.ir.program import Assign, For, Function, If, Let, Seq, Stmt, While, Yield, leaves
from tilus.ir.types import GlobalType, TileType

# Of one thread of a CPU, roughly; only their ratios matter.
BANDWIDTH = 8e9  # bytes of global memory a second
RATE = 16e9  # elements computed, or products added, a second
STEP = 4e-9  # seconds around an iteration
BLOCK = 50e-9  # seconds around a block
UNKNOWN = 16  # iterations


@dataclass(frozen=True)
class Cost:
    """The work of a block, or of a part of one."""

    nbytes: float = 0.0
    operations: float = 0.0
    steps: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.nbytes + other.nbytes,
            self.operations + other.operations,
            self.steps + other.steps,
        )

    def __mul__(self, times: float) -> Cost:
        return Cost(self.nbytes * times, self.operations * times, self.steps * times)

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return max(self.nbytes / BANDWIDTH, self.operations / RATE) + self.steps * STEP


def estimate(
    f: Function, scalars: Mapping[str, Any], grid: Sequence[int], threads: int = 1
) -> float:
    """About how many seconds a launch takes; see the module for how rough that is.

    Args:
        f: the kernel, before or after any pass.
        scalars: what is known of its scalar parameters, by name.
        grid: blocks along each axis.
        threads: how many blocks run at a time.
    """
    blocks = math.prod(grid)
    if not blocks:
        return 0.0
    block = block_cost(f, scalars, grid).seconds + BLOCK
    return block * math.ceil(blocks / threads)


def block_cost(f: Function, scalars: Mapping[str, Any], grid: Sequence[int]) -> Cost:
    """The work of the block in the middle of the grid."""
    given = ((p.value, scalars.get(p.value.name)) for p in f.params)
    known = {v: x.item() if isinstance(x, np.generic) else x for v, x in given}
    numbers = {v: x for v, x in known.items() if isinstance(x, (int, float))}
    return _Block(numbers, (*grid, 1, 1, 1)[:3]).seq(f.body)


class _Block:
    """A walk through a block's program with the scalars that are known."""

    def __init__(self, known: dict[Value, Any], grid: Sequence[int]) -> None:
        self.known, self.grid = known, grid

    def seq(self, s: Seq) -> Cost:
        """The work of statements up to where control certainly leaves."""
        total = Cost()
        for inner in s.stmts:
            total += self.stmt(inner)
            if leaves(inner) or (isinstance(inner, If) and self.leaves(inner)):
                break
        return total

    def leaves(self, s: If) -> bool:
        """Whether the branch that is known to be taken leaves the sequence."""
        taken = self.branch(s)
        return taken is not None and bool(taken.stmts) and leaves(taken.stmts[-1])

    def branch(self, s: If) -> Seq | None:
        """The branch that is taken, if that is known."""
        cond = self.value(s.cond)
        return None if cond is None else s.then if cond else s.orelse

    def stmt(self, s: Stmt) -> Cost:
        """The work of one statement."""
        match s:
            case Let():
                self.known[s.var] = self.value(s.expr)
            case Assign():
                return _work(s)
            case If():
                taken = self.branch(s)
                if taken is None:
                    return max(map(self.seq, (s.then, s.orelse)), key=lambda cost: cost.seconds)
                cost = self.seq(taken)
                if s.results and isinstance(end := taken.stmts[-1], Yield):
                    self.known.update(zip(s.results, map(self.value, end.values), strict=True))
                return cost
            case For():
                count = self.value(s.extent)
                count = UNKNOWN if count is None else count
                if count <= 0:
                    return Cost()
                self.known[s.index] = (count - 1) // 2
                return self.seq(s.body) * count + Cost(steps=count / s.unroll)
            case While():
                return self.seq(s.body) * UNKNOWN + Cost(steps=UNKNOWN)
        return Cost()

    def value(self, e: Expr) -> Any:
        """The number an expression stands for; None if that is not known."""
        match e:
            case Const():
                return e.value
            case GridIndex():
                extent = self.grid[e.axis]
                return extent if e.kind == "grid_dim" else (extent - 1) // 2
            case Apply():
                return self.applied(e)
        return self.known.get(e) if isinstance(e, Value) else None

    def applied(self, e: Apply) -> Any:
        """The number an operation gives."""
        args = [self.value(a) for a in e.args]
        if e.op == "select" and args[0] is not None:
            return args[1 if args[0] else 2]
        if e.op in ("and", "or") and (e.op == "or") in args:  # decided by one side alone
            return e.op == "or"
        if None in args:
            return None
        try:
            return evaluate(e.op, args, e.dtype, e.args[0].dtype)
        except (ZeroDivisionError, TilusError):
            return None


def _work(s: Assign) -> Cost:
    """What one instruction moves and computes."""
    inst = s.inst
    tiles = [v.type for _, v in inst.tile_operands() if isinstance(v.type, TileType)]
    if s.result is not None and isinstance(s.result.type, TileType):
        tiles.append(s.result.type)
    if isinstance(inst, Dot):
        assert isinstance(inst.a.type, TileType)
        return Cost(operations=tiles[-1].size * inst.a.type.shape[1])
    if isinstance(inst, (Elementwise, Lookup, Reduce, Scan)):
        return Cost(operations=max(t.size for t in tiles))
    moved = math.prod(inst.tile_shape()) if isinstance(inst, CopyAsync) else 0
    moved = max([moved, *(t.size for t in tiles)])
    return Cost(nbytes=sum(moved * bits / 8 for bits in _touched(inst)))


def _touched(inst: Inst) -> list[int]:
    """The width of an element of each global view that the instruction reads or writes."""
    views = [getattr(inst, name) for name in (*inst.reads, *inst.writes)]
    return [v.dtype.bits for v in views if isinstance(v.type, GlobalType)]
