"""Parameters that say nothing, and arguments that do not fit them."""

# ruff: noqa
# fmt: off

import numpy as np
import torch

import tilus
from tests.errors.launched import launched
from tilus import f16, f32, i8, i32, ptr, u4


@tilus.jit
def no_annotation(
    n,  #! the parameter `n` has no annotation
):
    pass


@tilus.jit
def unknown_annotation(
    x: int,  #! `int` says nothing about how a kernel takes the parameter `x`
#!  ^^^^^^
):
    pass


@tilus.jit
def unresolved_annotation(
    x: "f33",  #! `f33` says nothing
):
    pass


@tilus.jit
def star_args(
    *args: i32,  #! a kernel cannot take *args
):
    pass


@tilus.jit
def star_keywords(
    n: i32,
    **options: i32,  #! a kernel cannot take **options
):
    pass


@tilus.jit
def returns_value(n: i32) -> i32:  #! a kernel returns nothing
    #!                       ^^^
    pass


@tilus.jit
def reserved_name(
    num_warps: i32,  #! `num_warps` is an option of the launch
):
    pass


@tilus.jit
def narrow_scalar(
    x: u4,  #! a scalar parameter cannot be of type u4
):
    pass


@tilus.jit
def missing_constant(
    n: i32,
    BLOCK: tilus.constexpr,  #! misses a value for `BLOCK: constexpr`
):
    pass


@launched(torch.zeros(4))
@tilus.jit
def wrong_dtype(
    x: ptr[f16],  #! the argument `x: ptr[f16]` is a tensor of torch.float32, not of f16
):
    pass


@launched(np.zeros(4))
@tilus.jit
def wrong_numpy_dtype(
    x: ptr[f16],  #! is a NumPy array of float64
):
    pass


@launched(torch.zeros(4))
@tilus.jit
def wrong_packed_dtype(
    x: ptr[u4],  #! is a tensor of torch.float32, not of u4
):
    pass


@launched(3)
@tilus.jit
def number_for_pointer(
    x: ptr[f16],  #! the argument `x: ptr[f16]` must be a tensor, not 3
):
    pass


@launched(1.5)
@tilus.jit
def float_for_int(
    n: i32,  #! the argument `n: i32` must be an int, not 1.5
):
    pass


@launched(True)
@tilus.jit
def bool_for_int(
    n: i32,  #! must be an int, not True
):
    pass


@launched(2**31)
@tilus.jit
def out_of_range(
    n: i32,  #! the argument `n: i32` is 2147483648; i32 holds
):
    pass


@launched(torch.zeros(()))
@tilus.jit
def tensor_for_scalar(
    x: f32,  #! must be a number, not a Tensor
):
    pass


@launched([1, 2])
@tilus.jit
def list_for_constant(
    xs: tilus.constexpr,  #! is a list, which can change
):
    pass


@launched(torch.zeros(3))
@tilus.jit
def tensor_for_constant(
    xs: tilus.constexpr,  #! the argument `xs: constexpr` is a Tensor
):
    pass


@launched(1)
@tilus.jit
def missing_argument(
    n: i32,
    m: i32,  #! misses the argument `m: i32`
):
    pass


@launched(1, 2)
@tilus.jit
def too_many_arguments(n: i32):  #! takes 1 positional arguments; 2 were given
    pass


@launched(1, m=3)
@tilus.jit
def unexpected_keyword(n: i32):  #! has no parameter `m`
    pass


@launched(1, n=3)
@tilus.jit
def given_twice(n: i32):  #! got two values for `n`
    pass
