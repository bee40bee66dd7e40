"""Every statement knows the line it comes from; what a pass inserts says so."""

import pytest

from tests.samples import SAMPLES
from tilus.ir.parser import parse
from tilus.ir.passes import lower
from tilus.ir.printer import print_function
from tilus.ir.program import Assign, Seq, walk


@pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.name)
def test_after_the_whole_pipeline(s) -> None:
    source = s.program(s.threads[-1])
    lines = {x.span for x in walk(source.body) if not isinstance(x, Seq)}
    opcodes = [x.inst.opcode for x in walk(source.body) if isinstance(x, Assign)]
    for x in walk(lower(source).body):
        if isinstance(x, Seq):
            continue
        assert x.span is not None, x
        if not x.span.reason:
            assert x.span in lines, x
        else:  # the place of the statement it was inserted for
            assert x.span.because("") in lines, x
            assert x.span.reason.split()[-2] == "by", x.span.reason
        if isinstance(x, Assign):
            assert x.span.reason or x.inst.opcode in opcodes, f"{x.inst} has no reason"


KERNEL = """kernel @k(%p: ptr[f32], %n: i32) threads 4 {
  %g = global_view(%p, dtype=f32, shape=[8])
  %s = allocate_shared(dtype=f32, shape=[8])
  %a = load_global(%g, offsets=[0], shape=[8], layout=spatial(4)*local(2))
  store_shared(%s, %a)
  %b = load_shared(%s, layout=local(2)*spatial(4))
  %c = add(%a, %b)
  for %i < 3 {
    let %x = 1 // %n
    %d = full(dtype=f32, shape=[8], value=%x)
  }
  store_global(%g, %c, offsets=[0])
}
"""


def test_inserted_statements_name_their_pass_and_line() -> None:
    f = lower(parse(KERNEL, "kernel.tir"))
    inserted = {
        x.inst.opcode: str(x.span) for x in walk(f.body) if isinstance(x, Assign) and x.span.reason
    }
    assert inserted == {
        "sync": "kernel.tir:6:3 (inserted by insert_barriers)",
        "convert_layout": "kernel.tir:7:3 (inserted by convert_layouts)",
    }


def test_places_in_the_text() -> None:
    lines = print_function(lower(parse(KERNEL, "some/kernel.tir")), places=True).splitlines()
    assert [line.split(";")[1].strip() for line in lines if ";" in line] == [
        "kernel.tir:2",
        "kernel.tir:3",
        "kernel.tir:4",
        "kernel.tir:5",
        "kernel.tir:6 inserted by insert_barriers",
        "kernel.tir:7 inserted by convert_layouts",
        "kernel.tir:8",
        "kernel.tir:9",
        "kernel.tir:12",
    ]
    assert parse("\n".join(lines)) == lower(parse(KERNEL))
