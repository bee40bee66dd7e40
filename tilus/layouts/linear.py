"""Power-of-two layouts as bit matrices over F2, for proofs instead of enumeration.

When every mode is a power of two, a layout only moves bits: bit ``b`` of the thread or slot number
becomes one bit of the row-major index, or none (a replication).  A swizzle is linear as well (xor
is addition in F2).  So the word that a lane touches in shared memory is a matrix product, and
questions such as "how many words of one bank does a warp touch" are ranks.

A worked table: ``spatial(2,2)*local(1,2)``, a 2x4 tile with index bits (r, c1, c0)::

    thread bit 0 -> c1        columns of ``threads``: 0b010, 0b100
    thread bit 1 -> r
    slot bit 0   -> c0        columns of ``slots``:   0b001

Laws:

    meaning     to_linear(f).index(t, l) == ser(f.index(t, l); f.shape), for all t and l
    round trip  from_linear(to_linear(f)) == f
    compose     (a @ b)(x) == a(b(x))
    inverse     m.inverse() @ m == BitMatrix.identity(n)
    rank        a matrix has exactly 2^rank different values

    >>> from tilus.layouts import local, spatial
    >>> to_linear(spatial(2, 2) * local(1, 2)).threads
    BitMatrix(rows=3, columns=(2, 4))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import prod
from operator import xor

from tilus.layouts.layout import REPLICA, Digit, Layout, LayoutError
from tilus.layouts.swizzle import SharedLayout


@dataclass(frozen=True)
class BitMatrix:
    """A linear map over F2: ``columns[k]`` is the image of input bit k, as an integer of bits."""

    rows: int
    columns: tuple[int, ...]

    @classmethod
    def identity(cls, size: int) -> BitMatrix:
        """The matrix that changes nothing."""
        return cls(size, tuple(1 << bit for bit in range(size)))

    def __call__(self, x: int) -> int:
        """The image of ``x``: the xor of the columns that its bits name.

        >>> BitMatrix(2, (0b01, 0b11))(0b11)
        2
        """
        return reduce(xor, (column for k, column in enumerate(self.columns) if x >> k & 1), 0)

    def __matmul__(self, other: BitMatrix) -> BitMatrix:
        """The composition: ``(a @ b)(x) == a(b(x))``."""
        if other.rows != len(self.columns):
            raise LayoutError(f"{len(self.columns)} columns do not take {other.rows} rows")
        return BitMatrix(self.rows, tuple(self(column) for column in other.columns))

    def beside(self, other: BitMatrix) -> BitMatrix:
        """The columns of both: the low input bits go to ``self``, those above them to ``other``."""
        return BitMatrix(max(self.rows, other.rows), self.columns + other.columns)

    @cached_property
    def rank(self) -> int:
        """The dimension of the image.

        >>> BitMatrix(3, (0b001, 0b010, 0b011)).rank
        2
        """
        return len(_echelon(self.columns))

    def inverse(self) -> BitMatrix:
        """The matrix m' with ``m'(m(x)) == x`` for all x; an error when ``m`` is not invertible.

        >>> BitMatrix(2, (0b01, 0b11)).inverse()
        BitMatrix(rows=2, columns=(1, 3))
        """
        size = len(self.columns)
        if size != self.rows or self.rank != size:
            raise LayoutError(f"a {self.rows}x{size} matrix of rank {self.rank} has no inverse")
        # Gauss-Jordan on the columns, each carrying the input bits that it is made of.
        made = [(column, 1 << k) for k, column in enumerate(self.columns)]
        for row in range(size):
            pivot = next(k for k in range(row, size) if made[k][0] >> row & 1)
            made[row], made[pivot] = made[pivot], made[row]
            column, inputs = made[row]
            for k, (other, its) in enumerate(made):
                if k != row and other >> row & 1:
                    made[k] = (other ^ column, its ^ inputs)
        return BitMatrix(size, tuple(inputs for _, inputs in made))


def _echelon(columns: Sequence[int]) -> list[int]:
    """A basis of the span of the columns, each with a leading bit of its own."""
    basis: list[int] = []
    for column in columns:
        for vector in basis:
            column = min(column, column ^ vector)
        if column:
            basis.append(column)
    return basis


@dataclass(frozen=True)
class LinearLayout:
    """A power-of-two layout as two matrices onto the bits of the row-major index."""

    shape: tuple[int, ...]
    threads: BitMatrix
    slots: BitMatrix

    def index(self, thread: int, slot: int) -> int:
        """The row-major number of the element that ``thread`` holds in ``slot``."""
        return self.threads(thread) ^ self.slots(slot)


def is_linear(layout: Layout) -> bool:
    """Whether the layout has a bit-matrix form: every mode and replication is a power of two."""
    return all(_is_power(d.size) for d in (*layout.spatial_digits, *layout.local_digits))


def to_linear(layout: Layout) -> LinearLayout:
    """The bit-matrix form of a power-of-two layout.

    >>> from tilus.layouts import *
    >>> to_linear(replicated(2) * spatial(4)).threads
    BitMatrix(rows=2, columns=(1, 2, 0))
    """
    if not is_linear(layout):
        raise LayoutError(f"{layout} has sizes that are not powers of two")
    rows = _log2(layout.size)
    low = [_log2(prod(layout.shape[dim + 1 :])) for dim in range(layout.rank)]

    def matrix(digits: Sequence[Digit]) -> BitMatrix:
        columns: list[int] = []
        for size, dim, stride in reversed(digits):
            first = 0 if dim == REPLICA else stride << low[dim]
            columns.extend(first << bit for bit in range(_log2(size)))
        return BitMatrix(rows, tuple(columns))

    return LinearLayout(layout.shape, matrix(layout.spatial_digits), matrix(layout.local_digits))


def index_bits(shape: Sequence[int]) -> list[list[int]]:
    """The bits of the row-major index that each dimension of a power-of-two shape has, low first.

    >>> index_bits((2, 4))
    [[4], [1, 2]]
    """
    low = [_log2(prod(shape[dim + 1 :])) for dim in range(len(shape))]
    return [
        [1 << first + k for k in range(_log2(extent))]
        for first, extent in zip(low, shape, strict=True)
    ]


def from_linear(linear: LinearLayout) -> Layout:
    """The layout of a bit-matrix form; an error when it does more than move bits.

    >>> from tilus.layouts import *
    >>> from_linear(to_linear(spatial(2, 2) * local(1, 2)))
    spatial(2,2)*local(1,2)
    """
    place = {  # index bit -> dimension and stride in it
        bit: (dim, 1 << power)
        for dim, bits in enumerate(index_bits(linear.shape))
        for power, bit in enumerate(bits)
    }

    def digits(matrix: BitMatrix) -> list[Digit]:
        found: list[Digit] = []
        for column in reversed(matrix.columns):
            if column and column not in place:
                raise LayoutError(
                    f"column {column:#b} is not a single index bit: no layout does that"
                )
            found.append(Digit(2, *place[column]) if column else Digit(2, REPLICA, 0))
        return found

    if 0 in linear.slots.columns:
        raise LayoutError("a slot bit without an index bit: a thread would hold an element twice")
    return Layout.from_digits(linear.shape, digits(linear.threads), digits(linear.slots))


def shared_to_linear(shared: SharedLayout) -> BitMatrix | None:
    """The matrix from the bits of the row-major index to those of the offset, or None.

    It exists when sizes and strides are powers of two and no two modes add into the same bit.

    >>> from tilus.layouts import SharedLayout, Swizzle
    >>> shared_to_linear(SharedLayout.row_major(2, 4).with_swizzle(Swizzle(1, 1, 1))).columns
    (1, 2, 6)
    >>> shared_to_linear(SharedLayout.strided((4, 4), (5, 1))) is None
    True
    """
    columns: list[int] = []
    taken = 0
    for digit, stride in reversed(shared.mode_strides):
        if not (_is_power(digit.size) and _is_power(stride)):
            return None
        bits = (digit.size - 1) * stride
        if taken & bits:
            return None
        taken |= bits
        columns.extend(stride << bit for bit in range(_log2(digit.size)))
    swizzle = shared.swizzle
    return BitMatrix(
        _log2(shared.cosize - 1) + 1 if shared.cosize > 1 else 0,
        tuple(swizzle(column) if swizzle else column for column in columns),
    )


def conflict_degree(
    layout: Layout,
    shared: SharedLayout,
    bits: int,
    lanes: int,
    banks: int,
    bank_bytes: int,
) -> int | None:
    """How many words of one bank ``lanes`` threads touch at once, by ranks; None if not linear.

    The words that a group of lanes touches form a coset of a linear space of some dimension r, and
    their banks one of dimension b; so each bank that is hit at all is hit in ``2^(r-b)`` words,
    whatever the group of lanes and the slots: the proof needs no case but the first.  Only the
    first word of a lane counts, as the others of an aligned access lie in the banks beside it.

    >>> from tilus.layouts import *
    >>> tile, read = SharedLayout.row_major(8, 64), spatial(8, 1) * local(1, 64)
    >>> conflict_degree(read, tile, 16, 8, 32, 4)
    8
    >>> conflict_degree(read, tile.with_swizzle(Swizzle(3, 3, 3)), 16, 8, 32, 4)
    1
    """
    sizes = (bits, lanes, banks, bank_bytes)
    offsets = shared_to_linear(shared) if is_linear(layout) else None
    if offsets is None or not all(map(_is_power, sizes)):
        return None
    low = to_linear(layout).threads.columns[: _log2(lanes)]
    touched = [offsets(column) * bits // (8 * bank_bytes) for column in low]
    return 1 << len(_echelon(touched)) - len(_echelon([word & banks - 1 for word in touched]))


def _is_power(n: int) -> bool:
    return n > 0 and n & n - 1 == 0


def _log2(n: int) -> int:
    return n.bit_length() - 1
