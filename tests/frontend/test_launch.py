"""Launching: arguments, grids, specialisation, the cache, debugging."""

import numpy as np
import pytest
import torch

import tilus
from tilus import f32, i32, ptr, u4
from tilus.errors import TilusError, TilusTypeError, TilusValueError, Trap

OFFSET = 1.0


@tilus.jit(num_threads=1)
def add_number(x: ptr[f32], n: i32, number: f32 = 2.0, *, BLOCK: tilus.constexpr = 16):
    """x += number + OFFSET."""
    X = tilus.global_view(x, f32, (n,))
    at = tilus.block_idx() * BLOCK
    tilus.store_global(X, tilus.load_global(X, at, BLOCK) + number + OFFSET, at)


def test_torch_and_numpy():
    x = torch.zeros(40)
    add_number[3](x, 40)
    assert x.tolist() == [3.0] * 40
    y = np.zeros(40, np.float32)
    add_number[lambda p: (tilus.cdiv(p["n"], p["BLOCK"]),)](y, n=40, number=4, BLOCK=8)
    assert y.tolist() == [5.0] * 40
    add_number.interpret(y, 1, grid=(1, 1, 1), num_threads=1)
    assert y.tolist() == [8.0] + [5.0] * 39
    add_number[(1,)](y, np.int64(2), np.float32(1.0), num_warps=2, BLOCK=64)
    assert y.tolist()[:3] == [10.0, 7.0, 5.0]


def test_strided_and_offset_tensors():
    x = torch.zeros(40)
    add_number[1](x[5:], 3)
    assert x.tolist() == [0.0] * 5 + [3.0] * 3 + [0.0] * 32


def test_nothing_to_do():
    x = torch.zeros(4)
    add_number[0](x, 4)
    assert x.tolist() == [0.0] * 4


@pytest.mark.parametrize("grid", [1.5, (), (1, 1, 1, 1), "1", (True,), lambda p: None])
def test_grids_are_ints(grid):
    with pytest.raises(TilusTypeError, match="the grid of `add_number` is"):
        add_number[grid](torch.zeros(4), 4)


def test_negative_grid():
    with pytest.raises(TilusValueError, match="no extent may be negative"):
        add_number[-1](torch.zeros(4), 4)


@pytest.mark.parametrize("threads", [{"num_warps": 0}, {"num_threads": 1.5}, {"num_warps": True}])
def test_bad_thread_counts(threads):
    with pytest.raises(TilusValueError, match="it is an int, at least 1"):
        add_number[1](torch.zeros(4), 4, **threads)


def test_both_thread_counts():
    with pytest.raises(TilusTypeError, match="both given"):
        add_number[1](torch.zeros(4), 4, num_warps=1, num_threads=32)


def test_call_without_grid():
    with pytest.raises(TilusTypeError, match="without a grid"):
        add_number(torch.zeros(4), 4)


def test_specialised_on_divisibility_and_one():
    x = torch.zeros(64)
    add_number.forget()
    for n in (3, 5, 7, 16, 32, 48, 1, 1):
        add_number[1](x, n)
    keys = list(add_number._lowered)  # (.., what divides arguments, which are 1)
    assert [(dict(k[-2]).get("n"), "n" in k[-1]) for k in keys] == [
        (None, False),
        (16, False),
        (None, True),
    ]
    add_number[1](x[1:], 3)
    assert len(add_number._lowered) == 4
    add_number[1](x, 3, BLOCK=8)
    assert len(add_number._lowered) == 5


def test_globals_are_constants_until_they_change():
    global OFFSET
    x = torch.zeros(4)
    add_number[1](x, 4, 0.0)
    OFFSET = 10.0
    try:
        add_number[1](x, 4, 0.0)
        assert x.tolist() == [11.0] * 4
    finally:
        OFFSET = 1.0


@tilus.jit
def kind_of_constant(x: ptr[f32], value: tilus.constexpr):
    if value is True:
        number = 1.0
    elif isinstance(value, float):
        number = 2.0
    else:
        number = 3.0
    tilus.store_global(tilus.global_view(x, f32, (1,)), tilus.full(f32, 1, number), 0)


def test_constants_of_different_types_are_different():
    x = torch.zeros(1)
    got = []
    for value in (1, 1.0, True, 1, (1, True)):
        kind_of_constant[1](x, value)
        got.append(x.item())
    assert got == [3.0, 2.0, 1.0, 3.0, 3.0]


@tilus.jit
def unpack(codes: ptr[u4], out: ptr[i32], n: i32):
    t = tilus.load_global(tilus.global_view(codes, u4, (n,)), 0, 8)
    tilus.store_global(tilus.global_view(out, i32, (n,)), tilus.cast(t, i32), 0)


def test_packed_elements():
    out = torch.zeros(8, dtype=torch.int32)
    packed = torch.tensor([0x10, 0x32, 0x54, 0xF6], dtype=torch.uint8)
    unpack[1](packed, out, 8, num_threads=1)
    assert out.tolist() == [0, 1, 2, 3, 4, 5, 6, 15]
    out.zero_()
    unpack[1](tilus.Tensor(u4, (8,), packed), out, 8, num_threads=1)
    assert out.tolist() == [0, 1, 2, 3, 4, 5, 6, 15]
    with pytest.raises(TilusTypeError, match="holds u8, not u4"):
        unpack[1](tilus.Tensor(tilus.u8, (4,), packed), out, 8)


@tilus.jit
def asserts(n: i32):
    assert n > 3, "n is small"


def test_run_time_assertion():
    asserts[1](5)
    with pytest.raises(Trap, match=r"assertion failed: n is small"):
        asserts[2](2)


@tilus.jit
def stops(x: ptr[f32], n: i32, K: tilus.constexpr = 3):
    t = tilus.load_global(tilus.global_view(x, f32, (4,)), 0, 4)  # noqa: F841
    total = n * K
    breakpoint()
    tilus.print_tensor(total, "total")


def test_breakpoint_sees_the_live_values(monkeypatch, capsys):
    seen = {}

    def hook():
        import sys

        seen.update(sys._getframe(1).f_globals)

    monkeypatch.setattr("sys.breakpointhook", hook)
    stops.interpret(torch.arange(4.0), 5, grid=1, num_warps=1)
    assert (seen["total"], seen["n"]) == (15, 5)
    assert seen["t"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert "total" in capsys.readouterr().out


@tilus.jit
def helper_kernel(t, factor: f32):
    return t * factor


@tilus.jit
def calls_kernel(x: ptr[f32]):
    X = tilus.global_view(x, f32, (4,))
    tilus.store_global(X, helper_kernel(tilus.load_global(X, 0, 4), 3), 0)


def test_a_kernel_inlines_another():
    x = torch.ones(4)
    calls_kernel[1](x, num_threads=4)
    assert x.tolist() == [3.0] * 4


def first_block():
    return tilus.block_idx() == 0


def corner(size):
    return tilus.block_idx() * size


class Config:
    size = 4

    @property
    def first(self):
        return tilus.block_idx() == 0

    def number(self):
        return 5.0 if self.size == tilus.cdiv(8, 2) and first_block() else 6.0


CONFIG = Config()


@tilus.jit
def plain_helpers(x: ptr[f32]):
    number = CONFIG.number()
    if first_block():
        number = number + 10.0
    X = tilus.global_view(x, f32, (8,))
    tilus.store_global(X, tilus.full(f32, 4, number), corner(4))


def test_helpers_that_use_the_language_are_inlined():
    x = torch.zeros(8)
    plain_helpers[2](x, num_warps=1)
    assert x.tolist() == [15.0] * 4 + [6.0] * 4


@tilus.jit
def reads_property(x: ptr[f32]):
    tilus.zeros(f32, 4 if CONFIG.first else 2)


def test_kernel_code_never_runs_as_ordinary_python():
    with pytest.raises(TilusTypeError, match="this runs kernel code as ordinary Python"):
        reads_property.trace({})
    with pytest.raises(TilusTypeError, match="can only be used inside a kernel"):
        first_block()


@tilus.jit
def divides(x: ptr[i32], n: i32):
    tilus.store_global(tilus.global_view(x, i32, (1,)), tilus.full(i32, 1, 10 // n), 0)


def test_division_by_zero_traps_at_the_line():
    with pytest.raises(Trap, match="division by zero") as caught:
        divides[1](torch.zeros(1, dtype=torch.int32), 0)
    assert "10 // n" in str(caught.value)


def test_an_argument_error_names_the_parameter():
    with pytest.raises(TilusError) as caught:
        add_number[1](torch.zeros(4, dtype=torch.float64), 4)
    assert "the argument `x: ptr[f32]` is a tensor of torch.float64" in str(caught.value)
    assert "x: ptr[f64]" in caught.value.first.help or "tilus.ptr[f64]" in caught.value.first.help
