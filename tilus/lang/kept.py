"""Native code of kernels on disk, found without translating the kernel again.

An entry's name is made of what a launch says: the kernel's file, name and constants, what is known
of its arguments, the target. Its head lists the globals that the translation read; an entry counts
only if they are what they were. Where one is not a thing whose meaning can be written down (a
number, a type, another kernel in a file that has not changed ...), the kernel is translated in
every process, and only LLVM's work is kept.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Set
from dataclasses import asdict
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from tilus.codegen.cpu.module import generate
from tilus.codegen.llvm.function import Fault
from tilus.dtypes import DType
from tilus.errors import Span
from tilus.ir.passes import lower
from tilus.ir.target import Target
from tilus.lang import source
from tilus.lang.frame import Trace
from tilus.layouts import Layout
from tilus.options import options
from tilus.runtime import cache, jit
from tilus.runtime.cpu import host_target, load, words_of
from tilus.runtime.program import CpuKernel

if TYPE_CHECKING:
    from tilus.lang.jit import JitFunction

Made = tuple[CpuKernel, Trace]


def native(
    kernel: JitFunction,
    constants: Mapping[str, Any],
    divisible: Mapping[str, int],
    ones: Set[str],
    target: Target | None = None,
) -> Made:
    """Native code of a kernel for one thread a block, and what it was made from."""
    target = target or host_target()
    name = _name(kernel, constants, divisible, ones, target)
    if name is not None and not options.always_compile:
        found = _read(name, target)
        if found is not None:
            return found
    function, trace = kernel.translate(constants, 1, divisible, ones)
    code = generate(lower(function, target), target)
    needs = _needs(trace) if name is not None else None
    if name is None or needs is None:
        return load(code, function, jit.remembered_code(code.text, target), target), trace
    data = jit.object_code(code.text, target)
    head = {
        "needs": needs,
        "name": code.name,
        "words": words_of(function),
        "faults": [{"message": f.message, "span": f.span and asdict(f.span)} for f in code.faults],
    }
    text = json.dumps(head).encode()
    cache.write(name, len(text).to_bytes(8, "little") + text + data)
    return load(code, function, data, target), trace


def _name(
    kernel: JitFunction,
    constants: Mapping[str, Any],
    divisible: Mapping[str, int],
    ones: Set[str],
    target: Target,
) -> str | None:
    """The entry's name; None where a constant cannot be written down."""
    said = [(n, type(x).__qualname__, repr(x)) for n, x in constants.items()]
    plain = all(map(_is_ours, constants.values()))
    if not plain or any(" at 0x" in text for _, _, text in said) or kernel.fn.__closure__:
        return None
    place = [kernel.__module__, kernel.__qualname__, str(kernel.fn.__code__.co_firstlineno)]
    known = [sorted(divisible.items()), sorted(ones)]
    return cache.key([*place, _file(kernel.fn), repr(said), repr(known), *jit.toolchain(target)])


def _is_ours(x: Any) -> bool:
    """Whether what a constant means is in its text: no class of the user's has a part in it."""
    if isinstance(x, (tuple, frozenset)):
        return all(map(_is_ours, x))
    return _is_known(type(x).__module__)


def _is_known(module: str) -> bool:
    """Whether a module is Python's or ours, which the name of an entry covers."""
    return module.split(".")[0] in (*sys.stdlib_module_names, "tilus")


def _file(fn: FunctionType) -> str:
    """A hash of the file a function stands in."""
    return _hash(source.of_function(fn)[0].lines)


@lru_cache(maxsize=256)
def _hash(lines: tuple[str, ...]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _needs(trace: Trace) -> list[list[str]] | None:
    """[module, name, meaning] of each global that was read; None if one has no meaning."""
    if trace.cells:
        return None
    found = []
    for (_, name), (names, value) in trace.globals.items():
        module, meaning = names.get("__name__"), _meaning(value)
        if meaning is None or getattr(sys.modules.get(str(module)), "__dict__", None) is not names:
            return None
        found.append([str(module), name, meaning])
    return found


def _meaning(value: Any) -> str | None:
    """What a global is, as text that differs where kernels could; None if that is not certain."""
    if value is None or type(value) in (int, float, bool, str, DType, Layout):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, tuple):
        parts = [_meaning(x) for x in value]
        return None if None in parts else f"tuple {parts}"
    if isinstance(value, (ModuleType, type)):
        name = value.__name__ if isinstance(value, ModuleType) else value.__module__
        return f"{name} {getattr(value, '__qualname__', '')}" if _is_known(name) else None
    if isinstance(value, BuiltinFunctionType):
        return f"builtin {value.__module__} {value.__qualname__}"
    inner = getattr(value, "__tilus_jit__", None)
    if isinstance(inner, FunctionType):
        if inner.__closure__:
            return None
        return f"kernel {inner.__qualname__} {inner.__code__.co_firstlineno} {_file(inner)}"
    if isinstance(value, FunctionType) and value.__module__.split(".")[0] == "tilus":
        return f"function {value.__module__} {value.__qualname__}"
    return None


def _read(name: str, target: Target) -> Made | None:
    data = cache.read(name)
    if data is None:
        return None
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    trace = Trace()
    for module, variable, meaning in head["needs"]:
        names = getattr(sys.modules.get(module), "__dict__", {})
        value = trace.lookup(names, variable)
        if _meaning(value) != meaning:
            return None
        trace.globals[id(names), variable] = (names, value)
    library = jit.link(data[8 + size :], [head["name"]], {}, target)
    faults = tuple(
        Fault(f["message"], Span(**f["span"]) if f["span"] else None) for f in head["faults"]
    )
    address = library[head["name"]]
    return CpuKernel(head["name"], head["words"], faults, address, library), trace
