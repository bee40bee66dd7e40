"""Branches and loops whose values do not meet, and conditions that are none."""

# ruff: noqa
# fmt: off

import tilus
from tilus import f16, f32, i32, ptr


@tilus.jit
def tile_condition(n: i32):
    t = tilus.zeros(f32, (4,))
    if t > 0:  #! a tile (bool[4]) has no truth value
    #! ^^^^^
        pass


@tilus.jit
def tile_in_and(n: i32):
    t = tilus.zeros(f32, (4,)) > 0.0
    x = t and n > 0  #! a tile (bool[4]) has no truth value
    #!  ^


@tilus.jit
def tile_chain(n: i32):
    t = tilus.zeros(f32, (4,))
    x = 0.0 < t < 1.0  #! a tile (bool[4]) has no truth value


@tilus.jit
def pointer_condition(p: ptr[f32]):
    if p:  #! a ptr[f32] has no truth value
        pass


@tilus.jit
def branch_dtypes(n: i32):
    if n > 0:
        t = tilus.zeros(f16, (4,))
    else:
        t = tilus.zeros(f32, (4,))
    u = t + 1.0  #! `t` is f16[4] on one path and f32[4] on the other
    #!  ^


@tilus.jit
def branch_shapes(n: i32):
    t = tilus.zeros(f16, (4,))
    if n > 0:
        t = tilus.zeros(f16, (8,))
    u = t + 1.0  #! `t` is f16[8] on one path and f16[4] on the other


@tilus.jit
def branch_kinds(n: i32):
    t = None
    if n > 0:
        t = n
    u = t  #! `t` is i32 on one path and None on the other


@tilus.jit
def branch_objects(n: i32):
    kind = "a"
    if n > 0:
        kind = "b"
    x = kind + "c"  #! `kind` is 'b' on one path and 'a' on the other


@tilus.jit
def branch_bool_and_int(n: i32):
    x = 1
    if n > 0:
        x = True
    y = x  #! `x` is True on one path and 1 on the other


@tilus.jit
def branch_tuple_lengths(n: i32):
    x = (n, n)
    if n > 0:
        x = (n,)
    y = x[0]  #! `x` is a tuple of 1 on one path and a tuple of 2 on the other


@tilus.jit
def branch_views(p: ptr[f32], q: ptr[f32], n: i32):
    v = tilus.global_view(p, f32, (n,))
    if n > 0:
        v = tilus.global_view(q, f32, (n,))
    t = tilus.load_global(v, 0, 4)  #! `v` is one global f32[?] on one path and another


@tilus.jit
def view_from_one_branch(p: ptr[f32], n: i32):
    if n > 0:
        v = tilus.global_view(p, f32, (n,))
    else:
        return
    t = tilus.load_global(v, 0, 4)  #! `v` is made in only one branch


@tilus.jit
def ternary_types(n: i32):
    x = n if n > 0 else 0.5  #! the value is i32 on one path and 0.5 on the other
    #!  ^^^^^^^^^^^^^^^^^^^


@tilus.jit
def carried_dtype(n: i32):
    acc = tilus.zeros(f16, (4,))
    for i in range(n):
        acc = tilus.cast(acc, f32)  #! `acc` is f16[4] on one path and f32[4] on the other
        #!               ^^^


@tilus.jit
def carried_shape(n: i32):
    t = tilus.zeros(f32, (4,))
    for i in range(n):
        t = tilus.concat((t, t), 0)  #! `t` is f32[4] on one path and f32[8] on the other


@tilus.jit
def carried_object(n: i32):
    t = None
    for i in range(n):
        if t is None:  #! `t` is None on one path and i32 on the other
            t = i


@tilus.jit
def static_break(n: i32):
    for x in (1, 2, 3):
        if n > x:
            break  #! a `break` of an unrolled loop cannot depend on a run-time condition


@tilus.jit
def static_continue(n: i32):
    for x in tilus.static_range(3):
        if n > x:
            continue  #! a `continue` of an unrolled loop cannot depend on a run-time condition


@tilus.jit
def zero_step(n: i32):
    for i in range(0, n, 0):  #! `step` must not be zero
        #!   ^^^^^^^^^^^^^^
        pass


@tilus.jit
def float_bound(n: f32):
    for i in range(n):  #! range: `stop` must be an integer, not f32
        pass


@tilus.jit
def run_time_static_range(n: i32):
    for i in tilus.static_range(n):  #! static_range: its bounds must be known at compile time
        pass


@tilus.jit
def loop_over_tile(n: i32):
    for x in tilus.zeros(f32, (4,)):  #! a f32[4] is not a sequence known at compile time
        pass


@tilus.jit
def loop_over_int(n: i32):
    for x in 5:  #! 'int' object is not iterable
        #!   ^
        pass


@tilus.jit
def comprehension_over_run_time(n: i32):
    xs = [i for i in range(n)]  #! a loop over run-time bounds cannot be unrolled
    #!               ^^^^^^^^


@tilus.jit
def comprehension_condition(n: i32):
    xs = [i for i in range(4) if i < n]  #! the condition of a comprehension must be known
    #!                           ^^^^^


@tilus.jit
def unroll_zero(n: i32):
    for i in tilus.range(n, unroll=0):  #! range: `unroll` is 0
        pass


@tilus.jit
def kernel_returns(n: i32):
    return n  #! a kernel returns nothing


#!  ^^^^^^^^


def search(n):
    for i in range(n):
        if i * i == n:
            return i  #! an inlined function cannot return from inside a run-time loop
    return -1


@tilus.jit
def returns_from_loop(n: i32):
    x = search(n)


def mixed(n):
    if n > 0:  #! the returned value is i32 on one path and None on the other
        return n


@tilus.jit
def returns_two_kinds(n: i32):
    x = mixed(n)


@tilus.jit
def assertion(n: i32, size: tilus.constexpr = 12):
    assert size % 16 == 0, f"size is {size}"  #! assertion failed: size is 12


@tilus.jit
def assertion_of_tile(n: i32):
    t = tilus.zeros(f32, (4,))
    assert t == 0.0  #! a tile (bool[4]) has no truth value
