"""A whole LLVM module for one kernel: the block, the loop over blocks, and the parallel launch.

    KERNEL.block(params, x, y, z)       one block (see lower.py)
    KERNEL.span(params, begin, end)     blocks begin .. end-1, in increasing order
    KERNEL.team(data)                   one thread's share, called by every thread of the team
    KERNEL(params, blocks, threads)     all blocks: in place, or on the OpenMP team torch uses

Each thread takes one contiguous run of blocks, so that it reads one run of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from tilus.codegen.cpu import compute, matrix, memory, order  # noqa: F401  (their lowerings)
from tilus.codegen.cpu.lower import CpuLowering
from tilus.codegen.llvm.function import Fault
from tilus.codegen.llvm.writer import Module, Writer
from tilus.errors import TilusNotImplementedError
from tilus.ir.program import Function
from tilus.ir.target import Target

MAX_SCRATCH = 4 << 20  # bytes of a block's own memory, which lies on the thread's stack


@dataclass(frozen=True)
class CpuCode:
    """LLVM IR of a kernel, and what the codes in its status word mean."""

    name: str
    text: str
    faults: tuple[Fault, ...]


def generate(f: Function, target: Target) -> CpuCode:
    """The LLVM module of a lowered kernel.

    Raises:
        TilusNotImplementedError: an instruction has no native lowering, or the kernel has more than
            one thread a block.
    """
    if f.num_threads != 1:
        raise TilusNotImplementedError(
            f"{f.name} has {f.num_threads} threads a block; native CPU code has one",
            f.span,
            help="launch it with num_threads=1, or interpret it",
        )
    module = Module(features=target.features)
    w = Writer(module)
    lowered = CpuLowering(f, target, w)
    lowered.body()
    if lowered.scratch.bytes > MAX_SCRATCH:
        raise TilusNotImplementedError(
            f"{f.name} needs {lowered.scratch.bytes} bytes for its tiles; there are {MAX_SCRATCH}",
            f.span,
            help="use smaller tiles",
        )
    name = f"tilus.{f.name}"
    head = f"define internal void @{name}.block(ptr noalias %params, i32 %x, i32 %y, i32 %z) #0 {{"
    module.functions.append("\n".join([head, "entry:", *w.entry, *w.lines, "}"]))
    module.functions.append(_launch(name, lowered.word - 4))
    attributes = f'attributes #0 = {{ nounwind "no-trapping-math"="true" {_vector_width(target)} }}'
    note = f"; tilus {version('tilus')}, {f.name} for {target.name}"
    text = "\n".join([note, module.text(), attributes, ""])
    return CpuCode(name, text, tuple(lowered.faults))


def _vector_width(target: Target) -> str:
    wide = "avx512f" in target.features
    return f'"prefer-vector-width"="{512 if wide else 256}" "min-legal-vector-width"="512"'


def _launch(name: str, extents: int) -> str:
    """The functions around the block; `extents` is the word of params where the grid begins."""
    x, y = extents * 8, (extents + 1) * 8
    return f"""
define void @{name}.span(ptr %params, i64 %begin, i64 %end) #0 {{
entry:
  %some = icmp slt i64 %begin, %end
  %px = getelementptr i8, ptr %params, i64 {x}
  %gx32 = load i32, ptr %px, align 8
  %gx = zext i32 %gx32 to i64
  %py = getelementptr i8, ptr %params, i64 {y}
  %gy32 = load i32, ptr %py, align 8
  %gy = zext i32 %gy32 to i64
  br i1 %some, label %first, label %done
first:
  %x0 = urem i64 %begin, %gx
  %row = udiv i64 %begin, %gx
  %y0 = urem i64 %row, %gy
  %z0 = udiv i64 %row, %gy
  br label %loop
loop:
  %i = phi i64 [ %begin, %first ], [ %i.next, %loop ]
  %x = phi i64 [ %x0, %first ], [ %x.next, %loop ]
  %y = phi i64 [ %y0, %first ], [ %y.next, %loop ]
  %z = phi i64 [ %z0, %first ], [ %z.next, %loop ]
  %x32 = trunc i64 %x to i32
  %y32 = trunc i64 %y to i32
  %z32 = trunc i64 %z to i32
  call void @{name}.block(ptr %params, i32 %x32, i32 %y32, i32 %z32)
  %x.up = add i64 %x, 1
  %x.end = icmp eq i64 %x.up, %gx
  %x.next = select i1 %x.end, i64 0, i64 %x.up
  %y.step = zext i1 %x.end to i64
  %y.up = add i64 %y, %y.step
  %y.end = icmp eq i64 %y.up, %gy
  %y.next = select i1 %y.end, i64 0, i64 %y.up
  %z.step = zext i1 %y.end to i64
  %z.next = add i64 %z, %z.step
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}}

declare void @GOMP_parallel(ptr, ptr, i32, i32)
declare i32 @omp_get_thread_num()
declare i32 @omp_get_num_threads()

define internal void @{name}.team(ptr %data) #0 {{
entry:
  %params = load ptr, ptr %data, align 8
  %pn = getelementptr i8, ptr %data, i64 8
  %n = load i64, ptr %pn, align 8
  %t32 = call i32 @omp_get_thread_num()
  %t = zext i32 %t32 to i64
  %c32 = call i32 @omp_get_num_threads()
  %c = zext i32 %c32 to i64
  %a = mul i64 %n, %t
  %begin = udiv i64 %a, %c
  %t1 = add i64 %t, 1
  %b = mul i64 %n, %t1
  %end = udiv i64 %b, %c
  call void @{name}.span(ptr %params, i64 %begin, i64 %end)
  ret void
}}

define void @{name}(ptr %params, i64 %blocks, i32 %threads) #0 {{
entry:
  %data = alloca [2 x i64], align 8
  %one = icmp sle i32 %threads, 1
  br i1 %one, label %alone, label %together
alone:
  call void @{name}.span(ptr %params, i64 0, i64 %blocks)
  ret void
together:
  store ptr %params, ptr %data, align 8
  %pn = getelementptr i8, ptr %data, i64 8
  store i64 %blocks, ptr %pn, align 8
  call void @GOMP_parallel(ptr @{name}.team, ptr %data, i32 %threads, i32 0)
  ret void
}}"""
