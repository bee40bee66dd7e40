"""Memory access: how many elements a thread can move at once, read off the modes.

A worked table for a 16x64 tile of 16-bit elements on 32 threads::

    layout                                memory                    vector_width
    spatial(16,2)*local(1,32)             row_major(16, 64)         8      16 bytes
    local(2,8)*spatial(8,4)*local(1,2)    row_major(16, 64)         2      what an mma fragment has
    local(2,8)*spatial(8,4)*local(1,2)    column_major(16, 64)      1      neighbours lie apart
    spatial(16,2)*local(1,32)             strides (72, 1)           8      rows padded by 8
    spatial(16,2)*local(1,32)             strides (68, 1)           4      rows aligned to 8 bytes

Laws, with ``n = vector_width(f, s, bits)``, for all threads t and all k:

    consecutive   s.offset(f.index(t, k*n + j)) == s.offset(f.index(t, k*n)) + j   for 0 <= j < n
    aligned       s.offset(f.index(t, k*n)) % n == 0
    whole         n * bits is 8, 16, 32, .. bits and at most ``max_bytes``, unless n == 1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd
from typing import NamedTuple

from tilus.layouts.layout import REPLICA, Digit, Layout, LayoutError
from tilus.layouts.swizzle import SharedLayout


class MultipleOf(NamedTuple):
    """A stride of which only a divisor is known."""

    divisor: int


Memory = SharedLayout | Sequence[int | MultipleOf]
"""Where a tile lies: a shared layout, or one stride for each dimension of a global tile."""


class _Step(NamedTuple):
    """A part of a register mode: counting it up by one moves ``stride`` elements in memory.

    ``linear`` is False when only a divisor of the movement is known.
    """

    size: int
    stride: int
    linear: bool


def contiguous_run(layout: Layout, dim: int) -> int:
    """How many consecutive elements along ``dim`` a thread holds in consecutive slots.

    The largest n such that slots ``[k*n, (k+1)*n)`` of every thread are n consecutive indices along
    ``dim``, the first a multiple of n: the innermost local mode, if it is the innermost of ``dim``.

    >>> from tilus.layouts import *
    >>> row = spatial(8, 4) * local(1, 8)
    >>> contiguous_run(row, 1), contiguous_run(row, 0)
    (8, 1)
    """
    if not 0 <= dim < layout.rank:
        raise LayoutError(f"contiguous_run: {dim} is not a dimension of {layout.rank}")
    innermost = layout.local_digits[-1:]
    return next((d.size for d in innermost if d.dim == dim and d.stride == 1), 1)


def vector_width(
    layout: Layout,
    memory: Memory,
    bits: int,
    max_bytes: int = 16,
    alignment: int | None = None,
) -> int:
    """How many elements of ``bits`` bits each thread can move in one access.

    The largest n for which the slots ``[k*n, (k+1)*n)`` of every thread lie at consecutive
    addresses, the first a multiple of n, and n elements are a power-of-two number of bytes, at most
    ``max_bytes``.  ``alignment`` is what the base of the tile is known to be aligned to, in bytes
    (None: enough).  1 stands for "element by element": it is also the answer when no n elements are
    whole bytes.  Exact when the register modes and those of the memory divide each other; otherwise
    it may be too small, never too large.

    >>> from tilus.layouts import *
    >>> row = spatial(8, 4) * local(1, 16)
    >>> vector_width(row, SharedLayout.row_major(8, 64), 16), vector_width(row, (64, 1), 8)
    (8, 16)
    >>> vector_width(row, (MultipleOf(4), 1), 16), vector_width(row, (1, 8), 16)
    (4, 1)
    """
    for width in _widths(bits, max_bytes):
        if (alignment is None or alignment * 8 % (width * bits) == 0) and _fits(
            layout, memory, width
        ):
            return width
    return 1


def _widths(bits: int, max_bytes: int) -> Iterator[int]:
    """The numbers of elements that make 1, 2, 4, .. bytes, largest first."""
    sizes = [8 << power for power in range(max_bytes.bit_length()) if 1 << power <= max_bytes]
    return (size // bits for size in reversed(sizes) if size % bits == 0)


def _fits(layout: Layout, memory: Memory, width: int) -> bool:
    """Whether slots can be moved ``width`` at a time, consecutive and aligned."""
    if isinstance(memory, SharedLayout) and memory.swizzle and (1 << memory.swizzle.base) % width:
        return False
    modes = _memory_modes(layout, memory)
    run = 1
    for digit in reversed(layout.local_digits):
        for size, stride, linear in _steps(digit, modes[digit.dim]):
            if run % width == 0:
                if stride % width:
                    return False
            elif linear and stride == run:
                run *= size
            else:
                return False
    return run % width == 0 and all(
        step.stride % width == 0
        for digit in layout.spatial_digits
        if digit.dim != REPLICA
        for step in _steps(digit, modes[digit.dim])
    )


def _memory_modes(layout: Layout, memory: Memory) -> list[list[tuple[Digit, _Step]]]:
    """For each dimension its modes in memory, innermost first."""
    if isinstance(memory, SharedLayout):
        if memory.shape != layout.shape:
            raise LayoutError(f"a tile of {layout.shape} does not lie in one of {memory.shape}")
        strides = [(d, _Step(d.size, stride, True)) for d, stride in memory.mode_strides]
    else:
        if len(memory) != layout.rank:
            raise LayoutError(f"{len(memory)} strides for the {layout.rank} dimensions of a tile")
        strides = [
            (
                Digit(extent, dim, 1),
                _Step(extent, stride.divisor, False)
                if isinstance(stride, MultipleOf)
                else _Step(extent, stride, True),
            )
            for dim, (extent, stride) in enumerate(zip(layout.shape, memory, strict=True))
        ]
    by_dim: list[list[tuple[Digit, _Step]]] = [[] for _ in layout.shape]
    for digit, step in reversed(strides):
        by_dim[digit.dim].append((digit, step))
    return by_dim


def _steps(digit: Digit, modes: list[tuple[Digit, _Step]]) -> Iterator[_Step]:
    """A register mode cut at the modes of its dimension in memory, innermost first."""
    for at, (mode, step) in enumerate(modes):
        top = mode.stride * mode.size
        if digit.size == 1 or digit.stride >= top:
            continue
        inner = min(digit.size, top // digit.stride)
        if digit.stride % mode.stride or top % (digit.stride * inner) or digit.size % inner:
            yield _Step(digit.size, gcd(*(s.stride for _, s in modes[at:])), False)
            return
        yield _Step(inner, step.stride * (digit.stride // mode.stride), step.linear)
        digit, _ = digit.split(inner)
