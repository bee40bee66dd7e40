"""Small PTX texts: one body, or one instruction applied to many values."""

import numpy as np

from tilus.runtime import ptxemu
from tilus.runtime.ptxemu.types import TYPES

HEAD = ".version 8.5\n.target sm_90\n.address_size 64\n"


def kernel(body: str) -> str:
    """A kernel `test(x, y)` of `body`; `%x` and `%y` are the addresses of the thread's words.

    `%mine`, `%next` and `%other` are the addresses of a word of shared memory for the thread, for
    the next lane of the warp, and for the same lane of the other warp of two.
    """
    return f"""{HEAD}
.visible .entry test(.param .u64 x_param, .param .u64 y_param) {{
.shared .align 16 .b8 buffer[4096];
.local .align 8 .b8 depot[8];
.reg .b32 %r<9>, %me, %mine, %next, %other;
.reg .b64 %rd<9>, %x, %y;
.reg .pred %low, %first, %p<9>;
ld.param.u64 %x, [x_param];
ld.param.u64 %y, [y_param];
mov.u32 %me, %tid.x;
mul.wide.u32 %rd1, %me, 4;
add.s64 %x, %x, %rd1;
add.s64 %y, %y, %rd1;
mov.u32 %r1, buffer;
mad.lo.u32 %mine, %me, 4, %r1;
add.u32 %r2, %me, 1;
bfi.b32 %r2, %r2, %me, 0, 5;
mad.lo.u32 %next, %r2, 4, %r1;
xor.b32 %r2, %me, 32;
mad.lo.u32 %other, %r2, 4, %r1;
setp.lt.u32 %low, %me, 16;
setp.eq.u32 %first, %me, 0;
{body}
ret;
}}
"""


def launch_text(ptx: str, block: int = 32, read_only: bool = False, **options):
    """Run `test` on 64 words of x and 64 of y."""
    buffers = {"x": np.arange(64, dtype=np.uint32), "y": np.zeros(64, np.uint32)}
    memory = ptxemu.Memory()
    args = [memory.add(k, v, writable=not (read_only and k == "x")) for k, v in buffers.items()]
    ptxemu.launch(ptxemu.parse(ptx), "test", 1, block, args, memory, **options)
    return buffers


def one_instruction(name: str, out: list[str], given: list[str], tail: str = "") -> str:
    """A kernel that applies an instruction to each thread's operands.

    Args:
        name: the opcode with its modifiers.
        out: types of the results, as they are stored; `pred` is stored as 0 or 1.
        given: types of the operands, as they are loaded.
        tail: immediate operands that follow, such as ", 0xe8".
    """
    lines = []
    kinds = [*out, *given]
    for k, t in enumerate(kinds):
        if t == "pred":
            lines.append(f".reg .pred %v{k}; .reg .b32 %w{k};")
        else:
            lines.append(f".reg .b{max(TYPES[t].bits, 16)} %v{k};")
    params = ", ".join(f".param .u64 p{k}" for k in range(len(kinds)))
    for k, t in enumerate(kinds):
        size = 4 if t == "pred" else TYPES[t].nbytes
        lines.append(f".reg .b64 %a{k}; ld.param.u64 %a{k}, [p{k}];")
        lines.append(f"mad.wide.u32 %a{k}, %me, {size}, %a{k};")
    for k, t in enumerate(kinds):
        if k < len(out):
            continue
        if t == "pred":
            lines.append(f"ld.global.b32 %w{k}, [%a{k}]; setp.ne.u32 %v{k}, %w{k}, 0;")
        else:
            lines.append(f"ld.global.b{TYPES[t].bits} %v{k}, [%a{k}];")
    results = "|".join(f"%v{k}" for k in range(len(out)))
    operands = ", ".join(f"%v{k}" for k in range(len(out), len(kinds)))
    lines.append(f"{name} {results}, {operands}{tail};")
    for k, t in enumerate(out):
        if t == "pred":
            lines.append(f"selp.u32 %w{k}, 1, 0, %v{k}; st.global.b32 [%a{k}], %w{k};")
        else:
            lines.append(f"st.global.b{TYPES[t].bits} [%a{k}], %v{k};")
    body = "\n".join(lines)
    return f"""{HEAD}
.visible .entry test({params}) {{
.reg .b32 %me;
mov.u32 %me, %tid.x;
{body}
ret;
}}
"""


def apply(name: str, out: list[str], given: list[str], *values, tail: str = "") -> list[np.ndarray]:
    """The results of an instruction for arrays of operands: unsigned words, or what they are of."""
    arrays = [np.ascontiguousarray(v) for v in values]
    count = arrays[0].shape[0]
    results = []
    for t in out:
        kind = np.dtype(np.uint32) if t == "pred" else np.dtype(f"u{TYPES[t].nbytes}")
        results.append(np.zeros(count, kind))
    memory = ptxemu.Memory()
    args = [memory.add(f"v{k}", a) for k, a in enumerate([*results, *arrays])]
    text = one_instruction(name, out, given, tail)
    ptxemu.launch(ptxemu.parse(text), "test", 1, count, args, memory)
    return results
