"""The passes between a front end and a backend, and the order they run in."""

from tilus.ir.passes.convert_layouts import convert_layouts
from tilus.ir.passes.dead_code import dead_code
from tilus.ir.passes.driver import Form, Pass, Report, ir_pass, run_passes
from tilus.ir.passes.infer_layouts import infer_layouts
from tilus.ir.passes.insert_barriers import insert_barriers
from tilus.ir.passes.report import Decision, decisions
from tilus.ir.passes.simplify import simplify
from tilus.ir.passes.vectorize import vectorize
from tilus.ir.program import Function
from tilus.ir.target import Target
from tilus.ir.target import target as find_target

PIPELINE: tuple[Pass, ...] = (
    simplify,  # fold scalars and branches that bounds and divisors decide
    dead_code,  # drop what nothing uses
    infer_layouts,  # give every register tile a layout
    convert_layouts,  # insert conversions where uses disagree
    vectorize,  # say how many elements each memory access moves
    insert_barriers,  # make shared memory mean what program order says
)


def lower(
    f: Function,
    target: Target | str = "generic",
    *,
    after: str | None = None,
    report: Report | None = None,
) -> Function:
    """The function made ready for the interpreter or a backend: laid out and ordered."""
    machine = find_target(target) if isinstance(target, str) else target
    return run_passes(f, machine, PIPELINE, after=after, report=report)


__all__ = [
    "PIPELINE",
    "Decision",
    "Form",
    "Pass",
    "Report",
    "decisions",
    "ir_pass",
    "lower",
    "run_passes",
]
