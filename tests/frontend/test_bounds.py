"""The iterations of a run-time `range` are Python's, to the ends of the types."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tilus import dtypes
from tilus.ir.builder import building
from tilus.ir.expr import Apply, Const, Value, evaluate
from tilus.ir.types import ScalarType
from tilus.lang.bounds import bounds_of
from tilus.lang.values import Range

TYPES = [dtypes.i32, dtypes.u32, dtypes.i8, dtypes.u8, dtypes.i16]


def value_of(e, env):
    """A scalar expression evaluated by its definition."""
    if isinstance(e, Const):
        return e.value
    if isinstance(e, Value):
        return env[e]
    assert isinstance(e, Apply)
    if e.op == "select":
        return value_of(e.args[1 if value_of(e.args[0], env) else 2], env)
    return evaluate(e.op, [value_of(a, env) for a in e.args], e.dtype, e.args[0].dtype)


def iterations(dtype, start, stop, step, run_time):
    """The first and last few values of a loop over the range, and its count."""
    env = {}

    def operand(x, name):
        if name not in run_time:
            return x
        v = Value(ScalarType(dtype), name)
        env[v] = x
        return v

    parts = [operand(x, n) for x, n in ((start, "start"), (stop, "stop"), (step, "step"))]
    with building() as block:
        bounds = bounds_of(Range(*parts))
    for s in block.stmts:
        env[s.var] = value_of(s.expr, env)
    count = max(0, value_of(bounds.extent, env))
    index = Value(ScalarType(bounds.extent.dtype), "i")
    shown = [*range(min(count, 3)), *range(max(0, count - 3), count)]
    return count, [value_of(bounds.at(index), {**env, index: i}) for i in shown]


def python(start, stop, step):
    r = range(start, stop, step)
    count = len(r)
    return count, [r[i] for i in [*range(min(count, 3)), *range(max(0, count - 3), count)]]


def numbers(dtype):
    ends = st.sampled_from([dtype.min, dtype.min + 1, dtype.max - 1, dtype.max, 0, 1])
    near = st.integers(max(dtype.min, -20), 20)
    return st.one_of(ends, near, st.integers(dtype.min, dtype.max))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@given(data=st.data())
def test_counts_and_values(dtype, data):
    start, stop, step = (data.draw(numbers(dtype)) for _ in range(3))
    names = st.sets(st.sampled_from(["start", "stop", "step"]), min_size=1)
    run_time = data.draw(names)
    if "step" not in run_time and data.draw(st.booleans()):
        step = -step  # of an unsigned range too
    assume(step != 0 and abs(step) <= dtype.max)
    assume(len(range(start, stop, step)) < 2**31)
    if dtype.bits < 32 and len(range(start, stop, step)):
        last = range(start, stop, step)[-1]
        assume(dtype.min <= last <= dtype.max)
    assert iterations(dtype, start, stop, step, run_time) == python(start, stop, step)


@given(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62), st.integers(1, 2**40))
def test_sixty_four_bits(start, stop, step):
    assume(abs(stop - start) < 2**62)
    for s in (step, -step):
        for run_time in ({"start"}, {"stop", "step"}, {"start", "stop"}):
            assert iterations(dtypes.i64, start, stop, s, run_time) == python(start, stop, s)


def test_known_bounds_count_now():
    bounds = bounds_of(range(10, 0, -3))
    assert (bounds.count, bounds.dtype) == (4, dtypes.i32)
    assert bounds_of(range(2**40, 2**40 + 2)).dtype == dtypes.i64
    assert bounds_of(range(5, 5)).count == 0
