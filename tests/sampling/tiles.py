"""Samples of products, reductions, and of what makes and reshapes tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from tests.sampling.common import (
    BOOL,
    Array,
    Buffer,
    Near,
    Sample,
    Values,
    increasing,
    kernel,
    numbers,
    ordinary,
    total,
    wrapped,
)
from tilus import dtypes
from tilus.dtypes import DType


def moved(
    opcode: str,
    shape: tuple[int, ...],
    body: str,
    fn: Callable[[Array], Any],
    t: DType = dtypes.f32,
    out: DType | None = None,
    variant: str = "",
    make: Any = ordinary,
    **more: Any,
) -> Sample:
    """A whole tile %x goes in, `body` makes %y of it, which comes out."""
    out = out or t
    want = np.asarray(fn(np.zeros(shape)).values if more.get("ulps") else fn(np.zeros(shape)))
    zeros, back = ", ".join("0" * len(shape)), ", ".join("0" * want.ndim or "0")
    text = kernel(
        f"%x_p: ptr[{t}], %y_p: ptr[{out}]",
        f"""%x_v = global_view(%x_p, dtype={t}, shape={list(shape)})
        %y_v = global_view(%y_p, dtype={out}, shape={list(want.shape) or [1]})
        %x = load_global(%x_v, offsets=[{zeros}], shape={list(shape)})
        {body}
        store_global(%y_v, %y, offsets=[{back}])""",
        opcode,
    )

    def reference(x_p: Array, y_p: Array) -> Values:
        y = fn(x_p)
        if isinstance(y, Near):
            return {"y_p": Near(y.values.reshape(y_p.shape), y.scale.reshape(y_p.shape))}
        return {"y_p": np.asarray(y).reshape(y_p.shape)}

    buffers = {"x_p": Buffer(t, shape, make), "y_p": Buffer(out, want.shape or (1,))}
    return Sample(opcode, variant, text, buffers, reference, **more)


def products() -> Iterator[Sample]:
    f, i = dtypes.f32, dtypes.i32
    e4, e5 = dtypes.f8e4m3, dtypes.f8e5m2
    kinds = [
        (dtypes.f16, None, f),
        (dtypes.bf16, None, f),
        (f, None, f),
        (dtypes.f64, None, dtypes.f64),
    ]
    kinds += [
        (dtypes.i8, None, i),
        (dtypes.u8, dtypes.i8, i),
        (dtypes.u4, dtypes.i4, i),
        (e4, e5, f),
    ]
    for a, second, c in kinds:
        b = second or a
        for m, n, k, with_acc in ((32, 16, 32, True), (6, 10, 5, False)):
            # rows of whole bytes
            views = f"""%A = global_view(%a, dtype={a}, shape=[{m}, {k}], strides=[32, 1])
                %B = global_view(%b, dtype={b}, shape=[{k}, {n}], strides=[32, 1])
                %C = global_view(%c, dtype={c}, shape=[{m}, {n}])
                %x = load_global(%A, offsets=[0, 0], shape=[{m}, {k}])
                %y = load_global(%B, offsets=[0, 0], shape=[{k}, {n}])"""
            acc = (
                f"%z = load_global(%C, offsets=[0, 0], shape=[{m}, {n}])\nsync()"
                if with_acc
                else ""
            )
            yield Sample(
                "dot",
                f"{a}-{m}x{n}x{k}",
                kernel(
                    f"%a: ptr[{a}], %b: ptr[{b}], %c: ptr[{c}]",
                    f"""{views}
                    {acc}
                    %w = dot(%x, %y{", %z" if with_acc else ""})
                    store_global(%C, %w, offsets=[0, 0])""",
                ),
                {
                    "a": Buffer(a, (m, 32), ordinary),
                    "b": Buffer(b, (k, 32), ordinary),
                    "c": Buffer(c, (m, n), ordinary if with_acc else None),
                },
                lambda a, b, c, k=k, n=n: product(a[:, :k], b[:, :n], c),
                ulps=k if c.is_float else 0,
            )


def product(a: Array, b: Array, c: Array) -> Values:
    x, y, z = (torch.from_numpy(np.array(t)).double().numpy() for t in (a, b, c))
    if c.dtype.kind == "i":
        return {"c": z + x @ y}
    return {"c": Near(z + x @ y, np.abs(z) + np.abs(x) @ np.abs(y))}


def along() -> Iterator[Sample]:
    f, i = dtypes.f32, dtypes.i32
    for dim in (0, 1, -1):
        yield moved(
            "reduce",
            (8, 12),
            f'%y = reduce(%x, dim={dim}, op="sum")',
            lambda x, d=dim: total(x, d),
            ulps=12,
            variant=f"sum-{dim}",
        )
    yield moved(
        "reduce",
        (2, 3, 4),
        '%y = reduce(%x, dim=1, op="sum", keepdims=true)',
        lambda x: x.astype(int).sum(1, keepdims=True),
        i,
        variant="sum-keepdims",
    )
    yield moved(
        "reduce",
        (128,),
        '%y = reduce(%x, dim=0, op="sum")',
        lambda x: total(x, 0),
        dtypes.f16,
        ulps=4,
        variant="sum-to-scalar",
    )
    yield moved(
        "reduce",
        (8, 16),
        '%y = reduce(%x, dim=1, op="sum")',
        lambda x: wrapped(x.astype(object).sum(1), dtypes.i8),
        dtypes.i8,
        make=numbers,
        variant="sum-i8",
    )
    for op, nan in (("max", np.nanmax), ("min", np.nanmin)):
        for t in (f, dtypes.bf16, dtypes.i4):
            yield moved(
                "reduce",
                (16, 8),
                f'%y = reduce(%x, dim=0, op="{op}")',
                lambda x, fn=nan: fn(x, axis=0),
                t,
                make=numbers,
                variant=f"{op}-{t}",
            )
    for op, fn in (("any", np.any), ("all", np.all)):
        yield moved(
            "reduce",
            (8, 2),
            f'%y = reduce(%x, dim=1, op="{op}")',
            lambda x, fn=fn: fn(x, 1),
            BOOL,
            make=numbers,
            variant=op,
        )
    for t in (f, dtypes.u8):
        yield moved(
            "reduce",
            (6, 20),
            '%y = reduce(%x, dim=1, op="argmax")',
            lambda x: [list(r).index(np.nanmax(r)) for r in x],
            t,
            i,
            make=numbers,
            variant=f"argmax-{t}",
        )
    for op, fn in (("add", np.cumsum), ("mul", np.cumprod)):
        yield moved(
            "scan",
            (4, 16),
            f'%y = scan(%x, dim=1, op="{op}")',
            lambda x, fn=fn: wrapped(fn(x.astype(object), 1), dtypes.i16),
            dtypes.i16,
            variant=f"{op}-i16",
        )
    yield moved(
        "scan",
        (4, 16),
        '%y = scan(%x, dim=-1, op="add")',
        lambda x: Near(np.cumsum(x.astype(float), 1), np.cumsum(np.abs(x), 1, float)),
        ulps=16,
        variant="add-f32",
    )
    for op, fn in (("max", torch.cummax), ("min", torch.cummin)):
        yield moved(
            "scan",
            (16, 4),
            f'%y = scan(%x, dim=0, op="{op}", reverse=true)',
            lambda x, fn=fn: fn(torch.from_numpy(x[::-1].copy()), 0)[0].numpy()[::-1],
            variant=f"{op}-reverse",
        )


def shapes() -> Iterator[Sample]:
    t4, i = dtypes.u4, dtypes.i32
    for to in ((128,), (4, 32), (2, 4, 16), (64, 2), (16, 8)):
        yield moved(
            "reshape",
            (16, 8),
            f"%y = reshape(%x, shape={list(to)})",
            lambda x, s=to: x.reshape(s),
            variant="x".join(map(str, to)),
        )
    yield moved(
        "reshape",
        (4, 6),
        "%y = reshape(%x, shape=[3, 8])",
        lambda x: x.reshape(3, 8),
        i,
        variant="unaligned",
    )
    yield moved("transpose", (8, 16), "%y = transpose(%x)", lambda x: x.T)
    yield moved(
        "transpose",
        (2, 8, 8),
        "%y = transpose(%x, dims=[1, 2, 0])",
        lambda x: x.transpose(1, 2, 0),
        t4,
        variant="u4",
        make=increasing,
    )
    yield moved(
        "broadcast",
        (1, 8),
        "%y = broadcast(%x, shape=[6, 8])",
        lambda x: np.repeat(x, 6, 0),
        dtypes.f16,
        variant="rows",
    )
    yield moved(
        "broadcast",
        (8,),
        "%y = broadcast(%x, shape=[2, 3, 8])",
        lambda x: np.tile(x, (2, 3, 1)),
        t4,
        variant="front",
        make=increasing,
    )
    for dim in (0, 1, -1):
        yield moved(
            "expand_dims",
            (8, 8),
            f"%y = expand_dims(%x, dim={dim})",
            lambda x, d=dim: np.expand_dims(x, d),
            t4,
            variant=str(dim),
            make=increasing,
        )
    for shape, dim in (((1, 8, 4), 0), ((8, 1), 1), ((8, 1, 4), -2)):
        yield moved(
            "squeeze",
            shape,
            f"%y = squeeze(%x, dim={dim})",
            lambda x, d=dim: np.squeeze(x, d),
            i,
            variant=str(dim),
        )
    yield moved(
        "slice", (16, 16), "%y = slice(%x, starts=[4, 8], shape=[8, 4])", lambda x: x[4:12, 8:12]
    )
    yield moved(
        "slice",
        (8, 32),
        "%y = slice(%x, starts=[3, 0], shape=[1, 32])",
        lambda x: x[3:4],
        t4,
        variant="row-u4",
        make=increasing,
    )
    yield moved(
        "concat",
        (4, 8),
        "%z = add(%x, %x)\n%y = concat(tiles=[%x, %z, %x], dim=0)",
        lambda x: np.concatenate([x, x + x, x]),
    )
    body = "%z = slice(%x, starts=[0, 0], shape=[6, 2])\n%y = concat(tiles=[%x, %z], dim=-1)"
    yield moved(
        "concat", (6, 8), body, lambda x: np.concatenate([x, x[:, :2]], 1), i, variant="uneven"
    )
    body = """%a = convert_layout(%x, layout=spatial(4,8)*local(2,1))
        %y = convert_layout(%a, layout=column_spatial(8,4)*local(1,2))"""
    yield moved("convert_layout", (8, 8), body, lambda x: x, threads=(32,))
    body = """%a = convert_layout(%x, layout=replicated(4)*column_local(2,3)*spatial(4,2))
        %y = neg(%a)"""
    yield moved(
        "convert_layout",
        (8, 6),
        body,
        lambda x: -x,
        dtypes.i8,
        threads=(32,),
        variant="replicated-i8",
    )
    body = """%a = convert_layout(%x, layout=spatial(32)*local(3))
        %y = view(%a, dtype=u3, layout=spatial(32)*local(8))"""
    yield moved(
        "view",
        (96,),
        body,
        lambda x: bits(x.reshape(32, 3), 8, 3).reshape(-1),
        dtypes.u8,
        dtypes.u3,
        make=increasing,
        variant="u8-u3",
        threads=(32,),
    )
    body = """%a = convert_layout(%x, layout=spatial(4)*local(8))
        %b = view(%a, dtype=i16, layout=local(2)*spatial(4)*local(4))
        %y = convert_layout(%b, layout=spatial(4)*local(8))"""
    yield moved(
        "view",
        (32,),
        body,
        strided_halves,
        dtypes.f16,
        dtypes.i16,
        make=numbers,
        variant="f16-i16",
        threads=(4,),
    )


def bits(x: Array, have: int, want: int) -> Array:
    """Each row's bits, least significant first, cut into numbers of another width."""
    rows = []
    for row in x.astype(object):
        stream = sum(int(v) << (have * i) for i, v in enumerate(row))
        rows.append(
            [stream >> (want * i) & ((1 << want) - 1) for i in range(len(row) * have // want)]
        )
    return np.array(rows)


def strided_halves(x: Array) -> Array:
    """Thread t of 4 holds x[8t : 8t+8]; seen as local(2)*spatial(4)*local(4)."""
    out = np.zeros(32, np.int16)
    codes = x.astype(np.float16).view(np.int16)
    for t in range(4):
        for s in range(8):
            out[(s // 4) * 16 + t * 4 + s % 4] = codes[8 * t + s]
    return out


def made() -> Iterator[Sample]:
    for t, value, want in (
        (dtypes.f16, "0.1", np.float16(0.1)),
        (dtypes.i4, "-3", -3),
        (dtypes.u8, "300", 44),
        (dtypes.f4e2m1, "%v", 2.0),
        (BOOL, "true", True),
        (dtypes.f32, "nan", np.nan),
    ):
        yield Sample(
            "full",
            str(t),
            kernel(
                f"%out: ptr[{t}], %v: f32",
                f"""%O = global_view(%out, dtype={t}, shape=[4, 16])
                %y = full(dtype={t}, shape=[4, 16], value={value})
                store_global(%O, %y, offsets=[0, 0])""",
            ),
            {"out": Buffer(t, (4, 16))},
            lambda out, v, w=want: {"out": np.full(out.shape, w)},
            {"v": 1.9},
        )
    table = [-1.0, -0.25, 0.5, 1.0]
    for t in (dtypes.f16, dtypes.nf4, dtypes.i4):
        values = [round(v) for v in table] if t.is_integer else table
        yield Sample(
            "constant",
            str(t),
            kernel(
                f"%out: ptr[{t}]",
                f"""%O = global_view(%out, dtype={t}, shape=[4])
                %y = constant(dtype={t}, values={values})
                store_global(%O, %y, offsets=[0])""",
            ),
            {"out": Buffer(t, (4,))},
            lambda out, t=t, v=values: {"out": t.decode(t.encode(v))},
        )
    for t, start in ((dtypes.i32, -5), (dtypes.u4, 0), (dtypes.i64, 1 << 40)):
        yield Sample(
            "arange",
            str(t),
            kernel(
                f"%out: ptr[{t}]",
                f"""%O = global_view(%out, dtype={t}, shape=[16])
                %y = arange(start={start}, stop={start + 16}, dtype={t})
                store_global(%O, %y, offsets=[0])""",
            ),
            {"out": Buffer(t, (16,))},
            lambda out, s=start: {"out": np.array(range(s, s + 16))},
        )
    for t, given in ((dtypes.u8, [3, 255, 0, 7]), (dtypes.f4e2m1, [0.5, -6.0, 100.0])):
        want = {"f4e2m1": [0.5, -6.0, 6.0]}.get(str(t), given)
        yield Sample(
            "constant",
            str(t),
            kernel(
                f"%out: ptr[{t}]",
                f"""%O = global_view(%out, dtype={t}, shape=[{len(given)}])
                %y = constant(dtype={t}, values={[float(n) for n in given]})
                store_global(%O, %y, offsets=[0])""",
            ),
            {"out": Buffer(t, (len(given),))},
            lambda out, w=want: {"out": np.array(w)},
        )
    yield Sample(
        "item",
        "",
        kernel(
            "%x: ptr[i32], %out: ptr[i32]",
            """%X = global_view(%x, dtype=i32, shape=[4])
            %O = global_view(%out, dtype=i32, shape=[8])
            %t = load_global(%X, offsets=[block_idx(0)], shape=[1])
            %n = item(%t)
            %y = full(dtype=i32, shape=[2], value=%n * %n)
            store_global(%O, %y, offsets=[block_idx(0) * 2])""",
        ),
        {"x": Buffer(dtypes.i32, (4,), ordinary), "out": Buffer(dtypes.i32, (8,))},
        lambda x, out: {"out": np.repeat(x * x, 2)},
        grid=(4,),
    )
