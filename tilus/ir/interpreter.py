"""Run a kernel: the definition of what every program means.

    run(function, args, grid)  ->  for each block, in increasing order: Block.run

A `Block` keeps an environment from values to what they are at run time (Python numbers, register
tiles, views, shared tiles) and executes statements. An instruction's `interpret` sees arrays of the
tiles' shapes, or, where threads matter (memory, `view`), `RegisterTile`s. Blocks run one after
another, so a wait for a semaphore that no earlier block has released can never end, and traps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from tilus.dtypes import DType
from tilus.errors import Span, TilusError, TilusTypeError, TilusValueError, Trap
from tilus.ir import machine
from tilus.ir.expr import Apply, Const, Expr, GridIndex, Value, evaluate
from tilus.ir.inst import Inst, Role
from tilus.ir.machine import GlobalView, Places, Pointer, Region, RegisterTile, Who
from tilus.ir.program import (
    Assign,
    Break,
    Continue,
    For,
    Function,
    If,
    Let,
    Return,
    Seq,
    Stmt,
    While,
    Yield,
    definitions,
    walk,
)
from tilus.ir.types import PointerType, ScalarType, TileType
from tilus.layouts import Layout

Array = np.ndarray[Any, np.dtype[Any]]


class Workspace:
    """Uninitialised global memory for a kernel; reading a byte nobody wrote traps."""

    def __init__(self, nbytes: int) -> None:
        self.data = np.zeros(nbytes, np.uint8)


@dataclass
class _Jump(Exception):
    """Control leaving a region, with the values it carries."""

    stmt: Yield | Continue | Break | Return
    values: tuple[Any, ...] = ()


def run(
    f: Function,
    args: Mapping[str, Any] | Sequence[Any],
    grid: Iterable[int],
    output: Callable[[str], None] | None = None,
) -> None:
    """Run every block of a laid-out kernel on host memory, which it changes in place.

    Args:
        f: a kernel whose tiles all have layouts (`tilus.ir.passes.lower` gives them).
        args: by parameter name or in order. A pointer takes a NumPy array, a torch CPU tensor, a
            `tilus.Tensor` or a `Workspace`; a scalar a Python number.
        grid: blocks along each of up to three axes.
        output: where `print_tensor` writes; the standard output by default.

    Raises:
        Trap: a race, a read of unwritten memory, an access out of bounds or misaligned, use of a
            copy in flight, or a division by zero, with the kernel's line, the block and the thread.
    """
    sizes = tuple(int(n) for n in grid)
    sizes = (*sizes, 1, 1, 1)[: max(3, len(sizes))]
    if len(sizes) > 3 or any(n < 0 for n in sizes):
        raise TilusValueError(f"`grid` is {sizes}; it has one to three extents, none negative")
    for v in (v for s in walk(f.body) for v in definitions(s)):
        if isinstance(v.type, TileType) and v.type.layout is None:
            raise TilusTypeError(
                f"the tile %{v.name} has no layout",
                v.span,
                help="run tilus.ir.passes.lower on the program first",
            )
    regions: dict[int, Region] = {}
    env = {
        p.value: _bind(p.value, p.divisible, x, regions)
        for p, x in zip(f.params, _in_order(f, args), strict=True)
    }
    orders: dict[tuple[int, int], Array] = {}
    count = int(np.prod(sizes))
    for number, (z, y, x) in enumerate(product(*(range(n) for n in reversed(sizes)))):
        block = Block(f, dict(env), (x, y, z), sizes, number, count, orders, output or _print)
        block.run()


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _in_order(f: Function, args: Mapping[str, Any] | Sequence[Any]) -> Sequence[Any]:
    """A value for each parameter."""
    if isinstance(args, Mapping):
        names = [p.value.name for p in f.params]
        for n in names:
            if n not in args:
                raise TilusTypeError(f"no value for the parameter {n!r}")
        for n in args:
            if n not in names:
                raise TilusTypeError(f"{f.name} has no parameter {n!r}")
        return [args[n] for n in names]
    if len(args) != len(f.params):
        raise TilusTypeError(f"{f.name} takes {len(f.params)} arguments, not {len(args)}")
    return args


def _bind(v: Value, divisible: int, x: Any, regions: dict[int, Region]) -> Any:
    """What a parameter is at run time."""
    if isinstance(v.type, PointerType):
        pointer = _pointer(v.name, x, v.type.dtype, regions)
        address = pointer.region.address + pointer.offset
        if address % divisible:
            raise TilusValueError(
                f"the memory of {v.name!r} begins at {hex(address)}, "
                f"which is not divisible by {divisible}"
            )
        return pointer
    assert isinstance(v.type, ScalarType)
    if isinstance(x, np.generic):
        x = x.item()
    if not isinstance(x, (bool, int, float)):
        raise TilusTypeError(f"{v.name!r} must be {v.type}, not {type(x).__name__}")
    value = Const(x, v.type.dtype).value
    if divisible != 1 and value % divisible:
        raise TilusValueError(f"{v.name!r} is {value}, which is not divisible by {divisible}")
    return value


def _pointer(name: str, x: Any, dtype: DType, regions: dict[int, Region]) -> Pointer:
    """A pointer to host memory. Arguments that share storage share one region."""
    if isinstance(x, Workspace):
        region = regions.setdefault(
            id(x), Region(name, x.data, written=np.zeros(x.data.size, bool))
        )
        return Pointer(name, region, 0, x.data.size, dtype)
    if hasattr(x, "storage") and hasattr(x, "dtype") and isinstance(x.dtype, DType):
        x = x.storage  # tilus.Tensor
    if hasattr(x, "untyped_storage"):
        return _torch_pointer(name, x, dtype, regions)
    if isinstance(x, np.ndarray):
        base = x
        while isinstance(base.base, np.ndarray):
            base = base.base
        if not base.flags.c_contiguous:
            raise TilusTypeError(f"{name!r}: the array that owns the memory is not contiguous")
        flat = base.reshape(-1).view(np.uint8)
        begin, start = base.ctypes.data, x.ctypes.data
        low, high = _extent(x.shape, x.strides, x.itemsize)
    else:
        raise TilusTypeError(
            f"{name!r} must be memory (a NumPy array, a CPU tensor, a tilus.Tensor), "
            f"not {type(x).__name__}"
        )
    region = regions.setdefault(begin, Region(name, flat, address=begin))
    at = start - begin
    return Pointer(name, region, at, at + high, dtype, at + low)


def _torch_pointer(name: str, x: Any, dtype: DType, regions: dict[int, Region]) -> Pointer:
    if x.device.type != "cpu":
        raise TilusTypeError(f"{name!r} is on {x.device}; the interpreter works on CPU memory")
    storage = x.untyped_storage()
    begin = storage.data_ptr()
    if begin in regions:
        region = regions[begin]
    else:
        import torch

        data = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        region = regions[begin] = Region(name, data, address=begin)
    start = x.data_ptr() - begin if x.numel() else 0
    strides = [s * x.element_size() for s in x.stride()]
    low, high = _extent(tuple(x.shape), strides, x.element_size())
    return Pointer(name, region, start, start + high, dtype, start + low)


def _extent(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> tuple[int, int]:
    """The bytes an array covers, counted from its first element."""
    if any(n == 0 for n in shape):
        return 0, 0
    ends = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    return sum(min(0, e) for e in ends), sum(max(0, e) for e in ends) + itemsize


class Block:
    """One thread block while it runs; instructions reach memory and the debugger through it."""

    def __init__(
        self,
        f: Function,
        env: dict[Value, Any],
        index: tuple[int, int, int],
        grid: tuple[int, ...],
        number: int,
        count: int,
        orders: dict[tuple[int, int], Array],
        output: Callable[[str], None],
    ) -> None:
        self.function, self.env, self.index, self.grid = f, env, index, grid
        self.num_threads = f.num_threads
        self.print = output
        self.result_layout: Layout = Layout((), (), (), ())
        self.span: Span | None = None
        self._who = Who.at_start(number, count)
        self._orders = orders
        self._shared: dict[Inst, Region] = {}
        self._copies: list[tuple[Places, Array]] = []
        self._groups: list[list[tuple[Places, Array]]] = []

    @property
    def index_text(self) -> str:
        """The block's index, without trailing zeros of axes the grid does not have."""
        axes = max((i + 1 for i, n in enumerate(self.grid) if n > 1), default=1)
        return ", ".join(map(str, self.index[:axes]))

    # statements

    def run(self) -> None:
        """Execute the kernel's body for this block."""
        try:
            self.seq(self.function.body)
        except _Jump as jump:
            if not isinstance(jump.stmt, Return):
                raise AssertionError(f"{type(jump.stmt).__name__} outside its region") from None

    def seq(self, s: Seq) -> None:
        """Execute statements in order."""
        for inner in s.stmts:
            self.stmt(inner)

    def stmt(self, s: Stmt) -> None:
        """Execute one statement."""
        self.span = s.span or self.span
        match s:
            case Let():
                self.env[s.var] = self.eval(s.expr)
            case Assign():
                self.assign(s)
            case If():
                values = self.region(s.then if self.eval(s.cond) else s.orelse)
                self.env.update(zip(s.results, values, strict=True))
            case For():
                self.for_(s)
            case While():
                self.while_(s)
            case Yield() | Continue() | Break():
                raise _Jump(s, tuple(map(self.eval, s.values)))
            case Return():
                raise _Jump(s)
            case _:
                raise AssertionError(s)

    def region(self, s: Seq) -> tuple[Any, ...]:
        """Run a branch; the values it yields."""
        try:
            self.seq(s)
        except _Jump as jump:
            if isinstance(jump.stmt, Yield):
                return jump.values
            raise
        return ()

    def iteration(self, s: Seq) -> tuple[bool, tuple[Any, ...]]:
        """Run a loop's body once: whether to go on, and the values carried."""
        try:
            self.seq(s)
        except _Jump as jump:
            if isinstance(jump.stmt, Return):
                raise
            return not isinstance(jump.stmt, Break), jump.values
        return True, ()

    def for_(self, s: For) -> None:
        """Execute a counted loop."""
        values = tuple(map(self.eval, s.inits))
        for i in range(int(self.eval(s.extent))):
            self.env[s.index] = i
            self.env.update(zip(s.args, values, strict=True))
            on, values = self.iteration(s.body)
            if not on:
                break
        self.env.update(zip(s.results, values, strict=True))

    def while_(self, s: While) -> None:
        """Execute a conditional loop."""
        values = tuple(map(self.eval, s.inits))
        self.env.update(zip(s.args, values, strict=True))
        while self.eval(s.cond):
            on, values = self.iteration(s.body)
            if not on:
                break
            self.env.update(zip(s.args, values, strict=True))
            self.span = s.span or self.span
        self.env.update(zip(s.results, values, strict=True))

    # expressions

    def eval(self, e: Expr) -> Any:
        """The run-time value of an operand."""
        if isinstance(e, Value):
            return self.env[e]
        if isinstance(e, Const):
            return e.value
        if isinstance(e, GridIndex):
            return (self.index if e.kind == "block_idx" else self.grid)[e.axis]
        assert isinstance(e, Apply)
        if e.op in ("and", "or"):
            first = self.eval(e.args[0])
            return self.eval(e.args[1]) if bool(first) == (e.op == "and") else first
        if e.op == "select":
            return self.eval(e.args[1] if self.eval(e.args[0]) else e.args[2])
        values = [self.eval(a) for a in e.args]
        try:
            result = evaluate(e.op, values, e.type.dtype, e.args[0].dtype)
        except (ZeroDivisionError, TilusValueError) as error:
            message = error.first.message if isinstance(error, TilusError) else str(error)
            self.trap(message)
        if e.op == "multiple_of" and result % values[1]:
            self.trap(f"{result} is not a multiple of {values[1]}, as the kernel promised")
        return result

    # instructions

    def assign(self, s: Assign) -> None:
        """Run one instruction and keep its result."""
        inst = s.inst
        operands = {
            name: self.operand(inst, getattr(inst, name))
            for name, role in inst.roles().items()
            if role is not Role.ATTRIBUTE
        }
        try:
            if inst.threads:
                t = s.result.type if s.result is not None else None
                if isinstance(t, TileType) and t.layout is not None:
                    self.result_layout = t.layout
                out = inst.interpret(self, **operands)
            else:
                out = inst.interpret(**operands)
        except Trap as e:
            raise self.located(e) from None
        except TilusError as e:
            self.trap(e.first.message, e.first.help)
        if s.result is not None:
            self.env[s.result] = self.spread(s.result, out)

    def operand(self, inst: Inst, x: Any) -> Any:
        """An operand as the instruction sees it."""
        if x is None:
            return None
        if isinstance(x, tuple):
            return tuple(self.operand(inst, e) for e in x)
        value = self.eval(x)
        if isinstance(value, RegisterTile) and not inst.threads:
            try:
                return value.logical()
            except Trap as e:
                raise self.located(e) from None
        return value

    def spread(self, result: Value, out: Any) -> Any:
        """An instruction's result as the environment keeps it."""
        if not isinstance(result.type, TileType):
            return out
        if not isinstance(out, RegisterTile):
            layout = result.type.layout
            assert layout is not None
            out = RegisterTile.from_logical(np.asarray(out), result.type.dtype, layout)
        assert out.layout == result.type.layout, (out.layout, result)
        return out

    def array(self, x: Any) -> Any:
        """A run-time value as a person wants to see it: a NumPy array or a number."""
        return x.logical() if isinstance(x, RegisterTile) else x

    # memory, for the instructions

    def shared(self, site: Inst, nbytes: int) -> Region:
        """The shared memory of an allocation, uninitialised each time it is reached."""
        region = self._shared.get(site)
        if region is None:
            name, data = f"shared memory #{len(self._shared) + 1}", np.zeros(nbytes, np.uint8)
            region = self._shared[site] = Region(name, data, shared=True)
        region.written = np.zeros(nbytes, bool)
        return region

    def check_read(self, at: Places, vector: int | None) -> None:
        """Trap unless the tile may be read."""
        machine.check_bounds(at)
        machine.check_alignment(at, vector)
        where, threads = machine.spans(at)
        at.region.check_read(where, self._who, threads, at.byte)

    def check_write(self, at: Places, vector: int | None, atomic: bool = False) -> None:
        """Trap unless the tile may be written; enter the write."""
        machine.check_bounds(at)
        machine.check_alignment(at, vector)
        machine.check_torn_bytes(at)
        where, threads = machine.spans(at)
        at.region.check_write(where, self._who, threads, at.byte, atomic)

    def check_inside(self, at: Places) -> None:
        """Trap unless the whole tile lies inside its shared memory."""
        if not at.mask.all():
            thread, slot = (int(i) for i in np.argwhere(~at.mask)[0])
            raise Trap(
                f"out of bounds: slot {slot} of thread {thread} lies outside {at.name}",
                help="a tile of shared memory must lie inside it: check the offsets",
            )

    def barrier(self) -> None:
        """Everything the block did so far comes before everything it does from now on."""
        self._who.epoch += 1

    def start_copy(self, at: Places, codes: Array) -> None:
        """Put a copy in flight."""
        where, _ = machine.spans(at)
        if at.region.pending is None:
            at.region.pending = np.zeros(at.region.data.size, bool)
        at.region.pending[where] = True
        self._copies.append((at, codes))

    def commit_copies(self) -> None:
        """Close the group of the copies started since the last commit."""
        self._groups.append(self._copies)
        self._copies = []

    def wait_copies(self, n: int) -> None:
        """Finish all but the last `n` groups: each thread then sees what it copied itself."""
        while len(self._groups) > n:
            for at, codes in self._groups.pop(0):
                where, threads = machine.spans(at)
                assert at.region.pending is not None
                at.region.pending[where] = False
                machine.store(at, codes)
                at.region.writers.note(where, self._who, threads)

    def acquire(self, sem: GlobalView, offsets: tuple[int, ...], value: int) -> None:
        """Wait for a semaphore, and learn what its releaser knew."""
        key, seen = self.semaphore(sem, offsets)
        if seen != value:
            self.trap(
                f"waits for the semaphore to be {value}; it is {seen}, and no earlier block is "
                "left to change it"
            )
        if key in self._orders:
            order = self._orders[key]
            np.maximum(self._who.order, order, out=self._who.order)
        self.barrier()

    def release(self, sem: GlobalView, offsets: tuple[int, ...], value: int) -> None:
        """Pass a semaphore on, with everything this block did so far."""
        key, _ = self.semaphore(sem, offsets)
        order = self._who.order.copy()
        order[self._who.block] = self._who.epoch
        self._orders[key] = order
        self.barrier()
        region, byte = sem.pointer.region, key[1]
        region.data[byte : byte + 4] = np.array([value], sem.dtype.value_dtype).view(np.uint8)
        if region.written is not None:
            region.written[byte : byte + 4] = True

    def semaphore(self, sem: GlobalView, offsets: tuple[int, ...]) -> tuple[tuple[int, int], int]:
        """(identity, value) of one semaphore."""
        inside = all(0 <= o < n for o, n in zip(offsets, sem.shape, strict=True))
        flat = sem.offset + sum(o * s for o, s in zip(offsets, sem.strides, strict=True))
        byte = sem.pointer.offset + flat * 4
        if not inside or byte < sem.pointer.start or byte + 4 > sem.pointer.limit:
            self.trap(f"out of bounds: the semaphore at {list(offsets)} is outside its view")
        region = sem.pointer.region
        if region.written is not None and not region.written[byte : byte + 4].all():
            self.trap("the semaphore has never been set", "set it to 0 before the kernel starts")
        value = region.data[byte : byte + 4].view(sem.dtype.value_dtype)[0]
        return (id(region), byte), int(value)

    def trap(self, message: str, help: str | None = None) -> Any:
        """Stop: a fault in the kernel."""
        raise self.located(Trap(message, help=help)) from None

    def located(self, e: Trap) -> Trap:
        """A fault with the kernel's line and the block."""
        d = e.first
        if not d.message.startswith("block ("):
            d.message = f"block ({self.index_text}): {d.message}"
        e.args = (d.message,)
        d.span = d.span or self.span
        return e
