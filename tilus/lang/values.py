"""What a variable of a kernel can hold while it is translated, and how two paths' values meet.

Compile-time values are ordinary Python objects. Run-time values are `Expr`s: scalars, and `Value`s
for tiles, views, shared tiles and pointers. Tuples and lists of either are Python tuples and lists.

Where two paths meet (after an `if`, at the head of a loop) a variable has a `Shape`: which parts of
it stay as they are (`Fixed`), which become run-time values (`Leaf`), or why it cannot be one value
(`Conflict`). `meet` grows a shape until it covers a further value.
"""

from __future__ import annotations

import struct
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import Span, TilusError, TilusNameError, TilusTypeError
from tilus.ir.expr import Const, Expr, Value, const, describe
from tilus.ir.types import ScalarType, TileType, Type

NUMBERS = (bool, int, float)


@dataclass(frozen=True)
class Missing:
    """Why a variable cannot be read here."""

    message: str
    notes: tuple[tuple[Span, str], ...] = ()
    help: str | None = None
    kind: type[TilusError] = TilusNameError

    def error(self, span: Span) -> TilusError:
        """The error for reading it at `span`."""
        return self.kind(self.message, span, self.notes, self.help)


@dataclass(frozen=True)
class Binding:
    """What a name stands for, and where that was said."""

    value: Any
    span: Span | None = None

    @property
    def present(self) -> bool:
        """Whether the name can be read."""
        return not isinstance(self.value, Missing)


@dataclass(frozen=True)
class Range:
    """`range` and `tilus.range` with their bounds; at least one may be a run-time scalar."""

    start: Any
    stop: Any
    step: Any
    unroll: int = 1
    stages: int = 1

    def __iter__(self) -> Iterator[Any]:
        raise TilusTypeError(
            "a range with run-time bounds is not a sequence known at compile time",
            help="loop over it with a `for` statement in kernel code",
        )


class Elements(tuple[Any, ...]):
    """What an iterator would give, one after the other: a generator expression, `zip`, ..."""

    __slots__ = ()


class Unrolled(tuple[Any, ...]):
    """What `tilus.static_range` gives: numbers to unroll a loop over."""

    __slots__ = ()


def is_tile(x: object) -> bool:
    """Whether it is a register tile."""
    return isinstance(x, Value) and isinstance(x.type, TileType)


def is_scalar(x: object) -> bool:
    """Whether it is a run-time number."""
    return isinstance(x, Expr) and isinstance(x.type, ScalarType)


def is_number(x: object) -> bool:
    """Whether it is a compile-time number."""
    return isinstance(x, NUMBERS)


def has_runtime(x: object) -> bool:
    """Whether a run-time value is in it, however deep in containers."""
    if isinstance(x, Expr):
        return True
    if isinstance(x, (tuple, list, set, frozenset)):
        return any(map(has_runtime, x))
    if isinstance(x, dict):
        return any(has_runtime(v) for kv in x.items() for v in kv)
    if isinstance(x, (KeysView, ValuesView, ItemsView)):
        return any(map(has_runtime, x))
    if isinstance(x, partial):
        return has_runtime(x.args) or has_runtime(x.keywords)
    return isinstance(x, Range)


def is_array(x: object) -> bool:
    """Whether it is a tensor of torch, of NumPy, or ours: data, not a compile-time constant."""
    if isinstance(x, np.ndarray):
        return True
    return any(
        (t.__module__.split(".")[0], t.__name__) in (("torch", "Tensor"), ("tilus", "Tensor"))
        for t in type(x).__mro__
    )


def is_sequence(x: object) -> bool:
    """Whether it is a tuple (named ones too) or list whose elements may differ between paths."""
    return type(x) in (tuple, list) or (isinstance(x, tuple) and hasattr(type(x), "_make"))


def remade(kind: Any, items: Iterable[Any]) -> Any:
    """A tuple, named tuple or list of the items."""
    return kind._make(items) if hasattr(kind, "_make") else kind(items)


def same(a: Any, b: Any) -> bool:
    """Whether two compile-time values are one value, of one type: 1, 1.0 and True differ."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, (dict, set, frozenset)) or is_array(a):
        return False
    try:
        return bool(a == b)
    except Exception:
        return False


# --- shapes: what a variable is where two paths meet ---


class Shape:
    """What is known of a variable that more than one path gives a value."""


@dataclass(frozen=True, eq=False)
class Fixed(Shape):
    """The same on every path."""

    value: Any


@dataclass(frozen=True)
class Leaf(Shape):
    """A run-time value; `numbers`: all that gave it were Python numbers, so the type is a guess."""

    type: Type
    numbers: tuple[int | float | bool, ...] | None = None


@dataclass(frozen=True)
class Group(Shape):
    """A tuple or list of such."""

    kind: type
    items: tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class Conflict(Shape):
    """No single value: the variable cannot be read."""

    why: str
    help: str | None = None
    missing: Missing | None = None  # of a variable that had no value on one path already


def fixed(x: Any) -> Shape:
    """The shape of one value that nothing else has met yet."""
    if is_sequence(x):
        return Group(type(x), tuple(map(fixed, x)))
    return Fixed(x)


def lifted(shape: Shape) -> Shape:
    """The shape with its numbers, scalars and tiles made run-time values that may change."""
    match shape:
        case Group():
            return replace(shape, items=tuple(map(lifted, shape.items)))
        case Fixed(value) if is_number(value):
            return Leaf(const(value).type, (value,))
        case Fixed(Expr() as value) if (t := _carried_type(value)) is not None:
            return Leaf(t)
    return shape


def _carried_type(x: Expr) -> Type | None:
    """The type a value has when control flow chooses between it and others; None: it cannot."""
    if isinstance(x.type, TileType):
        return x.type.with_layout(None)
    return x.type if isinstance(x.type, ScalarType) else None


def meet(shape: Shape, x: Any) -> Shape:
    """The smallest shape that covers `shape` and the value `x`; itself if it does already."""
    match shape:
        case Conflict():
            return shape
        case Group():
            if not isinstance(x, (tuple, list)) or (type(x), len(x)) != (
                shape.kind,
                len(shape.items),
            ):
                return Conflict(
                    f"{_count(shape)} on one path and {name_type(x)} on the other",
                    "a sequence keeps its length at run time; `tilus.static_range` unrolls a loop",
                )
            items = tuple(map(meet, shape.items, x))
            for i in items:
                if isinstance(i, Conflict):
                    return i
            return shape if items == shape.items else replace(shape, items=items)
        case Fixed(value):
            return shape if same(value, x) else _split(value, x)
        case Leaf():
            return _widen(shape, x)
    raise AssertionError(shape)


def _count(g: Group) -> str:
    return f"a {g.kind.__name__} of {len(g.items)}"


def _split(a: Any, b: Any) -> Shape:
    """The shape of two different values."""
    if is_number(a) and is_number(b):
        return _of_numbers((a, b))
    leaf = lifted(Fixed(a))
    if isinstance(leaf, Leaf):
        return _widen(leaf, b)
    if is_number(b):
        return _conflict(a, b)
    help = None
    if isinstance(a, Expr) and isinstance(b, Expr):
        help = (
            "only scalars and register tiles can be chosen at run time; use one view, or one "
            "shared tile with a further dimension, and choose the offset"
        )
    return _conflict(a, b, help)


def _conflict(a: Any, b: Any, help: str | None = None) -> Conflict:
    x, y = name_type(a), name_type(b)
    if x == y:
        x, y = f"one {x}", "another"
    return Conflict(f"{x} on one path and {y} on the other", help)


def name_type(x: Any) -> str:
    """A value's type, or the value itself where it is a compile-time one."""
    if isinstance(x, Expr):
        return str(x.type)
    if isinstance(x, (tuple, list)):
        return f"a {type(x).__name__} of {len(x)}"
    return describe(x)


def _of_numbers(numbers: tuple[int | float | bool, ...]) -> Shape:
    """A run-time value that is one of several Python numbers."""
    kinds = {type(n) for n in numbers}
    first, last = numbers[0], numbers[-1]
    if kinds in ({bool}, {int}, {float}, {int, float}):
        typed = [const(n).type.dtype for n in numbers]
        dtype = max(typed, key=lambda d: (d.is_float, d.bits))
        if all(_holds(dtype, n) for n in numbers):
            return Leaf(ScalarType(dtype), numbers)
    return _conflict(first, last)


def _holds(dtype: DType, x: int | float | bool) -> bool:
    """Whether a Python number means the same as a scalar of the type."""
    if isinstance(x, bool) or dtype.name == "bool":
        return isinstance(x, bool) and dtype.name == "bool"
    if dtype.is_integer:
        return isinstance(x, int) and bool(dtype.min <= x <= dtype.max)
    return isinstance(x, float) or Const(x, dtypes.f64).value == _rounded(x, dtype) == x


def _rounded(x: int, dtype: DType) -> float:
    return float(dtype.decode(dtype.encode(np.array([float(x)])))[0])


def _widen(leaf: Leaf, x: Any) -> Shape:
    if is_number(x):
        if leaf.numbers is not None:
            known = any(type(x) is type(n) and x == n for n in leaf.numbers)
            covered = known or (isinstance(leaf.type, ScalarType) and _covers(leaf, x))
            return leaf if covered else _of_numbers((*leaf.numbers, x))
        if isinstance(leaf.type, ScalarType) and _holds(leaf.type.dtype, x):
            return leaf
        return _conflict_types(leaf, x)
    t = _carried_type(x) if isinstance(x, Expr) else None
    if t == leaf.type:
        return leaf
    if t is not None and leaf.numbers is not None and isinstance(t, ScalarType):
        if all(_holds(t.dtype, n) for n in leaf.numbers):
            return Leaf(t)
    return _conflict_types(leaf, x)


def _covers(leaf: Leaf, x: int | float | bool) -> bool:
    """Whether a further number changes nothing about a guessed type."""
    return (
        leaf.numbers is not None
        and type(x) in {type(n) for n in leaf.numbers}
        and _holds(leaf.type.dtype, x)
    )


def _conflict_types(leaf: Leaf, x: Any) -> Conflict:
    a = leaf.numbers[0] if leaf.numbers else Value(leaf.type)
    return _conflict(a, x)


def leaves(shape: Shape, x: Any) -> Iterator[Expr]:
    """The run-time parts of a value that the shape covers, as expressions of the shape's types."""
    match shape:
        case Group():
            for s, item in zip(shape.items, x, strict=True):
                yield from leaves(s, item)
        case Leaf():
            yield x if isinstance(x, Expr) else Const(x, shape.type.dtype)


def leaf_types(shape: Shape) -> Iterator[Type]:
    """The types of the run-time parts."""
    match shape:
        case Group():
            for s in shape.items:
                yield from leaf_types(s)
        case Leaf():
            yield shape.type


def rebuild(shape: Shape, parts: Iterator[Any]) -> Any:
    """The value of a shape whose run-time parts are `parts`."""
    match shape:
        case Group():
            return remade(shape.kind, [rebuild(s, parts) for s in shape.items])
        case Leaf():
            return next(parts)
        case Fixed():
            return shape.value
    raise AssertionError(shape)


def conflicting(name: str, c: Conflict, notes: list[tuple[Span, str]]) -> Missing:
    """A variable whose paths disagree."""
    if c.missing is not None:
        return c.missing
    return Missing(
        f"`{name}` is {c.why}",
        tuple(notes),
        c.help or "give it one type on every path, or use two names",
        TilusTypeError,
    )
