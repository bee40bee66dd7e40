"""Names that have no value, or none that a kernel can use."""

# ruff: noqa
# fmt: off

import numpy as np
import torch

import tilus
from tilus import f32, i32

WEIGHTS = torch.zeros(4)
TABLE = np.zeros(4)
LENGTH = 4


@tilus.jit
def undefined(n: i32):
    x = n + lenght  #! `lenght` is not defined
    #!      ^^^^^^


@tilus.jit
def misspelt(n: i32):
    offset = n
    x = ofset + 1  #! `ofset` is not defined
    #!  ^^^^^


@tilus.jit
def unbound_local(n: i32):
    x = LENGTH + n  #! `LENGTH` is read before it is assigned
    LENGTH = 3


@tilus.jit
def misspelt_instruction(n: i32):
    x = tilus.load_globl(n)  #! has no attribute 'load_globl'
    #!  ^^^^^^^^^^^^^^^^


@tilus.jit
def one_branch(n: i32):
    if n > 0:
        x = 1
    y = x + 1  #! `x` may have no value here
    #!  ^


@tilus.jit
def other_branch(n: i32):
    if n > 0:
        pass
    else:
        x = n
    y = x + 1  #! `x` may have no value here


@tilus.jit
def only_in_loop(n: i32):
    for i in range(n):
        x = i
    y = x + 1  #! `x` may have no value here
    #!  ^


@tilus.jit
def loop_variable(n: i32):
    for i in range(n):
        pass
    y = i + 1  #! `i` may have no value here


@tilus.jit
def first_iteration(n: i32):
    for i in range(n):
        if i > 0:
            y = last + 1  #! `last` has no value in the first iteration
            #!  ^^^^
        last = i


@tilus.jit
def while_may_not_run(n: i32):
    while n > 3:
        x = n
        break
    y = x  #! `x` may have no value here


@tilus.jit
def not_on_every_break(n: i32):
    while True:
        if n > 3:
            break
        x = n
        if n > 2:
            break
    y = x  #! `x` may have no value here


@tilus.jit
def torch_tensor(n: i32):
    x = WEIGHTS  #! `WEIGHTS` is an array, and not an argument of the kernel
    #!  ^^^^^^^


@tilus.jit
def numpy_array(n: i32):
    x = TABLE[0]  #! `TABLE` is an array


@tilus.jit
def comprehension_scope(n: i32):
    xs = [i for i in range(3)]
    y = i  #! `i` is not defined


@tilus.jit
def tile_attribute(n: i32):
    t = tilus.zeros(f32, (4,))
    x = t.size  #! a value of type f32[4] has no attribute `size`
    #!  ^^^^^^


@tilus.jit
def scalar_attribute(n: i32):
    x = n.shape  #! a value of type i32 has no attribute `shape`


def helper(x):
    return x + missing_1  #! `missing_1` is not defined
    #!         ^^^^^^^^^


@tilus.jit
def in_a_helper(n: i32):
    y = helper(n)
