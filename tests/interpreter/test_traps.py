"""The traps other than races, each in a planted kernel: the line, the block and the thread."""

import re

import numpy as np
import pytest

from tests.interpreter.planted import HEAD, LOAD, floats, launch, load, trapped
from tilus.errors import TilusError, TilusTypeError, TilusValueError, Trap
from tilus.ir.interpreter import Workspace, run
from tilus.ir.parser import parse
from tilus.ir.passes import lower

# Reads of what nobody wrote


def test_shared_memory_begins_unwritten() -> None:
    body = (
        "%s = allocate_shared(dtype=f32, shape=[64])\n%u = load_shared(%s) ; here\nprint_tensor(%u)"
    )
    assert trapped(body) == "thread 0 reads byte 0 of shared memory #1, which nobody has written"


def test_a_part_is_not_the_whole() -> None:
    body = """%s = allocate_shared(dtype=f32, shape=[64])
      %t = full(dtype=f32, shape=[32], value=0.0)
      store_shared(%s, %t, offsets=[0])
      %v = load_shared(%s, offsets=[0], shape=[32])
      print_tensor(%v)
      %u = load_shared(%s) ; here
      print_tensor(%u)"""
    assert "reads byte 128 of shared memory #1" in trapped(body)


def test_each_iteration_allocates_anew() -> None:
    body = """for %i < 2 {
        %s = allocate_shared(dtype=f32, shape=[64])
        if %i == 0 {
          %t = full(dtype=f32, shape=[64], value=0.0)
          store_shared(%s, %t)
        }
        %u = load_shared(%s) ; here
        print_tensor(%u)
      }"""
    assert "which nobody has written" in trapped(body)


def test_workspaces() -> None:
    launch(
        LOAD
        + """store_global(%Y, %t, offsets=[0])
        sync()
        %u = load_global(%Y, offsets=[0], shape=[64])
        print_tensor(%u)""",
        y=Workspace(256),
    )
    said = trapped(
        "%u = load_global(%Y, offsets=[60], shape=[4]) ; here\nprint_tensor(%u)", y=Workspace(256)
    )
    assert said == "thread 0 reads byte 240 of y, which nobody has written"
    body = LOAD + "atomic_add(%Y, %t, offsets=[0]) ; here"
    assert "which nobody has written" in trapped(body, y=Workspace(256))


# Out of bounds


def test_a_view_that_promises_too_much() -> None:
    said = trapped(
        "%t = load_global(%X, offsets=[%n], shape=[4]) ; here\nprint_tensor(%t)", x=floats(63), n=60
    )
    assert said == "out of bounds: thread 3 touches byte 252 of x, which has 252 bytes"
    said = trapped(LOAD + "store_global(%Y, %t, offsets=[0]) ; here", y=floats(32))
    assert "thread 0 touches byte 128 of y, which has 128 bytes" in said


def test_a_part_of_an_array_is_not_the_whole() -> None:
    """What lies around a slice must not be touched, though it is the same memory."""
    whole = floats(128)
    launch(LOAD + "store_global(%Y, %t, offsets=[0])", x=whole[32:96])
    body = "%t = load_global(%X, offsets=[0], shape=[64]) ; here\nprint_tensor(%t)"
    assert "which has 124 bytes" in trapped(body, x=whole[32:63])
    head = HEAD.replace("shape=[64])\n  %Y", "shape=[64], offset=-1)\n  %Y")
    assert "touches byte -4 of x" in trapped(body, head=head, x=whole[32:], y=floats(), n=0)


def test_arrays_that_run_backwards() -> None:
    x = floats()
    head = HEAD.replace("shape=[64])\n  %Y", "shape=[64], strides=[-1])\n  %Y")
    y = np.zeros(64, np.float32)
    launch("%t = load_global(%X, offsets=[0], shape=[64])\nstore_global(%Y, %t, offsets=[0])",
           head=head, x=x[::-1], y=y, n=0)  # fmt: skip
    np.testing.assert_array_equal(y, x[::-1])


def test_a_tile_outside_shared_memory() -> None:
    body = """%s = allocate_shared(dtype=f32, shape=[64])
      %t = full(dtype=f32, shape=[32], value=0.0)
      store_shared(%s, %t, offsets=[%n]) ; here"""
    said = trapped(body, n=33)
    assert said == "out of bounds: slot 0 of thread 31 lies outside shared memory #1"
    assert "slot 0 of thread 0 lies outside" in trapped(body, n=-1)
    launch(body, n=32)


def test_huge_offsets_are_masked() -> None:
    head = HEAD.replace("%n: i32", "%n: u64")
    launch(
        "%t = load_global(%X, offsets=[%n], shape=[4])\nprint_tensor(%t)",
        head=head,
        x=floats(),
        y=floats(),
        n=2**64 - 1,
    )


# Misaligned accesses


def test_a_vector_at_a_wrong_address() -> None:
    layout = "layout=local(4)*spatial(4)*local(4)"
    body = load("%X", "%n", 64, f"{layout}, vector=4")
    said = trapped(body, threads=4, n=-1)
    assert re.fullmatch(r"misaligned: thread 0 accesses 16 bytes at address 0x[0-9a-f]+ of x", said)


def test_a_vector_across_an_edge() -> None:
    body = load("%X", 62, 4, "layout=spatial(1)*local(4), vector=4")
    assert "misaligned" in trapped(body, threads=1)
    body = body.replace("offsets=[62]", "offsets=[0]").replace("%X", "%Z")
    head = HEAD.replace("%Y = ", "%Z = global_view(%x, dtype=f32, shape=[3])\n  %Y = ")
    said = trapped(body, threads=1, head=head, x=floats(), y=floats(), n=0)
    assert said == "misaligned: the 4 elements of slots 0.. of thread 0 are not one run of x"


def test_a_vector_that_is_no_run() -> None:
    head = HEAD.replace("shape=[64])\n  %Y", "shape=[16], strides=[%n])\n  %Y")
    body = load("%X", 0, 8, "layout=local(8), vector=2")
    launch(body, threads=1, head=head, x=floats(), y=floats(), n=1)
    assert "are not one run of x" in trapped(
        body, threads=1, head=head, x=floats(), y=floats(), n=2
    )


def test_a_vector_that_does_not_divide_the_slots() -> None:
    body = load("%X", 0, 6, "layout=local(6), vector=4")
    assert "vectors of 4 elements do not divide the 6 a thread holds" in trapped(body, threads=1)


def test_an_element_at_an_odd_byte() -> None:
    data = np.zeros(300, np.uint8)
    body = "%t = load_global(%X, offsets=[0], shape=[64]) ; here\nprint_tensor(%t)"
    assert "misaligned: thread 0 accesses 4 bytes" in trapped(
        body, x=data[-data.ctypes.data % 4 + 2 :]
    )


def test_a_broken_promise_about_a_pointer() -> None:
    head = HEAD.replace("%x: ptr[f32]", "%x: ptr[f32] divisible 16")
    with pytest.raises(
        TilusValueError, match=r"the memory of 'x' begins at 0x\w+, which is not div"
    ):
        launch(LOAD, head=head, x=floats(65)[1:], y=floats(), n=0)


def test_a_broken_promise_about_a_scalar() -> None:
    head = HEAD.replace("%n: i32", "%n: i32 divisible 4")
    body = "%t = load_global(%X, offsets=[%n], shape=[4])\nprint_tensor(%t)"
    with pytest.raises(TilusValueError, match="'n' is 6, which is not divisible by 4"):
        launch(body, head=head, x=floats(), y=floats(), n=6)
    said = trapped(
        "%t = load_global(%X, offsets=[multiple_of(%n, 4)], shape=[4]) ; here\nprint_tensor(%t)",
        n=6,
    )
    assert said == "6 is not a multiple of 4, as the kernel promised"


# Async copies


COPY = """%s = allocate_shared(dtype=f32, shape=[64])
      copy_async(%s, %X, offsets=[0])
"""
USE = "%u = load_shared(%s) ; here\nprint_tensor(%u)"


@pytest.mark.parametrize(
    "between",
    [
        "",
        "copy_async_commit_group()",
        "copy_async_wait_group()",
        "sync()",
        "copy_async_commit_group()\ncopy_async_wait_group(n=1)",
        "copy_async_wait_group()\ncopy_async_commit_group()",
    ],
)
def test_a_copy_used_too_early(between: str) -> None:
    said = trapped(COPY + between + "\n" + USE)
    assert said == "thread 0 uses byte 0 of shared memory #1 while an async copy to it is in flight"


def test_a_copy_overwritten_too_early() -> None:
    body = COPY + "copy_async_commit_group()\n%t = full(dtype=f32, shape=[64], value=0.0)\n"
    assert "in flight" in trapped(body + "store_shared(%s, %t) ; here")
    assert "in flight" in trapped(body + "copy_async(%s, %X, offsets=[0]) ; here")


def test_a_copy_waited_for() -> None:
    launch(COPY + "copy_async_commit_group()\ncopy_async_wait_group()\n" + USE)
    launch(
        COPY
        + "copy_async_commit_group()\ncopy_async_commit_group()\ncopy_async_wait_group(n=1)\n"
        + USE
    )


def test_copies_are_checked_where_they_read() -> None:
    body = COPY.replace("offsets=[0])", "offsets=[0]) ; here")
    assert "out of bounds" in trapped(body, x=floats(10))
    assert "nobody has written" in trapped(body, x=Workspace(256))


# Scalars


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("1 // %n", "integer division by zero"),
        ("1 % %n", "integer remainder by zero"),
        ("1.0 / f32(%n)", "float division by zero"),
        ("1 << (%n + 64)", "a shift by 64 bits; allowed are 0 to 63"),
        ("1 >> (%n - 1)", "a shift by -1 bits; allowed are 0 to 63"),
    ],
)
def test_scalars(expr: str, said: str) -> None:
    assert trapped(f"sync()\nlet %a = {expr} ; here\nprint_tensor(x=%a)") == said
    launch(f"let %a = select(%n == 0, {'0.0' if '.' in expr else '0'}, {expr})")
    launch(f"if %n != 0 {{ let %a = {expr} }}")


def test_where_scalars_are_used() -> None:
    for body in (
        "for %i < 1 // %n { ; here\n}",
        "if 1 // %n == 0 { ; here\nsync()\n}",
        "while %i < 8 // %i carry (%i = 0) -> (%r: i32) { ; here\nyield %i\n}",
        "for %i < 2 {\nlet %a = 1 // (1 - %i) ; here\n}",
        "%t = full(dtype=i32, shape=[4], value=1 // %n) ; here\nprint_tensor(%t)",
    ):
        assert trapped(body) == "integer division by zero"


def test_short_circuits() -> None:
    launch("let %a = %n != 0 and 1 // %n > 0\nlet %b = %n == 0 or 1 // %n > 0\nprint_tensor(x=%a)")


def test_tiles() -> None:
    head = HEAD.replace("f32", "i32")
    args = {"head": head, "x": np.arange(64, dtype=np.int32), "y": np.zeros(64, np.int32), "n": 0}
    for op, said in (("floordiv", "floordiv: integer division by zero at element (0,)"),
                     ("mod", "mod: integer division by zero at element (0,)")):  # fmt: skip
        body = f"""%t = load_global(%X, offsets=[0], shape=[64])
          %u = {op}(%t, %t) ; here
          print_tensor(%u)"""
        assert trapped(body, **args) == said
    body = (
        "%t = load_global(%X, offsets=[0], shape=[64])\n%u = shl(%t, %t) ; here\nprint_tensor(%u)"
    )
    assert trapped(body, **args) == "shl: a count outside 0 to 31"


# Arguments


def test_arguments() -> None:
    for args, kind, said in (
        ([floats(), floats()], TilusTypeError, "k takes 3 arguments, not 2"),
        ({"x": floats(), "y": floats()}, TilusTypeError, "no value for the parameter 'n'"),
        ({"x": floats(), "y": floats(), "n": 1, "m": 2}, TilusTypeError, "k has no parameter 'm'"),
        ([floats(), floats(), 1.5], TilusValueError, "1.5 is not a value of i32"),
        ([floats(), floats(), "1"], TilusTypeError, "'n' must be i32, not str"),
        ([floats(), 5, 1], TilusTypeError, "'y' must be memory"),
    ):
        with pytest.raises(kind, match=said):
            run(lower(parse(HEAD.replace("THREADS", "4") + "}")), args, (1,))
    for grid in ((1, 1, 1, 1), (-1,)):
        with pytest.raises(TilusValueError, match="it has one to three extents"):
            run(lower(parse(HEAD.replace("THREADS", "4") + "}")), [floats(), floats(), 1], grid)


def test_a_kernel_must_be_laid_out() -> None:
    with pytest.raises(TilusTypeError, match="the tile %t has no layout") as caught:
        run(
            parse((HEAD + LOAD.split(", layout")[0] + ")\n}").replace("THREADS", "4")),
            [floats(), floats(), 1],
            (1,),
        )
    assert caught.value.first.help == "run tilus.ir.passes.lower on the program first"


def test_arguments_that_share_memory_are_one() -> None:
    x = floats(128)
    body = LOAD + "store_global(%Y, %t, offsets=[0]) ; here"
    assert "race" in trapped(body, x=x[:64], y=x[1:65])
    launch(body, x=x[:64], y=x[64:])


def test_traps_are_tilus_errors() -> None:
    assert issubclass(Trap, TilusError) and issubclass(Trap, RuntimeError)
