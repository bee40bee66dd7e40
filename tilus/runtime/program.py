"""Running native kernels: one launch, a program of several, and a recorded `Graph`.

All run through one native function, `tilus.run` (codegen/cpu/module.py): it takes a table of
kernels with their arguments, and runs them one after the other in one region of the OpenMP team
that torch uses (`GOMP_parallel` of the library torch ships), so that no second pool competes with
it; without one, on Python threads.

    table    for each kernel {function, offset of its words, blocks, offset of its status, taken}
    words    for each kernel: its arguments, the grid's extents, the status
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tilus.codegen.cpu.module import TEAM
from tilus.codegen.llvm.function import Fault
from tilus.errors import TilusValueError, Trap
from tilus.ir.target import cpu_target
from tilus.runtime import jit

_SYMBOLS = ("GOMP_parallel", "GOMP_barrier", "omp_get_num_threads")
_ROW = "Qqqqq"  # an entry of the table
_FIELDS, _BYTES = len(_ROW), struct.calcsize(_ROW)
_END = "I4xI4xI4xi4x"  # what follows the arguments: the grid's extents, the status

_recording: ContextVar[Graph | None] = ContextVar("tilus.graph", default=None)


@lru_cache(maxsize=1)
def openmp() -> ctypes.CDLL | None:
    """The OpenMP runtime that torch has loaded."""
    folder = Path(torch.__file__).parent / "lib"
    candidates = [str(p) for p in sorted(folder.glob("libgomp*.so*"))] + ["libgomp.so.1"]
    for name in candidates:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@lru_cache(maxsize=1)
def _team() -> Callable[[Any, int, int], int]:
    """`tilus.run`, or what stands in for it without an OpenMP runtime."""
    library = openmp()
    if library is None:
        return _python_team
    target = cpu_target(jit.host_features())
    addresses = {
        name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in _SYMBOLS
    }
    code = jit.link(jit.remembered_code(TEAM, target), ["tilus.run"], addresses, target)
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)
    run = kind(code["tilus.run"])
    run.library = code  # type: ignore[attr-defined]  # kept as long as the function
    return run


def _python_team(buffer: Any, count: int, threads: int) -> int:
    """The same on Python threads: kernels release the interpreter's lock."""
    base = ctypes.addressof(buffer)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for i in range(count):
            address, offset, blocks, status, _ = struct.unpack_from(_ROW, buffer, _BYTES * i)
            cuts = [blocks * t // threads for t in range(threads + 1)]
            span = kind(address)
            jobs = [pool.submit(span, base + offset, a, b) for a, b in itertools.pairwise(cuts)]
            for job in jobs:
                job.result()
            if struct.unpack_from("<i", buffer, status)[0]:
                return i + 1
    return 0


@dataclass(frozen=True, eq=False)
class CpuKernel:
    """Native code of one kernel, ready to run."""

    name: str
    words: str  # how its arguments are packed, in the notation of `struct`
    faults: tuple[Fault, ...]
    address: int  # of its loop over blocks
    library: Any  # keeps the code
    _one: Program = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = struct.calcsize(f"<{self.words}") // 8
        object.__setattr__(self, "_one", Program([Launch(self, (0,) * count, (0, 0, 0))]))

    def launch(
        self, args: Sequence[int | float | bool], grid: tuple[int, int, int], keep: object = None
    ) -> None:
        """Run every block, or record that in the `Graph` being made.

        Args:
            args: the arguments; pointers are addresses.
            grid: blocks along three axes.
            keep: what owns the memory: a graph keeps it.

        Raises:
            Trap: a block found a fault: a failed assertion or a division by zero.
        """
        graph = _recording.get()
        if graph is not None:
            graph.add([Launch(self, tuple(args), grid)], keep)
            return
        one = self._one
        x, y, z = grid
        blocks = x * y * z
        row = one.values[:_FIELDS]
        row[2] = blocks
        one.run(one.packed([*row, *args, x, y, z, 0]), blocks)


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments (pointers are addresses) and its grid."""

    kernel: CpuKernel
    args: tuple[int | float | bool, ...]
    grid: tuple[int, int, int]

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        x, y, z = self.grid
        return x * y * z


class Program:
    """Launches that run one after the other in one call; their arguments can be changed."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        self.launches = tuple(launches)
        self.blocks = max((launch.blocks for launch in launches), default=0)
        offset = _BYTES * len(self.launches)
        form, table, words = "", list[Any](), list[Any]()
        self._first: list[int] = []  # of each launch, where in `values` its arguments begin
        for launch in self.launches:
            self._first.append(_FIELDS * len(self.launches) + len(words))
            status = offset + 8 * (len(launch.args) + 3)
            table += [launch.kernel.address, offset, launch.blocks, status, 0]
            words += [*launch.args, *launch.grid, 0]
            form += launch.kernel.words + _END
            offset = status + 8
        self.values: list[Any] = [*table, *words]
        self._struct = struct.Struct("<" + _ROW * len(self.launches) + form)
        self._memory = ctypes.c_char * self._struct.size

    def place(self, launch: int, argument: int) -> int:
        """Where in `values` an argument of a launch is."""
        return self._first[launch] + argument

    def changed(self, values: Sequence[Any]) -> list[Launch]:
        """The launches with other arguments, given as `values`."""
        spans = zip(self.launches, self._first, strict=True)
        return [Launch(x.kernel, tuple(values[at : at + len(x.args)]), x.grid) for x, at in spans]

    def packed(self, values: Sequence[Any]) -> Any:
        """The table and the words as `tilus.run` reads them; `values` as in the attribute."""
        buffer = self._memory()
        self._struct.pack_into(buffer, 0, *values)
        return buffer

    def run(self, buffer: Any, blocks: int) -> None:
        """Run what `packed` has made, on at most `blocks` threads: the most that a launch has.

        Raises:
            Trap: a block found a fault.
        """
        bad = _team()(buffer, len(self.launches), min(torch.get_num_threads(), blocks))
        if bad:
            (at,) = struct.unpack_from("<q", buffer, _BYTES * (bad - 1) + 24)
            (code,) = struct.unpack_from("<i", buffer, at)
            struct.pack_into("<i", buffer, at, 0)
            fault = self.launches[bad - 1].kernel.faults[code - 1]
            raise Trap(fault.message, fault.span)


class Graph:
    """Launches recorded once, and run again in one call.

        with tilus.Graph() as graph:
            kernel[(blocks,)](x, y, n)  # recorded, not run
        graph.replay()

    Only native kernels are recorded, with the memory and the numbers they were given: new inputs
    are written into the same tensors. What else the body does happens once, at once.
    """

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self._kept: list[object] = []
        self._token: Token[Graph | None] | None = None
        self._ready: tuple[Program, Any] | None = None

    def __enter__(self) -> Graph:
        if _recording.get() is not None:
            raise TilusValueError("a graph is being recorded; recordings do not nest")
        self._token = _recording.set(self)
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._token is not None
        _recording.reset(self._token)
        self._token = None

    def __len__(self) -> int:
        return len(self.launches)

    def add(self, launches: Sequence[Launch], keep: object) -> None:
        """Append launches; `keep` owns their memory."""
        self.launches += launches
        self._kept.append(keep)
        self._ready = None

    def replay(self, threads: int | None = None) -> None:
        """Run all launches in order, on at most so many threads; None for as many as torch has.

        Raises:
            Trap: a block found a fault; the launches after it have run too.
        """
        if self._token is not None:
            raise TilusValueError("the graph is still being recorded; replay it after the `with`")
        if not self.launches:
            return
        if self._ready is None:
            program = Program(self.launches)
            self._ready = program, program.packed(program.values)
        program, buffer = self._ready
        program.run(buffer, program.blocks if threads is None else min(threads, program.blocks))


def recording() -> Graph | None:
    """The graph that this thread records, if any."""
    return _recording.get()
