"""What the compiler decided: what it inserted, and how wide each memory access is."""

from __future__ import annotations

from dataclasses import dataclass

from tilus.errors import Span
from tilus.ir.instructions.view import ConvertLayout
from tilus.ir.program import Assign, Function, walk
from tilus.ir.target import Target
from tilus.ir.types import TileType
from tilus.layouts.conversion import classify


@dataclass(frozen=True)
class Decision:
    """One decision, at the place it was made for."""

    what: str  # "conversion", "barrier" or "access"
    text: str
    span: Span | None

    def __str__(self) -> str:
        where = f"line {self.span.line}: " if self.span is not None else ""
        return f"{where}{self.what}: {self.text}"


def decisions(f: Function, target: Target) -> list[Decision]:
    """Every inserted conversion and barrier of a lowered kernel, and each access to memory."""
    found = []
    for s in walk(f.body):
        if not isinstance(s, Assign):
            continue
        inst, inserted = s.inst, s.span is not None and bool(s.span.reason)
        vector = getattr(inst, "vector", None)
        if isinstance(inst, ConvertLayout):
            x = inst.x.type
            assert isinstance(x, TileType) and x.layout is not None
            kind = classify(x.layout, inst.layout, target.warp_size).kind.name.lower()
            origin = "inserted" if inserted else "written"
            text = f"{x} from {x.layout} to {inst.layout} ({kind}, {origin})"
            found.append(Decision("conversion", text, s.span))
        elif inst.is_barrier and inserted:
            found.append(Decision("barrier", "inserted", s.span))
        elif vector is not None:
            memory = next(v for n, v in inst.operands() if n in (*inst.reads, *inst.writes))
            nbits = vector * memory.dtype.bits
            size = f"{nbits // 8} bytes" if nbits % 8 == 0 else f"{nbits} bits"
            found.append(
                Decision("access", f"{inst.opcode} of %{memory.name}, {size} each", s.span)
            )
    return found
