"""A whole LLVM module for one kernel: the block and the loop over blocks; and what runs them.

    KERNEL.block(params, x, y, z)       one block (see lower.py)
    KERNEL(params, begin, end)          blocks begin .. end-1, in increasing order

and, once for all kernels (`TEAM`),

    tilus.run(base, count, threads)     some kernels one after the other, on the OpenMP team that
                                        torch uses; 0, or the number, from 1, of one that failed

Threads take runs of a kernel's blocks, each a share of what is left, until none is: long ones at
first, so that a thread reads long runs of memory, and single blocks at last, so that all are done
at the same time, whatever blocks cost. All threads meet between two kernels.
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
    module.functions.append(_span(name, lowered.word - 3))
    attributes = f'attributes #0 = {{ nounwind "no-trapping-math"="true" {_vector_width(target)} }}'
    note = f"; tilus {version('tilus')}, {f.name} for {target.name}"
    text = "\n".join([note, module.text(), attributes, ""])
    return CpuCode(name, text, tuple(lowered.faults))


def _vector_width(target: Target) -> str:
    wide = "avx512f" in target.features
    return f'"prefer-vector-width"="{512 if wide else 256}" "min-legal-vector-width"="512"'


def _span(name: str, extents: int) -> str:
    """The loop over blocks; `extents` is the word of params where the grid begins."""
    x, y = extents * 8, (extents + 1) * 8
    return f"""
define void @{name}(ptr %params, i64 %begin, i64 %end) #0 {{
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
}}"""


TEAM = """
; A node is {ptr span, i64 offset of its params, i64 blocks, i64 offset of its status word, i64
; blocks taken}; offsets count from `base`, where the nodes begin.

declare void @GOMP_parallel(ptr, ptr, i32, i32)
declare void @GOMP_barrier()
declare i32 @omp_get_num_threads()
declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)

define internal void @share(ptr %base, i64 %count, i64 %threads) {
entry:
  %twice = shl i64 %threads, 1
  br label %node
node:
  %i = phi i64 [ 0, %entry ], [ %i.next, %met ]
  %fields = getelementptr [5 x i64], ptr %base, i64 %i
  %span = load ptr, ptr %fields, align 8
  %p.at = getelementptr i8, ptr %fields, i64 8
  %p.offset = load i64, ptr %p.at, align 8
  %params = getelementptr i8, ptr %base, i64 %p.offset
  %n.at = getelementptr i8, ptr %fields, i64 16
  %n = load i64, ptr %n.at, align 8
  %taken = getelementptr i8, ptr %fields, i64 32
  br label %take
take:
  %before = load atomic i64, ptr %taken monotonic, align 8
  %left = sub i64 %n, %before
  %some = icmp sgt i64 %left, 0
  br i1 %some, label %run, label %over
run:
  %part = udiv i64 %left, %twice
  %size = call i64 @llvm.umax.i64(i64 %part, i64 1)
  %begin = atomicrmw add ptr %taken, i64 %size monotonic, align 8
  %stop = add i64 %begin, %size
  %end = call i64 @llvm.smin.i64(i64 %stop, i64 %n)
  %any = icmp slt i64 %begin, %end
  br i1 %any, label %go, label %over
go:
  call void %span(ptr %params, i64 %begin, i64 %end)
  br label %take
over:
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %meet, label %done
meet:
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %met, label %barrier
barrier:
  call void @GOMP_barrier()
  br label %met
met:
  br label %node
done:
  ret void
}

define internal void @team(ptr %data) {
entry:
  %base = load ptr, ptr %data, align 8
  %count.at = getelementptr i8, ptr %data, i64 8
  %count = load i64, ptr %count.at, align 8
  %c = call i32 @omp_get_num_threads()
  %threads = zext i32 %c to i64
  call void @share(ptr %base, i64 %count, i64 %threads)
  ret void
}

define i64 @tilus.run(ptr %base, i64 %count, i32 %threads) {
entry:
  %data = alloca [2 x i64], align 8
  br label %reset
reset:
  %r = phi i64 [ 0, %entry ], [ %r.next, %reset ]
  %r.fields = getelementptr [5 x i64], ptr %base, i64 %r
  %r.taken = getelementptr i8, ptr %r.fields, i64 32
  store i64 0, ptr %r.taken, align 8
  %r.next = add i64 %r, 1
  %r.more = icmp ult i64 %r.next, %count
  br i1 %r.more, label %reset, label %begin
begin:
  %one = icmp sle i32 %threads, 1
  br i1 %one, label %alone, label %together
alone:
  call void @share(ptr %base, i64 %count, i64 1)
  br label %check
together:
  store ptr %base, ptr %data, align 8
  %count.at = getelementptr i8, ptr %data, i64 8
  store i64 %count, ptr %count.at, align 8
  call void @GOMP_parallel(ptr @team, ptr %data, i32 %threads, i32 0)
  br label %check
check:
  %i = phi i64 [ 0, %alone ], [ 0, %together ], [ %i.next, %good ]
  %fields = getelementptr [5 x i64], ptr %base, i64 %i
  %at = getelementptr i8, ptr %fields, i64 24
  %offset = load i64, ptr %at, align 8
  %word = getelementptr i8, ptr %base, i64 %offset
  %code = load i32, ptr %word, align 8
  %bad = icmp ne i32 %code, 0
  %i.next = add i64 %i, 1
  br i1 %bad, label %done, label %good
good:
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %check, label %done
done:
  %found = phi i64 [ %i.next, %check ], [ 0, %good ]
  ret i64 %found
}
"""
