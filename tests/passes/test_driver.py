"""The driver: order, verification, dumps, and stopping to find the pass that breaks a program."""

import pytest

from tilus.errors import TilusTypeError, TilusValueError
from tilus.ir.parser import parse, parse_file
from tilus.ir.passes import PIPELINE, Report, lower, run_passes
from tilus.ir.passes.driver import Form, Pass, ir_pass
from tilus.ir.program import Seq
from tilus.ir.target import target
from tilus.options import options

TEXT = """kernel @k(%p: ptr[f32]) threads 4 {
  %g = global_view(%p, dtype=f32, shape=[8])
  %t = load_global(%g, offsets=[1 - 1], shape=[8])
  store_global(%g, %t, offsets=[0])
}
"""
NAMES = [p.name for p in PIPELINE]


def test_report() -> None:
    report = Report()
    f = lower(parse(TEXT), report=report)
    assert [n for n, _ in report.stages] == NAMES == list(report.seconds)
    assert report.stages[-1][1] is f
    assert all(s >= 0 for s in report.seconds.values())


def test_each_pass_has_what_it_needs() -> None:
    form = Form.TYPED
    for p in PIPELINE:
        assert p.needs & form == p.needs, p.name
        form |= p.gives
    with pytest.raises(AssertionError, match="insert_barriers needs"):
        run_passes(parse(TEXT), target("generic"), PIPELINE[-1:])


@pytest.mark.parametrize("name", NAMES)
def test_after(name: str) -> None:
    report = Report()
    f = lower(parse(TEXT), after=name, report=report)
    assert [n for n, _ in report.stages] == NAMES[: NAMES.index(name) + 1]
    assert f is report.stages[-1][1]


def test_unknown_names() -> None:
    with pytest.raises(TilusValueError, match="no pass is named 'fuse'; there are simplify"):
        lower(parse(TEXT), after="fuse")
    with pytest.raises(TilusValueError, match="no target is named 'tpu'; there are generic"):
        lower(parse(TEXT), "tpu")


def test_stop_after() -> None:
    for n in range(len(PIPELINE) + 1):
        report = Report()
        with options.scope(stop_after=n):
            lower(parse(TEXT), report=report)
        assert [name for name, _ in report.stages] == NAMES[:n]


def test_dump(tmp_path) -> None:
    with options.scope(dump=tmp_path):
        f = lower(parse(TEXT, "k.tir"))
    files = sorted(p.name for p in (tmp_path / "k").iterdir())
    assert files == [f"{i:02}_{name}.tir" for i, name in enumerate(["source", *NAMES])]
    assert parse_file(str(tmp_path / "k" / files[0])) == parse(TEXT)
    assert parse_file(str(tmp_path / "k" / files[-1])) == f
    assert "; k.tir:3" in (tmp_path / "k" / files[1]).read_text()


def broken() -> Pass:
    @ir_pass(needs=Form.TYPED)
    def reverse(f, target):
        """Turn the program upside down."""
        return f.with_body(Seq(f.body.stmts[::-1]))

    return reverse


def test_verify() -> None:
    generic = target("generic")
    for verify, passes in (("each", 1), ("once", 2)):
        report = Report()
        with options.scope(verify=verify):
            with pytest.raises(TilusTypeError, match="used before it is defined"):
                run_passes(parse(TEXT), generic, (broken(), PIPELINE[0]), report=report)
        assert len(report.stages) == passes
    with pytest.raises(TilusTypeError, match="used before"):  # what comes in is checked first
        bad = broken()(parse(TEXT), generic)
        run_passes(bad, generic, ())


def test_a_pass_shows_its_functions_docstring() -> None:
    assert broken().__doc__ == "Turn the program upside down."
    assert broken().name == "reverse"
