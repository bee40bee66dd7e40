"""LLVM as a just-in-time compiler: machine code of a module's text, as a part of this process.

LLVM's text --optimized--> module --object_code--> bytes, kept on disk --link--> functions
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm

from tilus.ir.target import Target
from tilus.runtime import cache

# Features that can be left out; the others (64-bit code, SSE2) are what every such CPU has.
VECTOR_FEATURES = ("avx", "fma", "f16c", "sse3", "ssse3", "sse4", "gfni", "vaes", "vpclmul", "amx")

# LLVM shifts bytes by `vgf2p8affineqb`, which keeps the dot instructions' ports busy (on Zen 4 a
# dot and an affine take as long as two dots); a shift of words and a mask leave them free.
UNUSED_FEATURES = frozenset({"gfni"})

_serial = itertools.count()
_lock = threading.Lock()


@lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """The features of this machine's CPU, by LLVM's names."""
    return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)


@lru_cache(maxsize=8)
def _machine(features: frozenset[str]) -> tuple[Any, Any]:
    """(target machine, JIT) for a set of features."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    off = (n for n in sorted(host_features() - features) if n.startswith(VECTOR_FEATURES))
    used = sorted(features - UNUSED_FEATURES)
    # What is on comes last: it brings along what it needs, such as avx for avx2.
    flags = ",".join([*(f"-{n}" for n in (*off, *UNUSED_FEATURES)), *(f"+{n}" for n in used)])
    cpu = llvm.get_host_cpu_name() if features == host_features() else "x86-64"
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu, features=flags, opt=3, jit=True, reloc="pic", codemodel="small"
    )
    return machine, llvm.create_lljit_compiler(machine)


def optimized(text: str, target: Target) -> Any:
    """The module after LLVM's optimiser."""
    machine, _ = _machine(target.features)
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


def assembly(text: str, target: Target) -> str:
    """The machine code as text."""
    return str(_machine(target.features)[0].emit_assembly(optimized(text, target)))


def object_code(text: str, target: Target) -> bytes:
    """The machine code as an object file."""
    return bytes(_machine(target.features)[0].emit_object(optimized(text, target)))


def remembered_code(text: str, target: Target) -> bytes:
    """The object code of a module, from the cache if it is there."""
    return cache.remembered((text, *toolchain(target)), lambda: object_code(text, target))


def toolchain(target: Target) -> tuple[str, ...]:
    """What object code depends on beside the module's text."""
    version = ".".join(map(str, llvm.llvm_version_info))
    return ",".join(sorted(target.features)), llvm.get_host_cpu_name(), version


def link(data: bytes, names: Sequence[str], imports: Mapping[str, int], target: Target) -> Any:
    """Object code made part of this process; `imports` are addresses of what it calls.

    Returns:
        The library: the addresses of `names`. The code lives as long as it does.
    """
    _, jit = _machine(target.features)
    builder = llvm.JITLibraryBuilder().add_object_img(data).add_current_process()
    for name in names:
        builder = builder.export_symbol(name)
    for symbol, address in imports.items():
        builder = builder.import_symbol(symbol, address)
    with _lock:
        return builder.link(jit, f"tilus.{next(_serial)}")
