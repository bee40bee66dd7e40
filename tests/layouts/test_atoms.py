"""The instruction layouts against the formulas of the manuals, typed one by one.

The PTX ISA gives row and column of element ``i`` of a fragment by ``groupID = lane >> 2`` and
``threadID_in_group = lane % 4`` (here g and t).
"""

import pytest

from tilus.layouts import (
    MATRIX,
    MATRIX_COPY,
    LayoutError,
    MatrixCopy,
    MatrixLayouts,
    divide_right,
    local,
    spatial,
    wgmma_a,
    wgmma_c,
)


def c_16x8(g, t, i):
    return (g if i < 2 else g + 8, t * 2 + (i & 1))


def f16_k8_a(g, t, i):
    return (g if i < 2 else g + 8, t * 2 + (i & 1))


def f16_k8_b(g, t, i):
    return (t * 2 + i, g)


def f16_k16_a(g, t, i):
    row = g if 0 <= i < 2 or 4 <= i < 6 else g + 8
    return (row, t * 2 + (i & 1) if i < 4 else t * 2 + (i & 1) + 8)


def f16_k16_b(g, t, i):
    return (t * 2 + (i & 1) if i < 2 else t * 2 + (i & 1) + 8, g)


def tf32_k4_a(g, t, i):
    return (g if i == 0 else g + 8, t)


def tf32_k4_b(g, t, i):
    return (t, g)


def tf32_k8_a(g, t, i):
    return (g if i in (0, 2) else g + 8, t if i in (0, 1) else t + 4)


def tf32_k8_b(g, t, i):
    return (t if i == 0 else t + 4, g)


def s8_k16_a(g, t, i):
    return (g if i < 4 else g + 8, t * 4 + (i & 3))


def s8_k16_b(g, t, i):
    return (t * 4 + i, g)


def s8_k32_a(g, t, i):
    row = g if 0 <= i < 4 or 8 <= i < 12 else g + 8
    return (row, t * 4 + (i & 3) if i < 8 else t * 4 + (i & 3) + 16)


def s8_k32_b(g, t, i):
    return (t * 4 + (i & 3) if i < 4 else t * 4 + (i & 3) + 16, g)


def s4_k32_a(g, t, i):
    return (g if i < 8 else g + 8, t * 8 + (i & 7))


def s4_k32_b(g, t, i):
    return (t * 8 + (i & 7), g)


def s4_k64_a(g, t, i):
    row = g if 0 <= i < 8 or 16 <= i < 24 else g + 8
    return (row, t * 8 + (i & 7) if i < 16 else t * 8 + (i & 7) + 32)


def s4_k64_b(g, t, i):
    return (t * 8 + (i & 7) if i < 8 else t * 8 + (i & 7) + 32, g)


MMA = {
    "mma.m16n8k4.tf32": (tf32_k4_a, tf32_k4_b, c_16x8),
    "mma.m16n8k8.tf32": (tf32_k8_a, tf32_k8_b, c_16x8),
    "mma.m16n8k8.f16": (f16_k8_a, f16_k8_b, c_16x8),
    "mma.m16n8k8.bf16": (f16_k8_a, f16_k8_b, c_16x8),
    "mma.m16n8k16.f16": (f16_k16_a, f16_k16_b, c_16x8),
    "mma.m16n8k16.bf16": (f16_k16_a, f16_k16_b, c_16x8),
    "mma.m16n8k16.s8": (s8_k16_a, s8_k16_b, c_16x8),
    "mma.m16n8k16.u8": (s8_k16_a, s8_k16_b, c_16x8),
    "mma.m16n8k32.s8": (s8_k32_a, s8_k32_b, c_16x8),
    "mma.m16n8k32.u8": (s8_k32_a, s8_k32_b, c_16x8),
    "mma.m16n8k32.e4m3": (s8_k32_a, s8_k32_b, c_16x8),
    "mma.m16n8k32.e5m2": (s8_k32_a, s8_k32_b, c_16x8),
    "mma.m16n8k32.s4": (s4_k32_a, s4_k32_b, c_16x8),
    "mma.m16n8k32.u4": (s4_k32_a, s4_k32_b, c_16x8),
    "mma.m16n8k64.s4": (s4_k64_a, s4_k64_b, c_16x8),
    "mma.m16n8k64.u4": (s4_k64_a, s4_k64_b, c_16x8),
    "mma.m8n8k4.f64": (
        lambda g, t, i: (g, t),
        lambda g, t, i: (t, g),
        lambda g, t, i: (g, t * 2 + (i & 1)),
    ),
}


@pytest.mark.parametrize("name", MMA)
def test_mma_fragments_are_those_of_the_manual(name):
    atom = MATRIX[name]
    assert atom.num_threads == 32 and atom.name == name
    for layout, formula in zip((atom.a, atom.b, atom.c), MMA[name], strict=True):
        assert layout.num_slots * 32 == layout.size
        for lane in range(32):
            for i in range(layout.num_slots):
                assert layout.index(lane, i) == formula(lane >> 2, lane % 4, i)


def test_every_mma_is_pinned():
    assert {name for name in MATRIX if name.startswith("mma.")} == set(MMA)


def test_wgmma_fragments_are_those_of_the_manual():
    """Warp w of the warp group holds rows 16w..16w+15, laid out as in mma.sync."""
    for n in (8, 64, 256):
        c = wgmma_c(n)
        assert c.shape == (64, n) and c.num_threads == 128
        for thread in range(128):
            warp, lane = divmod(thread, 32)
            for i in range(c.num_slots):
                row = 16 * warp + lane // 4 + 8 * (i // 2 % 2)
                assert c.index(thread, i) == (row, 8 * (i // 4) + lane % 4 * 2 + i % 2)
    for bits, formula in ((16, f16_k16_a), (8, s8_k32_a), (32, tf32_k8_a)):
        a = wgmma_a(bits)
        assert a.shape == (64, 256 // bits)
        for thread in range(128):
            warp, lane = divmod(thread, 32)
            for i in range(a.num_slots):
                row, column = formula(lane >> 2, lane % 4, i)
                assert a.index(thread, i) == (16 * warp + row, column)
    with pytest.raises(LayoutError):
        wgmma_c(12)


@pytest.mark.parametrize("what", ["ldmatrix", "stmatrix"])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", [False, True])
def test_matrix_copies_are_those_of_the_manual(what, count, trans):
    """Block j: rows from lanes 8j..8j+7; lane l gets elements 2*(l%4), +1 of row l//4."""
    copy = MATRIX_COPY[f"{what}.x{count}{'.trans' if trans else ''}"]
    corner = [(0, 0), (8, 0), (0, 8), (8, 8)]  # of each block, as for the a operand of mma
    for lane in range(8 * count):
        block, row = divmod(lane, 8)
        for element in range(8):
            expected = (corner[block][0] + row, corner[block][1] + element)
            assert copy.rows.index(lane, element) == expected
    for lane in range(32):
        for i in range(2 * count):
            row, column = lane // 4, 2 * (lane % 4) + i % 2
            if trans:
                row, column = column, row
            top, left = corner[i // 2]
            assert copy.registers.index(lane, i) == (top + row, left + column)


def test_ldmatrix_fits_the_fragments_of_mma():
    atom = MATRIX["mma.m16n8k16.f16"]
    assert divide_right(atom.a, MATRIX_COPY["ldmatrix.x4"].registers) == local(1, 1)
    assert divide_right(atom.b, MATRIX_COPY["ldmatrix.x2.trans"].registers) == local(1, 1)
    assert divide_right(atom.c, MATRIX_COPY["stmatrix.x2"].registers) == local(1, 1)


@pytest.mark.parametrize(
    ("name", "n", "k"),
    [
        ("vpdpbusd", 16, 4),
        ("vpdpbusd", 8, 4),
        ("vdpbf16ps", 16, 2),
        ("fma", 16, 1),
        ("fma", 8, 1),
    ],
)
def test_x86_lanes_hold_consecutive_k(name, n, k):
    atom = MATRIX[f"{name}.m1n{n}k{k}"]
    assert atom.num_threads == 1
    assert [atom.a.index(0, i) for i in range(k)] == [(0, i) for i in range(k)]
    for slot in range(n * k):  # element `slot % k` of 32-bit lane `slot // k`
        assert atom.b.index(0, slot) == (slot % k, slot // k)
    assert [atom.c.index(0, i) for i in range(n)] == [(0, i) for i in range(n)]


def test_records_check_themselves():
    with pytest.raises(LayoutError, match="shapes"):
        MatrixLayouts("x", 2, 2, 2, local(2, 2), local(2, 2), local(2, 4))
    with pytest.raises(LayoutError, match="numbers of threads"):
        MatrixLayouts("x", 2, 2, 2, local(2, 2), local(2, 2), spatial(2, 2))
    with pytest.raises(LayoutError, match="shapes"):
        MatrixCopy("x", local(2, 2), local(4, 1))
    assert MATRIX_COPY["ldmatrix.x2"].shape == (16, 8)
