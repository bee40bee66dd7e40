"""The IR that kernels become: as printed, as parsed, with names and places."""

from pathlib import Path

import pytest

import tilus
from tests.frontend.kernels import KERNELS, guarded, matmul
from tilus import f16, f32, i32, ptr
from tilus.errors import TilusError, TilusTypeError
from tilus.ir.expr import Const
from tilus.ir.parser import parse
from tilus.ir.program import Assign, If, Let, walk
from tilus.options import options


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__)
def test_golden(kernel, golden):
    golden(f"frontend/{kernel.__name__}.tir", str(kernel.trace({}, 32, {"k": 16}, set())))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__)
def test_the_text_is_the_same_program(kernel):
    f = kernel.trace({}, 64)
    assert parse(str(f)) == f


def test_every_statement_has_the_place_of_its_expression():
    lines = Path(__file__).with_name("kernels.py").read_text().splitlines()
    for s in walk(matmul.trace({}, 32).body):
        if isinstance(s, (Assign, Let)):
            span = s.span
            text = lines[span.line - 1][span.col : span.end_col]
            if isinstance(s, Assign) and s.inst.opcode == "load_global":
                assert text.startswith("tilus.load_global(") and text.endswith(")")
            if isinstance(s, Let) and s.var.name == "bm":
                assert text == "tilus.block_idx(0) * BM"


def test_specialisation():
    f = matmul.trace({}, 32, {"a": 16, "k": 16}, {"m"})
    assert [p.divisible for p in f.params] == [16, 1, 1, 1, 1, 16]
    views = [
        s.inst for s in walk(f.body) if isinstance(s, Assign) and s.inst.opcode == "global_view"
    ]
    assert views[0].shape[0] == Const(1, i32)


def test_constants_decide_branches_now():
    plain = [s for s in walk(guarded.trace({}, 32).body) if isinstance(s, Assign)]
    biased = guarded.trace({"USE_BIAS": True}, 32)
    more = [s for s in walk(biased.body) if isinstance(s, Assign)]
    assert len(more) == len(plain) + 2  # full and add


@tilus.jit
def temporaries(x: ptr[f32], n: i32):
    X = tilus.global_view(x, f32, (n,))
    t = tilus.load_global(X, 0, 16)
    for i in range(n):
        t = tilus.load_global(X, i, 32)
        tilus.store_global(X, t, i)
    if n > 3:
        u = n + 1
        tilus.store_global(X, tilus.full(f32, 4, 0.0), u)


def test_what_nobody_reads_is_not_handed_on():
    f = temporaries.trace({}, 32)
    loops = [s for s in walk(f.body) if type(s).__name__ == "For"]
    assert [s.args for s in loops] == [()]
    assert all(not s.results for s in walk(f.body) if isinstance(s, If))


@tilus.jit
def unchanged(x: ptr[f32], n: i32, FLAG: tilus.constexpr = False):
    X = tilus.global_view(x, f32, (n,))
    size = 4
    for i in range(n):
        tilus.store_global(X, tilus.zeros(f32, size), i)
        if FLAG:
            size = 16


def test_a_constant_that_the_loop_leaves_alone_stays_one():
    f = unchanged.trace({}, 32)
    assert [s.args for s in walk(f.body) if type(s).__name__ == "For"] == [()]
    with pytest.raises(TilusTypeError, match="must be known at compile time"):
        unchanged.trace({"FLAG": True}, 32)


@tilus.jit
def picks_up_a_type(x: ptr[f32], n: i32, m: tilus.i64):
    total, scale = 0, 1
    for _ in range(n):
        total = total + m
        scale = scale * 0.5
    X = tilus.global_view(x, f32, (n,))
    tilus.store_global(X, tilus.full(f32, 1, scale), total)


def test_numbers_take_the_type_that_the_loop_gives_them():
    f = picks_up_a_type.trace({}, 32)
    (loop,) = [s for s in walk(f.body) if type(s).__name__ == "For"]
    assert [str(a.type) for a in loop.args] == ["i64", "f32"]


@tilus.jit
def deep(x: ptr[f16]):
    t = tilus.zeros(f16, (4,))
    for i in range(2):
        for j in range(3):
            t = outer(t, i, j)
    tilus.store_global(tilus.global_view(x, f16, (4,)), t, 0)


def outer(t, i, j):
    return inner(t) * 2.0 if i == j else t


def inner(t):
    return t + tilus.zeros(f32, (4,))


def test_an_error_in_a_helper_shows_the_calls():
    with pytest.raises(TilusError) as caught:
        deep.trace({})
    text = str(caught.value)
    assert "operands differ: f16[4] and f32[4]" in text
    assert "return t + tilus.zeros(f32, (4,))" in text
    assert "`inner` is called here" in text and "`outer` is called here" in text


def test_errors_hide_the_compiler():
    with pytest.raises(TilusError) as caught:
        deep.trace({})
    assert len(caught.traceback) <= 2
    with options.scope(full_traceback=True), pytest.raises(TilusError) as caught:
        deep.trace({})
    assert len(caught.traceback) > 5
