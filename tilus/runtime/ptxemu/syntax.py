"""What PTX text says, as data: a module of functions and variables, functions of instructions.

Names are already resolved: a register or label of an inner scope has a name of its own, and every
label is an index into its function's code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from tilus.runtime.ptxemu.types import Type


@dataclass(frozen=True, slots=True)
class Reg:
    """A declared register, or a special one such as `%tid.x`."""

    name: str


@dataclass(frozen=True, slots=True)
class Imm:
    """An immediate: an integer, or the bits of a float of `float_bits` bits."""

    value: int
    float_bits: int = 0


@dataclass(frozen=True, slots=True)
class Sym:
    """The address of a variable, parameter or function, or a label."""

    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """`[base + offset]`."""

    base: Reg | Sym | Imm
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Vector:
    """`{a, b}`."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """`a|b`: two results."""

    first: Operand
    second: Operand


@dataclass(frozen=True, slots=True)
class Not:
    """`!p`."""

    reg: Reg


@dataclass(frozen=True, slots=True)
class Sink:
    """`_`: a result that nobody wants."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """An operand of a form that no emulated instruction has."""

    text: str


Operand: TypeAlias = Reg | Imm | Sym | Address | Vector | Pair | Not | Sink | Opaque


@dataclass(frozen=True, slots=True)
class Guard:
    """`@p` or `@!p`."""

    reg: Reg
    negated: bool


@dataclass(slots=True)
class Instruction:
    """One instruction: `opcode.modifier.modifier args;`."""

    opcode: str
    modifiers: tuple[str, ...]
    args: tuple[Operand, ...]
    guard: Guard | None
    line: int  # of the PTX text
    text: str
    loc: str  # "file:line" of the .loc in force, or ""
    function: str = ""

    @property
    def name(self) -> str:
        """The opcode with its modifiers."""
        return ".".join((self.opcode, *self.modifiers))


@dataclass(frozen=True, slots=True)
class Pointer:
    """An initial value that is an address: `generic(name) + offset`."""

    name: str
    offset: int


@dataclass(slots=True)
class Variable:
    """A variable or parameter of a state space."""

    name: str
    space: str  # global, const, shared, local, param
    type: Type
    count: int  # elements; 0 for `extern .shared x[]`
    align: int
    initial: list[Imm | Pointer] = field(default_factory=list)
    is_array: bool = False

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.count * self.type.nbytes


@dataclass(slots=True)
class Call:
    """The operands of a `call`."""

    results: tuple[str, ...]
    callee: str
    arguments: tuple[Operand, ...]


@dataclass
class Function:
    """An `.entry` or `.func`."""

    name: str
    is_entry: bool
    params: list[Variable] = field(default_factory=list)
    results: list[Variable] = field(default_factory=list)
    registers: dict[str, Type] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)  # shared, local and param ones inside
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    branch_targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)  # by index into the code
    max_threads: tuple[int, ...] = ()
    required_threads: tuple[int, ...] = ()
    has_body: bool = False


@dataclass
class Module:
    """A parsed PTX text."""

    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    target: str = ""
    version: str = ""
    files: dict[int, str] = field(default_factory=dict)
