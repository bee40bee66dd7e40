"""Which names a piece of code assigns, and which are read afterwards."""

import ast

from tilus.lang.liveness import Liveness, assigned, breaks


def live(text):
    body = ast.parse(text).body
    liveness = Liveness(body)
    return {s.lineno: set(names) for s, names in liveness.after.items()}, {
        s.lineno: set(names) for s, names in liveness.head.items()
    }


def test_assigned():
    body = ast.parse(
        "a, (b, *c) = 1\nfor d in e:\n  f += 1\nx = [g for g in h if (i := g)]\nj: k = 1"
    )
    assert assigned(body.body) == ["a", "b", "c", "d", "f", "x", "j"]


def test_straight_line():
    after, _ = live("a = 1\nb = a\na = b\nc = a")
    assert after == {1: {"a"}, 2: {"b"}, 3: {"a"}, 4: set()}


def test_branches():
    after, _ = live("if p:\n  a = 1\nelse:\n  b = 2\nc = a")
    assert after[1] == {"a"}
    assert after[4] == {"a"}


def test_loop_head_and_breaks():
    after, head = live(
        "for i in n:\n  if p:\n    x = 1\n    break\n  y = z\n  z = y\nelse:\n  x = 2\nprint(x)"
    )
    assert head[1] == {"p", "z", "print"}
    assert after[4] == set() or after[3] == {"x", "print"}
    assert after[1] == {"x", "print"}


def test_while():
    _, head = live("while a < b:\n  a = c\n  if a:\n    continue\n  d = a\nreturn_ = d")
    assert head[1] == {"a", "b", "c", "d"}


def test_breaks_of_the_loop_itself():
    loop = ast.parse("while a:\n  for b in c:\n    break").body[0]
    assert not breaks(loop.body)
    loop = ast.parse("while a:\n  for b in c:\n    pass\n  else:\n    break").body[0]
    assert breaks(loop.body)
