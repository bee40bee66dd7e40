"""Tiles in kernels: subscripts, broadcasting and mixed operands mean what NumPy means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilus
from tilus import f16, f32, i32, ptr

SOURCE = np.arange(4 * 6 * 2, dtype=np.float32).reshape(4, 6, 2) - 7


@tilus.jit
def apply_to_tile(
    x: ptr[f32], out: ptr[f32], fn: tilus.constexpr, shape: tilus.constexpr, want: tilus.constexpr
):
    t = tilus.load_global(tilus.global_view(x, f32, shape), (0,) * len(shape), shape)
    r = fn(t)
    assert r.shape == want, f"{r.shape}"
    view = tilus.global_view(out, f32, want)
    tilus.store_global(view, r, (0,) * len(want))


def same_as_numpy(fn, source=SOURCE, kernel_fn=None):
    want = fn(source)
    out = np.zeros(want.shape, np.float32)
    apply_to_tile.interpret(
        source.copy(), out, kernel_fn or fn, source.shape, want.shape, grid=1, num_threads=8
    )
    np.testing.assert_array_equal(out, want)


def part(t, index):
    return t[index]


def whole(t):
    return t[...]


def leading(t):
    return t[1]


def negative(t):
    return t[-1, :, -2]


def stops(t):
    return t[0:3, 2:100, -5:]


def new_dims(t):
    return t[:, None, 3, ..., None]


def mixed(t):
    return t[..., 1][2:4, :-1]


def transposed(t):
    return t.T


def rows_and_columns(t):
    return t[:, :, 0] + t[0, :, 0] - t[:, 0:1, 1] * 2.0


def scalar_operands(t):
    return 1 - t * 2 + t / 4 + -t


def from_lists(t):
    rows = [t[i] * float(i) for i in range(4)]
    return sum(rows)


@pytest.mark.parametrize(
    "fn",
    [whole, leading, negative, stops, new_dims, mixed, transposed, rows_and_columns,
     scalar_operands, from_lists],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_like_numpy(fn):
    same_as_numpy(fn)


@st.composite
def subscripts(draw):
    def entry(extent):
        if draw(st.booleans()):
            return draw(st.integers(-extent, extent - 1))
        a, b = sorted(draw(st.integers(0, extent)) for _ in range(2))
        start = draw(st.sampled_from([a, a - extent if a else None]))
        stop = draw(st.sampled_from([b, b - extent if b < extent else None, b + 5]))
        return slice(start, stop)

    index = [entry(n) for n in SOURCE.shape[: draw(st.integers(1, 3))]]
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, len(index))), None)
    if draw(st.booleans()):
        index.append(...)
    return tuple(index)


@given(subscripts())
def test_any_subscript(index):
    want = SOURCE[index]
    if want.size == 0 or want.ndim == 0:
        return

    class Fn:
        def __call__(self, t):
            return part(t, index)

        def __hash__(self):
            return hash(repr(index))

    same_as_numpy(Fn())


@tilus.jit
def elements(x: ptr[f32], out: ptr[f32], n: i32, s: f32):
    t = tilus.load_global(tilus.global_view(x, f32, (4,)), 0, 4)
    view = tilus.global_view(out, f32, (8, 4))
    total = t[0] + t[-1] * s
    tilus.store_global(view, tilus.full(f32, 4, total), (0, 0))
    tilus.store_global(view, tilus.where(t > s, t, 0.0), (1, 0))
    tilus.store_global(view, tilus.maximum(t, s) + tilus.minimum(2, t), (2, 0))
    tilus.store_global(view, abs(t) ** 2, (3, 0))
    tilus.store_global(view, tilus.where(n > 3, t, -t), (4, 0))
    tilus.store_global(view, tilus.cast((t > 0) & (t < s) | ~(t != 5.0), f32), (5, 0))
    best = tilus.argmax(t, 0)
    tilus.store_global(view, tilus.full(f32, 4, tilus.cast(tilus.item(best), f32)), (6, 0))
    tilus.store_global(view, tilus.cumsum(t, -1), (7, 0))


def test_operations():
    x = np.array([3, -2, 5, 1], np.float32)
    out = np.zeros((8, 4), np.float32)
    elements.interpret(x, out, 4, 2.0, grid=1, num_warps=1)
    want = [
        [5] * 4,
        np.where(x > 2, x, 0),
        np.maximum(x, 2) + np.minimum(x, 2),
        x * x,
        x,
        ((x > 0) & (x < 2)) | (x == 5),
        [2] * 4,
        np.cumsum(x),
    ]
    np.testing.assert_array_equal(out, np.array(want, np.float32))


@tilus.jit
def carries(x: ptr[f32], out: ptr[f32], n: i32):
    view = tilus.global_view(x, f32, (n, 4))
    pair = (tilus.zeros(f32, 4), tilus.full(f32, 4, -1e30))
    for i in range(n):
        row = tilus.load_global(view, (i, 0), (4,))
        if i % 2 == 1:
            row = row * 2.0
        total, best = pair
        pair = (total + row, tilus.maximum(best, row))
    total, best = pair
    tilus.store_global(tilus.global_view(out, f32, (2, 4)), total, (0, 0))
    tilus.store_global(tilus.global_view(out, f32, (2, 4)), best, (1, 0))


@pytest.mark.parametrize("n", [0, 1, 2, 5, 16])
def test_tiles_carried_in_a_tuple(n):
    x = np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32)
    out = np.zeros((2, 4), np.float32)
    carries.interpret(x, out, n, grid=1, num_warps=1)
    scaled = x * np.where(np.arange(n) % 2, 2, 1).astype(np.float32)[:, None]
    total = np.zeros(4, np.float32)
    for row in scaled:
        total = total + row
    np.testing.assert_array_equal(out[0], total)
    np.testing.assert_array_equal(out[1], scaled.max(0, initial=-1e30))


@tilus.jit
def halves(x: ptr[f16], out: ptr[f16], BM: tilus.constexpr = 8):
    t = tilus.load_global(tilus.global_view(x, f16, (16, 8)), (tilus.block_idx() * BM, 0), (BM, 8))
    t = t.to(f32) @ tilus.transpose(t).to(f32)
    tilus.store_global(
        tilus.global_view(out, f16, (16, 8)), t.to("f16"), (tilus.block_idx() * BM, 0)
    )


def test_matrix_operator_and_methods():
    x = np.random.default_rng(0).integers(-3, 4, (16, 8)).astype(np.float16)
    out = np.zeros((16, 8), np.float16)
    halves[2](x, out)
    np.testing.assert_array_equal(out, np.concatenate([x[:8] @ x[:8].T, x[8:] @ x[8:].T]))
