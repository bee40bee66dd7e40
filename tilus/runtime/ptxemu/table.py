"""The table of instructions: an opcode is entered by the one function that says what it means.

    @alu("add")                       a pure function of its operands, for all threads at once
    def _(i, m): return Alu(...)

    @machine("ld")                    anything that touches memory, other threads or the pc
    def _(i, m, b): ...; return step

Both take the modifiers as `Modifiers`, from which they take what they know; what is left over makes
the instruction "not emulated", so that no modifier is ever ignored by accident.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tilus.runtime.ptxemu.syntax import Instruction
from tilus.runtime.ptxemu.traps import PtxTrap
from tilus.runtime.ptxemu.types import TYPES, Mask, Type

if TYPE_CHECKING:
    from tilus.runtime.ptxemu.block import Block

# Runs an instruction for the threads in the mask. The result is where to go on: None for the next
# instruction, a pc where all of them went, or RESCHEDULE when `Block.pc` says it for each thread.
Step: TypeAlias = Callable[[Mask], int | None]
RESCHEDULE = -1

Machine: TypeAlias = "Callable[[Instruction, Modifiers, Block], Step]"


@dataclass(frozen=True)
class Alu:
    """What a pure instruction does: arrays of the types `src` to arrays of the types `dst`."""

    function: Callable[..., Any]  # with several destinations it returns a tuple
    dst: tuple[Type, ...]
    src: tuple[Type, ...]
    carry_in: bool = False  # the carry flag is one more operand
    carry_out: bool = False  # and one more result


class Modifiers:
    """The modifiers of an instruction that nobody has understood yet."""

    def __init__(self, i: Instruction) -> None:
        self.i = i
        self.left = list(i.modifiers)

    def flag(self, *names: str) -> bool:
        """Take any of `names`; whether there was one."""
        found = [n for n in names if n in self.left]
        for name in found:
            self.left.remove(name)
        return bool(found)

    def choice(self, *names: str, default: str = "") -> str:
        """Take the first of `names` that is there."""
        for name in self.left:
            if name in names:
                self.left.remove(name)
                return name
        return default

    def type(self, default: str = "") -> Type:
        """Take the next type."""
        for name in self.left:
            if name in TYPES:
                self.left.remove(name)
                return TYPES[name]
        if not default:
            raise not_emulated(self.i)
        return TYPES[default]

    def done(self) -> None:
        """Raise if anything is left."""
        if self.left:
            raise not_emulated(self.i, f"the modifier .{self.left[0]}")


def not_emulated(i: Instruction, what: str = "") -> PtxTrap:
    """The error for an instruction, or a form of one, that has no entry here."""
    return PtxTrap("not emulated", f"{i.name}{f': {what}' if what else ''}", i)


ALU: dict[str, Callable[[Instruction, Modifiers], Alu]] = {}
MACHINE: dict[str, Machine] = {}


def alu(
    *opcodes: str,
) -> Callable[[Callable[[Instruction, Modifiers], Alu]], Callable[[Instruction, Modifiers], Alu]]:
    """Enter a pure instruction."""

    def enter(
        function: Callable[[Instruction, Modifiers], Alu],
    ) -> Callable[[Instruction, Modifiers], Alu]:
        for opcode in opcodes:
            ALU[opcode] = function
        return function

    return enter


def machine(*opcodes: str) -> Callable[[Machine], Machine]:
    """Enter an instruction that needs the block."""

    def enter(function: Machine) -> Machine:
        for opcode in opcodes:
            MACHINE[opcode] = function
        return function

    return enter
