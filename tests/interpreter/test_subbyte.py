"""Elements of 1 to 8 bits in global memory: any offset and stride, ragged edges, empty views."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilus import dtypes
from tilus.dtypes import pack, unpack
from tilus.ir.interpreter import run
from tilus.ir.parser import parse
from tilus.ir.passes import lower

WIDTHS = range(1, 9)


PARAMS = ", ".join(
    ["%x: ptr[uB]", "%y: ptr[uB]"]
    + [f"%{n}: i32" for n in ("rows", "cols", "i", "j", "stride", "step", "offset")]
)


def kernel(text: str, bits: int, threads: int, m: int = 4, n: int = 8):
    whole = f"kernel @k({PARAMS}) threads {threads} {{\n{text}\n}}".replace("uB", f"u{bits}")
    return lower(
        parse(whole.replace("M", str(m)).replace("N", str(n)).replace("ALL", str(threads)))
    )


VIEW = "[%rows, %cols], strides=[%stride, %step], offset=%offset"
LOAD = f"""%X = global_view(%x, dtype=uB, shape={VIEW})
  %Y = global_view(%y, dtype=uB, shape=[M, N])
  %t = load_global(%X, offsets=[%i, %j], shape=[M, N], other=1)
  store_global(%Y, %t, offsets=[0, 0])"""

STORE = f"""%X = global_view(%x, dtype=uB, shape=[M, N])
  %Y = global_view(%y, dtype=uB, shape={VIEW})
  %t = load_global(%X, offsets=[0, 0], shape=[M, N], layout=replicated(ALL)*local(M,N))
  store_global(%Y, %t, offsets=[%i, %j])"""


@st.composite
def places(draw):
    """A view of some memory, and where a tile lies in it."""
    rows, cols = draw(st.integers(0, 6)), draw(st.integers(0, 12))
    step = draw(st.integers(1, 3))
    stride = draw(st.integers(max(1, cols * step), cols * step + 5))
    return {
        "rows": rows, "cols": cols, "step": step, "stride": stride,
        "offset": draw(st.integers(0, 9)),
        "i": draw(st.integers(-4, 6)), "j": draw(st.integers(-9, 12)),
    }  # fmt: skip


def inside(at, m: int, n: int):
    """(row, column, element number) of each element of the tile that the view has."""
    for r in range(m):
        for c in range(n):
            i, j = r + at["i"], c + at["j"]
            if 0 <= i < at["rows"] and 0 <= j < at["cols"]:
                yield r, c, at["offset"] + i * at["stride"] + j * at["step"]


@settings(max_examples=150)
@given(places(), st.sampled_from(WIDTHS), st.sampled_from([(4, 8), (3, 5), (1, 16)]),
       st.sampled_from([1, 4, 32]), st.integers(0, 2**32))  # fmt: skip
def test_load(at, bits: int, shape, threads: int, seed: int) -> None:
    m, n = shape
    codes = np.random.default_rng(seed).integers(0, 1 << bits, 200).astype(np.uint8)
    out = np.zeros((m * n * bits + 7) // 8, np.uint8)
    f = kernel(LOAD, bits, threads, m, n)
    run(f, {"x": pack(codes, bits), "y": out, **at}, (1,))
    want = np.ones((m, n), np.uint8)
    for r, c, element in inside(at, m, n):
        want[r, c] = codes[element]
    np.testing.assert_array_equal(unpack(out, bits, m * n).reshape(m, n), want)


@settings(max_examples=150)
@given(places(), st.sampled_from(WIDTHS), st.sampled_from([(4, 8), (3, 5), (1, 16)]),
       st.sampled_from([1, 4, 32]), st.integers(0, 2**32))  # fmt: skip
def test_store(at, bits: int, shape, threads: int, seed: int) -> None:
    """Every thread holds the whole tile, so no byte is torn; what lies between is kept."""
    m, n = shape
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, m * n).astype(np.uint8)
    before = rng.integers(0, 1 << bits, 200).astype(np.uint8)
    out = pack(before, bits)
    f = kernel(STORE, bits, threads, m, n)
    run(f, {"x": pack(codes, bits), "y": out, **at}, (1,))
    want = before.copy()
    for r, c, element in inside(at, m, n):
        want[element] = codes[r * n + c]
    np.testing.assert_array_equal(unpack(out, bits, 200), want)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("threads", [1, 32, 96])
def test_copy_of_a_dense_matrix(bits: int, threads: int) -> None:
    """Tiles of 16 columns, the last ones ragged; layouts are the compiler's choice."""
    rows, cols = 5, 40
    codes = np.random.default_rng(bits).integers(0, 1 << bits, rows * cols).astype(np.uint8)
    out = np.zeros((rows * cols * bits + 7) // 8, np.uint8)
    text = f"""%X = global_view(%x, dtype=u{bits}, shape=[{rows}, {cols}])
      %Y = global_view(%y, dtype=u{bits}, shape=[{rows}, {cols}])
      let %r = block_idx(1) * 4
      let %c = block_idx(0) * 16
      %t = load_global(%X, offsets=[%r, %c], shape=[4, 16])
      store_global(%Y, %t, offsets=[%r, %c])"""
    unused = dict.fromkeys(("rows", "cols", "i", "j", "stride", "step", "offset"), 0)
    run(kernel(text, bits, threads), {"x": pack(codes, bits), "y": out, **unused}, (3, 2))
    np.testing.assert_array_equal(unpack(out, bits, rows * cols), codes)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((16, 6), "column_spatial(16,2)*local(1,3)"),
        ((8, 24), "spatial(8,4)*column_local(1,6)"),
        ((7, 5), "local(7,5)*replicated(32)"),
        ((7, 32), "local(7,1)*spatial(1,32)"),
        ((64,), "local(2)*spatial(32)"),
        ((2, 16, 3), "column_spatial(2,16,1)*local(1,1,3)"),
    ],
)
def test_a_store_gives_each_thread_whole_bytes(bits: int, shape, layout: str) -> None:
    """Whatever layout a tile has (here: neighbours in different threads), a store converts it."""
    n = int(np.prod(shape))
    codes = np.random.default_rng(bits).integers(0, 1 << bits, n).astype(np.uint8)
    out = np.zeros((n * bits + 7) // 8, np.uint8)
    zeros, extents = ", ".join("0" * len(shape)), list(shape)
    text = f"""%X = global_view(%x, dtype=u{bits}, shape={extents})
      %Y = global_view(%y, dtype=u{bits}, shape={extents})
      %t = load_global(%X, offsets=[{zeros}], shape={extents}, layout={layout})
      %s = allocate_shared(dtype=u{bits}, shape={extents})
      store_shared(%s, %t)
      %u = load_shared(%s, layout={layout})
      store_global(%Y, %u, offsets=[{zeros}])"""
    unused = dict.fromkeys(("rows", "cols", "i", "j", "stride", "step", "offset"), 0)
    run(kernel(text, bits, 32), {"x": pack(codes, bits), "y": out, **unused}, (1,))
    np.testing.assert_array_equal(unpack(out, bits, n), codes)


@pytest.mark.parametrize("bits", WIDTHS)
def test_empty_views(bits: int) -> None:
    at = {"rows": 0, "cols": 7, "i": 0, "j": 0, "stride": 1, "step": 1, "offset": 0}
    for extra in ({}, {"rows": 4, "cols": 0}, {"rows": -3}):
        for text in (LOAD, STORE):
            f = kernel(text, bits, 32)
            x, y = np.full(4 * bits, 255, np.uint8), np.full(4 * bits, 255, np.uint8)
            if text is LOAD:
                x = x[:0]
            else:
                y = y[:0]
            run(f, {"x": x, "y": y, **at, **extra}, (1,))
            if text is LOAD:
                assert set(unpack(y, bits, 32)) == {1}


@pytest.mark.parametrize("name", ["i1", "i3", "i7", "f4e2m1", "f6e3m2", "nf4", "f3e1m1"])
def test_values_of_narrow_types_survive(name: str) -> None:
    dtype = dtypes.dtype(name)
    codes = (np.arange(64) % (1 << dtype.bits)).astype(np.uint8)
    out = np.zeros(64 * 4, np.uint8)
    text = f"""kernel @k(%x: ptr[{name}], %y: ptr[f32]) threads 16 {{
      %X = global_view(%x, dtype={name}, shape=[64])
      %Y = global_view(%y, dtype=f32, shape=[64])
      %t = load_global(%X, offsets=[0], shape=[64])
      %u = cast(%t, dtype=f32)
      store_global(%Y, %u, offsets=[0])
    }}"""
    run(lower(parse(text)), [pack(codes, dtype.bits), out], (1,))
    np.testing.assert_array_equal(out.view(np.float32), dtype.decode(codes))
