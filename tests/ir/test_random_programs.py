"""Random programs: they verify, read back, lower, and mean the same for every number of threads."""

import numpy as np
from hypothesis import HealthCheck, given, note, settings

from tests.ir.random_programs import BLOCKS, programs
from tilus.errors import Trap
from tilus.ir.interpreter import run
from tilus.ir.parser import parse
from tilus.ir.passes import PIPELINE, lower, run_passes
from tilus.ir.target import target
from tilus.ir.verifier import verify

some = settings(max_examples=60, suppress_health_check=list(HealthCheck))


def outcome(made, f, seed: int = 0):
    """What a run leaves in memory and prints; or that a scalar trapped."""
    args, said = made.arguments(seed), []
    try:
        run(f, args, (BLOCKS,), output=said.append)
    except Trap as e:
        message = e.first.message
        assert "by zero" in message or "shift" in message or "as the kernel promised" in message, e
        return "trap"
    return {n: args[n].tobytes() for n in made.outputs}, said


@some
@given(programs())
def test_text(recipe) -> None:
    f = recipe.build(32).made
    verify(f)
    again = parse(str(f))
    assert again == f
    assert str(again) == str(f)
    low = lower(f)
    assert parse(str(low)) == low


@some
@given(programs())
def test_threads_make_no_difference(recipe) -> None:
    with np.errstate(all="ignore"):
        made = recipe.build(1)
        note(str(made.made))
        want = outcome(made, lower(made.made))
        for num_threads, machine in (
            (1, "cpu"),
            (32, "generic"),
            (96, "generic"),
            (128, "generic"),
        ):
            made = recipe.build(num_threads)
            assert outcome(made, lower(made.made, machine)) == want, num_threads


@some
@given(programs())
def test_passes_keep_the_meaning(recipe) -> None:
    made = recipe.build(32)
    note(str(made.made))
    plain = run_passes(made.made, target("generic"), PIPELINE[2:])
    full = lower(made.made)
    for seed in range(3):
        assert outcome(made, full, seed) == outcome(made, plain, seed)
