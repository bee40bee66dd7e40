"""How a fault of emulated PTX is shown.

error: race: thread 33 reads shared byte 128 (`tile` + 128), which thread 1 wrote with ...
  --> reduce.cu:14, block (0, 0, 0), thread (33, 0, 0)
57 |     ld.shared.u32 %r8, [%r7];
   = help: a barrier must stand between the two
"""

from __future__ import annotations

from tilus.errors import Trap
from tilus.runtime.ptxemu.syntax import Instruction

Index = tuple[int, int, int]


class PtxSyntaxError(Trap):
    """Text that is not PTX, or a form of it that the parser does not know."""

    def __init__(self, message: str, line: int, text: str) -> None:
        super().__init__(message)
        self.line, self.text = line, text

    def __str__(self) -> str:
        return f"error: {self.first.message}\n{self.line} | {self.text.rstrip()}"


class PtxTrap(Trap):
    """A fault that the emulator caught while PTX ran.

    `kind` is one of: out of bounds, misaligned, null, read-only, uninitialised, race, pending,
    deadlock, divergent, no progress, assertion, trap, invalid, launch, not emulated.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        instruction: Instruction | None = None,
        thread: int | None = None,
        help: str | None = None,
    ) -> None:
        super().__init__(f"{kind}: {message}", help=help)
        self.kind = kind
        self.message = message
        self.thread = thread  # counted through the block; `thread_index` says x, y, z
        self.block_index: Index | None = None
        self.thread_index: Index | None = None
        self.line: int | None = None
        self.text = ""
        self.loc = ""
        self.at_instruction(instruction)

    def at_instruction(self, instruction: Instruction | None) -> PtxTrap:
        """Set the place of a trap raised without one."""
        if instruction is not None and self.line is None:
            self.line, self.text, self.loc = instruction.line, instruction.text, instruction.loc
        return self

    def __str__(self) -> str:
        out = [f"error: {self.first.message}"]
        places = [self.loc] if self.loc else []
        if self.block_index is not None:
            places.append(f"block {self.block_index}")
        if self.thread_index is not None:
            places.append(f"thread {self.thread_index}")
        if places:
            out.append(f"  --> {', '.join(places)}")
        width = 1
        if self.line is not None:
            width = len(str(self.line))
            out.append(f"{self.line} | {self.text}")
        if self.first.help:
            out.append(f"{'':>{width}} = help: {self.first.help}")
        return "\n".join(out)
