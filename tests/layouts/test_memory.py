"""Vector widths, bank conflicts, swizzles and conversions of the cases that kernels meet."""

import pytest

from tests.layouts.laws import counted_conflicts
from tilus.layouts import (
    MATRIX,
    MATRIX_COPY,
    ConversionKind,
    LayoutError,
    LinearLayout,
    MultipleOf,
    SharedLayout,
    Swizzle,
    bank_conflicts,
    classify,
    column_local,
    contiguous_run,
    exchange_tile,
    find_swizzle,
    from_linear,
    local,
    parse_layout,
    reduce,
    replicated,
    shared_to_linear,
    spatial,
    to_linear,
    vector_width,
)
from tilus.layouts.linear import BitMatrix

ROW = spatial(8, 4) * local(1, 16)  # [8, 64], a run of 16 along the row


@pytest.mark.parametrize(
    ("memory", "bits", "options", "expected"),
    [
        ((64, 1), 16, {}, 8),
        ((64, 1), 8, {}, 16),
        ((64, 1), 4, {}, 16),  # only 16 in a row
        ((64, 1), 32, {}, 4),
        ((64, 1), 3, {}, 1),  # no number of 3-bit elements is a power-of-two number of bytes
        ((64, 1), 16, {"max_bytes": 64}, 16),
        ((64, 1), 16, {"max_bytes": 4}, 2),
        ((64, 1), 16, {"alignment": 4}, 2),
        ((64, 1), 16, {"alignment": 1}, 1),
        ((66, 1), 16, {}, 2),
        ((MultipleOf(8), 1), 16, {}, 8),
        ((MultipleOf(1), 1), 16, {}, 1),
        ((64, MultipleOf(1)), 16, {}, 1),
        ((1, 8), 16, {}, 1),
        (SharedLayout.row_major(8, 64).with_swizzle(Swizzle(3, 2, 3)), 16, {}, 4),
        (SharedLayout((8, 64), ((8,), (8, 8)), (8, 64, 1)), 8, {}, 8),
    ],
)
def test_vector_width(memory, bits, options, expected):
    assert vector_width(ROW, memory, bits, **options) == expected


def test_vector_width_of_sizes_that_do_not_divide():
    # Slots 0..5 are columns 0..5, but in memory columns come in threes, 8 apart.
    tile = SharedLayout((4, 6), ((4,), (2, 3)), (16, 8, 1))
    assert vector_width(spatial(4, 1) * local(1, 6), tile, 8) == 1
    assert vector_width(local(2, 2), (2, 1), 8) == 4
    # A thread's step of 4 columns wraps round the threes: nothing is known of its address.
    assert vector_width(spatial(4, 3) * local(1, 2), SharedLayout.row_major(4, 6), 8) == 2
    assert vector_width(spatial(4, 3) * local(1, 2), tile, 8) == 1


def test_wrong_questions_are_refused():
    with pytest.raises(LayoutError):
        vector_width(ROW, (1,), 8)
    with pytest.raises(LayoutError):
        vector_width(ROW, SharedLayout.row_major(64, 8), 8)
    with pytest.raises(LayoutError):
        contiguous_run(ROW, 2)
    with pytest.raises(LayoutError, match="cannot move 4 elements at once"):
        bank_conflicts(ROW, SharedLayout.column_major(8, 64), 16, 4)
    with pytest.raises(LayoutError):
        classify(spatial(4), spatial(8))
    with pytest.raises(LayoutError):
        classify(spatial(4), spatial(4), 0)
    with pytest.raises(LayoutError):
        _ = classify(spatial(4), replicated(4) * local(4)).slots
    with pytest.raises(LayoutError):
        to_linear(spatial(3))
    with pytest.raises(LayoutError):
        from_linear(LinearLayout((4,), BitMatrix(2, (1, 3)), BitMatrix(2, ())))
    with pytest.raises(LayoutError):
        from_linear(LinearLayout((4,), BitMatrix(2, (1, 2)), BitMatrix(2, (0,))))
    with pytest.raises(LayoutError):
        BitMatrix(2, (1, 1)).inverse()
    with pytest.raises(LayoutError):
        BitMatrix(2, (1, 1)) @ BitMatrix(3, (1,))
    assert shared_to_linear(SharedLayout.strided((4, 4), (3, 1))) is None
    assert shared_to_linear(SharedLayout.strided((4, 4), (2, 1))) is None


@pytest.mark.parametrize("columns", [16, 32, 64, 128, 256])
def test_a_half_precision_tile_without_conflicts(columns):
    """Written 16 bytes a thread, read by ldmatrix and by single fragments: one swizzle for all."""
    tile = SharedLayout.row_major(64, columns)
    write = spatial(512 // columns, columns // 8) * local(1, 8)
    write = local(64 // write.shape[0], 1) * write if write.shape[0] <= 64 else write
    rows = local(4, columns // 16) * MATRIX_COPY["ldmatrix.x4"].rows
    fragment = local(4, columns // 16) * MATRIX["mma.m16n8k16.f16"].a
    found = find_swizzle(tile, [write, (rows, 8), fragment], 16)
    assert [bank_conflicts(f, found, 16) for f in (write, rows, fragment)] == [1, 1, 1]
    assert vector_width(write, found, 16) == 8
    # Without one, the rows of 16-byte units that ldmatrix reads collide.
    assert bank_conflicts(rows, tile, 16) == min(8, columns // 8)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("columns", [32, 64])
def test_a_transposed_read_without_conflicts(bits, columns):
    """A warp writes rows and reads columns, element by element."""
    tile = SharedLayout.row_major(32, columns)
    by_row = local(32, columns // 32) * spatial(1, 32)
    by_column = local(1, columns) * spatial(32, 1)
    found = find_swizzle(tile, [(by_row, 1), (by_column, 1)], bits)
    assert bank_conflicts(by_column, tile, bits, 1) == min(32, columns * bits // 32)
    assert [bank_conflicts(f, found, bits, 1) for f in (by_row, by_column)] == [1, 1]
    # With the place of the bits chosen too, the vectors can be as wide as both sides allow.
    found = exchange_tile(by_row, by_column, bits)
    assert [bank_conflicts(f, found, bits) for f in (by_row, by_column)] == [1, 1]


ATOM = MATRIX["mma.m16n8k16.f16"]


@pytest.mark.parametrize("bits", [4, 8, 16, 32, 64])
@pytest.mark.parametrize(
    ("src", "dst"),
    [
        (spatial(2, 2) * local(2, 4) * ATOM.c, spatial(4, 1) * local(1, 4) * ATOM.a),
        (local(4, 8) * ATOM.c, spatial(8, 4) * local(8, 16)),
        (local(4, 8) * ATOM.c, local(4, 1) * spatial(2, 16) * local(8, 4)),
        (local(4, 4) * ATOM.a, local(4, 8) * ATOM.b),
        (replicated(2) * spatial(32, 1) * local(1, 32), spatial(8, 8) * local(4, 4)),
        (reduce(ATOM.c, 1), replicated(2) * spatial(16)),
    ],
)
def test_an_exchange_has_no_conflicts(src, dst, bits):
    tile = exchange_tile(src, dst, bits)
    assert [bank_conflicts(f, tile, bits) for f in (src, dst)] == [1, 1]
    assert tile.is_injective and tile.cosize == tile.size


def test_an_exchange_of_odd_sizes_is_the_better_of_two():
    src, dst = spatial(3, 8) * local(8, 1), spatial(24, 1) * local(1, 8)
    tile = exchange_tile(src, dst, 16)
    assert tile.is_injective and tile.with_swizzle(None) == SharedLayout.row_major(24, 8)
    with pytest.raises(LayoutError):
        exchange_tile(src, spatial(24), 16)


@pytest.mark.parametrize(
    ("text", "shape", "bits"),
    [
        ("spatial(6,4)*local(1,8)", (6, 32), 16),
        ("spatial(24,1)*local(1,12)", (24, 12), 32),
        ("spatial(48)*local(3)", (144,), 16),
        ("spatial(5,3)*local(3,2)", (15, 6), 8),
    ],
)
def test_conflicts_and_swizzles_of_odd_sizes(text, shape, bits):
    layout, tile = parse_layout(text), SharedLayout.row_major(*shape)
    width = vector_width(layout, tile, bits)
    before = bank_conflicts(layout, tile, bits)
    assert before == counted_conflicts(layout, tile, bits, width)
    found = find_swizzle(tile, [layout], bits)
    assert bank_conflicts(layout, found, bits) <= before
    assert found.is_injective


def test_padding_instead_of_a_swizzle():
    read = local(1, 32) * spatial(32, 1)
    assert bank_conflicts(read, SharedLayout.row_major(32, 32), 32, 1) == 32
    assert bank_conflicts(read, SharedLayout.strided((32, 32), (33, 1)), 32) == 1


def test_broadcast_of_one_word_is_free():
    assert bank_conflicts(replicated(32) * local(1, 64), SharedLayout.row_major(1, 64), 32) == 1


@pytest.mark.parametrize(
    ("src", "dst", "warp", "kind", "shuffles"),
    [
        ("local(2,2)*spatial(8,4)", "column_local(2,2)*spatial(8,4)", 32, "RENAME", 0),
        ("replicated(4)*local(4)", "spatial(4)", 32, "SHUFFLE", 0),
        ("spatial(4)", "replicated(4)*local(4)", 32, "SHUFFLE", 4),
        ("spatial(4,2)*local(2,1)", "spatial(8,1)*local(1,2)", 32, "SHUFFLE", 4),
        ("spatial(64)*local(2)", "local(2)*spatial(64)", 32, "SHARED", 0),
        ("spatial(64)*local(2)", "local(2)*spatial(64)", 64, "SHUFFLE", 4),
        ("replicated(2)*spatial(32)", "replicated(2)*column_spatial(32)", 32, "RENAME", 0),
        # The second warp holds it all too: no need to cross.
        ("replicated(2)*spatial(8,4)", "replicated(2)*column_spatial(8,4)", 32, "SHUFFLE", 1),
        ("spatial(8,4)*replicated(2)", "replicated(2)*spatial(8,4)", 32, "SHARED", 0),
        # Twelve threads, sizes that share no refinement.
        ("spatial(2)*local(3)", "local(3)*spatial(2)", 32, "SHUFFLE", 6),
        ("spatial(12)*local(5)", "local(5)*spatial(12)", 4, "SHARED", 0),
    ],
)
def test_conversions(src, dst, warp, kind, shuffles):
    found = classify(parse_layout(src), parse_layout(dst), warp)
    assert (found.kind, found.num_shuffles) == (ConversionKind[kind], shuffles)


def test_rename_gives_the_slots():
    found = classify(local(2, 3) * spatial(5, 1), column_local(2, 3) * spatial(5, 1))
    assert found.kind is ConversionKind.RENAME and found.slots == (0, 3, 1, 4, 2, 5)
    assert found.sources(1) == tuple((t, 3) for t in range(5))
