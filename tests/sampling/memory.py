"""Samples of memory, order and debugging."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

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
)
from tilus import dtypes
from tilus.dtypes import DType


def memory() -> Iterator[Sample]:
    f, h, u4 = dtypes.f32, dtypes.f16, dtypes.u4
    yield Sample(
        "global_view",
        "strided",
        kernel(
            "%x: ptr[f32], %out: ptr[f32], %n: i32",
            """%X = global_view(%x, dtype=f32, shape=[4, 6], strides=[1, %n], offset=%n * 2)
            %O = global_view(%out, dtype=f32, shape=[4, 6])
            %t = load_global(%X, offsets=[0, 0], shape=[4, 6])
            store_global(%O, %t, offsets=[0, 0])""",
        ),
        {"x": Buffer(f, (8, 5), ordinary), "out": Buffer(f, (4, 6))},
        lambda x, out, n: {"out": x[2:, :4].T},
        {"n": 5},
    )
    yield Sample(
        "global_view",
        "u4-odd-offset",
        kernel(
            "%x: ptr[u4], %out: ptr[u4]",
            """%X = global_view(%x, dtype=u4, shape=[3, 7], strides=[9, 1], offset=1)
            %O = global_view(%out, dtype=u4, shape=[3, 8])
            %t = load_global(%X, offsets=[0, 0], shape=[3, 8], other=5)
            store_global(%O, %t, offsets=[0, 0])""",
        ),
        {"x": Buffer(u4, (30,), numbers), "out": Buffer(u4, (3, 8))},
        lambda x, out: {"out": np.array([[*x[1 + 9 * r : 8 + 9 * r], 5] for r in range(3)])},
    )
    for t in (f, h, dtypes.i8, dtypes.u6, dtypes.f4e2m1, BOOL):
        yield edges("load_global", t)
        yield edges("store_global", t)
    yield Sample(
        "load_global",
        "dims",
        kernel(
            "%x: ptr[f32], %out: ptr[f32]",
            """%X = global_view(%x, dtype=f32, shape=[4, 5, 6])
            %O = global_view(%out, dtype=f32, shape=[6, 4])
            %t = load_global(%X, offsets=[0, 3, 0], shape=[6, 4], dims=[2, 0])
            store_global(%O, %t, offsets=[0, 0])""",
        ),
        {"x": Buffer(f, (4, 5, 6), ordinary), "out": Buffer(f, (6, 4))},
        lambda x, out: {"out": x[:, 3].T},
    )
    yield Sample(
        "prefetch",
        "",
        kernel(
            "%x: ptr[f32], %out: ptr[f32]",
            """%X = global_view(%x, dtype=f32, shape=[64])
            %O = global_view(%out, dtype=f32, shape=[64])
            prefetch(%X, offsets=[0], shape=[64])
            prefetch(%X, offsets=[0], shape=[64], level=2)
            %t = load_global(%X, offsets=[0], shape=[64])
            store_global(%O, %t, offsets=[0])""",
        ),
        {"x": Buffer(f, (64,), ordinary), "out": Buffer(f, (64,))},
        lambda x, out: {"out": x},
    )
    yield from atomics()
    for t in (h, dtypes.u8, u4, dtypes.i64):
        yield shared("allocate_shared", t, "")
    yield shared("store_shared", h, ", layout=shared((16,16), strides=(1,16))", "column-major")
    yield shared(
        "load_shared", h, ", layout=shared((16,16), strides=(16,1), swizzle=(2,2,3))", "swizzled"
    )
    yield Sample(
        "load_shared",
        "offsets",
        kernel(
            "%x: ptr[f32], %out: ptr[f32]",
            """%X = global_view(%x, dtype=f32, shape=[2, 8, 8])
            %O = global_view(%out, dtype=f32, shape=[8, 4])
            %t = load_global(%X, offsets=[0, 0, 0], shape=[2, 8, 8])
            %s = allocate_shared(dtype=f32, shape=[2, 8, 8])
            store_shared(%s, %t)
            %y = load_shared(%s, offsets=[block_idx(0), 0, 4], shape=[8, 4], dims=[1, 2])
            store_global(%O, %y, offsets=[0, 0])""",
        ),
        {"x": Buffer(f, (2, 8, 8), ordinary), "out": Buffer(f, (8, 4))},
        lambda x, out: {"out": x[0, :, 4:]},
    )
    yield Sample(
        "store_shared",
        "offsets",
        kernel(
            "%x: ptr[u8], %out: ptr[u8]",
            """%X = global_view(%x, dtype=u8, shape=[4, 16])
            %O = global_view(%out, dtype=u8, shape=[4, 4, 16])
            %s = allocate_shared(dtype=u8, shape=[4, 4, 16])
            for %i < 4 {
              %t = load_global(%X, offsets=[0, 0], shape=[4, 16])
              %k = full(dtype=u8, shape=[4, 16], value=%i)
              %u = add(%t, %k)
              store_shared(%s, %u, offsets=[3 - %i, 0, 0])
            }
            %y = load_shared(%s)
            store_global(%O, %y, offsets=[0, 0, 0])""",
        ),
        {"x": Buffer(dtypes.u8, (4, 16), numbers), "out": Buffer(dtypes.u8, (4, 4, 16))},
        lambda x, out: {"out": np.stack([x + np.uint8(3 - i) for i in range(4)])},
    )
    yield from copies()


def edges(opcode: str, t: DType) -> Sample:
    """A tile that hangs over every edge of a view; what is masked reads as 1."""
    text = kernel(
        f"%x: ptr[{t}], %out: ptr[{t}]",
        f"""%X = global_view(%x, dtype={t}, shape=[5, 16])
        %O = global_view(%out, dtype={t}, shape=[6, 32])
        %t = load_global(%X, offsets=[-2, -8], shape=[8, 32], other=1)
        store_global(%O, %t, offsets=[-1, 0])""",
    )

    def reference(x: Array, out: Array) -> Values:
        wide = np.full((8, 32), 1, x.dtype)
        wide[2:7, 8:24] = x
        return {"out": wide[1:7]}

    buffers = {"x": Buffer(t, (5, 16), numbers), "out": Buffer(t, (6, 32))}
    return Sample(opcode, str(t), text, buffers, reference)


def atomics() -> Iterator[Sample]:
    for t in (dtypes.i32, dtypes.u64, dtypes.f32, dtypes.f16):
        text = kernel(
            f"%x: ptr[{t}], %out: ptr[{t}]",
            f"""%X = global_view(%x, dtype={t}, shape=[4, 16])
            %O = global_view(%out, dtype={t}, shape=[4, 16], strides=[0, 1])
            %t = load_global(%X, offsets=[0, 0], shape=[4, 16])
            atomic_add(%O, %t, offsets=[0, 0])""",
        )
        yield Sample(
            "atomic_add",
            str(t),
            text,
            {"x": Buffer(t, (4, 16), ordinary), "out": Buffer(t, (16,), ordinary)},
            lambda x, out: {
                "out": out + 3 * x.sum(0)
                if x.dtype.kind != "f"
                else Near(out + 3 * x.astype(float).sum(0), np.abs(out) + 3 * np.abs(x).sum(0))
            },
            grid=(3,),
            ulps=12 if t.is_float else 0,
        )


def shared(opcode: str, t: DType, layout: str, variant: str | None = None) -> Sample:
    """A transposition through shared memory."""
    text = kernel(
        f"%x: ptr[{t}], %out: ptr[{t}]",
        f"""%X = global_view(%x, dtype={t}, shape=[16, 16])
        %O = global_view(%out, dtype={t}, shape=[16, 16])
        %t = load_global(%X, offsets=[0, 0], shape=[16, 16])
        %s = allocate_shared(dtype={t}, shape=[16, 16]{layout})
        store_shared(%s, %t)
        %u = load_shared(%s)
        %y = transpose(%u)
        store_global(%O, %y, offsets=[0, 0])""",
    )
    buffers = {"x": Buffer(t, (16, 16), numbers), "out": Buffer(t, (16, 16))}
    return Sample(opcode, variant or str(t), text, buffers, lambda x, out: {"out": x.T})


RING = """%X = global_view(%x, dtype=f16, shape=[%n, 64])
    %O = global_view(%out, dtype=f16, shape=[%n, 64])
    %s = allocate_shared(dtype=f16, shape=[3, 4, 64])
    copy_async(%s, %X, offsets=[0, 0], dst_offsets=[0, 0, 0], shape=[4, 64])
    copy_async_commit_group()
    copy_async(%s, %X, offsets=[4, 0], dst_offsets=[1, 0, 0], shape=[4, 64])
    copy_async_commit_group()
    for %i < (%n + 3) // 4 {
      copy_async(%s, %X, offsets=[(%i + 2) * 4, 0], dst_offsets=[(%i + 2) % 3, 0, 0], shape=[4, 64])
      copy_async_commit_group()
      copy_async_wait_group(n=2)
      %t = load_shared(%s, offsets=[%i % 3, 0, 0], shape=[4, 64])
      %y = neg(%t)
      store_global(%O, %y, offsets=[%i * 4, 0])
    }
    copy_async_wait_group(n=0)"""


def copies() -> Iterator[Sample]:
    h = dtypes.f16
    ring = {"x": Buffer(h, (22, 64), ordinary), "out": Buffer(h, (22, 64))}
    for opcode in ("copy_async", "copy_async_commit_group", "copy_async_wait_group"):
        yield Sample(
            opcode,
            "ring",
            kernel("%x: ptr[f16] divisible 16, %out: ptr[f16], %n: i32", RING),
            ring,
            lambda x, out, n: {"out": -x},
            {"n": 22},
        )
    yield Sample(
        "copy_async",
        "masked-u8",
        kernel(
            "%x: ptr[u8], %out: ptr[u8]",
            """%X = global_view(%x, dtype=u8, shape=[5, 16])
            %O = global_view(%out, dtype=u8, shape=[8, 16])
            %s = allocate_shared(dtype=u8, shape=[8, 16])
            copy_async(%s, %X, offsets=[-1, 0])
            copy_async_commit_group()
            copy_async_wait_group()
            %y = load_shared(%s)
            store_global(%O, %y, offsets=[0, 0])""",
        ),
        {"x": Buffer(dtypes.u8, (5, 16), numbers), "out": Buffer(dtypes.u8, (8, 16), numbers)},
        lambda x, out: {"out": np.concatenate([np.zeros((1, 16)), x, np.zeros((2, 16))])},
    )


def order() -> Iterator[Sample]:
    f, i = dtypes.f32, dtypes.i32
    yield Sample(
        "sync",
        "",
        kernel(
            "%x: ptr[f32]",
            """%X = global_view(%x, dtype=f32, shape=[64])
            %R = global_view(%x, dtype=f32, shape=[64], strides=[-1], offset=63)
            %t = load_global(%X, offsets=[0], shape=[64])
            sync()
            store_global(%R, %t, offsets=[0])""",
        ),
        {"x": Buffer(f, (64,), ordinary)},
        lambda x: {"x": x[::-1]},
    )
    chain = """%X = global_view(%x, dtype=f32, shape=[grid_dim(0), 32])
        %O = global_view(%out, dtype=f32, shape=[32])
        %S = global_view(%sem, dtype=i32, shape=[1])
        let %b = block_idx(0)
        %t = load_global(%X, offsets=[%b, 0], shape=[32])
        semaphore_acquire(%S, offsets=[0], value=%b)
        %u = load_global(%O, offsets=[0], shape=[32])
        sync()
        %y = add(%t, %u)
        store_global(%O, %y, offsets=[0])
        fence()
        semaphore_release(%S, offsets=[0], value=select(%b + 1 == grid_dim(0), 0, %b + 1))"""
    for opcode in ("semaphore_acquire", "semaphore_release", "fence"):
        yield Sample(
            opcode,
            "chain",
            kernel("%x: ptr[f32], %out: ptr[f32], %sem: ptr[i32]", chain),
            {"x": Buffer(f, (5, 32), ordinary), "out": Buffer(f, (32,)), "sem": Buffer(i, (1,))},
            lambda x, out, sem: {"out": total(x, 0)},
            grid=(5,),
            ulps=5,
        )
    yield Sample(
        "print_tensor",
        "",
        kernel(
            "%x: ptr[i32], %n: i32",
            """%X = global_view(%x, dtype=i32, shape=[2, 3])
            %t = load_global(%X, offsets=[0, 0], shape=[2, 3])
            print_tensor(%t)
            print_tensor(x=%n * 2, message="twice")""",
        ),
        {"x": Buffer(i, (2, 3), increasing)},
        lambda x, n: {},
        {"n": 21},
        grid=(2,),
        prints="".join(
            f"[block {b}] t: i32[2,3] =\n[[0 1 2]\n [3 4 5]]\n[block {b}] twice: i32 = 42\n"
            for b in (0, 1)
        ),
    )
    yield Sample(
        "device_assert",
        "holds",
        kernel(
            "%x: ptr[i32], %n: i32",
            """%X = global_view(%x, dtype=i32, shape=[8])
            %t = load_global(%X, offsets=[0], shape=[8])
            %z = full(dtype=i32, shape=[8], value=8)
            %c = lt(%t, %z)
            device_assert(%c, message="less than 8")
            device_assert(cond=%n > 0)""",
        ),
        {"x": Buffer(i, (8,), increasing)},
        lambda x, n: {},
        {"n": 1},
    )
    yield Sample(
        "breakpoint",
        "not-reached",
        kernel(
            "%x: ptr[i32], %n: i32",
            """%X = global_view(%x, dtype=i32, shape=[8])
            %t = load_global(%X, offsets=[0], shape=[8])
            if %n > 0 {
              breakpoint(names=["t", "n"], values=[%t, %n])
            }""",
        ),
        {"x": Buffer(i, (8,), increasing)},
        lambda x, n: {},
        {"n": 0},
    )
