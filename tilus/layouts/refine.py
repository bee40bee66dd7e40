"""A common refinement of several layouts of one tile: the same small digits on every side.

Two layouts of one tile can be compared digit by digit once both are cut at the same places.
``refine`` splits modes until no boundary of a dimension, and no boundary of the thread number, lies
inside a digit of any of them::

    spatial(8)*local(2)      of 16:  [8 at stride 2] [2 at 1]       cut at 2       and thread 1
    local(4)*spatial(4)*...  of 16:  [4 at stride 4] ...            cut at 4
    refined                          [4 at 4] [2 at 2] [2 at 1]

Law: the refined lists have the meaning of the given ones (``merge`` of them gives those back), and
two refined digits either agree in (dim, stride, size) or do not overlap at all.  With powers of two
a refinement always exists; for sizes such as 2*3 against 3*2 there may be none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tilus.layouts.layout import Digit, Layout


class PlacedDigit(NamedTuple):
    """A digit of a list together with its place value in that list."""

    size: int
    dim: int
    stride: int
    weight: int  # counting it up by one adds this to the thread (or slot) number


class Refined(NamedTuple):
    """The two lists of one layout after refinement, outermost first."""

    spatial: tuple[PlacedDigit, ...]
    local: tuple[PlacedDigit, ...]


def place(digits: Sequence[Digit]) -> list[PlacedDigit]:
    """Each digit of a list with its place value.

    >>> place([Digit(4, 0, 1), Digit(2, 1, 1)])
    [PlacedDigit(size=4, dim=0, stride=1, weight=2), PlacedDigit(size=2, dim=1, stride=1, weight=1)]
    """
    placed: list[PlacedDigit] = []
    weight = 1
    for digit in reversed(digits):
        placed.append(PlacedDigit(*digit, weight))
        weight *= digit.size
    return placed[::-1]


def refine(layouts: Sequence[Layout], thread_cuts: Iterable[int] = ()) -> list[Refined] | None:
    """The layouts (of one shape) cut at the same places, or None when the sizes do not allow it.

    ``thread_cuts`` are further places at which the thread number must be cut, such as the warp.

    >>> from tilus.layouts import local, spatial
    >>> [[d.size for d in r.spatial] for r in refine([spatial(8), local(2) * spatial(4)])]
    [[2, 4], [4]]
    >>> refine([spatial(2) * local(3), local(3) * spatial(2)]) is None
    True
    """
    lists = [place(digits) for f in layouts for digits in (f.spatial_digits, f.local_digits)]
    dim_cuts: dict[int, set[int]] = defaultdict(set)
    list_cuts: list[set[int]] = [set(thread_cuts), set()]  # threads are common, slots are not
    while True:
        for number, digits in enumerate(lists):
            for size, dim, stride, weight in digits:
                dim_cuts[dim] |= {stride, stride * size}
                if number % 2 == 0:
                    list_cuts[0] |= {weight, weight * size}
        done = True
        for number, digits in enumerate(lists):
            cut_list: list[PlacedDigit] = []
            for digit in digits:
                inner = _inner(digit, dim_cuts[digit.dim], list_cuts[number % 2])
                if inner is None:
                    return None
                if inner > 1:
                    size, dim, stride, weight = digit
                    cut_list.append(PlacedDigit(size // inner, dim, stride * inner, weight * inner))
                    digit = digit._replace(size=inner)
                    done = False
                cut_list.append(digit)
            lists[number] = cut_list
        if done:
            break
    return [Refined(tuple(lists[at]), tuple(lists[at + 1])) for at in range(0, len(lists), 2)]


def _inner(digit: PlacedDigit, dim_cuts: set[int], list_cuts: set[int]) -> int | None:
    """The size of the inner part if a cut falls inside the digit, else 1; None if it cannot be."""
    for low, cuts in ((digit.stride, dim_cuts), (digit.weight, list_cuts)):
        for at in sorted(cuts):
            if low < at < low * digit.size:
                if at % low or digit.size % (at // low):
                    return None
                return at // low
    return 1
