"""Instructions for the person who debugs a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.errors import TilusTypeError
from tilus.ir.expr import Expr
from tilus.ir.inst import Effect, Inst
from tilus.ir.types import ScalarType, TileType

if TYPE_CHECKING:
    from tilus.ir.interpreter import Block


def check_value(inst: Inst, name: str) -> ScalarType | TileType:
    """The type of a scalar or a register tile."""
    t = getattr(inst, name).type
    if not isinstance(t, (ScalarType, TileType)):
        raise TilusTypeError(
            f"{inst.opcode}: `{name}` must be a scalar or a register tile, not {t}"
        )
    return t


class PrintTensor(Inst, opcode="print_tensor", effects=Effect.DEBUG, threads=True):
    """Print a tile or a scalar, with the block it belongs to and a message (or its name)."""

    x: Expr
    message: str = ""

    def __post_init__(self) -> None:
        if self.message == "":  # the name it has now, whatever passes put in its place
            object.__setattr__(self, "message", getattr(self.x, "name", "") or "value")

    def infer(self) -> None:
        check_value(self, "x")

    def interpret(self, block: Block, x: Any) -> None:
        value = block.array(x)
        with np.printoptions(precision=4, linewidth=100, threshold=256):
            text = str(value)
        gap = "\n" if "\n" in text else " "
        block.print(f"[block {block.index_text}] {self.message}: {self.x.type} ={gap}{text}")


class DeviceAssert(Inst, opcode="device_assert", effects=Effect.DEBUG, threads=True):
    """Stop the kernel unless the condition (every element of it) holds."""

    cond: Expr
    message: str = ""

    def infer(self) -> None:
        t = check_value(self, "cond")
        if t.dtype.name != "bool":
            raise TilusTypeError(
                f"device_assert: `cond` must be bool, not {t}", help="compare it: write `x != 0`"
            )

    def interpret(self, block: Block, cond: Any) -> None:
        held = np.asarray(block.array(cond))
        if not held.all():
            place = (
                f" at element {tuple(int(i) for i in np.argwhere(~held)[0])}" if held.ndim else ""
            )
            block.trap(f"assertion failed{place}" + (f": {self.message}" if self.message else ""))


class Breakpoint(Inst, opcode="breakpoint", effects=Effect.DEBUG, threads=True):
    """Stop in the debugger with the kernel's live values as NumPy arrays (interpreter only)."""

    names: tuple[str, ...]
    values: tuple[Expr, ...]

    def infer(self) -> None:
        if len(self.names) != len(self.values):
            raise TilusTypeError("breakpoint: as many names as values are needed")

    def interpret(self, block: Block, values: tuple[Any, ...]) -> None:
        live = {n: block.array(v) for n, v in zip(self.names, values, strict=True)}
        exec(
            compile("breakpoint()", "<kernel breakpoint>", "exec"),
            {"np": np, "block": block.index, **live},
        )
