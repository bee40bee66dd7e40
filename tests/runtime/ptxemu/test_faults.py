"""Every trap fires: the PTX of a working program is edited, or a small text is wrong as it is."""

import re

import numpy as np
import pytest

from tests.runtime.ptxemu import plain_cases, value_cases  # noqa: F401
from tests.runtime.ptxemu.harness import CASES, lines_with, run, text, without_line
from tests.runtime.ptxemu.single import kernel, launch_text
from tilus.runtime import ptxemu
from tilus.runtime.ptxemu import PtxTrap

ORDERING = ("bar.sync", "bar.arrive", "bar.warp", "wait_group", "commit_group", "wait_all")
SYNCHRONISED = [name for name in CASES if lines_with(name, *ORDERING)]


@pytest.mark.parametrize("name", SYNCHRONISED)
@pytest.mark.parametrize("seed", [None, 5])
def test_nothing_that_orders_may_be_left_out(name, seed):
    _, report = run(name)
    needed = [n for n in lines_with(name, *ORDERING) if report.lines[n]]
    assert needed
    for number in needed:
        with pytest.raises(PtxTrap) as caught:
            run(name, without_line(name, number), seed=seed, max_steps=100_000)
        kinds = ("race", "pending", "uninitialised", "deadlock")
        assert caught.value.kind in kinds, f"line {number}: {caught.value}"


# Edits: (program, pattern, replacement, kind of trap, what its message has)
EDITS = [
    ("vector_add", r"ld\.global\.f32 \t(%f1), \[(%rd\d+)\]", r"ld.global.f32 \1, [\2+3988]",
     "out of bounds", "byte 4000 of `x`, which has 4000 bytes"),
    ("vector_add", r"ld\.global\.f32 \t(%f1), \[(%rd\d+)\]", r"ld.global.f32 \1, [\2+2]",
     "misaligned", "byte 2 of `x`"),
    ("vector_add", r"st\.global\.f32 \t\[%rd\d+\]", "st.global.f32 [16]", "null", "0x10"),
    ("transpose", r"ld\.global\.v4\.f32(.*)\[(%rd\d+)\]", r"ld.global.v4.f32\1[\2+8]",
     "misaligned", "16 bytes"),
    ("tree_reduce", r"st\.shared\.u32 \t\[%r3\], %r9;", "", "uninitialised", "nobody has written"),
    ("tree_reduce", r"st\.shared\.u32 \t\[%r3\], %r9;", "st.shared.u32 [%r3+4], %r9;",
     "out of bounds", "byte 1024 of shared"),
    ("tree_reduce", r"st\.shared\.u32 \t\[%r3\], %r9;", "st.shared.u32 [%r3+-4], %r9;",
     "out of bounds", "byte -4 of shared"),
    ("tree_reduce", r"ld\.shared\.u32 \t%r14, \[%r3\];", "ld.shared.u32 %r14, [%r3+1];",
     "misaligned", "shared"),
    ("tree_reduce", r"bar\.sync \t0;", "bar.sync 0, 512;", "deadlock", "256 at line 47"),
    ("tree_reduce", r"bar\.sync \t0;", "trap;", "trap", "the kernel ran trap"),
    ("tree_reduce", r"st\.shared\.u32 \t\[%r3\], %r9;",
     "st.shared.u32 [_ZZ11tree_reduceE4part], %r9;", "race", "different values"),
    ("warp_reduce", r"setp\.ne\.s32 \t(%p\d+), %r\d+, 0;", r"setp.lt.s32 \1, %r1, 7;",
     "race", ""),
    ("cp_async", r"cp\.async\.cg\.shared\.global \[(.*?)\]", r"cp.async.cg.shared.global [\1+8]",
     "misaligned", "16 bytes"),
    ("cp_async", r"cp\.async\.wait_group 1;", "cp.async.wait_group 2;", "pending", "in flight"),
    ("switch_table", r"(brx\.idx\s+)%r\d+", r"\1%r1", "out of bounds", "branch targets"),
    ("gemm_f16", r"(ldmatrix.*x4.*\[)(%r\d+)\]", r"\1\2+4]", "misaligned", "16 bytes"),
    ("gemm_f16", r"(ldmatrix.*x4.*\[)(%r\d+)\]", r"\1\2+4096]", "out of bounds", "shared"),
    ("histogram", r"atom\.shared\.add\.u32", "atom.shared.add.u64", "invalid", "cannot"),
    ("spin_lock", r"atom\.global\.exch", "ld.global.u32 %r1, [lock_word]; //",
     "no progress", "is not done"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "kind", "words"), EDITS)
def test_edits_trap(name, old, new, kind, words):
    edited, count = re.subn(old, new, text(name))
    assert count, "the program has changed: nothing was edited"
    with pytest.raises(PtxTrap) as caught:
        run(name, edited, max_steps=3000)
    assert (caught.value.kind, words in caught.value.message) == (kind, True), caught.value


def test_a_trap_says_where():
    with pytest.raises(PtxTrap) as caught:
        run("tree_reduce", without_line("tree_reduce", 65))
    trap = caught.value
    assert (trap.kind, trap.line, trap.loc) == ("race", 59, "tree_reduce.cu:9")
    assert (trap.block_index, trap.thread_index) == ((0, 0, 0), (0, 0, 0))
    assert str(trap) == (
        "error: race: thread 0 reads byte 256 of shared `_ZZ11tree_reduceE4part` (1024 bytes); "
        "thread 64 wrote it, and nothing orders the two\n"
        "  --> tree_reduce.cu:9, block (0, 0, 0), thread (0, 0, 0)\n"
        "59 | ld.shared.u32 \t%r15, [%r13];\n"
        "   = help: a barrier must stand between the two"
    )


def test_a_failed_assertion_says_what_failed():
    one = CASES["prints"]()
    memory = ptxemu.Memory()
    args = [memory.add("x", one.buffers["x"]), 20]
    with pytest.raises(PtxTrap, match=r"`x\[i\] < limit` failed, prints.cu:7") as caught:
        ptxemu.launch(ptxemu.parse(text("prints")), "prints", 1, 32, args, memory)
    assert caught.value.thread_index == (20, 0, 0)


# Small texts: the body of a kernel with parameters x (64 words) and y


BODIES = {
    "read-only": ("st.global.u32 [%x], %me;", "not writable"),
    "divergent": ("@%low bar.sync 0;\n@!%low bar.sync 0;\n", "different barriers"),
    "deadlock": ("@%low shfl.sync.idx.b32 %r1, %me, 0, 31, -1;\n@!%low bar.sync 1;", "shfl"),
    "out of bounds": ("st.local.u32 [depot+4088], %me;", "local memory"),
    "not emulated": ("mbarrier.init.shared.b64 [buffer], 1;", "mbarrier.init.shared.b64"),
    "null": ("ld.u32 %r1, [8];", "0x8"),
    "trap": ("brkpt;", "brkpt"),
    "invalid": ("add.u64 %rd1, %rd1, %me;", "%me cannot be read as .u64"),
}


@pytest.mark.parametrize("kind", BODIES)
def test_bodies_trap(kind):
    body, words = BODIES[kind]
    with pytest.raises(PtxTrap) as caught:
        launch_text(kernel(body), read_only=True)
    assert (caught.value.kind, words in caught.value.message) == (kind, True), caught.value


@pytest.mark.parametrize(
    "instruction",
    [
        "wgmma.fence.sync.aligned;",
        "cp.async.bulk.commit_group;",
        "cp.async.mbarrier.arrive.shared.b64 [buffer];",
        "setmaxnreg.inc.sync.aligned.u32 240;",
        "add.unknown.u32 %r1, %r1, %r1;",
        "tcgen05.fence::before_thread_sync;",
    ],
)
def test_what_is_not_emulated_is_named(instruction):
    name = instruction.rstrip(";").split()[0]
    with pytest.raises(PtxTrap, match=f"not emulated: {name}") as caught:
        launch_text(kernel(f"mov.u32 %r1, 0;\n{instruction}"))
    assert caught.value.text == instruction


def test_an_operand_of_a_later_instruction_set_is_named():
    body = "cp.async.bulk.tensor.2d.shared::cluster.global.tile [buffer], [%x, {%r1, %r1}];"
    with pytest.raises(PtxTrap, match=r"not emulated: cp\.async\.bulk\.tensor"):
        launch_text(kernel(body))


def test_lanes_that_wait_are_not_forgotten_when_others_end():
    """A barrier is complete when all that have not ended are there; a shuffle likewise."""
    body = """
        @%low exit;
        bar.sync 0;
        shfl.sync.bfly.b32 %r1, %me, 1, 31, -1;
        st.global.u32 [%y], %r1;"""
    out = launch_text(kernel(body))
    assert out["y"][16:32].tolist() == [k ^ 1 for k in range(16, 32)]
    assert not out["y"][:16].any()


RACES = {
    "two warps write one byte": "st.shared.u32 [buffer], %me;",
    "the same value, written by all and read": """
        st.shared.u32 [buffer], 7;
        ld.shared.u32 %r1, [buffer];""",
    "the same value, written while another reads": """
        @%first st.shared.u32 [buffer], 7;
        bar.sync 0;
        @!%first ld.shared.u32 %r1, [buffer];
        @%first st.shared.u32 [buffer], 7;""",
    "read, then write by another lane": """
        st.shared.u32 [%mine], %me;
        bar.sync 0;
        ld.shared.u32 %r1, [%next];
        st.shared.u32 [%mine], %r1;""",
    "write, then read by another lane": """
        st.shared.u32 [%mine], %me;
        ld.shared.u32 %r1, [%next];""",
    "a plain read beside atomics": """
        @%low st.shared.u32 [%mine], 0;
        bar.sync 0;
        @%low red.shared.add.u32 [buffer], 1;
        @!%low ld.shared.u32 %r1, [buffer];""",
    "a warp's barrier does not order others": """
        st.shared.u32 [%mine], %me;
        bar.warp.sync -1;
        ld.shared.u32 %r1, [%other];""",
    "a barrier of some orders only those": """
        st.shared.u32 [%mine], %me;
        setp.lt.u32 %p1, %me, 32;
        @%p1 bar.sync 1, 32;
        @!%p1 bar.sync 2, 32;
        ld.shared.u32 %r1, [%other];""",
    "who arrives does not know": """
        st.shared.u32 [%mine], %me;
        setp.lt.u32 %p1, %me, 32;
        @%p1 bar.arrive 1, 64;
        @!%p1 bar.sync 1, 64;
        ld.shared.u32 %r1, [%other];""",
}
ORDERED = {
    "a lane and itself": """
        st.shared.u32 [%mine], %me;
        ld.shared.u32 %r1, [%mine];
        st.shared.u32 [%mine], %r1;""",
    "lanes of a warp, with its barrier": """
        st.shared.u32 [%mine], %me;
        bar.warp.sync -1;
        ld.shared.u32 %r1, [%next];
        bar.warp.sync -1;
        st.shared.u32 [%mine], %r1;""",
    "atomics": """
        @%first st.shared.u32 [buffer], 0;
        bar.sync 0;
        red.shared.add.u32 [buffer], 1;
        atom.shared.max.u32 %r1, [buffer], %me;""",
    "volatile accesses": """
        st.volatile.shared.u32 [buffer], %me;
        ld.volatile.shared.u32 %r1, [buffer];""",
    "who waits knows of who arrived": """
        st.shared.u32 [%mine], %me;
        setp.lt.u32 %p1, %me, 32;
        @%p1 bar.arrive 1, 64;
        @!%p1 bar.sync 1, 64;
        @!%p1 ld.shared.u32 %r1, [%other];""",
    "knowledge is passed on": """
        setp.lt.u32 %p1, %me, 32;
        @%p1 st.shared.u32 [%mine], %me;
        @%p1 bar.warp.sync -1;
        @%p1 bar.arrive 1, 64;
        @!%p1 bar.sync 1, 64;
        @!%p1 ld.shared.u32 %r1, [buffer+4];
        @!%p1 bar.warp.sync -1;
        @!%p1 bar.arrive 2, 64;
        @%p1 bar.sync 2, 64;
        @%p1 st.shared.u32 [%mine], 5;""",
    "the same value, written by all": """
        mov.u32 %r1, 5;
        st.shared.u32 [buffer], %r1;
        bar.sync 0;
        ld.shared.u32 %r1, [buffer];""",
}


@pytest.mark.parametrize("name", RACES)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_races(name, seed):
    with pytest.raises(PtxTrap, match=r"race|uninitialised"):
        launch_text(kernel(RACES[name]), block=64, seed=seed)


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_no_race_where_there_is_order(name, seed):
    launch_text(kernel(ORDERED[name]), block=64, seed=seed)


def test_launch_errors():
    module, memory = ptxemu.parse(kernel("exit;")), ptxemu.Memory()
    x = memory.add("x", np.zeros(64, np.uint32))
    for message, change in {
        "there is no kernel 'other'": {"kernel": "other"},
        "has 2 parameters, got 1": {"args": [x]},
        "x_param has 8 bytes, the argument 4": {"args": [np.float32([1]), x]},
        "has 2048 threads": {"block": 2048},
        "one to three positive sizes": {"grid": 0},
    }.items():
        options = {"kernel": "test", "grid": 1, "block": 32, "args": [x, x]} | change
        with pytest.raises(PtxTrap, match=re.escape(message)):
            ptxemu.launch(module, memory=memory, **options)
