"""Layouts that are inferred, conversions that are inserted, and how wide accesses become."""

import re

import pytest

from tilus.errors import TilusTypeError
from tilus.ir.parser import parse
from tilus.ir.passes import lower
from tilus.ir.program import Assign, Function, definitions, walk
from tilus.ir.types import TileType


def lowered(
    body: str,
    params: str = "%p: ptr[f16] divisible 16, %n: i32, %c: bool",
    threads: int = 32,
    target: str = "generic",
) -> Function:
    return lower(parse(f"kernel @k({params}) threads {threads} {{\n{body}\n}}"), target)


def layout(f: Function, name: str) -> str:
    """The layout of the tile of that name."""
    (found,) = {
        str(v.type.layout) for s in walk(f.body) for v in definitions(s)
        if v.name == name and isinstance(v.type, TileType) and not made(s)
    }  # fmt: skip
    return found


def made(s) -> bool:
    return isinstance(s, Assign) and s.span is not None and "convert" in s.span.reason


def conversions(f: Function) -> list[str]:
    return [s.result.name for s in walk(f.body) if made(s) and s.inst.opcode == "convert_layout"]


GLOBAL = "%g = global_view(%p, dtype=f16, shape=[64, 64])\n"
MMA_C = "local(2,1)*spatial(8,4)*local(1,2)"


def test_a_product_chooses_the_matrix_instruction() -> None:
    f = lowered(
        GLOBAL
        + """%a = load_global(%g, offsets=[0, 0], shape=[16, 16])
      %b = load_global(%g, offsets=[16, 0], shape=[16, 8])
      %d = dot(%a, %b)
      %e = exp(%d)
      print_tensor(x=%e)"""
    )
    assert layout(f, "d") == layout(f, "e") == MMA_C
    assert layout(f, "a") == "column_local(2,2)*spatial(8,4)*local(1,2)"
    assert layout(f, "b") == "local(2,1)*column_spatial(4,8)*local(2,1)"
    assert conversions(f) == []


@pytest.mark.parametrize(
    ("dtype", "shape", "threads", "target"),
    [
        ("f32", (8, 8, 8), 32, "generic"),
        ("f16", (5, 7, 3), 32, "generic"),
        ("f16", (16, 16, 16), 24, "generic"),
        ("u4", (16, 8, 32), 32, "generic"),
        ("f16", (16, 8, 16), 1, "cpu"),
        ("f64", (1, 1, 1), 64, "generic"),
    ],
)
def test_a_product_without_a_matrix_instruction(dtype, shape, threads, target) -> None:
    m, n, k = shape
    f = lowered(f"""%g = global_view(%p, dtype={dtype}, shape=[64, 64])
      %a = load_global(%g, offsets=[0, 0], shape=[{m}, {k}])
      %b = load_global(%g, offsets=[0, 0], shape=[{k}, {n}])
      %d = dot(%a, %b)
      print_tensor(x=%d)""", f"%p: ptr[{dtype}]", threads, target)  # fmt: skip
    assert layout(f, "d")


def test_one_tile_on_both_sides_of_a_product() -> None:
    f = lowered(
        GLOBAL
        + """%a = load_global(%g, offsets=[0, 0], shape=[16, 16])
      %d = dot(%a, %a)
      print_tensor(x=%d)"""
    )
    (product,) = [s.inst for s in walk(f.body) if isinstance(s, Assign) and s.inst.opcode == "dot"]
    assert product.a is not product.b
    assert product.a.type.layout != product.b.type.layout
    assert conversions(f) == ["a"]


def test_an_accumulator_goes_round_a_loop() -> None:
    f = lowered(
        GLOBAL
        + """%zero = full(dtype=f32, shape=[16, 8], value=0.0)
      for %i < %n carry (%acc = %zero) -> (%sum: f32[16,8]) {
        %a = load_global(%g, offsets=[0, %i * 16], shape=[16, 16])
        %b = load_global(%g, offsets=[%i * 16, 0], shape=[16, 8])
        %next = dot(%a, %b, %acc)
        yield %next
      }
      print_tensor(x=%sum)"""
    )
    assert {layout(f, v) for v in ("zero", "acc", "next", "sum")} == {MMA_C}
    assert conversions(f) == []


def test_branches_meet() -> None:
    f = lowered(
        GLOBAL
        + """%a = load_global(%g, offsets=[0, 0], shape=[16, 16])
      %b = load_global(%g, offsets=[0, 0], shape=[16, 16], layout=column_spatial(16,2)*local(1,8))
      if %c -> (%r: f16[16,16]) { yield %a } else { yield %b }
      if %c -> (%q: f16[16,16] @ spatial(16,2)*local(1,8)) { yield %b } else { yield %r }
      print_tensor(x=%q)"""
    )
    assert layout(f, "a") == layout(f, "r") == layout(f, "b")  # %a has no other wish
    assert conversions(f) == ["b", "r"]


def test_what_the_kernel_says_stays() -> None:
    said = "column_spatial(8,4)*local(1,4)"
    f = lowered(
        GLOBAL
        + f"""%a = load_global(%g, offsets=[0, 0], shape=[8, 16], layout={said})
      %b = neg(%a)
      %c1 = abs(%b) : f16[8,16] @ spatial(8,4)*local(1,4)
      %d = exp(%c1)
      print_tensor(x=%d)"""
    )
    assert layout(f, "a") == layout(f, "b") == said
    assert layout(f, "c1") == layout(f, "d") == "spatial(8,4)*local(1,4)"
    assert conversions(f) == ["b"]


def test_one_conversion_serves_all_uses() -> None:
    f = lowered(
        GLOBAL
        + """%a = load_global(%g, offsets=[0, 0], shape=[8, 16], layout=spatial(8,4)*local(1,4))
      %b = load_global(%g, offsets=[0, 0], shape=[8, 16], layout=column_spatial(8,4)*local(1,4))
      %x = add(%a, %b)
      %y = sub(%a, %b)
      if %c { %z = mul(%a, %b) print_tensor(x=%z) }
      print_tensor(x=%x)
      print_tensor(x=%y)"""
    )
    assert len(conversions(f)) == 1


def test_a_conversion_in_a_branch_stays_there() -> None:
    f = lowered(
        GLOBAL
        + """%a = load_global(%g, offsets=[0, 0], shape=[8, 16], layout=spatial(8,4)*local(1,4))
      if %c { %x = neg(%a) : f16[8,16] @ column_spatial(8,4)*local(1,4) print_tensor(x=%x) }
      %y = abs(%a) : f16[8,16] @ column_spatial(8,4)*local(1,4)
      print_tensor(x=%y)"""
    )
    assert conversions(f) == ["a", "a"]


def test_tiles_made_of_scalars_are_made_again() -> None:
    f = lowered(
        GLOBAL
        + """%one = full(dtype=f16, shape=[8, 16], value=1.0)
      %a = load_global(%g, offsets=[0, 0], shape=[8, 16], layout=spatial(8,4)*local(1,4))
      %b = load_global(%g, offsets=[0, 0], shape=[8, 16], layout=column_spatial(8,4)*local(1,4))
      %x = add(%a, %one)
      %y = add(%b, %one)
      print_tensor(x=%x)
      print_tensor(x=%y)"""
    )
    assert conversions(f) == []
    assert str(f).count("full(") == 2


def test_layouts_of_other_thread_counts_are_refused() -> None:
    with pytest.raises(TilusTypeError, match="%a is spread over 64 threads; the kernel has 32"):
        lowered(
            "%a = full(dtype=f16, shape=[64], value=0.0, layout=spatial(64))\nprint_tensor(x=%a)"
        )


def test_carried_round_a_loop_that_makes_none() -> None:
    f = lowered("""%a = full(dtype=f16, shape=[64], value=0.0)
      while %c carry (%x = %a, %y = %a) -> (%r: f16[64], %q: f16[64]) { yield %y, %x }
      print_tensor(x=%r)""")
    assert layout(f, "x") == layout(f, "r") == layout(f, "a")


# How many elements one access moves

ROW = "[%i, 0], [8, 64]"


@pytest.mark.parametrize(
    ("view", "tile", "vector"),
    [
        ("[%n, 64]", "[%n, 0], [8, 64]", 8),
        ("[%n, 64]", "[%n, 8], [8, 64]", 8),
        ("[%n, 64]", "[%n, 4], [8, 64]", 4),
        ("[%n, 64]", "[%n, %n], [8, 64]", 1),
        ("[%n, 64]", "[%n, multiple_of(%n, 4)], [8, 64]", 4),
        ("[%n, 65]", "[%n, 0], [8, 64]", 1),
        ("[%n, 66]", "[%n, 0], [8, 64]", 2),
        ("[%n, 64], strides=[72, 1]", "[%n, 0], [8, 64]", 8),
        ("[%n, 64], strides=[%n, 1]", "[%n, 0], [8, 64]", 1),
        ("[%n, 64], strides=[%m, 1]", "[%n, 0], [8, 64]", 4),
        ("[%n, 64], strides=[1, 64]", "[%n, 0], [8, 64]", 1),
        ("[%n, 64], offset=4", "[%n, 0], [8, 64]", 4),
        ("[%n, 64], offset=%n", "[%n, 0], [8, 64]", 1),
        ("[8, %m]", "[0, 0], [8, 64]", 4),
        ("[8, %m]", "[0, %m - 64], [8, 64]", 4),
        ("[%n]", "[0], [64]", 1),
        ("[%m]", "[0], [64]", 2),  # two elements a thread
        ("[grid_dim(0) * 256]", "[block_idx(0) * 256], [256]", 8),
        ("[grid_dim(0) * 256]", "[block_idx(0) * 256 + 4], [256]", 4),
        ("[64]", "[0], [64]", 2),
        ("[64]", "[1], [64]", 1),
    ],
)
def test_vectors_of_global_memory(view: str, tile: str, vector: int) -> None:
    offsets, shape = re.fullmatch(r"(.*), (\[[\d, ]*\])", tile).groups()  # type: ignore[union-attr]
    f = lowered(f"""%g = global_view(%p, dtype=f16, shape={view})
      %t = load_global(%g, offsets={offsets}, shape={shape})
      store_global(%g, %t, offsets={offsets})""",
                "%p: ptr[f16] divisible 16, %n: i32, %m: i32 divisible 4")  # fmt: skip
    assert [int(v) for v in re.findall(r"vector=(\d+)", str(f))] == [vector] * 2


@pytest.mark.parametrize(
    ("divisible", "vector"), [(1, 1), (2, 1), (4, 2), (8, 4), (16, 8), (256, 8)]
)
def test_vectors_and_the_alignment_of_a_pointer(divisible: int, vector: int) -> None:
    f = lowered("""%g = global_view(%p, dtype=f16, shape=[8, 64])
      %t = load_global(%g, offsets=[0, 0], shape=[8, 64])
      print_tensor(x=%t)""", f"%p: ptr[f16] divisible {divisible}")  # fmt: skip
    assert f"vector={vector})" in str(f)


@pytest.mark.parametrize(
    ("bits", "vector"),
    [(1, 32), (2, 16), (3, 1), (4, 8), (5, 1), (6, 1), (7, 1), (8, 4)],
)
def test_vectors_of_narrow_elements(bits: int, vector: int) -> None:
    """A thread holds 32 bits here; only whole powers of two of bytes move at once."""
    n = 32 // bits if 32 % bits == 0 else 8
    f = lowered(f"""%g = global_view(%p, dtype=u{bits}, shape=[{32 * n}])
      %t = load_global(%g, offsets=[0], shape=[{32 * n}], layout=spatial(32)*local({n}))
      print_tensor(x=%t)""", f"%p: ptr[u{bits}] divisible 16")  # fmt: skip
    assert f"vector={vector})" in str(f)


@pytest.mark.parametrize(
    ("offset", "vector"), [("0", 8), ("8", 8), ("4", 4), ("2", 2), ("1", 1), ("3", 1), ("%n", 1)]
)
def test_vectors_of_nibbles_at_an_offset(offset: str, vector: int) -> None:
    f = lowered(
        f"""%g = global_view(%p, dtype=u4, shape=[512], offset={offset})
        %t = load_global(%g, offsets=[0], shape=[256], layout=spatial(32)*local(8))
        %s = allocate_shared(dtype=u4, shape=[512])
        %u = load_shared(%s, offsets=[{offset}], shape=[256], layout=spatial(32)*local(8))
        print_tensor(x=%t)
        print_tensor(x=%u)""",
        "%p: ptr[u4] divisible 16, %n: i32",
    )
    assert [int(v) for v in re.findall(r"vector=(\d+)", str(f))] == [vector] * 2


@pytest.mark.parametrize(
    ("shared", "part", "vector"),
    [
        ("[16, 64]", "", 8),
        ("[16, 64], layout=shared((16,64), strides=(68,1))", "", 4),
        ("[16, 64], layout=shared((16,64), strides=(1,16))", "", 1),
        ("[16, 64], layout=shared((16,64), strides=(64,1), swizzle=(3,3,3))", "", 8),
        ("[16, 64], layout=shared((16,64), strides=(64,1), swizzle=(3,1,3))", "", 2),
        ("[2, 16, 64]", ", offsets=[%n % 2, 0, 0], shape=[16, 64]", 8),
        ("[16, 128]", ", offsets=[0, 8], shape=[16, 64]", 8),
        ("[16, 128]", ", offsets=[0, 2], shape=[16, 64]", 2),
        ("[16, 128]", ", offsets=[0, %n], shape=[16, 64]", 1),
        ("[64, 16]", ", offsets=[0, 0], shape=[16, 64], dims=[1, 0]", 1),
    ],
)
def test_vectors_of_shared_memory(shared: str, part: str, vector: int) -> None:
    f = lowered(
        f"""%s = allocate_shared(dtype=f16, shape={shared})
      %t = load_shared(%s{part}, layout=local(2,1)*spatial(8,4)*local(1,16))
      print_tensor(x=%t)"""
    )
    assert f"vector={vector})" in str(f)


def test_a_vector_that_the_kernel_says_stays() -> None:
    f = lowered(
        GLOBAL + "%t = load_global(%g, offsets=[0, 0], shape=[8, 64], vector=2)\nprint_tensor(x=%t)"
    )
    assert "vector=2)" in str(f)
    for vector in (0, -1, 3, 16, 32):
        with pytest.raises(TilusTypeError, match=f"`vector` is {vector}: one access moves"):
            lowered(
                GLOBAL + f"%t = load_global(%g, offsets=[0, 0], shape=[8, 64], vector={vector})"
            )


def test_async_copies_get_a_layout() -> None:
    f = lowered(
        GLOBAL
        + """%s = allocate_shared(dtype=f16, shape=[8, 64])
      copy_async(%s, %g, offsets=[%n * 8, 0])
      copy_async_commit_group()
      copy_async_wait_group()
      %t = load_shared(%s)
      print_tensor(x=%t)"""
    )
    assert "copy_async(%s, %g, offsets=[%n * 8, 0], layout=" in str(f)
    assert "vector=8)" in str(f)
