"""Barriers stand where they must: take any one away, and the interpreter traps."""

from dataclasses import replace

import numpy as np
import pytest

from tests.sampling.common import aligned
from tilus.errors import Trap
from tilus.ir.interpreter import run
from tilus.ir.parser import parse
from tilus.ir.passes import lower
from tilus.ir.program import Assign, Function, Seq, regions, walk

PARAMS = "%x: ptr[f32] divisible 128, %y: ptr[f32] divisible 128, %n: i32"
HEAD = f"""kernel @k({PARAMS}) threads THREADS {{
  %X = global_view(%x, dtype=f32, shape=[%n, 32])
  %Y = global_view(%y, dtype=f32, shape=[%n, 32])
"""

# Kernels over x [n, 32], and what y must be.
KERNELS = {
    "transpose": (
        """%s = allocate_shared(dtype=f32, shape=[32, 32])
        %t = load_global(%X, offsets=[0, 0], shape=[32, 32])
        store_shared(%s, %t)
        %u = load_shared(%s, layout=local(32,1)*replicated(2)*spatial(1,32))
        %v = transpose(%u)
        store_global(%Y, %v, offsets=[0, 0])""",
        lambda x: np.concatenate([x[:32].T, 0 * x[32:]]),
    ),
    "single buffer": (
        """%s = allocate_shared(dtype=f32, shape=[8, 32])
        for %i < %n // 8 {
          %t = load_global(%X, offsets=[%i * 8, 0], shape=[8, 32])
          store_shared(%s, %t)
          %u = load_shared(%s, layout=COLUMNS)
          store_global(%Y, %u, offsets=[%i * 8, 0])
        }""",
        lambda x: x,
    ),
    "async single buffer": (
        """%s = allocate_shared(dtype=f32, shape=[8, 32])
        for %i < %n // 8 {
          copy_async(%s, %X, offsets=[%i * 8, 0])
          copy_async_commit_group()
          copy_async_wait_group(n=0)
          %u = load_shared(%s, layout=COLUMNS)
          store_global(%Y, %u, offsets=[%i * 8, 0])
        }""",
        lambda x: x,
    ),
    "double buffer": (
        """%s = allocate_shared(dtype=f32, shape=[2, 8, 32])
        copy_async(%s, %X, offsets=[0, 0], dst_offsets=[0, 0, 0], shape=[8, 32])
        copy_async_commit_group()
        for %i < %n // 8 {
          let %j = %i + 1
          copy_async(%s, %X, offsets=[%j * 8, 0], dst_offsets=[%j % 2, 0, 0], shape=[8, 32])
          copy_async_commit_group()
          copy_async_wait_group(n=1)
          %u = load_shared(%s, offsets=[%i % 2, 0, 0], shape=[8, 32], layout=COLUMNS)
          store_global(%Y, %u, offsets=[%i * 8, 0])
        }""",
        lambda x: x,
    ),
    "ring of four": (
        """%s = allocate_shared(dtype=f32, shape=[4, 8, 32])
        for %j < 3 {
          copy_async(%s, %X, offsets=[%j * 8, 0], dst_offsets=[%j, 0, 0], shape=[8, 32])
          copy_async_commit_group()
        }
        for %i < %n // 8 {
          copy_async_wait_group(n=2)
          %u = load_shared(%s, offsets=[%i % 4, 0, 0], shape=[8, 32], layout=COLUMNS)
          let %k = %i + 3
          copy_async(%s, %X, offsets=[%k * 8, 0], dst_offsets=[%k % 4, 0, 0], shape=[8, 32])
          copy_async_commit_group()
          store_global(%Y, %u, offsets=[%i * 8, 0])
        }""",
        lambda x: x,
    ),
    "two waits": (
        """%s = allocate_shared(dtype=f32, shape=[8, 32])
        %q = allocate_shared(dtype=f32, shape=[8, 32])
        copy_async(%s, %X, offsets=[0, 0])
        copy_async_commit_group()
        copy_async(%q, %X, offsets=[8, 0])
        copy_async_commit_group()
        copy_async_wait_group(n=1)
        %u = load_shared(%s, layout=COLUMNS)
        store_global(%Y, %u, offsets=[0, 0])
        copy_async_wait_group(n=0)
        %v = load_shared(%q, layout=COLUMNS)
        store_global(%Y, %v, offsets=[8, 0])""",
        lambda x: np.concatenate([x[:16], 0 * x[16:]]),
    ),
    "reduction": (
        """%s = allocate_shared(dtype=f32, shape=[32])
        %t = load_global(%X, offsets=[0, 0], shape=[32, 32])
        %a = reduce(%t, dim=1, op="max")
        store_shared(%s, %a)
        for %i < 5 {
          let %half = 16 >> %i
          %l = load_shared(%s, offsets=[0], shape=[32])
          %h = arange(start=0, stop=32)
          %m = full(dtype=i32, shape=[32], value=%half)
          %c = lt(%h, %m)
          %r = load_shared(%s, offsets=[%half], shape=[1])
          %w = broadcast(%r, shape=[32])
          %o = maximum(%l, %w)
          %p = where(%c, %o, %l)
          store_shared(%s, %p)
        }
        %z = load_shared(%s, offsets=[0], shape=[1])
        %q = broadcast(%z, shape=[1, 32])
        store_global(%Y, %q, offsets=[0, 0])""",
        None,
    ),
    "two loops": (
        """%s = allocate_shared(dtype=f32, shape=[4, 8, 32])
        for %i < 4 {
          %t = load_global(%X, offsets=[%i * 8, 0], shape=[8, 32])
          store_shared(%s, %t, offsets=[%i, 0, 0])
        }
        for %j < 4 {
          %u = load_shared(%s, offsets=[3 - %j, 0, 0], shape=[8, 32], layout=COLUMNS)
          store_global(%Y, %u, offsets=[%j * 8, 0])
        }""",
        lambda x: np.concatenate([x[:32].reshape(4, 8, 32)[::-1].reshape(32, 32), 0 * x[32:]]),
    ),
    "loop of two loops": (
        """%s = allocate_shared(dtype=f32, shape=[2, 8, 32])
        for %k < 2 {
          for %i < 2 {
            %t = load_global(%X, offsets=[%k * 16 + %i * 8, 0], shape=[8, 32])
            store_shared(%s, %t, offsets=[%i, 0, 0])
          }
          for %j < 2 {
            %u = load_shared(%s, offsets=[%j, 0, 0], shape=[8, 32], layout=COLUMNS)
            store_global(%Y, %u, offsets=[%k * 16 + %j * 8, 0])
          }
        }""",
        lambda x: np.concatenate([x[:32], 0 * x[32:]]),
    ),
    "if in a loop": (
        """%s = allocate_shared(dtype=f32, shape=[8, 32])
        for %i < %n // 8 {
          if %i % 2 == 0 {
            %t = load_global(%X, offsets=[%i * 8, 0], shape=[8, 32])
            store_shared(%s, %t)
          }
          %u = load_shared(%s, layout=COLUMNS)
          store_global(%Y, %u, offsets=[%i * 8, 0])
        }""",
        lambda x: np.repeat(x.reshape(-1, 2, 8, 32)[:, :1], 2, axis=1).reshape(x.shape),
    ),
    "leaving early": (
        """%s = allocate_shared(dtype=f32, shape=[8, 32])
        for %i < %n // 8 {
          %t = load_global(%X, offsets=[%i * 8, 0], shape=[8, 32])
          store_shared(%s, %t)
          if %i == 1 { continue }
          %u = load_shared(%s, layout=COLUMNS)
          store_global(%Y, %u, offsets=[%i * 8, 0])
          if %i == 3 { break }
        }
        %v = load_shared(%s, layout=COLUMNS)
        store_global(%Y, %v, offsets=[8, 0])""",
        lambda x: np.concatenate([x[:8], x[24:32], x[16:32], 0 * x[32:]]),
    ),
    "in and out of place": (  # each thread meets only itself: nothing to insert but before the end
        """%s = allocate_shared(dtype=f32, shape=[8, 32])
        %t = load_global(%X, offsets=[0, 0], shape=[8, 32], layout=ROWS)
        store_shared(%s, %t)
        for %i < 4 {
          %a = load_shared(%s, layout=ROWS)
          %b = add(%a, %t)
          store_shared(%s, %b)
        }
        %u = load_shared(%s, layout=COLUMNS)
        store_global(%Y, %u, offsets=[0, 0])""",
        lambda x: np.concatenate([x[:8] * 5, 0 * x[8:]]),
    ),
    "whose place does not move": (
        """%s = allocate_shared(dtype=f32, shape=[2, 8, 32])
        let %h = %n % 2
        %t = load_global(%X, offsets=[0, 0], shape=[8, 32], layout=ROWS)
        store_shared(%s, %t, offsets=[%h, 0, 0])
        for %i < 4 {
          let %at = %h + 0
          %a = load_shared(%s, offsets=[%at, 0, 0], shape=[8, 32], layout=ROWS)
          %b = add(%a, %t)
          store_shared(%s, %b, offsets=[%at, 0, 0])
        }
        %u = load_shared(%s, offsets=[%h, 0, 0], shape=[8, 32], layout=COLUMNS)
        store_global(%Y, %u, offsets=[0, 0])""",
        lambda x: np.concatenate([x[:8] * 5, 0 * x[8:]]),
    ),
    "overlapping parts": (  # of one layout, but not in whole steps
        """%s = allocate_shared(dtype=f32, shape=[24, 32])
        %z = full(dtype=f32, shape=[24, 32], value=0.0, layout=WHOLE)
        store_shared(%s, %z)
        sync()
        for %i < 2 {
          %t = load_global(%X, offsets=[%i * 8, 0], shape=[8, 32], layout=ROWS)
          store_shared(%s, %t, offsets=[%i * 8, 0])
        }
        %u = load_shared(%s, offsets=[4, 0], shape=[8, 32], layout=ROWS)
        store_global(%Y, %u, offsets=[0, 0])""",
        lambda x: np.concatenate([x[4:12], 0 * x[8:]]),
    ),
    "while": (
        """%s = allocate_shared(dtype=f32, shape=[8, 32])
        while %i < 3 carry (%i = 0) -> (%last: i32) {
          %t = load_global(%X, offsets=[%i * 8, 0], shape=[8, 32])
          store_shared(%s, %t)
          %u = load_shared(%s, layout=COLUMNS)
          store_global(%Y, %u, offsets=[%i * 8, 0])
          yield %i + 1
        }""",
        lambda x: np.concatenate([x[:24], 0 * x[24:]]),
    ),
    "allocated in the loop": (
        """for %i < 3 {
          %s = allocate_shared(dtype=f32, shape=[8, 32])
          %t = load_global(%X, offsets=[%i * 8, 0], shape=[8, 32])
          store_shared(%s, %t)
          %u = load_shared(%s, layout=COLUMNS)
          store_global(%Y, %u, offsets=[%i * 8, 0])
        }""",
        lambda x: np.concatenate([x[:24], 0 * x[24:]]),
    ),
    "small and replicated": (
        """%s = allocate_shared(dtype=f32, shape=[32])
        %t = load_global(%X, offsets=[0, 0], shape=[32])
        store_shared(%s, %t)
        %a = load_shared(%s)
        store_shared(%s, %a)
        %u = load_shared(%s, layout=replicated(THREADS)*local(32))
        %v = expand_dims(%u, dim=0)
        store_global(%Y, %v, offsets=[0, 0])""",
        lambda x: np.concatenate([x[:1], 0 * x[1:]]),
    ),
    "through global memory": (
        """%t = load_global(%X, offsets=[0, 0], shape=[8, 32], layout=ROWS)
        store_global(%Y, %t, offsets=[0, 0])
        %u = load_global(%Y, offsets=[0, 0], shape=[8, 32], layout=COLUMNS)
        %v = add(%u, %u)
        store_global(%Y, %v, offsets=[0, 0])""",
        lambda x: np.concatenate([x[:8] * 2, 0 * x[8:]]),
    ),
    "two views of one pointer": (
        """%Z = global_view(%y, dtype=f32, shape=[32, 32], strides=[1, 32])
        %t = load_global(%X, offsets=[0, 0], shape=[32, 32])
        store_global(%Y, %t, offsets=[0, 0])
        %u = load_global(%Z, offsets=[0, 0], shape=[32, 32])
        store_global(%Y, %u, offsets=[0, 0])""",
        lambda x: np.concatenate([x[:32].T, 0 * x[32:]]),
    ),
    "sum in a loop": (  # each row is added to the one before, in place
        """%a = load_global(%X, offsets=[0, 0], shape=[1, 32])
        store_global(%Y, %a, offsets=[0, 0])
        for %i < %n - 1 {
          %b = load_global(%Y, offsets=[%i, 0], shape=[1, 32], layout=COLUMN)
          %c = load_global(%X, offsets=[%i + 1, 0], shape=[1, 32])
          %d = add(%b, %c)
          store_global(%Y, %d, offsets=[%i + 1, 0])
        }""",
        lambda x: np.cumsum(x, 0, dtype=np.float32),
    ),
    "nibbles": (  # offsets that differ by an odd number of nibbles share a byte
        """%s = allocate_shared(dtype=u4, shape=[18])
        %t = full(dtype=u4, shape=[9], value=3)
        %o = full(dtype=u4, shape=[9], value=5, layout=replicated(THREADS)*local(9))
        store_shared(%s, %t, offsets=[9])
        store_shared(%s, %o, offsets=[0])
        %u = load_shared(%s, offsets=[0], shape=[16])
        %v = cast(%u, dtype=f32)
        %w = reshape(%v, shape=[1, 16])
        store_global(%Y, %w, offsets=[0, 0])""",
        lambda x: np.concatenate([[[5] * 9 + [3] * 7 + [0] * 16], 0 * x[1:]]),
    ),
}  # fmt: skip

ORDER = ("sync", "copy_async_commit_group", "copy_async_wait_group")


def lowered(name: str, num_threads: int = 64) -> Function:
    body = KERNELS[name][0].replace("ROWS", "spatial(8,8)*local(1,4)")
    body = body.replace("COLUMNS", "replicated(2)*local(8,1)*spatial(1,32)")
    body = body.replace("WHOLE", "replicated(64)*local(24,32)")
    body = body.replace("COLUMN", "spatial(1,32)*replicated(2)")
    return lower(parse((HEAD + body + "\n}").replace("THREADS", str(num_threads))))


def result(f: Function, n: int = 48) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).normal(size=(n, 32)).astype(np.float32)
    args = {"x": aligned(x.view(np.uint8).reshape(-1)), "y": aligned(np.zeros(n * 128, np.uint8))}
    run(f, {**args, "n": n}, (1,))
    return x, args["y"].view(np.float32).reshape(n, 32)


def without(s: Seq, gone: Assign) -> Seq:
    """The sequence without one statement, wherever it is."""
    out = []
    for inner in s.stmts:
        if inner is gone:
            continue
        fields = {
            n: without(getattr(inner, n), gone)
            for n in ("then", "orelse", "body")
            if hasattr(inner, n)
        }
        out.append(replace(inner, **fields) if regions(inner) else inner)
    return Seq(tuple(out))


@pytest.mark.parametrize("name", KERNELS)
def test_result(name: str) -> None:
    x, y = result(lowered(name))
    want = KERNELS[name][1]
    if want is not None:
        np.testing.assert_array_equal(y, want(x))


@pytest.mark.parametrize("name", KERNELS)
def test_none_can_be_left_out(name: str) -> None:
    f = lowered(name)
    order = [s for s in walk(f.body) if isinstance(s, Assign) and s.inst.opcode in ORDER]
    assert any(s.inst.opcode == "sync" for s in order)
    for gone in order:
        with pytest.raises(Trap) as caught:
            for n in (48, 16):
                result(f.with_body(without(f.body, gone)), n)
            pytest.fail(f"{gone.inst} is not needed in\n{f}")
        said = caught.value.first.message
        assert "race" in said if gone.inst.opcode == "sync" else "in flight" in said


HOW_MANY = {
    "transpose": 1, "single buffer": 2, "double buffer": 2, "ring of four": 1, "two waits": 2,
    "two loops": 1, "loop of two loops": 2, "in and out of place": 1,
    "whose place does not move": 1,
}  # fmt: skip


@pytest.mark.parametrize(("name", "syncs"), HOW_MANY.items())
def test_how_many(name: str, syncs: int) -> None:
    assert str(lowered(name)).count("sync()") == syncs


def test_what_each_thread_does_to_its_own_needs_none() -> None:
    body = """for %i < %n // 8 {
        %t = load_global(%X, offsets=[%i * 8, 0], shape=[8, 32])
        %u = neg(%t)
        store_global(%X, %u, offsets=[%i * 8, 0])
        atomic_add(%Y, %u, offsets=[0, 0])
        atomic_add(%Y, %u, offsets=[%i, 0])
      }"""
    f = lower(parse((HEAD + body + "\n}").replace("THREADS", "64")))
    assert "sync()" not in str(f)
    result(f)


def test_one_thread_needs_none() -> None:
    body = KERNELS["single buffer"][0].replace(", layout=COLUMNS", "")
    f = lower(parse((HEAD + body + "\n}").replace("THREADS", "1")))
    assert "sync()" not in str(f)
    x, y = result(f)
    np.testing.assert_array_equal(x, y)
