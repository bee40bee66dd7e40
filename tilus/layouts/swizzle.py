"""Shared-memory layouts: the offset of each element, and the swizzle that spreads it over banks.

A shared layout sends an index to an offset (in elements): every dimension is written in modes, each
mode has a stride, and a swizzle may exchange addresses at the end::

    offset(i) == swz(sum of digit * stride)          swz(x) = x ^ ((x >> shift) & mask)
                                                     mask   = ((1 << bits) - 1) << base

A worked table: 4 rows of 8 elements with ``Swizzle(bits=2, base=1, shift=2)``, shown as the row and
pair found at each offset (a swizzle of base 1 keeps pairs whole)::

    offset    0,1   2,3   4,5   6,7
    0..7      00    01    02    03        row 0 lies as it is
    8..15     11    10    13    12        row 1: pairs exchanged by 1
    16..23    22    23    20    21        row 2: by 2
    24..31    33    32    31    30        row 3: by 3; any column of pairs meets all four places

Laws:

    swizzle     a bijection of the integers; it maps every block of 2^(base+bits) onto itself, keeps
                runs of 2^base together, and repeats with ``period`` 2^(base+bits+shift)
    equality    a == b  iff  they have one shape and one offset for every index
    prepend     s.prepend(n).offset((k, *i)) == k * stage + s.offset(i), stage the same for every k

    >>> tile = SharedLayout.row_major(4, 8).with_swizzle(Swizzle(2, 1, 2))
    >>> [tile.offset((3, 2 * pair)) for pair in range(4)]
    [30, 28, 26, 24]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

from tilus.layouts.layout import Digit, LayoutError, check_modes, indices, mode_digits


class Swizzle(NamedTuple):
    """Exchange addresses: bits ``[base, base+bits)`` are xor-ed with those ``shift`` above them."""

    bits: int
    base: int
    shift: int

    def __call__(self, offset: int) -> int:
        """The swizzled offset.

        >>> [Swizzle(1, 0, 1)(x) for x in range(4)]
        [0, 1, 3, 2]
        """
        return offset ^ ((offset >> self.shift) & (((1 << self.bits) - 1) << self.base))

    @property
    def block(self) -> int:
        """Every aligned run of this many elements is mapped onto itself."""
        return 1 << (self.base + self.bits)

    @property
    def period(self) -> int:
        """Moving by this many elements does not change the pattern."""
        return 1 << (self.base + self.bits + self.shift)


class Stride(NamedTuple):
    """A mode of a shared layout as a digit of its dimension together with its stride in memory."""

    digit: Digit
    stride: int


@dataclass(frozen=True, eq=False)
class SharedLayout:
    """Where each element of a tile of ``shape`` lies, counted in elements.

    ``strides`` has one entry for each mode, flat across the dimensions.  As with ``Layout``,
    construction merges modes that continue each other, so the fields are canonical.

    >>> SharedLayout((4, 4), ((2, 2), (4,)), (8, 4, 1))
    shared((4,4), strides=(4,1))
    """

    shape: tuple[int, ...]
    modes: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    swizzle: Swizzle | None = None

    def __post_init__(self) -> None:
        shape, modes = tuple(self.shape), tuple(tuple(factors) for factors in self.modes)
        check_modes(shape, modes)
        strides = tuple(self.strides)
        digits = mode_digits(modes)
        if len(strides) != len(digits) or any(stride < 0 for stride in strides):
            raise LayoutError(f"{len(digits)} modes need as many strides >= 0, not {strides}")
        merged: list[Stride] = []
        for digit, stride in zip(digits, strides, strict=True):
            if digit.size == 1:
                continue
            if merged:
                outer, step = merged[-1]
                if outer.dim == digit.dim and step == stride * digit.size:
                    digit = digit._replace(size=merged.pop().digit.size * digit.size)
            merged.append(Stride(digit, stride))
        put = object.__setattr__
        put(self, "shape", shape)
        put(
            self,
            "modes",
            tuple(tuple(d.size for d, _ in merged if d.dim == dim) for dim in range(len(shape))),
        )
        put(self, "strides", tuple(stride for _, stride in merged))
        put(self, "swizzle", self._checked_swizzle())

    def _checked_swizzle(self) -> Swizzle | None:
        """The swizzle without the bits that read above every offset; None when nothing is left."""
        if self.swizzle is None:
            return None
        bits, base, shift = self.swizzle
        if bits < 0 or base < 0 or shift < 1:
            raise LayoutError(f"Swizzle{tuple(self.swizzle)}: bits and base >= 0, shift >= 1")
        bits = min(bits, self._last.bit_length() - base - shift)
        return Swizzle(bits, base, shift) if bits > 0 else None

    @property
    def _last(self) -> int:
        """The largest offset before the swizzle."""
        return sum((d.size - 1) * stride for d, stride in self.mode_strides)

    # -- constructors --------------------------------------------------------------------------

    @classmethod
    def row_major(cls, *shape: int) -> SharedLayout:
        """The last dimension contiguous.

        >>> SharedLayout.row_major(2, 3).offset((1, 2))
        5
        """
        return cls.strided(shape, [prod(shape[dim + 1 :]) for dim in range(len(shape))])

    @classmethod
    def column_major(cls, *shape: int) -> SharedLayout:
        """The first dimension contiguous.

        >>> SharedLayout.column_major(2, 3).offset((1, 2))
        5
        >>> SharedLayout.column_major(2, 3).strides
        (1, 2)
        """
        return cls.strided(shape, [prod(shape[:dim]) for dim in range(len(shape))])

    @classmethod
    def strided(cls, shape: Sequence[int], strides: Sequence[int]) -> SharedLayout:
        """One stride for each dimension (a larger one than needed pads the rows).

        >>> SharedLayout.strided((2, 8), (9, 1)).cosize
        17
        """
        return cls(tuple(shape), tuple((extent,) for extent in shape), tuple(strides))

    def with_swizzle(self, swizzle: Swizzle | None) -> SharedLayout:
        """The same layout with another swizzle (or none) at the end."""
        return SharedLayout(self.shape, self.modes, self.strides, swizzle)

    def canonical(self) -> SharedLayout:
        """The canonical form: the layout itself, as construction makes it so."""
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
    def cosize(self) -> int:
        """How many elements of memory to set aside: every offset is below it.

        With a swizzle it is rounded up to the swizzle's block, which is mapped onto itself.
        """
        if self.swizzle is None:
            return self._last + 1
        block = self.swizzle.block
        return (self._last // block + 1) * block

    @property
    def alignment(self) -> int:
        """To how many elements the base must be aligned for ``base + offset`` to be right.

        Then ``swz(base + x) == base + swz(x)``, so hardware that swizzles whole addresses agrees.
        """
        return self.swizzle.period if self.swizzle else 1

    @cached_property
    def mode_strides(self) -> tuple[Stride, ...]:
        """Each mode, in flat order, with its stride in memory."""
        return tuple(map(Stride, mode_digits(self.modes), self.strides))

    # -- the mapping ---------------------------------------------------------------------------

    def offset(self, index: Sequence[int]) -> int:
        """Where the element lies, in elements from the base of the tile."""
        if len(index) != len(self.shape) or not all(
            0 <= i < extent for i, extent in zip(index, self.shape, strict=True)
        ):
            raise LayoutError(f"index {tuple(index)} of a tile of shape {self.shape}")
        offset = 0
        for (size, dim, step), stride in self.mode_strides:
            offset += index[dim] // step % size * stride
        return self.swizzle(offset) if self.swizzle else offset

    @cached_property
    def is_injective(self) -> bool:
        """Whether no two elements share an offset.

        >>> SharedLayout.row_major(4, 4).is_injective
        True
        >>> SharedLayout.strided((4, 4), (2, 1)).is_injective
        False
        """
        if any(stride == 0 for stride in self.strides) or self.size > self._last + 1:
            return False
        reach = 0  # the largest offset of the modes seen so far, smallest stride first
        for digit, stride in sorted(self.mode_strides, key=lambda mode: mode.stride):
            if stride <= reach:
                break
            reach += (digit.size - 1) * stride
        else:
            return True
        return len({self.offset(index) for index in indices(self.shape)}) == self.size

    # -- operations ----------------------------------------------------------------------------

    def permute(self, perm: Sequence[int]) -> SharedLayout:
        """The transposed tile: ``s.permute(p).offset(i in order p) == s.offset(i)``.

        >>> SharedLayout.row_major(2, 3).permute((1, 0)) == SharedLayout.column_major(3, 2)
        True
        """
        perm = tuple(perm)
        if sorted(perm) != list(range(self.rank)):
            raise LayoutError(f"permute: {perm} does not order the {self.rank} dimensions")
        strides = [[s for d, s in self.mode_strides if d.dim == dim] for dim in perm]
        return SharedLayout(
            tuple(self.shape[dim] for dim in perm),
            tuple(self.modes[dim] for dim in perm),
            tuple(stride for group in strides for stride in group),
            self.swizzle,
        )

    def unsqueeze(self, dim: int) -> SharedLayout:
        """The tile with a new dimension of extent one at place ``dim`` of the result.

        >>> SharedLayout.row_major(4, 8).unsqueeze(1).shape
        (4, 1, 8)
        """
        at = dim + self.rank + 1 if dim < 0 else dim
        if not 0 <= at <= self.rank:
            raise LayoutError(f"unsqueeze: {dim} is not a dimension of {self.rank + 1}")
        return SharedLayout(
            (*self.shape[:at], 1, *self.shape[at:]),
            (*self.modes[:at], (), *self.modes[at:]),
            self.strides,
            self.swizzle,
        )

    def prepend(self, count: int) -> SharedLayout:
        """A ring of ``count`` such tiles, as a new first dimension.

        ``s.prepend(n).offset((k, *i)) == k * stage + s.offset(i)`` with one ``stage`` for all: the
        cosize, rounded up to ``alignment`` so that the swizzle repeats in every stage.

        >>> SharedLayout.row_major(4, 8).prepend(3).strides
        (32, 8, 1)
        """
        stage = -(-self.cosize // self.alignment) * self.alignment
        return SharedLayout(
            (count, *self.shape), ((count,), *self.modes), (stage, *self.strides), self.swizzle
        )

    # -- equality ------------------------------------------------------------------------------

    @cached_property
    def _fingerprint(self) -> tuple[object, ...]:
        """What equal mappings must share: the shape and a few offsets."""
        probes = [tuple(int(d == dim) for d in range(self.rank)) for dim in range(self.rank)]
        probes = [
            tuple(min(i, extent - 1) for i, extent in zip(probe, self.shape, strict=True))
            for probe in probes
        ]
        probes.append(tuple(extent // 2 for extent in self.shape))
        probes.append(tuple(extent - 1 for extent in self.shape))
        return (self.shape, *(self.offset(probe) for probe in probes))

    def __eq__(self, other: object) -> bool:
        """One shape, and one offset for every index.

        Without a swizzle the fields decide; with one, unlike fields can still mean one mapping
        (a stride of 3 is a stride of 2 that ``Swizzle(1, 0, 1)`` moves), so those are compared
        offset by offset when a handful of offsets agree.
        """
        if not isinstance(other, SharedLayout):
            return NotImplemented
        fields = (self.shape, self.modes, self.strides, self.swizzle)
        if fields == (other.shape, other.modes, other.strides, other.swizzle):
            return True
        if self._fingerprint != other._fingerprint or not (self.swizzle or other.swizzle):
            return False
        return all(self.offset(index) == other.offset(index) for index in indices(self.shape))

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __str__(self) -> str:
        from tilus.layouts.text import format_shared

        return format_shared(self)

    __repr__ = __str__
