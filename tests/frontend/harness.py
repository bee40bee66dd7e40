"""Run the same function in CPython and, through the front end, in the interpreter."""

# ruff: noqa: E741

from types import FunctionType

import numpy as np

import tilus

SIZE = 8
O_ = tilus.ptr[tilus.i32]
I = tilus.i32
UNSET = -123456


def put(O, i, value):
    O[i] = int(value)


def trange(*args, unroll=1, stages=1):
    return range(*args)


to_i32 = int


def srange(*args):
    return range(*args)


@tilus.jit
def put_in_kernel(O, i, value):
    view = tilus.global_view(O, tilus.i32, (SIZE,))
    tile = tilus.full(tilus.i32, (1,), value)
    tilus.store_global(view, tile, i)


KERNEL_NAMES = {
    "put": put_in_kernel,
    "trange": tilus.range,
    "to_i32": tilus.i32,
    "srange": tilus.static_range,
}


def as_kernel(program):
    """The program as a kernel: its own code, in globals where `put` stores to memory."""
    names = {**program.__globals__, **KERNEL_NAMES}
    for name, value in list(names.items()):
        if isinstance(value, FunctionType) and value.__globals__ is program.__globals__:
            helper = FunctionType(value.__code__, names, name, value.__defaults__)
            helper.__kwdefaults__ = value.__kwdefaults__
            names[name] = helper
    fn = FunctionType(program.__code__, names, program.__name__, program.__defaults__)
    fn.__annotations__ = program.__annotations__
    return tilus.jit(fn)


def in_python(program, *args):
    out = [UNSET] * SIZE
    program(out, *args)
    return out


def in_kernel(kernel, *args):
    out = np.full(SIZE, UNSET, np.int32)
    kernel.interpret(out, *args, grid=1, num_threads=1)
    return out.tolist()
