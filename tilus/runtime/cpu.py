"""Running kernels on the CPU they were compiled for: the JIT, the thread team, and a launch.

LLVM compiles a module to machine code in this process; nothing else is needed at run time. Blocks
run on the OpenMP team that torch uses (`GOMP_parallel` of the library torch ships), so that no
second pool competes with it; without one, on Python threads.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from tilus.codegen.cpu.module import CpuCode, generate
from tilus.codegen.llvm.function import Fault
from tilus.errors import TilusNotImplementedError, TilusValueError, Trap
from tilus.ir.expr import Value
from tilus.ir.program import Function
from tilus.ir.target import Target, cpu_target
from tilus.ir.types import PointerType
from tilus.options import options
from tilus.runtime import cache

# Features that can be left out; the others (64-bit code, SSE2) are what every such CPU has.
VECTOR_FEATURES = ("avx", "fma", "f16c", "sse3", "ssse3", "sse4", "gfni", "vaes", "vpclmul", "amx")

_serial = itertools.count()
_lock = threading.Lock()

# How a scalar parameter of each type is packed into its 8-byte word.
_FORMATS = {"f16": "<e6x", "f32": "<f4x", "f64": "<d", "bool": "<?7x"}


@lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """The features of this machine's CPU, by LLVM's names."""
    return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)


def host_target() -> Target:
    """The CPU kernels are compiled for: this one, or as much of it as TILUS_CPU_FEATURES names.

    Raises:
        TilusValueError: TILUS_CPU_FEATURES names what this CPU does not have.
    """
    chosen = options.cpu_features
    if chosen is None:
        return cpu_target(host_features())
    if missing := chosen - host_features():
        raise TilusValueError(f"TILUS_CPU_FEATURES: this CPU has no {', '.join(sorted(missing))}")
    return cpu_target(chosen)


@lru_cache(maxsize=1)
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP runtime that torch has loaded."""
    import torch

    folder = Path(torch.__file__).parent / "lib"
    candidates = [str(p) for p in sorted(folder.glob("libgomp*.so*"))] + ["libgomp.so.1"]
    for name in candidates:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


_OPENMP_SYMBOLS = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@lru_cache(maxsize=8)
def _machine(features: frozenset[str]) -> tuple[Any, Any]:
    """(target machine, JIT) for a set of features."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    off = (n for n in sorted(host_features() - features) if n.startswith(VECTOR_FEATURES))
    flags = ",".join([*(f"+{n}" for n in sorted(features)), *(f"-{n}" for n in off)])
    cpu = llvm.get_host_cpu_name() if features == host_features() else "x86-64"
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu, features=flags, opt=3, jit=True, reloc="pic", codemodel="small"
    )
    return machine, llvm.create_lljit_compiler(machine)


def optimized(code: CpuCode, target: Target) -> Any:
    """The module after LLVM's optimiser."""
    machine, _ = _machine(target.features)
    module = llvm.parse_assembly(code.text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


def assembly(code: CpuCode, target: Target) -> str:
    """The machine code as text."""
    return str(_machine(target.features)[0].emit_assembly(optimized(code, target)))


def object_code(code: CpuCode, target: Target) -> bytes:
    """The machine code as an object file."""
    return bytes(_machine(target.features)[0].emit_object(optimized(code, target)))


@dataclass
class CpuKernel:
    """Native code of one kernel, ready to run."""

    name: str
    function: Function
    faults: tuple[Fault, ...]
    library: Any

    def __post_init__(self) -> None:
        address = self.library[self.name]
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)
        self._run = signature(address)
        span = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self._span = span(self.library[f"{self.name}.span"])
        self._formats = [_format(p.value) for p in self.function.params]

    def launch(self, args: Sequence[int | float | bool], grid: tuple[int, int, int]) -> None:
        """Run every block; pointers are addresses.

        Raises:
            Trap: a block found a fault: a failed assertion or a division by zero.
        """
        count = len(self._formats)
        words = bytearray(8 * (count + 4) + 8)
        for i, (form, x) in enumerate(zip(self._formats, args, strict=True)):
            struct.pack_into(form, words, 8 * i, x)
        for axis, extent in enumerate(grid):
            struct.pack_into("<I", words, 8 * (count + axis), extent)
        buffer = (ctypes.c_char * len(words)).from_buffer(words)
        base = ctypes.addressof(buffer)
        struct.pack_into("<Q", words, 8 * (count + 3), base + 8 * (count + 4))
        blocks = grid[0] * grid[1] * grid[2]
        threads = min(_threads(), blocks)
        if threads > 1 and _openmp() is None:
            self._python_team(base, blocks, threads)
        else:
            self._run(base, blocks, threads)
        (code,) = struct.unpack_from("<i", words, 8 * (count + 4))
        if code:
            fault = self.faults[code - 1]
            raise Trap(fault.message, fault.span)

    def _python_team(self, base: int, blocks: int, threads: int) -> None:
        cuts = [blocks * t // threads for t in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            jobs = [pool.submit(self._span, base, a, b) for a, b in itertools.pairwise(cuts)]
            for job in jobs:
                job.result()


def _format(parameter: Value) -> str:
    """How a parameter is packed into its word: little-endian, from the low end."""
    if isinstance(parameter.type, PointerType):
        return "<Q"
    dtype = parameter.dtype
    if dtype.name in _FORMATS:
        return _FORMATS[dtype.name]
    if not dtype.is_integer:
        raise TilusNotImplementedError(f"no {dtype} scalars in native code", parameter.span)
    letter = {8: "b7x", 16: "h6x", 32: "i4x", 64: "q"}[max(8, dtype.bits)]
    return f"<{letter if dtype.is_signed else letter[0].upper() + letter[1:]}"


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def load(code: CpuCode, f: Function, data: bytes, target: Target) -> CpuKernel:
    """Native code made runnable in this process."""
    _, jit = _machine(target.features)
    builder = llvm.JITLibraryBuilder().add_object_img(data).add_current_process()
    names = (code.name, f"{code.name}.span")
    for name in names:
        builder = builder.export_symbol(name)
    team = _openmp()
    for symbol in _OPENMP_SYMBOLS:
        known = getattr(team, symbol) if team is not None else None
        address = ctypes.cast(known, ctypes.c_void_p).value if known is not None else 0
        builder = builder.import_symbol(symbol, address or 0)
    with _lock:
        library = builder.link(jit, f"tilus.{next(_serial)}")
    return CpuKernel(code.name, f, code.faults, library)


def compile_cpu(f: Function, target: Target | None = None) -> CpuKernel:
    """A lowered kernel as native code in this process, from the cache if it is there."""
    target = target or host_target()
    code = generate(f, target)
    llvm_version = ".".join(map(str, llvm.llvm_version_info))
    parts = (code.text, ",".join(sorted(target.features)), llvm.get_host_cpu_name(), llvm_version)
    data = cache.remembered(parts, lambda: object_code(code, target))
    return load(code, f, data, target)
