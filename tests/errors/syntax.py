"""Python that kernels do not have."""

# ruff: noqa
# fmt: off

import tilus
from tilus import f32, i32


@tilus.jit
def try_(n: i32):
    try:  #! `try` is not supported
        x = n
    except ValueError:
        pass


@tilus.jit
def with_(n: i32):
    with open("f") as f:  #! `with` is not supported
        x = n


@tilus.jit
def nested_def(n: i32):
    def helper(x):  #! a function cannot be defined inside a kernel
        return x + n

    helper(n)


@tilus.jit
def nested_class(n: i32):
    class C:  #! a class cannot be defined inside a kernel
        pass


@tilus.jit
def lambda_(n: i32):
    f = lambda x: x + n  #! a lambda cannot be written inside a kernel
    #!  ^^^^^^^^^^^^^^^


@tilus.jit
def delete(n: i32):
    x = n
    del x  #! `del` is not supported


#!  ^^^^^


@tilus.jit
def raise_(n: i32):
    if n > 3:
        raise ValueError("no")  #! `raise` is not supported


@tilus.jit
def global_(n: i32):
    global counter  #! `global` is not supported
    counter = n


@tilus.jit
def import_(n: i32):
    import math  #! `import` is not supported inside a kernel


@tilus.jit
def import_from(n: i32):
    from math import pi  #! `import` is not supported inside a kernel


@tilus.jit
def match_(n: i32):
    match n:  #! `match` is not supported
        case 1:
            pass


@tilus.jit
def subscript_assignment(n: i32):
    t = tilus.zeros(f32, (4,))
    t[0] = 1.0  #! a part of a value cannot be assigned


#!  ^^^^


@tilus.jit
def subscript_augmented(n: i32):
    xs = [1, 2]
    xs[n - n] += 1  #! a part of a value cannot be assigned


@tilus.jit
def attribute_assignment(n: i32):
    tilus.constant = n  #! an attribute cannot be assigned


#!  ^^^^^^^^^^^^^^


@tilus.jit
def list_append(n: i32):
    xs = []
    xs.append(n)  #! a list cannot be changed inside a kernel


@tilus.jit
def dict_update(n: i32):
    d = {"a": 1}
    d.update(b=2)  #! a dict cannot be changed inside a kernel


@tilus.jit
def list_in_place(n: i32):
    xs = [n]
    ys = xs
    ys += [n]  #! a list cannot be changed in place


#!  ^^^^^^^^^


@tilus.jit
def walrus_in_comprehension(n: i32):
    xs = [(y := i) for i in range(3)]  #! `:=` is not supported inside a comprehension
    #!     ^^^^^^


@tilus.jit
def print_(n: i32):
    print(n)  #! `print` is not supported in a kernel
#!  ^^^^^^^^
    return


@tilus.jit
def locals_(n: i32):
    x = locals()  #! `locals` is not supported
    #!  ^^^^^^^^


@tilus.jit
def iterator_kept(n: i32):
    pairs = zip((n, 1), (2, 3))  #! would be an iterator
    for a, b in pairs:
        pass


@tilus.jit
def next_(n: i32):
    x = next(i for i in range(3))  #! `next` is not supported


def generator(n):  #! is a generator; kernel code is a plain `def`
    yield n


@tilus.jit
def calls_generator(n: i32):
    x = generator(n)


@tilus.jit
def fstring_of_run_time(n: i32):
    x = f"n is {n}"  #! a run-time value cannot be part of a string
    #!          ^


@tilus.jit
def characters_of_many_bytes(n: i32):
    é = "é"
    x = "é" + "ü" + é + unknown_1  #! `unknown_1` is not defined
    #!                  ^^^^^^^^^
