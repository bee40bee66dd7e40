"""`range` with run-time bounds as a count of iterations and a formula for the loop variable.

The count is exact for every `start`, `stop` and `step` of the type, also where `stop - start`
overflows it; a loop that would run 2^31 times or more (2^63 for 64-bit bounds) is out of range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError
from tilus.ir.builder import let
from tilus.ir.expr import Apply, Const, Expr, apply, as_expr, cast, unify
from tilus.lang.values import Range

WIDE = dtypes.i64


@dataclass(frozen=True)
class Bounds:
    """A loop's count of iterations (`count`, where it is known now) and its variable."""

    extent: Expr
    count: int | None
    start: Expr
    step: Expr | int
    dtype: DType
    unroll: int = 1
    stages: int = 1

    def at(self, index: Expr) -> Expr:
        """The loop variable in iteration `index`."""
        i = cast(index, self.dtype)
        step = self.step
        if isinstance(step, int):
            away, step = step < 0, abs(step)
            i = i if step == 1 else apply("mul", i, step)
            if away:
                return apply("sub", self.start, i)
        else:
            i = apply("mul", i, step)
        if isinstance(self.start, Const) and self.start.value == 0:
            return i
        return apply("add", self.start, i)


def bounds_of(r: range | Range) -> Bounds:
    """The iterations of a `range`, with compile-time or run-time bounds."""
    unroll, stages = (r.unroll, r.stages) if isinstance(r, Range) else (1, 1)
    parts = (r.start, r.stop, r.step)
    if not any(isinstance(x, Expr) for x in parts):
        return _static(range(*parts), unroll, stages)
    try:
        _, dtype = unify("range", [*(x for x in parts if isinstance(x, Expr)), *_numbers(parts)])
    except TilusTypeError as e:
        e.first.message = e.first.message.removeprefix("range: ")
        e.first.message = f"range: {e.first.message}"
        raise
    start, stop = (cast(as_expr(x, dtype), dtype) for x in (r.start, r.stop))
    step: Any = r.step if isinstance(r.step, int) else cast(r.step, dtype)
    extent = _count(start, stop, step, dtype)
    return Bounds(extent, None, start, step, dtype, unroll, stages)


def _numbers(parts: tuple[Any, ...]) -> list[int]:
    """The compile-time bounds, which must fit the type (of a step, its size)."""
    start, stop, step = parts
    numbers = [x for x in (start, stop) if isinstance(x, int)]
    return [*numbers, abs(step)] if isinstance(step, int) else numbers


def _static(r: range, unroll: int, stages: int) -> Bounds:
    """Bounds that are all known now."""
    small = all(dtypes.i32.min <= x <= dtypes.i32.max for x in (*r[:1], *r[-1:], len(r)))
    dtype = dtypes.i32 if small else WIDE
    step = r.step if len(r) > 1 else 1
    start = r.start if len(r) else 0
    return Bounds(Const(len(r), dtype), len(r), Const(start, dtype), step, dtype, unroll, stages)


def _count(start: Expr, stop: Expr, step: Expr | int, dtype: DType) -> Expr:
    """How many iterations there are; a negative count runs none."""
    counter = dtype if dtype.bits >= 32 else dtypes.i32
    if isinstance(step, int):
        low, high = (start, stop) if step > 0 else (stop, start)
        return cast(_steps(_distance(low, high, counter, abs(step) == 1), abs(step)), counter)
    wide = WIDE if dtype.is_signed else counter
    forward = _distance(cast(start, wide), cast(stop, wide), wide, False)
    if not dtype.is_signed:
        return _steps(forward, cast(step, wide))
    back = _distance(cast(stop, wide), cast(start, wide), wide, False)
    distance = apply("select", apply("gt", step, 0), forward, back)
    return cast(_steps(distance, apply("abs", cast(step, wide))), counter)


def _distance(low: Expr, high: Expr, counter: DType, unit: bool) -> Expr:
    """`high - low`; where that is negative, anything below 1."""
    if isinstance(low, Const) and low.value == 0:
        return cast(high, counter)
    fits = unit or not low.dtype.is_signed or low.dtype.bits in (64, *range(32))
    if fits or (isinstance(low, Const) and low.value > 0):
        return apply("sub", cast(apply("max", high, low), counter), cast(low, counter))
    return apply("sub", cast(high, WIDE), cast(low, WIDE))


def _steps(distance: Expr, step: Expr | int) -> Expr:
    """`distance / step` rounded up."""
    if isinstance(step, int) and step == 1:
        return distance
    if isinstance(distance, Apply):
        distance = let(distance, "distance")
    partial = apply("ne", apply("mod", distance, step), 0)
    return apply("add", apply("floordiv", distance, step), cast(partial, distance.dtype))
