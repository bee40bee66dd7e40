"""CUDA programs with known answers, as nvcc compiled them: programs/NAME.cu and NAME.ptx.

nvcc -ptx -arch=sm_80 NAME.cu; sm_90 for bfloats and gemm_bf16, sm_89 for fp8 and gemm_fp8;
-lineinfo for tree_reduce, --jump-table-density 0 for switch_table.
"""

import numpy as np
import pytest

from tests.runtime.ptxemu import plain_cases, value_cases  # noqa: F401
from tests.runtime.ptxemu.harness import CASES, FOLDER, Case, check, run
from tests.runtime.ptxemu.single import kernel, launch_text
from tilus.runtime.ptxemu import PtxTrap


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_answers(name, seed):
    one, _ = run(name, seed=seed)
    check(one)


def test_every_program_has_a_case_and_its_ptx():
    sources = {p.stem for p in FOLDER.glob("*.cu")}
    assert sources == {p.stem for p in FOLDER.glob("*.ptx")} == set(CASES)


def test_what_kernels_print():
    _, report = run("prints")
    assert report.output == [
        "thread 0 has  0.00, even 10000000000\n",
        "thread 1 has  0.50, odd 10000000000\n",
    ]


def test_instructions_are_counted_for_each_warp():
    _, report = run("tree_reduce")
    loop = 3 * (8 + 8 * 8)  # 3 blocks of 8 warps: once, and after each of 8 levels
    assert report.instructions["bar"] == loop
    assert (report.blocks, sum(report.lines.values())) == (3, sum(report.instructions.values()))
    assert report.steps < sum(report.instructions.values()) / 2  # warps in step are one operation


@pytest.mark.parametrize(("padded", "extra"), [(1, 0), (0, 2 * 32 * 31)])
def test_bank_conflicts_of_a_transpose(padded, extra):
    """Without padding a column lies in one bank: 32 wavefronts for each of 32 reads."""
    one = CASES["transpose"]()
    _, report = run("transpose", case=Case(**{**vars(one), "more": [padded]}))
    reads = [c for c in report.conflicts if c.text.startswith("ld.shared")]
    assert sum(c.accesses for c in reads) == 2 * 32
    assert sum(c.wavefronts - c.ideal for c in reads) == extra
    assert report.bank_conflicts >= extra


def test_conflicts_of_wide_accesses():
    """16 bytes are served for 8 lanes at a time; ldmatrix for one matrix at a time."""
    _, report = run("gemm_f16")
    by_text = {c.text.split()[0]: c for c in report.conflicts}
    copies = by_text["cp.async.cg.shared.global"]
    four = by_text["ldmatrix.sync.aligned.m8n8.x4.shared.b16"]
    assert four.ideal == 4 * four.accesses == 4 * 4 * 3
    assert four.wavefronts == four.ideal  # rows of 48 bytes: no two of 8 share a bank
    assert copies.ideal > 0


def test_warps_run_in_random_order_with_a_seed():
    """Atomics hand out tickets in the order in which warps come."""
    body = """
        @%first st.shared.u32 [buffer], 0;
        bar.sync 0;
        mov.u32 %r1, 0;
        add.u32 %r1, %r1, 1;
        add.u32 %r1, %r1, 1;
        atom.shared.add.u32 %r1, [buffer], 1;
        st.global.u32 [%y], %r1;"""
    orders = {tuple(launch_text(kernel(body), 64, seed=s)["y"]) for s in range(5)}
    assert len(orders) > 1
    assert all(sorted(o) == list(range(64)) for o in orders)
    assert launch_text(kernel(body), 64)["y"].tolist() == list(range(64))


def test_the_same_seed_gives_the_same_run():
    runs = [run("atomics", seed=7)[1] for _ in range(2)]
    assert runs[0] == runs[1]


def test_clocks_move_on():
    body = """
        .reg .u64 %t<3>;
        mov.u64 %t0, %clock64;
        mov.u64 %t1, %clock64;
        sub.u64 %t2, %t1, %t0;
        cvt.u32.u64 %r1, %t2;
        st.global.u32 [%y], %r1;"""
    assert (launch_text(kernel(body))["y"][:32] > 0).all()


def test_a_block_whose_last_warp_is_not_full():
    body = """
        st.shared.u32 [%mine], %me;
        bar.sync 0;
        @!%first ld.shared.u32 %r1, [%mine+-4];
        @%first mov.u32 %r1, 99;
        vote.sync.ballot.b32 %r2, %low, -1;
        add.u32 %r1, %r1, %r2;
        st.global.u32 [%y], %r1;"""
    for seed in (None, 1):
        out = launch_text(kernel(body), block=40, seed=seed)["y"]
        expected = np.arange(-1, 39)
        expected[0] = 99
        expected[:32] += 0xFFFF
        assert out[:40].tolist() == expected.tolist() and not out[40:].any()


def test_blocks_that_wait_for_one_that_has_not_begun():
    with pytest.raises(PtxTrap, match="no progress"):
        run("semaphore", resident=1, max_steps=3000)
    one, _ = run("semaphore", resident=5, max_steps=3000)
    check(one)
