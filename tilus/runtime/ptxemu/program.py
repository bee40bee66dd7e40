"""A kernel made ready to run: one list of instructions for it and the functions it calls.

A pc is an index into that list. Functions stand before their callers, so that running the smallest
pc first finishes a call before the threads that wait behind it go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tilus.runtime.ptxemu.syntax import Function, Instruction, Module, Variable
from tilus.runtime.ptxemu.table import not_emulated
from tilus.runtime.ptxemu.traps import PtxTrap
from tilus.runtime.ptxemu.types import TYPES

_LOCAL_START = 16  # no local variable has address 0


@dataclass
class Program:
    """Linked code; names of functions' own things are (function, name)."""

    module: Module
    kernel: Function
    code: list[Instruction] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)  # function -> its first pc
    shared: list[Variable] = field(default_factory=list)
    local_offsets: dict[tuple[str, str], int] = field(default_factory=dict)
    local_bytes: int = _LOCAL_START
    call_params: dict[tuple[str, str], Variable] = field(default_factory=dict)
    param_offsets: dict[str, int] = field(default_factory=dict)
    param_bytes: int = 0

    @property
    def entry(self) -> int:
        """The first pc of the kernel."""
        return self.starts[self.kernel.name]

    def function(self, i: Instruction) -> Function:
        """The function an instruction stands in."""
        return self.module.functions[i.function]

    def target(self, i: Instruction, label: str) -> int:
        """The pc of a label."""
        function = self.function(i)
        if label not in function.labels:
            raise PtxTrap("invalid", f"there is no label {label!r} in {function.name}", i)
        return self.starts[i.function] + function.labels[label]


def link(module: Module, kernel: str) -> Program:
    """Find what a kernel needs of its module.

    Raises:
        PtxTrap: there is no such kernel, or it calls a function that calls itself.
    """
    function = module.functions.get(kernel)
    if function is None or not function.is_entry:
        names = ", ".join(f.name for f in module.functions.values() if f.is_entry)
        raise PtxTrap("launch", f"there is no kernel {kernel!r}; the module has: {names or 'none'}")
    out = Program(module, function)
    out.shared = [v for v in module.variables.values() if v.space == "shared"]
    _visit(out, function, [])
    for param in function.params:
        out.param_bytes = -(-out.param_bytes // param.align) * param.align
        out.param_offsets[param.name] = out.param_bytes
        out.param_bytes += param.nbytes
    return out


def _visit(out: Program, function: Function, callers: list[str]) -> None:
    """Append what `function` calls, then itself."""
    for at, call in function.calls.items():
        callee = out.module.functions.get(call.callee)
        if callee is None or not callee.has_body:
            continue
        if callee.name in (*callers, function.name):
            raise not_emulated(function.code[at], "a function that calls itself")
        if callee.name not in out.starts:
            _visit(out, callee, [*callers, function.name])
    out.starts[function.name] = len(out.code)
    out.code += function.code
    for v in function.variables:
        if v.space == "shared":
            out.shared.append(v)
        elif v.space == "local":
            offset = -(-out.local_bytes // v.align) * v.align
            out.local_offsets[function.name, v.name] = offset
            out.local_bytes = offset + v.nbytes
        elif v.space == "param":
            out.call_params[function.name, v.name] = v
    if not function.is_entry:
        for v in (*function.params, *function.results):
            out.call_params[function.name, v.name] = v


def narrowest_shared_access(code: list[Instruction]) -> int:
    """Bytes of the narrowest access to shared memory that stands in the code.

    Every access is aligned to its own size, so none covers a part of such a granule only.
    """
    least = 16
    for i in code:
        if i.opcode in ("ld", "st", "atom", "red"):
            spaces = ("global", "local", "param", "const", "param::entry", "param::func")
            if any(space in i.modifiers for space in spaces):
                continue
            lanes = 4 if "v4" in i.modifiers else 2 if "v2" in i.modifiers else 1
            types = [TYPES[m] for m in i.modifiers if m in TYPES]
            least = min(least, types[-1].nbytes * lanes) if types else 1
        elif i.opcode == "cp" and i.modifiers[0] == "async" and len(i.args) > 2:
            size = getattr(i.args[2], "value", 1)
            least = min(least, size)
        elif i.opcode in ("ldmatrix", "stmatrix"):
            least = min(least, 4)
    return max(least, 1)


def has_partial_barriers(code: list[Instruction]) -> bool:
    """Whether some barrier is not one of the whole block."""
    for i in code:
        if i.opcode in ("bar", "barrier"):
            counts = len([a for a in i.args]) > (2 if "red" in i.modifiers else 1)
            if counts or "warp" in i.modifiers or "arrive" in i.modifiers:
                return True
    return False
