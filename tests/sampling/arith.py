"""Samples of elementwise instructions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tests.sampling.common import (
    BOOL,
    TORCH,
    Array,
    Buffer,
    Sample,
    Values,
    counts,
    increasing,
    kernel,
    native,
    nonzero,
    numbers,
    ordinary,
    precise,
    python,
)
from tilus import dtypes
from tilus.dtypes import DType

ROWS, COLUMNS, BLOCK = 3, 50, 24  # blocks of [2, 24]: rows and columns are both ragged


def pointwise(
    opcode: str,
    inputs: dict[str, DType],
    out: DType,
    fn: Callable[..., Array],
    make: Any = numbers,
    call: str | None = None,
    variant: str | None = None,
    **more: Any,
) -> Sample:
    """out = opcode(inputs), over a ragged matrix in four blocks."""
    types = {**inputs, "out": out}
    # rows of whole bytes, whatever the width
    views = "\n".join(
        f"%{n}_v = global_view(%{n}, dtype={t}, shape=[{ROWS}, {COLUMNS}], strides=[56, 1])"
        for n, t in types.items()
    )
    loads = "\n".join(
        f"%{n}_t = load_global(%{n}_v, offsets=[%i, %j], shape=[2, {BLOCK}], other=1)"
        for n in inputs
    )
    values = ", ".join(f"%{n}_t" for n in inputs)
    text = kernel(
        ", ".join(f"%{n}: ptr[{t}]" for n, t in types.items()),
        f"""{views}
        let %i = block_idx(1) * 2
        let %j = block_idx(0) * {BLOCK}
        {loads}
        %y = {(call or opcode + "(VALUES)").replace("VALUES", values)}
        store_global(%out_v, %y, offsets=[%i, %j])""",
        opcode,
    )
    makers = make if isinstance(make, dict) else dict.fromkeys(inputs, make)
    buffers = {n: Buffer(t, (ROWS, 56), makers[n]) for n, t in inputs.items()}

    def reference(out: Array, **values: Array) -> Values:
        want = np.array(out)
        want[:, :COLUMNS] = fn(*(values[n][:, :COLUMNS] for n in inputs))
        return {"out": want}

    return Sample(
        opcode,
        variant or str(next(iter(inputs.values()))),
        text,
        {**buffers, "out": Buffer(out, (ROWS, 56))},
        reference,
        grid=(3, 2),
        **more,
    )


FLOATS = (dtypes.f16, dtypes.bf16, dtypes.f32, dtypes.f64)
INTS = (dtypes.i8, dtypes.u8, dtypes.i4, dtypes.u3, dtypes.i16, dtypes.u32, dtypes.i64)


def unary(opcode: str, floats: Any = None, ints: Any = None, ulps: float = 0) -> Iterator[Sample]:
    for t in FLOATS if floats else ():
        yield pointwise(
            opcode, {"x": t}, t, precise(floats) if ulps else native(floats, t), ulps=ulps
        )
    for t in INTS if ints else ():
        yield pointwise(opcode, {"x": t}, t, python(ints, t))


def binary(
    opcode: str, floats: Any = None, ints: Any = None, make: Any = numbers
) -> Iterator[Sample]:
    two = {"a": numbers, "b": make}
    for t in FLOATS if floats else ():
        yield pointwise(opcode, {"a": t, "b": t}, t, native(floats, t), two)
    for t in INTS if ints else ():
        yield pointwise(opcode, {"a": t, "b": t}, t, python(ints, t), two)


def square_root(x: float) -> float:
    """Correctly rounded, which torch's may not be."""
    return math.nan if x < 0 else math.sqrt(x)


def compare(opcode: str, fn: Any, bools: bool = False) -> Iterator[Sample]:
    for t in (
        dtypes.f16,
        dtypes.f32,
        dtypes.i4,
        dtypes.i32,
        dtypes.u64,
        *((BOOL,) if bools else ()),
    ):
        yield pointwise(opcode, {"a": t, "b": t}, BOOL, fn, dict(a=numbers, b=numbers))


def arithmetic() -> Iterator[Sample]:
    yield from unary("neg", torch.neg, lambda x: -x)
    yield from unary("abs", torch.abs, lambda x: abs(x))
    yield from unary("invert", ints=lambda x: ~x)
    yield pointwise("invert", {"x": BOOL}, BOOL, lambda x: ~x)
    for name, fn in (
        ("exp", torch.exp),
        ("exp2", torch.exp2),
        ("log", torch.log),
        ("log2", torch.log2),
        ("rsqrt", torch.rsqrt),
        ("sin", torch.sin),
        ("cos", torch.cos),
        ("tanh", torch.tanh),
        ("erf", torch.special.erf),
        ("sigmoid", torch.sigmoid),
    ):
        yield from unary(name, fn, ulps=4)
    yield from unary("sqrt", lambda x: x.double().apply_(square_root).to(x.dtype))
    for name in ("round", "floor", "ceil", "trunc"):
        yield from unary(name, getattr(torch, name))
    yield from binary("add", torch.add, lambda a, b: a + b)
    yield from binary("sub", torch.sub, lambda a, b: a - b)
    yield from binary("mul", torch.mul, lambda a, b: a * b)
    yield from binary("div", torch.div)
    yield from binary("floordiv", ints=lambda a, b: a // b, make=nonzero)
    yield from binary("mod", ints=lambda a, b: a % b, make=nonzero)
    yield from binary("minimum", torch.fmin, lambda a, b: min(a, b))
    yield from binary("maximum", torch.fmax, lambda a, b: max(a, b))
    for name, op in (("bitand", operator.and_), ("bitor", operator.or_), ("bitxor", operator.xor)):
        yield from binary(name, ints=op)
        yield pointwise(name, {"a": BOOL, "b": BOOL}, BOOL, op)
    yield from binary("shl", ints=lambda a, b: a << b, make=counts)
    yield from binary("shr", ints=lambda a, b: a >> b, make=counts)
    for name in ("eq", "ne"):
        yield from compare(name, getattr(operator, name), bools=True)
    for name in ("lt", "le", "gt", "ge"):
        yield from compare(name, getattr(operator, name))
    for t in (dtypes.f32, dtypes.i4, dtypes.f8e4m3, dtypes.nf4):
        choose = {"cond": BOOL, "a": t, "b": t}
        yield pointwise("where", choose, t, lambda c, a, b: np.where(c, a, b), variant=str(t))
    for t in FLOATS:
        multiply_add = np.vectorize(exact_multiply_add, otypes=[np.float64])
        yield pointwise("fma", dict.fromkeys("abc", t), t, multiply_add, ulps=1)
    yield from casts()
    for index, t in ((dtypes.u4, dtypes.f16), (dtypes.u2, dtypes.i8), (dtypes.u8, dtypes.f32)):
        n = 1 << index.bits
        yield Sample(
            "lookup",
            str(index),
            kernel(
                f"%x: ptr[{index}], %table: ptr[{t}], %out: ptr[{t}]",
                f"""%X = global_view(%x, dtype={index}, shape=[8, 32])
                %T = global_view(%table, dtype={t}, shape=[{n}])
                %O = global_view(%out, dtype={t}, shape=[8, 32])
                %i = load_global(%X, offsets=[0, 0], shape=[8, 32])
                %t = load_global(%T, offsets=[0], shape=[{n}])
                %y = lookup(%i, %t)
                store_global(%O, %y, offsets=[0, 0])""",
            ),
            {
                "x": Buffer(index, (8, 32), increasing),
                "table": Buffer(t, (n,), ordinary),
                "out": Buffer(t, (8, 32)),
            },
            lambda x, table, out: {"out": np.array([table[i] for i in x.flat]).reshape(x.shape)},
        )


def exact_multiply_add(a: float, b: float, c: float) -> float:
    """a * b + c, rounded once to f64."""
    a, b, c = float(a), float(b), float(c)
    if not all(map(math.isfinite, (a, b, c))):
        with np.errstate(all="ignore"):
            return float(np.float64(a) * b + c)
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if not total:
        return a * b + c
    try:
        return float(total)
    except OverflowError:
        return math.inf if total > 0 else -math.inf


def casts() -> Iterator[Sample]:
    """Conversions, against torch, Python's integers, and tables typed by hand."""

    def cast(src: DType, dst: DType, fn: Callable[[Array], Any], make: Any = numbers) -> Sample:
        call = f"cast(VALUES, dtype={dst})"
        return pointwise("cast", {"x": src}, dst, fn, make, call, f"{src}-{dst}")

    def to(dst: DType) -> Callable[[Array], Array]:
        return lambda x: torch.from_numpy(np.array(x)).to(TORCH[dst]).double().numpy()

    def clipped(dst: DType) -> Callable[[Array], Array]:
        def one(x: float) -> int:
            low, high = int(dst.min), int(dst.max)
            return 0 if x != x else low if x < low else high if x > high else int(x)

        return lambda x: np.array([one(float(v)) for v in x.flat], dst.value_dtype).reshape(x.shape)

    f, i = dtypes.f32, dtypes.i32
    yield cast(f, dtypes.f16, to(dtypes.f16))
    yield cast(f, dtypes.bf16, to(dtypes.bf16))
    yield cast(dtypes.f16, f, to(f))
    yield cast(dtypes.f64, f, to(f))
    for src, dst in ((f, i), (f, dtypes.u8), (dtypes.f16, dtypes.i4), (dtypes.f64, dtypes.i64)):
        yield cast(src, dst, clipped(dst))
    for dst in (dtypes.u8, dtypes.i3, dtypes.u5, dtypes.i64, dtypes.u64):
        yield cast(i, dst, python(lambda x: x, dst))
    for src in (dtypes.u1, dtypes.i2, dtypes.u3, dtypes.i4, dtypes.u6, dtypes.i7, dtypes.u8):
        yield cast(src, dtypes.f16, lambda x: x.astype(float))
    yield cast(i, BOOL, lambda x: x != 0)
    yield cast(BOOL, f, lambda x: x.astype(float))
    fp4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    yield cast(
        dtypes.f4e2m1,
        f,
        lambda x: np.where(np.signbit(x), -1, 1) * fp4[np.searchsorted(fp4, np.abs(x))],
    )
    yield cast(
        f, dtypes.f4e2m1, lambda x: np.array([nearest(v, fp4) for v in x.flat]).reshape(x.shape)
    )
    yield cast(dtypes.e8m0, f, lambda x: x.astype(float), increasing)
    e4m3 = torch.float8_e4m3fn
    yield cast(
        f,
        dtypes.f8e4m3,
        lambda x: torch.from_numpy(np.clip(x, -448, 448)).to(e4m3).double().numpy(),
    )


def nearest(x: float, magnitudes: Array) -> float:
    """The nearest entry, the even one of two; beyond the last the last; of NaN 0."""
    if x != x:
        return 0.0
    off = np.abs(magnitudes - min(abs(x), magnitudes[-1]))
    best = [i for i in range(len(magnitudes)) if off[i] == off.min()]
    return float(np.copysign(magnitudes[min(best, key=lambda i: i % 2)], x))
