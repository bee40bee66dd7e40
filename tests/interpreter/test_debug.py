"""`print_tensor`, `device_assert` and `breakpoint`."""

import sys

import numpy as np
import pytest

from tilus.errors import Trap
from tilus.ir.interpreter import run
from tilus.ir.parser import parse
from tilus.ir.passes import lower

HEAD = """kernel @k(%x: ptr[f16], %n: i32) threads 32 {
  %X = global_view(%x, dtype=f16, shape=[4, 4])
  %t = load_global(%X, offsets=[0, 0], shape=[4, 4])
"""


def launch(body: str, grid=(1,), **more) -> list[str]:
    said: list[str] = []
    args = {"x": np.arange(16, dtype=np.float16) / 3, "n": 5} | more
    run(lower(parse(HEAD + body + "\n}", "k.tir")), args, grid, output=said.append)
    return said


def test_print_tensor_shows_block_name_and_type() -> None:
    assert launch('print_tensor(%t)\nprint_tensor(x=%n + 1, message="next")', grid=(1, 2)) == [
        "[block 0, 0] t: f16[4,4] =\n"
        "[[0.     0.3333 0.6665 1.    ]\n"
        " [1.333  1.667  2.     2.334 ]\n"
        " [2.666  3.     3.334  3.666 ]\n"
        " [4.     4.332  4.668  5.    ]]",
        "[block 0, 0] next: i32 = 6",
        "[block 0, 1] t: f16[4,4] =\n"
        "[[0.     0.3333 0.6665 1.    ]\n"
        " [1.333  1.667  2.     2.334 ]\n"
        " [2.666  3.     3.334  3.666 ]\n"
        " [4.     4.332  4.668  5.    ]]",
        "[block 0, 1] next: i32 = 6",
    ]


def test_print_tensor_of_small_and_odd_things() -> None:
    body = """%s = reduce(%t, dim=0, op="max")
      print_tensor(%s)
      %u = cast(%s, dtype=u3)
      print_tensor(%u)
      %b = reduce(%s, dim=0, op="sum")
      print_tensor(%b)
      print_tensor(x=%n > 3)"""
    assert launch(body) == [
        "[block 0] s: f16[4] = [4.    4.332 4.668 5.   ]",
        "[block 0] u: u3[4] = [4 4 4 5]",
        "[block 0] b: f16[] = 18.0",
        "[block 0] value: bool = True",
    ]


def test_print_tensor_keeps_its_name_through_passes() -> None:
    assert launch("let %a = %n\nlet %b = %a\nprint_tensor(x=%b)") == ["[block 0] b: i32 = 5"]


def test_print_tensor_writes_to_the_standard_output(capsys) -> None:
    run(lower(parse(HEAD + "print_tensor(x=%n)\n}")), [np.zeros(16, np.float16), 7], (1,))
    assert capsys.readouterr().out == "[block 0] n: i32 = 7\n"


def test_device_assert() -> None:
    assert launch("device_assert(cond=%n == 5)") == []
    with pytest.raises(Trap) as caught:
        launch('device_assert(cond=%n == 6, message="n is six")')
    assert caught.value.first.message == "block (0): assertion failed: n is six"
    assert str(caught.value.span) == "k.tir:4:1"
    body = """%z = full(dtype=f16, shape=[4, 4], value=2.5)
      %c = lt(%t, %z)
      device_assert(%c)"""
    with pytest.raises(Trap) as caught:
        launch(body)
    assert caught.value.first.message == "block (0): assertion failed at element (2, 0)"


def test_breakpoint_shows_live_values(monkeypatch) -> None:
    seen = []

    def hook() -> None:
        frame = sys._getframe(1)
        seen.append({k: v for k, v in frame.f_globals.items() if not k.startswith("__")})

    monkeypatch.setattr(sys, "breakpointhook", hook)
    body = """let %m = %n * 2
      for %i < 2 {
        breakpoint(names=["t", "m", "i", "half"], values=[%t, %m, %i, 0.5])
      }"""
    launch(body, grid=(2,))
    assert [(s["block"], s["i"]) for s in seen] == [((b, 0, 0), i) for b in (0, 1) for i in (0, 1)]
    assert set(seen[0]) == {"np", "block", "t", "m", "i", "half"}
    assert seen[0]["np"] is np and seen[0]["m"] == 10 and seen[0]["half"] == 0.5
    assert seen[0]["t"].dtype == np.float16 and seen[0]["t"].shape == (4, 4)
    np.testing.assert_array_equal(seen[0]["t"].ravel(), np.arange(16, dtype=np.float16) / 3)


def test_breakpoint_can_be_switched_off(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    assert launch('breakpoint(names=["n"], values=[%n])') == []


def test_an_error_in_the_debugger_is_its_own(monkeypatch) -> None:
    class Quit(Exception):
        pass

    def hook() -> None:
        raise Quit

    monkeypatch.setattr(sys, "breakpointhook", hook)
    with pytest.raises(Quit):
        launch('breakpoint(names=["n"], values=[%n])')
