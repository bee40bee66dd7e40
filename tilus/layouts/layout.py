"""Register layouts: which thread holds which element of a tile, and in which slot.

A tile is shared out among threads by writing each dimension in mixed radix and giving every digit
to one of two lists.  The digits in the *spatial* list number the thread, the digits in the *local*
list number the slot (the register, or the lane of a vector register) inside that thread.

    S       the shape of the tile
    modes   a factorisation of every dimension into digits, outermost first, all > 1
    spatial which digits number the thread, outermost first; an entry ``-r`` is a digit that no
            dimension has: the tile is held r times over (replication)
    local   which digits number the slot, outermost first

Every mode stands in exactly one list, so ``threads * slots == size * replication``.

A worked table: ``local(2,1)*spatial(2,2)*local(1,2)`` is a 4x4 tile on 4 threads of 4 slots.
Its rows have modes (2,2) = (local, spatial), its columns (2,2) = (spatial, local)::

            0     1     2     3
      0  t0:0  t0:1  t1:0  t1:1        thread 0 holds two pairs: its slots 0,1 lie in row 0 and
      1  t2:0  t2:1  t3:0  t3:1        its slots 2,3 in row 2; spatial = (row.1, column.0),
      2  t0:2  t0:3  t1:2  t1:3        local = (row.0, column.1)
      3  t2:2  t2:3  t3:2  t3:3

The laws (``ser`` is the row-major number of digits, ``des`` its inverse, ``*.`` element-wise):

    meaning    index(t, l)  puts des(t; spatial sizes) and des(l; local sizes) into their modes
    inverse    t in threads(index(t, l))  and  slot(index(t, l)) == l
    product    (f*g)(t, l) == f(t div T_g, l div N_g) *. S_g + g(t mod T_g, l mod N_g)
               (f*g)*h == f*(g*h)        empty*f == f == f*empty
    equality   f == g  iff  f and g have one shape and one mapping (replicas included)

Equality is cheap because construction brings every layout to its canonical form: modes of size one
are dropped; modes that follow each other in a dimension *and* in a list are merged; so are adjacent
replications.  Two layouts with the same mapping always meet in that form: reading the thread list
from its end, index(1, 0) fixes the innermost step, the first t at which the walk leaves that line
fixes its size (were the next step a continuation, it would have been merged), and so on outwards.

    >>> f = local(2, 1) * spatial(2, 2) * local(1, 2)
    >>> f.num_threads, f.num_slots, f.index(3, 2), f.threads((3, 2)), f.slot((3, 2))
    (4, 4, (3, 2), (3,), 2)
    >>> spatial(2) * spatial(3) == spatial(6)
    True
    >>> hash(replicated(2) * replicated(3)) == hash(replicated(6))
    True
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

REPLICA = -1  # the "dimension" of a replication digit


class LayoutError(ValueError):
    """A layout that cannot be, or an operation that this layout does not allow."""


class Digit(NamedTuple):
    """One entry of a thread or slot list: counting it up by one moves ``stride`` along ``dim``."""

    size: int
    dim: int  # REPLICA for a replication digit
    stride: int  # in elements of that dimension; 0 for a replication digit

    def split(self, inner: int) -> tuple[Digit, Digit]:
        """The same digit as an outer and an inner one, the inner of size ``inner``."""
        return Digit(self.size // inner, self.dim, self.stride * inner), self._replace(size=inner)


def merge(digits: Iterable[Digit]) -> tuple[Digit, ...]:
    """The shortest list with the same meaning (drops size 1, joins an outer digit that continues).

    >>> merge([Digit(2, 0, 4), Digit(1, 1, 1), Digit(4, 0, 1)])
    (Digit(size=8, dim=0, stride=1),)
    """
    merged: list[Digit] = []
    for digit in digits:
        if digit.size == 1:
            continue
        if merged and merged[-1][1:] == (digit.dim, digit.stride * digit.size):
            digit = digit._replace(size=merged.pop().size * digit.size)
        merged.append(digit)
    return tuple(merged)


def cut(digits: Sequence[Digit], inner: int) -> tuple[tuple[Digit, ...], tuple[Digit, ...]] | None:
    """Cut a list in two so that the inner part counts to ``inner``; None where no cut is there.

    >>> cut([Digit(6, 1, 1)], 3)
    ((Digit(size=2, dim=1, stride=3),), (Digit(size=3, dim=1, stride=1),))
    >>> cut([Digit(2, 0, 4), Digit(6, 1, 1)], 4) is None
    True
    """
    at = len(digits)
    while at and inner % digits[at - 1].size == 0:
        inner //= digits[at - 1].size
        at -= 1
    if inner == 1:
        return tuple(digits[:at]), tuple(digits[at:])
    if at == 0 or digits[at - 1].size % inner:
        return None
    upper, lower = digits[at - 1].split(inner)
    return (*digits[: at - 1], upper), (lower, *digits[at:])


@dataclass(frozen=True)
class Layout:
    """Which thread holds which element of a tile of ``shape``, and in which slot.

    ``modes`` are the factors of each dimension; ``spatial`` and ``local`` name modes by their
    number, counted flat across the dimensions; ``-r`` in ``spatial`` is a replication by r.
    The fields one reads back are those of the canonical form.

    >>> Layout((16, 8), modes=((2, 8), (4, 2)), spatial=(1, 2), local=(0, 3))
    local(2,1)*spatial(8,4)*local(1,2)
    >>> Layout((4,), modes=((2, 2),), spatial=(0,), local=())
    Traceback (most recent call last):
    tilus.layouts.layout.LayoutError: mode 1 (size 2, dimension 0) stands in neither list
    """

    shape: tuple[int, ...]
    modes: tuple[tuple[int, ...], ...]
    spatial: tuple[int, ...]
    local: tuple[int, ...]

    def __post_init__(self) -> None:
        shape, modes = tuple(self.shape), tuple(tuple(factors) for factors in self.modes)
        check_modes(shape, modes)
        flat = mode_digits(modes)
        _check_lists(flat, self.spatial, self.local)
        spatial = [flat[m] if m >= 0 else Digit(-m, REPLICA, 0) for m in self.spatial]
        self._set(shape, merge(spatial), merge(flat[m] for m in self.local))

    @classmethod
    def from_digits(
        cls, shape: Sequence[int], spatial: Iterable[Digit], local: Iterable[Digit]
    ) -> Layout:
        """The layout whose lists are these digits; they must cover ``shape`` exactly once.

        >>> Layout.from_digits((8,), [Digit(4, 0, 1)], [Digit(2, 0, 4)])
        local(2)*spatial(4)
        """
        layout = cls.__new__(cls)
        layout._set(tuple(shape), merge(spatial), merge(local))
        return layout

    def _set(
        self, shape: tuple[int, ...], spatial: tuple[Digit, ...], local: tuple[Digit, ...]
    ) -> None:
        """Fill the fields from canonical lists."""
        number: dict[tuple[int, int], int] = {}
        modes: list[tuple[int, ...]] = []
        for dim, extent in enumerate(shape):
            inner_first = sorted(d[::-1] for d in (*spatial, *local) if d.dim == dim)
            covered = 1
            for stride, _, size in inner_first:
                if stride != covered:
                    raise LayoutError(f"the digits of dimension {dim} do not tile its {extent}")
                covered *= size
            if covered != extent:
                raise LayoutError(f"the digits of dimension {dim} make {covered}, not {extent}")
            for stride, _, _ in reversed(inner_first):
                number[dim, stride] = len(number)
            modes.append(tuple(size for _, _, size in reversed(inner_first)))
        put = object.__setattr__
        put(self, "shape", shape)
        put(self, "modes", tuple(modes))
        put(
            self,
            "spatial",
            tuple(-d.size if d.dim == REPLICA else number[d.dim, d.stride] for d in spatial),
        )
        put(self, "local", tuple(number[d.dim, d.stride] for d in local))

    def canonical(self) -> Layout:
        """The canonical form of this mapping: the layout itself, as construction makes it so."""
        return self

    # -- sizes ---------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """How many dimensions the tile has."""
        return len(self.shape)

    @cached_property
    def size(self) -> int:
        """How many elements the tile has."""
        return prod(self.shape)

    @cached_property
    def mode_sizes(self) -> tuple[int, ...]:
        """The modes of all dimensions in one row, as ``spatial`` and ``local`` number them."""
        return tuple(size for factors in self.modes for size in factors)

    @cached_property
    def num_threads(self) -> int:
        """How many threads hold the tile."""
        return prod(digit.size for digit in self.spatial_digits)

    @cached_property
    def num_slots(self) -> int:
        """How many elements one thread holds."""
        return prod(digit.size for digit in self.local_digits)

    @cached_property
    def replication(self) -> int:
        """How many threads hold each element."""
        return prod(-mode for mode in self.spatial if mode < 0)

    @property
    def is_replicated(self) -> bool:
        """Whether some element is held by more than one thread."""
        return any(mode < 0 for mode in self.spatial)

    @cached_property
    def spatial_digits(self) -> tuple[Digit, ...]:
        """The thread list, outermost first, each entry with its dimension and stride."""
        flat = mode_digits(self.modes)
        return tuple(flat[m] if m >= 0 else Digit(-m, REPLICA, 0) for m in self.spatial)

    @cached_property
    def local_digits(self) -> tuple[Digit, ...]:
        """The slot list, outermost first, each entry with its dimension and stride."""
        flat = mode_digits(self.modes)
        return tuple(flat[m] for m in self.local)

    # -- the mapping ---------------------------------------------------------------------------

    def index(self, thread: int, slot: int) -> tuple[int, ...]:
        """The element that ``thread`` holds in ``slot``.

        >>> (spatial(2, 2) * local(1, 3)).index(3, 2)
        (1, 5)
        """
        if not (0 <= thread < self.num_threads and 0 <= slot < self.num_slots):
            raise LayoutError(
                f"thread {thread}, slot {slot} of a layout of {self.num_threads} threads "
                f"and {self.num_slots} slots"
            )
        index = [0] * len(self.shape)
        for rest, digits in ((thread, self.spatial_digits), (slot, self.local_digits)):
            for size, dim, stride in reversed(digits):
                rest, value = divmod(rest, size)
                if dim >= 0:
                    index[dim] += value * stride
        return tuple(index)

    def threads(self, index: Sequence[int]) -> tuple[int, ...]:
        """All threads that hold the element, in ascending order.

        >>> (replicated(2) * spatial(4)).threads((3,))
        (3, 7)
        """
        self._check_index(index)
        owners = [0]
        for size, dim, stride in self.spatial_digits:
            values = range(size) if dim == REPLICA else (index[dim] // stride % size,)
            owners = [owner * size + value for owner in owners for value in values]
        return tuple(owners)

    def slot(self, index: Sequence[int]) -> int:
        """The slot that holds the element in each of its threads.

        >>> (spatial(4) * local(3)).slot((5,))
        2
        """
        self._check_index(index)
        slot = 0
        for size, dim, stride in self.local_digits:
            slot = slot * size + index[dim] // stride % size
        return slot

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Every index of the tile in row-major order."""
        return indices(self.shape)

    def _check_index(self, index: Sequence[int]) -> None:
        if len(index) != len(self.shape) or not all(
            0 <= i < extent for i, extent in zip(index, self.shape, strict=True)
        ):
            raise LayoutError(f"index {tuple(index)} of a tile of shape {self.shape}")

    # -- the product ---------------------------------------------------------------------------

    def __mul__(self, inner: Layout) -> Layout:
        """The product: every element of ``self`` becomes a tile laid out as ``inner``.

        ``(f*g)(t, l) == f(t div T_g, l div N_g) *. S_g + g(t mod T_g, l mod N_g)``.
        The shorter shape is padded with leading ones.

        >>> local(2, 1) * spatial(8, 4) * local(1, 2) * empty
        local(2,1)*spatial(8,4)*local(1,2)
        >>> (spatial(3) * local(2, 4)).shape
        (2, 12)
        """
        if not isinstance(inner, Layout):
            return NotImplemented
        rank = max(self.rank, inner.rank)
        f, g = pad(self, rank), pad(inner, rank)
        return Layout.from_digits(
            [a * b for a, b in zip(f.shape, g.shape, strict=True)],
            scale(f.spatial_digits, g.shape) + g.spatial_digits,
            scale(f.local_digits, g.shape) + g.local_digits,
        )

    def __str__(self) -> str:
        from tilus.layouts.text import format_layout

        return format_layout(self)

    __repr__ = __str__


# -- primitives --------------------------------------------------------------------------------


def spatial(*shape: int) -> Layout:
    """One element a thread, threads in row-major order.

    ``spatial(*s).index(t, 0) == des(t; s)``.

    >>> spatial(2, 3).index(4, 0)
    (1, 1)
    """
    return Layout(shape, tuple((n,) for n in shape), tuple(range(len(shape))), ())


def local(*shape: int) -> Layout:
    """One thread that holds all elements, slots in row-major order.

    ``local(*s).index(0, l) == des(l; s)``.

    >>> local(2, 3).index(0, 4)
    (1, 1)
    """
    return Layout(shape, tuple((n,) for n in shape), (), tuple(range(len(shape))))


def column_spatial(*shape: int) -> Layout:
    """One element a thread, threads in column-major order (the first dimension fastest).

    >>> column_spatial(2, 3).index(4, 0)
    (0, 2)
    """
    return Layout(shape, tuple((n,) for n in shape), tuple(reversed(range(len(shape)))), ())


def column_local(*shape: int) -> Layout:
    """One thread that holds all elements, slots in column-major order.

    >>> column_local(2, 3).index(0, 4)
    (0, 2)
    """
    return Layout(shape, tuple((n,) for n in shape), (), tuple(reversed(range(len(shape)))))


def replicated(count: int) -> Layout:
    """A single element, of rank 0, held by ``count`` threads.

    ``replicated(r).index(t, 0) == ()``.

    >>> (replicated(2) * spatial(4)).threads((1,)), (spatial(4) * replicated(2)).threads((1,))
    ((1, 5), (2, 3))
    """
    if count < 1:
        raise LayoutError(f"replicated({count}): a tile is held at least once")
    return Layout((), (), (-count,), ())


# -- helpers shared by the algebra -------------------------------------------------------------


def mode_digits(modes: Sequence[Sequence[int]]) -> list[Digit]:
    """Each mode, in flat order, as a digit.

    >>> mode_digits(((2, 8), (4,)))
    [Digit(size=2, dim=0, stride=8), Digit(size=8, dim=0, stride=1), Digit(size=4, dim=1, stride=1)]
    """
    digits: list[Digit] = []
    for dim, factors in enumerate(modes):
        stride = prod(factors)
        for size in factors:
            stride //= size
            digits.append(Digit(size, dim, stride))
    return digits


def scale(digits: Iterable[Digit], factor: Sequence[int]) -> tuple[Digit, ...]:
    """The digits of an outer tile whose elements are tiles of shape ``factor``."""
    return tuple(
        d if d.dim == REPLICA else d._replace(stride=d.stride * factor[d.dim]) for d in digits
    )


def pad(layout: Layout, rank: int) -> Layout:
    """The layout with leading dimensions of one up to ``rank``."""
    extra = rank - layout.rank
    if not extra:
        return layout
    return Layout(
        (1,) * extra + layout.shape, ((),) * extra + layout.modes, layout.spatial, layout.local
    )


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every index of ``shape`` in row-major order.

    >>> list(indices((2, 2)))
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    index = [0] * len(shape)
    for _ in range(prod(shape)):
        yield tuple(index)
        for dim in reversed(range(len(shape))):
            index[dim] += 1
            if index[dim] < shape[dim]:
                break
            index[dim] = 0


def check_modes(shape: tuple[int, ...], modes: tuple[tuple[int, ...], ...]) -> None:
    """Raise unless ``modes`` factorise ``shape``."""
    if len(modes) != len(shape):
        raise LayoutError(
            f"{len(modes)} groups of modes for the {len(shape)} dimensions of {shape}"
        )
    for dim, (extent, factors) in enumerate(zip(shape, modes, strict=True)):
        if not all(isinstance(n, int) and n >= 1 for n in (extent, *factors)):
            raise LayoutError(
                f"dimension {dim}: extent {extent!r} and modes {factors!r} must be >= 1"
            )
        if prod(factors) != extent:
            raise LayoutError(
                f"dimension {dim}: modes {factors} make {prod(factors)}, not {extent}"
            )


def _check_lists(flat: list[Digit], spatial: Sequence[int], local: Sequence[int]) -> None:
    named = [mode for mode in (*spatial, *local) if mode >= 0]
    for mode in local:
        if mode < 0:
            raise LayoutError(f"replication ({mode}) is spatial: it cannot stand in the local list")
    for mode in named:
        if mode >= len(flat):
            raise LayoutError(f"mode {mode} is not there: the modes are 0..{len(flat) - 1}")
        if named.count(mode) > 1:
            raise LayoutError(f"mode {mode} stands {named.count(mode)} times in the lists")
    for mode, digit in enumerate(flat):
        if mode not in named and digit.size > 1:
            raise LayoutError(
                f"mode {mode} (size {digit.size}, dimension {digit.dim}) stands in neither list"
            )


empty = Layout((), (), (), ())
"""The unit of the product: rank 0, one thread, one slot."""
