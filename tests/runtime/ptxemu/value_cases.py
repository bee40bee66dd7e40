"""What the programs about arithmetic compute, in NumPy and in Python's integers and fractions."""

import ml_dtypes
import numpy as np

from tests.runtime.ptxemu import models
from tests.runtime.ptxemu.harness import Case, case

RNG = np.random.default_rng
CORNERS = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 65504.0, 6e-8, -6e-5, 0.1, 3.0]


def pairs(seed, kind):
    """[64, 2] values: corners crossed, then random ones of many sizes."""
    rng = RNG(seed)
    values = rng.standard_normal(128) * 2.0 ** rng.integers(-12, 8, 128)
    values[:24] = rng.permutation(CORNERS * 2)
    return values.astype(kind).reshape(64, 2)


@np.errstate(all="ignore")
def half_results(a, b, kind):
    """What halves.cu and bfloats.cu have in common, rounded from float64 once."""
    x, y = a.astype(np.float64), b.astype(np.float64)

    def round_(v):
        return v.astype(kind)

    fma = models.fma_values(x, y, x, kind)
    relu = models.fma_values(x, y, y, kind).astype(np.float64)
    return [
        round_(x + y),
        round_(x * y),
        fma,
        round_(models.maximum(x, y)),
        round_(models.minimum_nan(x, y)),
        round_(-np.abs(x)),
        round_(np.where(relu <= 0, 0.0, relu)),
    ]


@case
@np.errstate(all="ignore")
def halves():
    a, b = pairs(1, np.float16), pairs(2, np.float16)
    x, y = a.astype(np.float64), b.astype(np.float64)
    i = np.arange(64)
    out = half_results(a, b, np.float16)
    total = np.nan_to_num(x + y, nan=0.0, posinf=1.0, neginf=0.0)
    out.append(np.clip(total, 0, 1).astype(np.float16))
    out.append(np.exp2(x).astype(np.float16))
    out.append(b)
    with np.errstate(over="ignore"):
        ints = (i * 37).astype(np.float16)
    out.append(np.stack([ints, a[:, 0]], axis=1))
    less = np.where(x < y, 0xFFFF, 0).astype(np.uint32)
    every = (x > y).all(axis=1)
    flags = [
        (less[:, 0] | less[:, 1] << 16) ^ every,
        np.array(models.to_integer(x[:, 0], 32)) + np.isnan(y[:, 1]),
    ]
    buffers = {
        "a": a,
        "b": b,
        "out": np.zeros((11, 64, 2), np.float16),
        "flags": np.zeros((2, 64), np.uint32),
    }
    expected = {"out": np.stack(out), "flags": np.stack(flags).astype(np.uint32)}
    return Case(buffers, expected, block=64)


@case
@np.errstate(all="ignore")
def bfloats():
    kind = ml_dtypes.bfloat16
    a, b = pairs(3, kind), pairs(4, kind)
    out = half_results(a, b, kind)
    i = np.arange(64)
    low, high = a[:, 0].astype(np.float32), b[:, 1].astype(np.float32)
    scaled = (low * np.float32(1.01)).astype(np.float32)
    out.append(np.stack([scaled.astype(kind), (high / np.float32(3)).astype(kind)], axis=1))
    cut = (scaled.view(np.uint32) & 0xFFFF0000).view(np.float32).astype(kind)
    out.append(np.stack([cut, (i * 513).astype(kind)], axis=1))
    expected = np.stack(out)
    buffers = {"a": a, "b": b, "out": np.zeros((9, 64, 2), kind)}
    one = Case(buffers, {"out": expected.astype(np.float32)}, block=64)
    return one


@case
def fp8():
    rng = RNG(5)
    x = (rng.standard_normal(128) * 2.0 ** rng.integers(-12, 16, 128)).astype(np.float32)
    x[:12] = CORNERS
    x = x.reshape(64, 2)
    e4, e5 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2

    def codes(values, kind):
        limit = float(ml_dtypes.finfo(kind).max)
        clipped = np.where(np.isnan(values), values, np.clip(values, -limit, limit))
        bits = clipped.astype(kind).view(np.uint8).copy()
        bits[np.isnan(values)] = 0x7F
        return bits

    with np.errstate(over="ignore"):
        half = x.astype(np.float16).astype(np.float32)
    rows = [codes(x, e4), codes(x, e5), codes(half, e4)]
    back = [rows[0].view(e4).astype(np.float16), rows[1].view(e5).astype(np.float16)]
    buffers = {
        "x": x,
        "codes": np.zeros((3, 64, 2), np.uint8),
        "back": np.zeros((2, 64, 2), np.float16),
    }
    return Case(buffers, {"codes": np.stack(rows), "back": np.stack(back)}, block=64)


@case
def integers():
    rng = RNG(6)
    a, b = (rng.integers(0, 1 << 32, 64, np.uint32) for _ in range(2))
    a[:4], b[:4] = [0, 1, 0x80000000, 0xFFFFFFFF], [0x80000000, 0xFFFFFFFF, 0, 0x7FFFFFFF]
    rows = [models.integer_row(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    expected = np.array(rows).T % (1 << 32)
    buffers = {"a": a, "b": b, "out": np.zeros((20, 64), np.uint32)}
    return Case(buffers, {"out": expected.astype(np.uint32)}, block=64)


@case
def wide_integers():
    rng = RNG(7)
    a, b = (rng.integers(0, 1 << 64, 64, np.uint64) for _ in range(2))
    a >>= rng.integers(0, 60, 64, np.uint64)
    a[:3], b[:3] = [0, 1 << 63, (1 << 64) - 1], [1 << 63, (1 << 64) - 1, 5]
    rows = [models.wide_row(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    expected = np.array([[v % (1 << 64) for v in row] for row in rows], np.uint64).T
    buffers = {"a": a, "b": b, "out": np.zeros((12, 64), np.uint64)}
    return Case(buffers, {"out": expected}, block=64)


@case
def float_corners():
    rng = RNG(8)
    tiny = float(np.finfo(np.float32).tiny)
    special = [0.0, -0.0, 1.0, -1.0, tiny, -tiny / 4, 3.4e38, 2**-149, 16777217.0, 0.3, 1 + 2**-23]
    abc = (rng.standard_normal((3, 96)) * 2.0 ** rng.integers(-70, 70, (3, 96))).astype(np.float32)
    for k in range(3):
        abc[k, :33] = rng.permutation(special * 3)
    # A product that is a tie of float32, and something tiny that breaks it.
    abc[:, 90] = [1 + 2**-12, 1 + 2**-12, 2**-80]
    abc[:, 91] = [1 + 2**-12, 1 + 2**-12, -(2**-80)]
    abc[:, 92] = [np.nan, 1.0, 2.0]
    abc[:, 93] = [np.inf, 0.0, -np.inf]
    abc[1, abc[1] == 0] = 2.5
    rows = [models.float_row(*map(np.float32, v)) for v in abc.T]
    expected = np.array([r[0] for r in rows], np.float32).T
    wide = np.array([r[1] for r in rows]).T
    a, b, c = abc.copy()
    buffers = {
        "a": a,
        "b": b,
        "c": c,
        "out": np.zeros((21, 96), np.float32),
        "wide": np.zeros((5, 96)),
    }
    return Case(buffers, {"out": expected, "wide": wide}, block=96)


def exact_sum(x, y, c=None):
    """x @ y.T summed as float64."""
    out = x.astype(np.float64) @ y.astype(np.float64).T
    return out if c is None else out + c


@case
def gemm_f16():
    rng = RNG(20)
    k = 48
    a = rng.integers(-8, 8, (64, k)).astype(np.float16) / 4
    b = rng.integers(-8, 8, (k, 32)).astype(np.float16) / 4
    product = exact_sum(a, b.T)
    buffers = {
        "a": a,
        "b": b,
        "c": np.zeros((64, 32), np.float32),
        "h": np.zeros((64, 32), np.float16),
    }
    expected = {"c": product.astype(np.float32), "h": product.astype(np.float16)}
    return Case(buffers, expected, more=[k])


@case
def gemm_bf16():
    kind = ml_dtypes.bfloat16
    rng = RNG(21)
    a, b = rng.standard_normal((16, 8)).astype(kind), rng.standard_normal((8, 8)).astype(kind)
    c = rng.standard_normal((16, 8)).astype(np.float32)
    out = exact_sum(a, b, c.astype(np.float64)).astype(np.float32)
    buffers = {"a": a, "b": b, "c": c, "out": np.zeros((16, 8), kind)}
    expected = {"c": out, "out": out.astype(kind).astype(np.float32)}
    return Case(buffers, expected, block=32)


def nibbles(codes, signed):
    """Bytes as twice as many values, the low half first."""
    parts = np.stack([codes & 15, codes >> 4], axis=-1).reshape(codes.shape[0], -1).astype(int)
    return (parts ^ 8) - 8 if signed else parts


@case
def gemm_s8():
    rng = RNG(22)
    a, b = (rng.integers(0, 256, (n, 32), np.uint8) for n in (16, 8))
    out = np.zeros((5, 16, 8), np.int64)
    out[0] = exact_sum(a.view(np.int8), b.view(np.int8))
    out[1] = exact_sum(a[:, :16], b[:, :16].view(np.int8))
    out[2] = exact_sum(nibbles(a, True), nibbles(b, False))
    out[3, :8] = exact_sum(a[:8, :16].view(np.int8), b[:, :16])
    out[4] = 0x7FFFFF00 + exact_sum(nibbles(a[:, :16], True), nibbles(b[:, :16], True))
    out[4] = np.minimum(out[4], 0x7FFFFFFF)
    buffers = {"a": a, "b": b, "c": np.zeros((5, 16, 8), np.int32)}
    return Case(buffers, {"c": out.astype(np.int32)}, block=32)


@case
def gemm_tf32():
    rng = RNG(23)
    a, b = (rng.standard_normal((n, 8)).astype(np.float32) for n in (16, 8))

    def away(x):
        """tf32, ties away from zero."""
        return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)

    x, y = away(a), away(b)
    c = np.stack([exact_sum(x, y.T), exact_sum(x[:, :4], y[:4].T)]).astype(np.float32)
    e = exact_sum(a[:8, :4], b[:4].T) + np.tile([1.0, -1.0], 4)
    buffers = {"a": a, "b": b, "c": np.zeros((2, 16, 8), np.float32), "e": np.zeros((8, 8))}
    return Case(buffers, {"c": c, "e": e}, block=32, tolerance=1e-6)


@case
def gemm_fp8():
    rng = RNG(24)
    a = rng.standard_normal((16, 32)).astype(ml_dtypes.float8_e4m3fn)
    b = rng.standard_normal((8, 32)).astype(ml_dtypes.float8_e5m2)
    c = (exact_sum(a, b) + 0.5).astype(np.float32)
    buffers = {"a": a.view(np.uint8), "b": b.view(np.uint8), "c": np.zeros((16, 8), np.float32)}
    return Case(buffers, {"c": c}, block=32)
