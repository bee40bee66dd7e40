"""An emulator of PTX, written from the PTX ISA: it parses the text and runs it on NumPy arrays.

It knows nothing of how tilus makes PTX. It runs all threads of a block at once, checks every access
(bounds, alignment, races in shared memory, asynchronous copies that nobody waited for), and counts
instructions and bank conflicts. Races in global memory are not looked for; what a seed changes is
the order in which blocks, warps and colliding atomics come.

    module = ptxemu.parse(text)
    memory = ptxemu.Memory()
    x = memory.add("x", array)                       # an address; the array's memory is shared
    report = ptxemu.launch(module, "scale", grid=4, block=128, args=[x, 1000, 0.5], memory=memory)

A fault raises `PtxTrap`, which names the instruction, its line, the source line of its `.loc`, the
block and the thread. What has no entry in the table of instructions is "not emulated".
"""

from tilus.runtime.ptxemu.launch import Conflict, Report, launch
from tilus.runtime.ptxemu.memory import Memory
from tilus.runtime.ptxemu.parser import parse
from tilus.runtime.ptxemu.syntax import Module
from tilus.runtime.ptxemu.traps import PtxSyntaxError, PtxTrap

__all__ = [
    "Conflict",
    "Memory",
    "Module",
    "PtxSyntaxError",
    "PtxTrap",
    "Report",
    "launch",
    "parse",
]
