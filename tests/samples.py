"""One entry for each instruction: kernels that use it, their inputs, and what must come out.

What must come out is computed with torch, with Python's integers or by hand, never with the
instruction's own function. Tests iterate `SAMPLES`: the text form, the passes, the interpreter, and
every backend.

    for s in SAMPLES:
        case = s.case()
        run(lower(s.program(num_threads)), case.args, s.grid)
        case.check()
"""

from tests.sampling.arith import arithmetic
from tests.sampling.common import Case, Sample
from tests.sampling.memory import memory, order
from tests.sampling.tiles import along, made, products, shapes

SAMPLES: tuple[Sample, ...] = (
    *arithmetic(),
    *products(),
    *along(),
    *shapes(),
    *made(),
    *memory(),
    *order(),
)

__all__ = ["SAMPLES", "Case", "Sample"]
