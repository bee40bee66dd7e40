"""Running kernels with a planted fault, and checking the trap they run into.

In a kernel's text a comment `; here` marks the line that the trap must name.
"""

import re

import numpy as np
import pytest

from tests.sampling.common import aligned
from tilus.errors import Trap
from tilus.ir.interpreter import run
from tilus.ir.parser import parse
from tilus.ir.passes import lower
from tilus.ir.program import Seq

HEAD = """kernel @k(%x: ptr[f32], %y: ptr[f32], %n: i32) threads THREADS {
  %X = global_view(%x, dtype=f32, shape=[64])
  %Y = global_view(%y, dtype=f32, shape=[64])
"""


def floats(n: int = 64) -> np.ndarray:
    return aligned(np.arange(n, dtype=np.float32).view(np.uint8)).view(np.float32)


def launch(body: str, threads: int = 32, grid=(1,), head: str = HEAD, barriers=True, **args):
    """Run a kernel; `barriers=False`: without those that the compiler inserted."""
    given = {"x": floats(), "y": floats(), "n": 0} if head is HEAD else {}
    f = lower(parse((head + body + "\n}").replace("THREADS", str(threads)), "k.tir"))
    if not barriers:
        kept = tuple(s for s in f.body.stmts if "insert_barriers" not in str(s.span))
        assert len(kept) < len(f.body.stmts)
        f = f.with_body(Seq(kept))
    run(f, given | args, grid)


def trapped(body: str, *, head: str = HEAD, **more) -> str:
    """The message of the trap that the kernel runs into, at the line marked `; here`."""
    __tracebackhide__ = True
    with pytest.raises(Trap) as caught:
        launch(body, head=head, **more)
    e = caught.value
    lines = (head + body).splitlines()
    (here,) = [i + 1 for i, line in enumerate(lines) if "; here" in line]
    assert e.span is not None
    assert (e.span.file, e.span.line) == ("k.tir", here), str(e)
    assert re.match(r"block \(\d+(, \d+)*\): ", e.first.message), e.first.message
    assert e.args == (e.first.message,)
    return e.first.message.split(": ", 1)[1]


LOAD = "%t = load_global(%X, offsets=[0], shape=[64], layout=local(2)*spatial(32))\n"
OTHER = "layout=spatial(32)*local(2)"


def load(view: str, at: object, n: int, more: str) -> str:
    return f"%t = load_global({view}, offsets=[{at}], shape=[{n}], {more}) ; here\nprint_tensor(%t)"
