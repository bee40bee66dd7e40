"""What the parser reads, and what it says about text that is not PTX."""

import numpy as np
import pytest

from tests.runtime.ptxemu.single import HEAD, kernel, launch_text
from tilus.runtime import ptxemu
from tilus.runtime.ptxemu import PtxSyntaxError, PtxTrap


def test_scopes_have_registers_and_labels_of_their_own():
    body = """
        mov.u32 %r1, 0;
        {
            .reg .u32 %r1;
            .reg.b32 t, u;
            mov.u32 %r1, 5;
            mov.u32 t, 0;
            again: add.u32 t, t, %r1;
            setp.lt.u32 %p1, t, 20;
            @%p1 bra again;
            { .reg .b32 t; mov.u32 t, 1000; }
            mov.u32 u, t;
            st.global.u32 [%x], u;
        }
        {
            .reg .b32 t;
            mov.u32 t, 3;
            again: sub.u32 t, t, 1;
            setp.ne.u32 %p1, t, 0;
            @%p1 bra again;
            add.u32 %r1, %r1, t;
        }
        st.global.u32 [%y], %r1;"""
    out = launch_text(kernel(body))
    assert out["x"][:32].tolist() == [20] * 32
    assert not out["y"].any()


def test_immediates():
    lines = {
        "0x7F": 127, "0b101": 5, "017": 15, "-1": 0xFFFFFFFF, "42U": 42,
        "0f3F800000": 0x3F800000, "-0f3F800000": 0xBF800000,
    }  # fmt: skip
    body = "\n".join(
        f"mov.b32 %r1, {t}; st.global.b32 [y+{4 * k}], %r1;" for k, t in enumerate(lines)
    )
    text = kernel("").replace("ret;", f".reg .b64 y; ld.param.u64 y, [y_param];\n{body}\nret;")
    assert launch_text(text, block=1)["y"][: len(lines)].tolist() == list(lines.values())


def test_vectors_sinks_and_packing():
    body = """
        .reg .b16 %h<3>;
        mov.b32 {%h0, %h1}, 0x00020001;
        mov.b32 %r1, {%h1, %h0};
        mov.b64 %rd1, {%r1, %me};
        mov.b64 {_, %r2}, %rd1;
        add.u32 %r1, %r1, %r2;
        setp.lt.u32 _|%p1, %me, 4;
        @%p1 st.global.u32 [%y], %r1;"""
    expected = [0x00010002 + k if k >= 4 else 0 for k in range(32)]
    assert launch_text(kernel(body))["y"][:32].tolist() == expected


MODULE = f"""{HEAD}
.file 1 "dir/some.cu"
.global .align 8 .u64 places[2] = {{generic(table)+4, plain}};
.global .align 4 .b32 table[4] = {{10, 20, 0x1e, -40}};
.global .align 4 .b8 plain[4] = {{1, 2, 3, 4}};
.const .f32 half[2] = {{0f3F000000, 0.25}};
.visible .entry test(.param .u64 .ptr .global .align 4 p, .param .align 4 .b8 pair[8])
.maxntid 32, 1, 1
.minnctapersm 2
{{
.reg .b64 %rd<9>;
.reg .b32 %r<9>;
.pragma "nounroll";
.loc 1 7 0
ld.param.u64 %rd1, [p];
ld.global.u64 %rd2, [places];
ld.u32 %r1, [%rd2];
ld.global.u64 %rd2, [places+8];
ld.u32 %r2, [%rd2];
ld.const.u32 %r3, [half+4];
ld.param.v2.u32 {{%r4, %r5}}, [pair];
ld.global.u32 %r6, [table+12];
st.global.v4.u32 [%rd1], {{%r1, %r2, %r3, %r4}};
st.global.v2.u32 [%rd1+16], {{%r5, %r6}};
ret;
}}
"""


def test_variables_of_a_module_and_structs():
    out = np.zeros(6, np.uint32)
    memory = ptxemu.Memory()
    module = ptxemu.parse(MODULE)
    pair = np.uint32([77, 88])
    ptxemu.launch(module, "test", 1, 1, [memory.add("out", out), pair], memory)
    assert out.tolist() == [20, 0x04030201, 0x3E800000, 77, 88, 0xFFFFFFD8]
    assert {i.loc for i in module.functions["test"].code} == {"some.cu:7"}


def test_bounds_of_a_launch_are_read():
    memory = ptxemu.Memory()
    args = [memory.add("out", np.zeros(6, np.uint32)), bytes(8)]
    with pytest.raises(PtxTrap, match="has 64 threads, and may have 32"):
        ptxemu.launch(ptxemu.parse(MODULE), "test", 1, 64, args, memory)
    required = ptxemu.parse(MODULE.replace(".maxntid 32", ".reqntid 32"))
    with pytest.raises(PtxTrap, match=r"needs blocks of \(32, 1, 1\), not \(16, 1, 1\)"):
        ptxemu.launch(required, "test", 1, 16, args, memory)


def test_torch_tensors_are_not_copied():
    torch = pytest.importorskip("torch")
    out = torch.zeros(2, 3, dtype=torch.int32)
    memory = ptxemu.Memory()
    ptxemu.launch(ptxemu.parse(MODULE), "test", 1, 1, [memory.add("out", out), bytes(8)], memory)
    assert out[0].tolist() == [20, 0x04030201, 0x3E800000]
    with pytest.raises(ValueError, match="contiguous"):
        memory.add("t", out.t())


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("mov.u32 %r1, ?;", "unexpected '?'", 26),
        ("mov.u32 %r1, %r2", "expected ';'", 27),
        (".reg .b7 %z;", "registers of type .b7", 26),
        ("ld.u32 %r1, %r2];", "expected ';'", 26),
        ("{ mov.u32 %r1, 5;", "expected '}'", 6),
        (".shared .align x .b8 a[4];", "expected a number", 26),
    ],
)
def test_what_is_not_ptx(text, message, line):
    with pytest.raises(PtxSyntaxError, match=r"error: ") as caught:
        ptxemu.parse(kernel(text))
    assert message in str(caught.value)
    assert caught.value.line == line


def test_an_unknown_directive_of_a_module():
    with pytest.raises(PtxSyntaxError, match=r"unknown at the top of a module: '\.what'"):
        ptxemu.parse(f"{HEAD}\n.what 5;")
