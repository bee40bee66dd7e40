"""Dead code goes, and with it what only it needed; traps of scalars, and effects, stay."""

import pytest

from tilus.errors import Trap
from tilus.ir.interpreter import run
from tilus.ir.parser import parse
from tilus.ir.passes import lower
from tilus.ir.passes.dead_code import dead_code
from tilus.ir.target import target

PARAMS = "%n: i32, %p: ptr[f32]"


def after(text: str) -> str:
    f = parse(f"kernel @k({PARAMS}) threads 4 {{\n{text}\n}}")
    short = dead_code(f, target("generic"))
    assert dead_code(short, target("generic")) is short
    return "\n".join(line.strip() for line in str(short).splitlines()[1:-1])


LOAD = """%g = global_view(%p, dtype=f32, shape=[8])
%t = load_global(%g, offsets=[0], shape=[8])
"""


@pytest.mark.parametrize(
    "text",
    [
        "let %a = %n + 1\nlet %b = %a * 2",
        LOAD + "%u = exp(%t)",
        "let %c = %n > 0\nif %c { let %x = 1 }",
        "let %c = %n * 2\nfor %i < %c { let %x = %i }",
        "for %i < 9 carry (%a = 0, %b = 1) -> (%r: i32, %q: i32) { yield %b, %a }",
        "if %n == 1 -> (%a: i32) { yield 1 } else { yield 2 }",
        "%s = allocate_shared(dtype=f32, shape=[8])\n%u = load_shared(%s)",
        "if %n == 0 { for %i < %n { if %i > 2 { let %z = 2 } } }",
    ],
)
def test_all_of_it_goes(text: str) -> None:
    assert after(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "sync()",
        "let %a = %n + 1\nprint_tensor(x=%a)",
        LOAD + "store_global(%g, %t, offsets=[0])",
        "%s = allocate_shared(dtype=f32, shape=[8])\n"
        "%t = full(dtype=f32, shape=[8], value=0.0)\nstore_shared(%s, %t)",
        LOAD + "atomic_add(%g, %t, offsets=[0])",
        "device_assert(cond=%n > 0)",
        "while %n > 0 {\n}",
        "for %i < 4 {\nbreak\n}",
        "if %n > 0 {\nreturn\n}\nsync()",
        "let %a = 1 // %n",
        "let %a = multiple_of(%n, 4)",
    ],
)
def test_effects_and_traps_stay(text: str) -> None:
    lines = [line.split(" : ")[0] for line in after(text).splitlines()]
    assert [x.split(", message")[0].rstrip(")") for x in lines] == [
        x.strip().rstrip(")") for x in text.splitlines()
    ]


def test_carried_values_nobody_reads() -> None:
    text = """for %i < 4 carry (%a = 0, %b = 1, %c = 2) -> (%x: i32, %y: i32, %z: i32) {
      if %i == 2 { continue %a, %c, %b }
      yield %a + 1, %b + %i, 5
    }
    print_tensor(x=%x)"""
    assert after(text) == (
        "for %i < 4 carry (%a: i32 = 0) -> (%x: i32) {\nif %i == 2 {\ncontinue %a\n}\n"
        'yield %a + 1\n}\nprint_tensor(x=%x, message="x")'
    )


def test_results_of_branches_nobody_reads() -> None:
    text = """if %n == 1 -> (%a: i32, %b: i32) { yield 1, 2 } else { yield 3, 4 }
    print_tensor(x=%b)"""
    assert after(text) == (
        'if %n == 1 -> (%b: i32) {\nyield 2\n} else {\nyield 4\n}\nprint_tensor(x=%b, message="b")'
    )


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("%t = full(dtype=i32, shape=[4], value=1 // %n)", "let %check = 1 // %n"),
        ("if 1 // %n == 0 { }", "let %check = 1 // %n == 0"),
        ("for %i < 1 // %n { }", "let %check = 1 // %n"),
        ("for %i < 4 carry (%a = 1 // %n) -> (%r: i32) { yield 0 }", "let %check = 1 // %n"),
        (
            "if %n < 5 -> (%a: i32) { yield 1 // %n } else { yield 0 }",
            "if %n < 5 {\nlet %check = 1 // %n\n}",
        ),
        (
            "for %i < 4 carry (%a = 0) -> (%r: i32) { if %i == %n { break %i // %n } yield 0 }",
            "for %i < 4 {\nif %i == %n {\nlet %check = %i // %n\nbreak\n}\n}",
        ),
        (
            LOAD.replace("offsets=[0]", "offsets=[8 // %n]"),
            "let %check = 8 // %n",
        ),
    ],
)
def test_the_trap_of_a_dropped_scalar_stays(text: str, left: str) -> None:
    assert after(text) == left
    f = parse(f"kernel @k({PARAMS}) threads 4 {{\n{text}\n}}", "k.tir")
    import numpy as np

    with pytest.raises(Trap, match="division by zero") as caught:
        run(lower(f), {"n": 0, "p": np.zeros(8, np.float32)}, (1,))
    assert str(caught.value.span).startswith("k.tir:")
