"""Operators, subscripts and calls whose operands do not fit."""

# ruff: noqa
# fmt: off

import tilus
from tilus import f16, f32, i8, i32, i64, ptr, u32


@tilus.jit
def dtypes_differ(n: i32):
    a = tilus.zeros(f16, (64,))
    b = tilus.zeros(f32, (64,))
    c = a + b  #! operands differ: f16[64] and f32[64]
    #!  ^^^^^


@tilus.jit
def scalar_dtype(n: i32):
    a = tilus.zeros(f32, (64,))
    c = a * n  #! operands differ: f32[64] and i32


@tilus.jit
def shapes_differ(n: i32):
    a = tilus.zeros(f32, (64, 2))
    b = tilus.zeros(f32, (64,))
    c = a + b  #! shapes do not fit: f32[64,2] and f32[64]


@tilus.jit
def float_beside_int_tile(n: i32):
    a = tilus.zeros(i32, (4,))
    c = a * 0.5  #! 0.5 is not a value of i32
    #!  ^^^^^^^


@tilus.jit
def number_too_large(n: i32):
    a = tilus.zeros(i8, (4,))
    c = a + 300  #! 300 is not a value of i8


@tilus.jit
def int_division(n: i32):
    x = n / 2  #! `/` does not take i32 operands
    #!  ^^^^^


@tilus.jit
def mixed_signs(n: i32, m: u32):
    x = n + m  #! operands differ: i32 and u32


@tilus.jit
def int_and_float(n: i32, x: f32):
    y = n * x  #! operands differ: i32 and f32


@tilus.jit
def int_and_python_float(n: i32):
    y = n * 2.0  #! operands differ: i32 and the float 2.0


@tilus.jit
def negative_beside_unsigned(m: u32):
    y = m + -1  #! -1 is not a value of u32


@tilus.jit
def run_time_exponent(n: i32):
    y = 2**n  #! `**` needs an exponent that is known at compile time
    #!  ^^^^


@tilus.jit
def negative_exponent(n: i32):
    y = n**-1  #! `**` takes an exponent from 0 to 64


@tilus.jit
def zero_division(n: i32):
    y = n // 0  #! integer division by zero


@tilus.jit
def host_zero_division(n: i32):
    y = 1 // 0  #! ZeroDivisionError
    #!  ^^^^^^


@tilus.jit
def host_type_error(n: i32):
    y = "a" + 1  #! can only concatenate str


@tilus.jit
def pointer_arithmetic(p: ptr[f32]):
    q = p + 4  #! `+` does not take a ptr[f32]


@tilus.jit
def view_arithmetic(p: ptr[f32]):
    v = tilus.global_view(p, f32, (4,))
    t = v * 2.0  #! `*` does not take a global f32[?]


@tilus.jit
def string_operand(n: i32):
    x = n + "a"  #! `+` does not take 'a'


@tilus.jit
def bool_arithmetic(n: i32):
    x = (n > 0) + 1  #! 1 is not a value of bool


@tilus.jit
def invert_bool(n: i32):
    x = ~(n > 0)  #! `~` does not take bool operands


@tilus.jit
def is_of_run_time(n: i32, m: i32):
    x = n is m  #! `is` does not compare run-time values


@tilus.jit
def is_of_tuples(n: i32):
    t = (n, 1)
    x = t is (n, 1)  #! `is` does not compare run-time values


@tilus.jit
def reversed_range(n: i32):
    for i in reversed(range(n)):  #! `reversed` takes a sequence known at compile time, not a run-time range
        pass


@tilus.jit
def in_of_run_time(n: i32):
    x = n in (1, 2)  #! `in` works on compile-time values only
    #!  ^^^^^^^^^^^


@tilus.jit
def matmul_of_scalars(n: i32):
    x = n @ n  #! `@` multiplies two tiles


@tilus.jit
def shift_count(n: i32):
    t = tilus.zeros(i32, (4,))
    x = t << 32  #! elements of i32 shift by 0 to 31


@tilus.jit
def run_time_index(n: i32):
    t = tilus.zeros(f32, (4,))
    x = t[n]  #! an index of a register tile must be known at compile time
    #!  ^^^^


@tilus.jit
def run_time_slice(n: i32):
    t = tilus.zeros(f32, (4,))
    x = t[0:n]  #! a slice's bound of a register tile must be known


@tilus.jit
def index_outside(n: i32):
    t = tilus.zeros(f32, (4,))
    x = t[4]  #! index 4 is outside dimension 0 of f32[4]


@tilus.jit
def too_many_indices(n: i32):
    t = tilus.zeros(f32, (4,))
    x = t[0, 1]  #! too many indices: 2 for f32[4]


@tilus.jit
def slice_step(n: i32):
    t = tilus.zeros(f32, (4,))
    x = t[::2]  #! a slice of a tile cannot have the step 2


@tilus.jit
def empty_slice(n: i32):
    t = tilus.zeros(f32, (4,))
    x = t[2:2]  #! the slice is empty


@tilus.jit
def shared_subscript(n: i32):
    s = tilus.allocate_shared(f32, (4,))
    x = s[0]  #! a shared f32[4] cannot be subscripted


@tilus.jit
def pointer_subscript(p: ptr[f32]):
    x = p[0]  #! a ptr[f32] cannot be subscripted


@tilus.jit
def tuple_run_time_index(n: i32):
    xs = (1, 2, 3)
    x = xs[n]  #! a compile-time tuple cannot be indexed by a run-time value
    #!     ^


@tilus.jit
def tuple_index_outside(n: i32):
    xs = (1, 2, 3)
    x = xs[3]  #! tuple index out of range


@tilus.jit
def dict_key(n: i32):
    d = {n: 1}  #! a run-time value cannot be looked up by


@tilus.jit
def unpack_count(n: i32):
    a, b = (n, 1, 2)  #! 3 values for 2 targets


#!  ^^^^


@tilus.jit
def unpack_tile(n: i32):
    a, b = tilus.zeros(f32, (2,))  #! a f32[2] is not a sequence


@tilus.jit
def run_time_shape(n: i32):
    t = tilus.zeros(f32, (n,))  #! `shape[0]` must be known at compile time
    #!  ^^^^^^^^^^^^^^^^^^^^^^


@tilus.jit
def missing_operand(p: ptr[f32]):
    v = tilus.global_view(p, f32)  #! missing shape


@tilus.jit
def unknown_keyword(p: ptr[f32]):
    v = tilus.global_view(p, f32, shape=(4,), stride=(1,))  #! has no parameter 'stride'


@tilus.jit
def twice_given(p: ptr[f32]):
    v = tilus.zeros(f32, (4,), shape=(4,))  #! zeros() got multiple values for argument 'shape'


@tilus.jit
def starred_twice(n: i32):
    x = helper_two(a=1, **{"a": n})  #! the argument `a` is given twice
    #!                  ^^^^^^^^^^


def helper_two(a, b):
    return a + b


@tilus.jit
def helper_arguments(n: i32):
    x = helper_two(n)  #! missing a required argument: 'b'
    #!  ^^^^^^^^^^^^^


def typed_helper(x: i64):
    return x


@tilus.jit
def helper_annotation(n: i32):
    x = typed_helper(n)  #! `x` of `typed_helper` must be a scalar of i64, not i32


def static_helper(x: tilus.constexpr):
    return x


@tilus.jit
def helper_constexpr(n: i32):
    x = static_helper(n)  #! `x` of `static_helper` must be known at compile time


def endless(n):
    return endless(n + 1)  #! calls itself more than 64 times


@tilus.jit
def endless_recursion(n: i32):
    x = endless(n)


def raises(x):
    raise RuntimeError("broken")


@tilus.jit
def host_exception(n: i32):
    x = raises(3)  #! RuntimeError: broken
    #!  ^^^^^^^^^


@tilus.jit
def call_number(n: i32):
    x = n(3)  #! a value of type i32 cannot be called
    #!  ^


@tilus.jit
def sorted_run_time(n: i32):
    x = sorted((n, 1))  #! `sorted` cannot take run-time values


@tilus.jit
def int_of_float(x: f32):
    y = int(x)  #! which width should it have?


@tilus.jit
def max_of_tiles(n: i32):
    t = tilus.zeros(f32, (4,))
    x = max(t, 0.0)  #! `max` does not compare tiles


@tilus.jit
def sum_of_tile(n: i32):
    t = tilus.zeros(f32, (4,))
    x = sum(t)  #! `sum` takes a sequence, not a f32[4]


@tilus.jit
def len_of_tile(n: i32):
    t = tilus.zeros(f32, (4,))
    x = len(t)  #! a f32[4] has no `len`


@tilus.jit
def isinstance_of_run_time(n: i32):
    x = isinstance(n, int)  #! `isinstance` of a run-time value


@tilus.jit
def exp_of_scalar(x: f32):
    y = tilus.exp(x)  #! exp works on register tiles, not on f32


@tilus.jit
def exp_of_ints(n: i32):
    t = tilus.zeros(i32, (4,))
    y = tilus.exp(t)  #! float elements are needed


@tilus.jit
def where_condition(n: i32):
    t = tilus.zeros(i32, (4,))
    y = tilus.where(t, t, 0)  #! where: `cond` must be bool


@tilus.jit
def dot_shapes(n: i32):
    a = tilus.zeros(f16, (2, 3))
    b = tilus.zeros(f16, (4, 4))
    c = tilus.dot(a, b)  #! dot: operands differ: f16[2,3] and f16[4,4]
    #!  ^^^^^^^^^^^^^^^


@tilus.jit
def store_dtype(p: ptr[f16]):
    v = tilus.global_view(p, f16, (4,))
    t = tilus.zeros(f32, (4,))
    tilus.store_global(v, t, 0)  #! the memory holds f16, the tile f32


@tilus.jit
def axis(n: i32):
    x = tilus.block_idx(3)  #! `axis` is 3


@tilus.jit
def typed_variable(n: i32):
    x: i64 = n  #! `x` must be a scalar of i64, not i32
    #!       ^


@tilus.jit
def typed_variable_number(n: i32):
    x: i8 = 1000  #! 1000 is not a value of i8


@tilus.jit
def constexpr_variable(n: i32):
    x: tilus.constexpr = n  #! `x` must be known at compile time
