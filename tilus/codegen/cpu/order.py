"""Order and debugging in CPU code: one thread is always in step with itself."""

from __future__ import annotations

from tilus.codegen.cpu.lower import CpuLowering
from tilus.codegen.cpu.memory import Memory, access
from tilus.codegen.cpu.tiles import Tile
from tilus.codegen.llvm import convert
from tilus.codegen.llvm.writer import I1, I8, I32, V, constant
from tilus.codegen.registry import lowering, unsupported
from tilus.ir.instructions import debug, sync
from tilus.layouts import Layout


@lowering("cpu", sync.Sync, sync.Fence)
def _(inst: sync.Sync | sync.Fence, f: CpuLowering) -> None:
    """One thread is always in step with itself."""
    if isinstance(inst, sync.Fence):
        f.w.line("fence seq_cst")


def _semaphore(inst: sync.Semaphore, f: CpuLowering, sem: Memory) -> V:
    a = access(f, sem, inst.offsets, Layout((), (), (), ()), ())
    mask = a.mask(a.corner, 1)
    if mask is not None:
        outside = f.w.op(I1, f"xor {f.w.extract(mask, 0)}, true")
        f.trap_if(outside, "out of bounds: the semaphore is outside its view")
    return f.w.gep(sem.pointer, a.offset(a.corner), I32)


@lowering("cpu", sync.SemaphoreAcquire)
def _(inst: sync.SemaphoreAcquire, f: CpuLowering, sem: Memory, offsets: object, value: V) -> None:
    w = f.w
    place = _semaphore(inst, f, sem)
    wanted = convert.cast(w, inst.value.dtype, sem.dtype, value)
    head, end = w.fresh_label("wait"), w.fresh_label("acquired")
    w.label(head)
    seen = w.op(I32, f"load atomic i32, {place} acquire, align 4", "seen")
    w.branch(w.compare("icmp", "eq", seen, wanted), end, head)
    w.label(end)


@lowering("cpu", sync.SemaphoreRelease)
def _(inst: sync.SemaphoreRelease, f: CpuLowering, sem: Memory, offsets: object, value: V) -> None:
    wanted = convert.cast(f.w, inst.value.dtype, sem.dtype, value)
    f.w.line(f"store atomic {wanted}, {_semaphore(inst, f, sem)} release, align 4")


@lowering("cpu", debug.DeviceAssert)
def _(inst: debug.DeviceAssert, f: CpuLowering, cond: V | Tile) -> None:
    w = f.w
    held = cond
    if isinstance(cond, Tile):
        place, size = f.scratch.in_memory(cond), cond.size
        flag = w.alloca(I8, hint="held")
        w.store(constant(I8, 1), flag, 1)

        def step(k: V) -> None:
            one = w.load(I8, w.gep(place, k, I8), 1)
            w.store(w.binary("and", w.load(I8, flag, 1), one), flag, 1)

        f.scratch.loop(size, step)
        held = w.cast("trunc", w.load(I8, flag, 1), I1)
    message = f"assertion failed{': ' + inst.message if inst.message else ''}"
    f.trap_if(w.op(I1, f"xor {held}, true"), message)


unsupported("cpu", debug.PrintTensor, "native code does not print; interpret the kernel")
unsupported("cpu", debug.Breakpoint, "there is no debugger in native code; interpret the kernel")
