"""Compiling kernels for the CPU they run on; how they are run is in `tilus.runtime.program`."""

from __future__ import annotations

from tilus.codegen.cpu.module import CpuCode, generate
from tilus.errors import TilusNotImplementedError, TilusValueError
from tilus.ir.expr import Value
from tilus.ir.program import Function
from tilus.ir.target import Target, cpu_target
from tilus.ir.types import PointerType
from tilus.options import options
from tilus.runtime import jit
from tilus.runtime.program import CpuKernel

# How a scalar parameter of each type is packed into its 8-byte word.
_FORMATS = {"f16": "e6x", "f32": "f4x", "f64": "d", "bool": "?7x"}


def host_target() -> Target:
    """The CPU kernels are compiled for: this one, or as much of it as TILUS_CPU_FEATURES names.

    Raises:
        TilusValueError: TILUS_CPU_FEATURES names what this CPU does not have.
    """
    chosen = options.cpu_features
    if chosen is None:
        return cpu_target(jit.host_features())
    if missing := chosen - jit.host_features():
        raise TilusValueError(f"TILUS_CPU_FEATURES: this CPU has no {', '.join(sorted(missing))}")
    return cpu_target(chosen)


def load(code: CpuCode, f: Function, data: bytes, target: Target) -> CpuKernel:
    """Native code made runnable in this process."""
    library = jit.link(data, [code.name], {}, target)
    return CpuKernel(code.name, words_of(f), code.faults, library[code.name], library)


def words_of(f: Function) -> str:
    """How a kernel's arguments are packed, in the notation of `struct`."""
    return "".join(_format(p.value) for p in f.params)


def compile_cpu(f: Function, target: Target | None = None) -> CpuKernel:
    """A lowered kernel as native code in this process, from the cache if it is there."""
    target = target or host_target()
    code = generate(f, target)
    return load(code, f, jit.remembered_code(code.text, target), target)


def _format(parameter: Value) -> str:
    """How a parameter is packed into its word: little-endian, from the low end."""
    if isinstance(parameter.type, PointerType):
        return "Q"
    dtype = parameter.dtype
    if dtype.name in _FORMATS:
        return _FORMATS[dtype.name]
    if not dtype.is_integer:
        raise TilusNotImplementedError(f"no {dtype} scalars in native code", parameter.span)
    letter = {8: "b7x", 16: "h6x", 32: "i4x", 64: "q"}[max(8, dtype.bits)]
    return f"{letter if dtype.is_signed else letter[0].upper() + letter[1:]}"
