"""Python's built-in functions on run-time values, where they have a meaning there."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from tilus import dtypes
from tilus.errors import TilusTypeError
from tilus.ir.expr import Expr, kind_of
from tilus.lang import operators, ops
from tilus.lang.values import Elements, Range, is_scalar, is_tile, name_type


def _len(x: Any) -> int:
    if isinstance(x, Expr):
        help = "its extents are `x.shape`" if is_tile(x) else None
        raise TilusTypeError(f"a {x.type} has no `len`", help=help)
    return len(x)


def _extremum(name: str) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        if len(values) == 1:
            values = tuple(_sequence(name, values[0]))
        if not values:
            raise TilusTypeError(f"`{name}` needs at least one value")
        return operators.extremum(name, values)

    return call


def _sequence(name: str, x: Any) -> list[Any]:
    if isinstance(x, Expr):
        help = f"`tilus.{name}(x, dim)` reduces a tile" if is_tile(x) else None
        raise TilusTypeError(f"`{name}` takes a sequence, not a {x.type}", help=help)
    return list(x)


def _sum(x: Any, start: Any = 0) -> Any:
    return operators.folded("+", _sequence("sum", x), start)


def _quantifier(name: str, op: str) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        decided = name == "any"
        result: Any = None
        for t in map(operators.truth, _sequence(name, x)):
            if not isinstance(t, Expr):
                if t == decided:
                    return decided
            else:
                result = t if result is None else operators.scalar(op, name, result, t)
        return (not decided) if result is None else result

    return call


def _range(start: Any, stop: Any = None, step: Any = 1) -> Any:
    if stop is None:
        start, stop = 0, start
    return ops.make_range(start, stop, step)


def _int(x: Any) -> Any:
    if is_scalar(x) and kind_of(x.dtype) == "i":
        return x
    if is_scalar(x) and kind_of(x.dtype) == "b":
        return ops.cast(x, dtypes.i32)
    raise TilusTypeError(
        f"`int` of {name_type(x)}: which width should it have?",
        help="convert it: tilus.cast(x, tilus.i32), or tilus.i32(x)",
    )


def _divmod(a: Any, b: Any) -> Any:
    return operators.binary("//", a, b), operators.binary("%", a, b)


def _no_type(name: str) -> Callable[..., Any]:
    on_host = getattr(builtins, name)

    def call(x: Any, *rest: Any) -> Any:
        if isinstance(x, Expr):
            raise TilusTypeError(
                f"`{name}` of a run-time value ({x.type})", help="look at `x.dtype` or `x.shape`"
            )
        return on_host(x, *rest)

    return call


def _container(name: str) -> Callable[..., Any]:
    on_host = getattr(builtins, name)

    def call(*args: Any, **keywords: Any) -> Any:
        for x in args:
            if isinstance(x, Expr):
                raise TilusTypeError(
                    f"`{name}` takes a sequence known at compile time, not a {x.type}",
                    help="`t[i]` with a compile-time index takes a part of a tile"
                    if is_tile(x)
                    else None,
                )
            if isinstance(x, Range):
                raise TilusTypeError(
                    f"`{name}` takes a sequence known at compile time, not a run-time range",
                    help="loop over a range with a step, and compute the rest from its variable",
                )
        made = on_host(*args, **keywords)
        return Elements(made) if hasattr(made, "__next__") else made

    return call


ON_RUNTIME: dict[Any, Callable[..., Any]] = {
    len: _len,
    abs: operators.absolute,
    min: _extremum("min"),
    max: _extremum("max"),
    sum: _sum,
    any: _quantifier("any", "or"),
    all: _quantifier("all", "and"),
    range: _range,
    int: _int,
    bool: operators.truth,
    divmod: _divmod,
    pow: lambda a, b: operators.binary("**", a, b),
    isinstance: _no_type("isinstance"),
    type: _no_type("type"),
    callable: _no_type("callable"),
    **{f: _container(f.__name__) for f in (tuple, list, dict, enumerate, zip, reversed)},
}


def on_runtime(fn: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
    """A built-in called with run-time values among its arguments."""
    try:
        return ON_RUNTIME[fn](*args, **keywords)
    except TypeError as e:
        if isinstance(e, TilusTypeError) or not keywords:
            raise
        names = ", ".join(keywords)
        raise TilusTypeError(
            f"`{fn.__name__}` of run-time values does not take {names}", help="write it out"
        ) from None
