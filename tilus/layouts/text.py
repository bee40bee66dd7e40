"""Layouts as text: printing and strict parsing, each the inverse of the other.

A register layout is written as the shortest product of primitives that makes it, and in the
general form when there is none; a shared layout has one stride a dimension where that is enough::

    local(2,1)*spatial(8,4)*local(1,2)
    replicated(2)*column_spatial(4,8)
    empty
    layout((16,8), modes=((2,8),(4,2)), spatial=(1,2), local=(3,0))
    shared((16,64), strides=(64,1), swizzle=(3,3,3))
    shared((16,64), modes=((16,),(2,32)), strides=(32,512,1))

Laws: ``parse_layout(str(f)) == f`` and ``parse_shared_layout(str(s)) == s``, always.
What is not in this grammar is an error that points at its place (white space is free)::

    product := factor ('*' factor)*
    factor  := 'empty' | name '(' [int (',' int)*] ')'
             | 'layout' '(' tuple ',' 'modes' '=' tuples ',' 'spatial' '=' tuple ','
               'local' '=' tuple ')'
    shared  := 'shared' '(' tuple [',' 'modes' '=' tuples] ',' 'strides' '=' tuple
               [',' 'swizzle' '=' tuple] ')'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from tilus.layouts.layout import (
    REPLICA,
    Digit,
    Layout,
    LayoutError,
    column_local,
    column_spatial,
    empty,
    local,
    replicated,
    spatial,
)
from tilus.layouts.swizzle import SharedLayout, Swizzle


class LayoutSyntaxError(LayoutError):
    """Text that is not a layout; the message shows the text and a caret under ``position``."""

    def __init__(self, what: str, text: str, position: int) -> None:
        shown = re.sub(r"\s", " ", text)
        super().__init__(f"{what}\n  {shown}\n  {' ' * position}^")
        self.text = text
        self.position = position


# -- printing ----------------------------------------------------------------------------------


def format_layout(layout: Layout) -> str:
    """The text of a register layout: the shortest product of primitives, else the general form.

    >>> format_layout(spatial(2, 3) * local(2, 1))
    'spatial(2,3)*local(2,1)'
    >>> format_layout(Layout((4,), ((2, 2),), (), (1, 0)))
    'layout((4,), modes=((2,2),), spatial=(), local=(1,0))'
    """
    product = _shortest_product(layout)
    if product is not None:
        return "*".join(product)
    return (
        f"layout({_tuple(layout.shape)}, modes={_tuples(layout.modes)}, "
        f"spatial={_tuple(layout.spatial)}, local={_tuple(layout.local)})"
    )


def _shortest_product(layout: Layout) -> list[str] | None:
    """The factors, found from the innermost outwards: best[i, j] covers the last i and j digits."""
    threads, slots = layout.spatial_digits, layout.local_digits
    best: dict[tuple[int, int], list[str]] = {(0, 0): []}
    for i in range(len(threads) + 1):
        for j in range(len(slots) + 1):
            if (i, j) not in best:
                continue
            left = (*threads[: len(threads) - i], *slots[: len(slots) - j])
            for name, digits, used in (("spatial", threads, i), ("local", slots, j)):
                for count, factor in _factors(name, digits[: len(digits) - used], left, layout):
                    to = (i + count, j) if name == "spatial" else (i, j + count)
                    found = [factor, *best[i, j]]
                    if to not in best or len(found) < len(best[to]):
                        best[to] = found
    product = best.get((len(threads), len(slots)))
    if product is None:
        return None
    if layout.rank and all(factor.startswith("replicated") for factor in product):
        product.append(f"local{_ints([1] * layout.rank)}")  # says the rank
    return product or ["empty"]


def _factors(
    name: str, digits: Sequence[Digit], left: Sequence[Digit], layout: Layout
) -> list[tuple[int, str]]:
    """Every primitive that is a suffix of ``digits``, with the number of digits it takes.

    A mode may be taken when it is the innermost that is left of its dimension.
    """
    found: list[tuple[int, str]] = []
    if digits and digits[-1].dim == REPLICA:
        return [(1, f"replicated({digits[-1].size})")]
    for prefix, step in ((name, 1), (f"column_{name}", -1)):
        extents = [1] * layout.rank
        after: int | None = None  # the dimension of the digit taken before, next in the list
        for count, digit in enumerate(reversed(digits), 1):
            innermost = min(d.stride for d in left if d.dim == digit.dim)
            if digit.dim == REPLICA or digit.stride != innermost:
                break
            if after is not None and (after - digit.dim) * step <= 0:
                break
            after = digit.dim
            extents[digit.dim] = digit.size
            if count > 1 or step == 1:
                found.append((count, f"{prefix}{_ints(extents)}"))
    return found


def format_shared(shared: SharedLayout) -> str:
    """The text of a shared layout.

    >>> format_shared(SharedLayout.row_major(16, 64).with_swizzle(Swizzle(3, 3, 3)))
    'shared((16,64), strides=(64,1), swizzle=(3,3,3))'
    """
    swizzle = f", swizzle={_tuple(shared.swizzle)}" if shared.swizzle else ""
    if all(len(factors) <= 1 for factors in shared.modes):
        flat = iter(shared.strides)
        strides = [next(flat) if factors else 0 for factors in shared.modes]
        return f"shared({_tuple(shared.shape)}, strides={_tuple(strides)}{swizzle})"
    return (
        f"shared({_tuple(shared.shape)}, modes={_tuples(shared.modes)}, "
        f"strides={_tuple(shared.strides)}{swizzle})"
    )


def _ints(values: Sequence[int]) -> str:
    return f"({','.join(map(str, values))})"


def _tuple(values: Sequence[int]) -> str:
    return f"({values[0]},)" if len(values) == 1 else _ints(values)


def _tuples(groups: Sequence[Sequence[int]]) -> str:
    inner = ",".join(map(_tuple, groups))
    return f"({inner},)" if len(groups) == 1 else f"({inner})"


# -- parsing -----------------------------------------------------------------------------------


def parse_layout(text: str) -> Layout:
    """Read a register layout.

    >>> parse_layout("local(2,1)*spatial(8,4)*local(1,2)").num_threads
    32
    >>> parse_layout("local(2,*3)")
    Traceback (most recent call last):
    tilus.layouts.text.LayoutSyntaxError: expected a number but found '*'
      local(2,*3)
              ^
    """
    reader = _Reader(text)
    product = reader.factor()
    while reader.accept("*"):
        product = product * reader.factor()
    reader.end()
    return product


def parse_shared_layout(text: str) -> SharedLayout:
    """Read a shared layout.

    >>> parse_shared_layout("shared((16,64), strides=(64,1))") == SharedLayout.row_major(16, 64)
    True
    """
    reader = _Reader(text)
    start = reader.token
    reader.expect("shared")
    reader.expect("(")
    shape = reader.ints()
    reader.expect(",")
    modes: tuple[tuple[int, ...], ...] = tuple((extent,) for extent in shape)
    if reader.peek("modes"):
        modes = reader.keyword("modes", reader.groups)
        reader.expect(",")
    strides = reader.keyword("strides", reader.ints)
    swizzle = None
    if reader.accept(","):
        at = reader.token
        values = reader.keyword("swizzle", reader.ints)
        if len(values) != 3:
            raise reader.error("a swizzle is (bits,base,shift)", at)
        swizzle = reader.made(at, lambda: Swizzle(*values))
    reader.expect(")")
    reader.end()
    return reader.made(start, lambda: SharedLayout(shape, modes, strides, swizzle))


class _Token(NamedTuple):
    kind: str  # "number", "name", "end", or the mark itself
    text: str
    position: int


_TOKEN = re.compile(r"\s*(?:(?P<number>-?\d+)|(?P<name>[A-Za-z_]\w*)|(?P<mark>[(),*=]))", re.ASCII)

Made = TypeVar("Made")

_PRIMITIVES: dict[str, Callable[..., Layout]] = {
    "spatial": spatial,
    "local": local,
    "column_spatial": column_spatial,
    "column_local": column_local,
    "replicated": replicated,
}


class _Reader:
    """A recursive-descent reader with one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.token = self._next()

    def _next(self) -> _Token:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            rest = self.text[self.position :]
            at = self.position + len(rest) - len(rest.lstrip())
            if at < len(self.text):
                raise LayoutSyntaxError(f"unknown character {self.text[at]!r}", self.text, at)
            return _Token("end", "the end", at)
        self.position = match.end()
        kind = match.lastgroup or "mark"
        found = match[kind]
        return _Token(found if kind == "mark" else kind, found, match.start(kind))

    def error(self, what: str, token: _Token | None = None) -> LayoutSyntaxError:
        return LayoutSyntaxError(what, self.text, (token or self.token).position)

    def made(self, start: _Token, build: Callable[[], Made]) -> Made:
        """What ``build`` makes; its own complaint is shown at the token it started from."""
        try:
            return build()
        except LayoutError as error:
            raise self.error(str(error), start) from error

    def peek(self, text: str) -> bool:
        return self.token.text == text

    def accept(self, text: str) -> bool:
        if self.peek(text):
            self.token = self._next()
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.error(f"expected {text!r} but found {self._found()}")

    def end(self) -> None:
        if self.token.kind != "end":
            raise self.error(f"expected the end but found {self._found()}")

    def _found(self) -> str:
        return self.token.text if self.token.kind == "end" else repr(self.token.text)

    def number(self) -> int:
        if self.token.kind != "number":
            raise self.error(f"expected a number but found {self._found()}")
        value = int(self.token.text)
        self.token = self._next()
        return value

    def ints(self) -> tuple[int, ...]:
        """``()``, ``(n,)`` or ``(n,m,...)``."""
        return tuple(self._items(self.number))

    def groups(self) -> tuple[tuple[int, ...], ...]:
        """A tuple of tuples of numbers."""
        return tuple(self._items(self.ints))

    def _items(self, item: Callable[[], Made]) -> list[Made]:
        self.expect("(")
        items: list[Made] = []
        while not self.accept(")"):
            items.append(item())
            if not self.accept(","):
                if len(items) == 1:
                    raise self.error(
                        f"expected ',' but found {self._found()} (one element: '(n,)')"
                    )
                self.expect(")")
                break
        return items

    def keyword(self, name: str, value: Callable[[], Made]) -> Made:
        self.expect(name)
        self.expect("=")
        return value()

    def factor(self) -> Layout:
        start = self.token
        if self.accept("empty"):
            return empty
        if self.accept("layout"):
            return self._general(start)
        if start.text not in _PRIMITIVES:
            names = ", ".join((*_PRIMITIVES, "layout", "empty"))
            raise self.error(f"expected one of {names} but found {self._found()}")
        self.token = self._next()
        self.expect("(")
        arguments: list[int] = []
        if not self.peek(")"):
            arguments.append(self.number())
            while self.accept(","):
                arguments.append(self.number())
        if not self.peek(")"):
            raise self.error(f"expected ',' or ')' but found {self._found()}")
        self.token = self._next()
        if start.text == "replicated":
            if len(arguments) != 1:
                raise self.error("replicated takes one number", start)
            return self.made(start, lambda: replicated(arguments[0]))
        return self.made(start, lambda: _PRIMITIVES[start.text](*arguments))

    def _general(self, start: _Token) -> Layout:
        self.expect("(")
        shape = self.ints()
        self.expect(",")
        modes = self.keyword("modes", self.groups)
        self.expect(",")
        spatial_modes = self.keyword("spatial", self.ints)
        self.expect(",")
        local_modes = self.keyword("local", self.ints)
        self.expect(")")
        return self.made(start, lambda: Layout(shape, modes, spatial_modes, local_modes))
