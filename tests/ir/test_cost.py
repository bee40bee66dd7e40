"""The cost model: what it counts in a block, what it assumes, and how blocks add up."""

import numpy as np
import pytest
import torch

import tilus
from tilus import f32, i32, ptr
from tilus.ir import cost as model
from tilus.ir.expr import Value, apply
from tilus.ir.types import ScalarType


@tilus.jit
def triangle(x: ptr[f32], n: i32, LOOP: tilus.constexpr, BLOCK: tilus.constexpr):
    X = tilus.global_view(x, f32, (n, BLOCK))
    row = tilus.block_idx()
    total = tilus.zeros(f32, (BLOCK,))
    if LOOP == "before":
        for i in range(row):
            total = total + tilus.load_global(X, (i, 0), (BLOCK,))
    elif LOOP == "all":
        for i in range(n):
            total = total + tilus.load_global(X, (i, 0), (BLOCK,))
    elif LOOP == "nested":
        for i in range(n):
            for j in range(i):
                total = total + tilus.load_global(X, (j, 0), (BLOCK,))
    elif LOOP == "while":
        while n > 10:
            total = total + tilus.load_global(X, (row, 0), (BLOCK,))
    elif LOOP == "early":
        if row >= n // 4:
            return
        total = tilus.load_global(X, (row, 0), (BLOCK,))
    elif LOOP == "either":
        if tilus.item(tilus.load_global(X, (0, 0), (1,))) > 0.0:
            total = tilus.load_global(X, (row, 0), (BLOCK,))
        else:
            total = total * 2.0 + 1.0
    tilus.store_global(X, total, (row, 0))


@pytest.mark.parametrize(
    ("loop", "loads", "adds", "steps"),
    [
        ("none", 0, 0, 0),
        ("all", 101, 101, 101),
        ("before", 50, 50, 50),  # of the block in the middle
        ("nested", 101 * 50, 101 * 50, 101 * 51),
        ("while", model.UNKNOWN, model.UNKNOWN, model.UNKNOWN),
        ("early", -1, 0, 0),  # the middle block returns before it stores
        ("either", 1 + 1 / 64, 0, 0),
    ],
)
def test_the_work_of_a_block(loop, loads, adds, steps):
    f = triangle.trace({"LOOP": loop, "BLOCK": 64})
    work = model.block_cost(f, {"n": 101, "x": torch.zeros(3)}, (101,))
    assert work.nbytes == pytest.approx((loads + 1) * 64 * 4)
    assert work.operations == adds * 64
    assert work.steps == steps


def test_what_is_not_known_is_assumed():
    f = triangle.trace({"LOOP": "all", "BLOCK": 64})
    assert model.block_cost(f, {}, (1,)).steps == model.UNKNOWN
    assert model.block_cost(f, {"n": np.int32(7)}, (1,)).steps == 7


@tilus.jit
def branches(x: ptr[f32], n: i32, m: i32, BLOCK: tilus.constexpr):
    X = tilus.global_view(x, f32, (n, BLOCK))
    if n > 100 or m > 0:
        count = n // 2
    else:
        count = m
    for i in range(count):
        tilus.store_global(X, tilus.load_global(X, (i, 0), (BLOCK,)), (i, 0))


@pytest.mark.parametrize(
    ("known", "count"),
    [
        ({"n": 102, "m": 0}, 51),
        ({"n": 102}, 51),  # one side of the `or` decides
        ({"n": 50, "m": 7}, 25),
        ({"n": 50, "m": -7}, 0),
        ({"n": 50}, model.UNKNOWN),
    ],
)
def test_branches_that_are_known(known, count):
    work = model.block_cost(branches.trace({"BLOCK": 64}), known, (1,))
    assert (work.steps, work.nbytes) == (count, count * 512)


def test_values():
    n, m = Value(ScalarType(tilus.i32), "n"), Value(ScalarType(tilus.i32), "m")
    block = model._Block({n: 6}, (1, 1, 1))
    assert block.value(apply("select", apply("gt", n, 5), n, m)) == 6
    assert block.value(apply("select", apply("gt", n, 6), n, m)) is None
    assert block.value(apply("select", apply("gt", m, 6), n, n)) is None
    assert block.value(apply("and", apply("gt", m, 6), apply("gt", n, 6))) is False
    assert block.value(apply("and", apply("gt", m, 6), apply("gt", n, 5))) is None
    assert block.value(apply("or", apply("gt", m, 6), apply("gt", n, 5))) is True
    assert block.value(apply("floordiv", n, apply("sub", n, 6))) is None
    assert block.value(apply("mul", n, 2**30)) == -(2**31)


@tilus.jit
def product(a: ptr[tilus.f16], c: ptr[f32], k: i32, BM: tilus.constexpr, BK: tilus.constexpr):
    A, C = tilus.global_view(a, tilus.f16, (BM, k)), tilus.global_view(c, f32, (BM, BM))
    s = tilus.allocate_shared(tilus.f16, (BM, BK))
    acc = tilus.zeros(f32, (BM, BM))
    for i in tilus.range(0, k, BK, unroll=2):
        tilus.copy_async(s, A, (0, i))
        tilus.copy_async_commit_group()
        tilus.copy_async_wait_group(0)
        t = tilus.load_shared(s)
        acc = tilus.dot(t, t.T, acc)
    tilus.atomic_add(C, acc, (0, 0))


def test_products_and_copies_count():
    work = model.block_cost(product.trace({"BM": 16, "BK": 32}), {"k": 128}, (1,))
    assert work.operations == 16 * 16 * 128
    assert work.nbytes == 16 * 128 * 2 + 2 * 16 * 16 * 4  # an addition reads and writes
    assert work.steps == 4 / 2


def test_blocks_come_in_waves():
    f = triangle.trace({"LOOP": "none", "BLOCK": 64})
    one = model.estimate(f, {"n": 9}, (1, 1, 1))
    assert one > model.BLOCK
    assert model.estimate(f, {"n": 9}, (8,), threads=4) == pytest.approx(2 * one)
    assert model.estimate(f, {"n": 9}, (3, 3), threads=4) == pytest.approx(3 * one)
    assert model.estimate(f, {"n": 9}, (0, 5)) == 0.0
