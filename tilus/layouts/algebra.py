"""Operations on register layouts: division, reshaping, reduction, slicing, ownership.

Every operation works on the two digit lists (see ``layout.py``), never by enumeration, so its cost
is the number of modes and not the size of the tile.  A worked table, for ``c = local(2,1)*
spatial(8,4)*local(1,2)`` (the accumulator of ``mma.m16n8k16``: 16x8, 32 threads, 4 slots)::

    divide_right(c, local(1, 2))      local(2,1)*spatial(8,4)          what surrounds the pairs
    divide_left(c, local(2, 1))       spatial(8,4)*local(1,2)          what is repeated twice
    permute(c, (1, 0))                the transposed tile, same threads and slots
    reshape(c, (2, 8, 8))             spatial(1,8,4)*local(2,1,2)
    reduce(c, 1)                      local(2)*spatial(8)*replicated(4): four lanes share a row sum
    slice_(c, (8, 0), (8, 8))         spatial(8,4)*local(1,2), from slots 2 and 3

The laws are stated with each operation, as equations over ``index``, ``threads`` and ``slot``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod

from tilus.layouts.layout import (
    REPLICA,
    Digit,
    Layout,
    LayoutError,
    cut,
    local,
    merge,
    mode_digits,
    pad,
    scale,
)
from tilus.layouts.refine import refine

Dims = int | Sequence[int]

# -- division ----------------------------------------------------------------------------------


def divide_right(h: Layout, g: Layout) -> Layout | None:
    """The q with ``q * g == h``, or None when there is none.

    The quotient has the rank of ``h`` and is the only one of that rank.  Sound and complete: in a
    product the lists of ``q`` and ``g`` are laid end to end, so ``g`` must be what remains of both
    canonical lists of ``h`` after a cut at ``T_g`` and at ``N_g``, and such a cut may go through a
    mode or a replication that the product merged.

    >>> from tilus.layouts import *
    >>> divide_right(local(2, 1) * spatial(8, 4) * local(1, 2), local(1, 2))
    local(2,1)*spatial(8,4)
    >>> divide_right(spatial(12) * replicated(6), spatial(4) * replicated(6))
    spatial(3)
    >>> divide_right(spatial(12), spatial(5)) is None
    True
    """
    shape = _quotient_shape(h, g)
    spatial, locals_ = cut(h.spatial_digits, g.num_threads), cut(h.local_digits, g.num_slots)
    if shape is None or spatial is None or locals_ is None:
        return None
    g = pad(g, h.rank)
    if spatial[1] != g.spatial_digits or locals_[1] != g.local_digits:
        return None
    return Layout.from_digits(shape, _unscale(spatial[0], g.shape), _unscale(locals_[0], g.shape))


def divide_left(h: Layout, f: Layout) -> Layout | None:
    """The q with ``f * q == h``, or None when there is none.

    The quotient has the rank of ``h`` and is the only one of that rank.  Sound and complete, as
    ``divide_right`` is.

    >>> from tilus.layouts import *
    >>> divide_left(local(2, 1) * spatial(8, 4) * local(1, 2), local(2, 1))
    spatial(8,4)*local(1,2)
    >>> divide_left(spatial(12), spatial(3))
    spatial(4)
    """
    shape = _quotient_shape(h, f)
    if shape is None:
        return None
    spatial = cut(h.spatial_digits, h.num_threads // f.num_threads)
    locals_ = cut(h.local_digits, h.num_slots // f.num_slots)
    if spatial is None or locals_ is None:
        return None
    f = pad(f, h.rank)
    if spatial[0] != scale(f.spatial_digits, shape) or locals_[0] != scale(f.local_digits, shape):
        return None
    return Layout.from_digits(shape, spatial[1], locals_[1])


def _quotient_shape(h: Layout, divisor: Layout) -> tuple[int, ...] | None:
    if divisor.rank > h.rank:
        return None
    extents = tuple(zip(h.shape, pad(divisor, h.rank).shape, strict=True))
    if any(whole % part for whole, part in extents):
        return None
    return tuple(whole // part for whole, part in extents)


def _unscale(digits: Iterable[Digit], factor: Sequence[int]) -> list[Digit]:
    return [d if d.dim == REPLICA else d._replace(stride=d.stride // factor[d.dim]) for d in digits]


# -- dimensions --------------------------------------------------------------------------------


def permute(layout: Layout, perm: Sequence[int]) -> Layout:
    """The transposed tile: dimension ``k`` of the result is dimension ``perm[k]`` of ``layout``.

    ``permute(f, p).index(t, l)[k] == f.index(t, l)[p[k]]``.

    >>> from tilus.layouts import *
    >>> permute(spatial(8, 4) * local(1, 2), (1, 0))
    column_spatial(4,8)*local(2,1)
    """
    perm = tuple(perm)
    if sorted(perm) != list(range(layout.rank)):
        raise LayoutError(f"permute: {perm} does not order the {layout.rank} dimensions")
    to = {old: new for new, old in enumerate(perm)}
    return _relabel(layout, [layout.shape[old] for old in perm], to)


def squeeze(layout: Layout, dims: Dims) -> Layout:
    """The tile without the given dimensions of extent one.

    ``squeeze(unsqueeze(f, d), d) == f``.

    >>> from tilus.layouts import *
    >>> squeeze(local(1, 4, 1), (0, 2))
    local(4)
    """
    dropped = _dims(dims, layout.rank, "squeeze")
    for dim in dropped:
        if layout.shape[dim] != 1:
            raise LayoutError(f"squeeze: dimension {dim} of {layout.shape} is not 1")
    kept = [dim for dim in range(layout.rank) if dim not in dropped]
    to = {old: new for new, old in enumerate(kept)}
    return _relabel(layout, [layout.shape[old] for old in kept], to)


def unsqueeze(layout: Layout, dims: Dims) -> Layout:
    """The tile with new dimensions of extent one, ``dims`` being their places in the result.

    >>> from tilus.layouts import *
    >>> unsqueeze(spatial(4), 0), unsqueeze(spatial(4), (0, 2))
    (spatial(1,4), spatial(1,4,1))
    """
    count = 1 if isinstance(dims, int) else len(dims)
    new = _dims(dims, layout.rank + count, "unsqueeze")
    old = [dim for dim in range(layout.rank + count) if dim not in new]
    shape = [1] * (layout.rank + count)
    for dim, extent in zip(old, layout.shape, strict=True):
        shape[dim] = extent
    return _relabel(layout, shape, dict(enumerate(old)))


def reshape(layout: Layout, shape: Sequence[int]) -> Layout:
    """The same elements in row-major order under another shape.

    ``ser(reshape(f, s).index(t, l); s) == ser(f.index(t, l); f.shape)``.  An error when a boundary
    of the new shape falls inside a mode that it does not divide.

    >>> from tilus.layouts import *
    >>> reshape(spatial(8) * local(2), (4, 4))
    spatial(4,2)*local(1,2)
    >>> reshape(local(2) * spatial(3), (3, 2))
    Traceback (most recent call last):
    tilus.layouts.layout.LayoutError: reshape: local(2)*spatial(3) cannot be written in shape (3, 2)
    """
    shape = tuple(shape)
    if prod(shape) != layout.size or any(extent < 1 for extent in shape):
        raise LayoutError(
            f"reshape: {layout.shape} has {layout.size} elements, not those of {shape}"
        )
    step = [prod(layout.shape[dim + 1 :]) for dim in range(layout.rank)]
    lists: list[list[Digit]] = []
    for digits in (layout.spatial_digits, layout.local_digits):
        flat = merge(
            d if d.dim == REPLICA else Digit(d.size, 0, d.stride * step[d.dim]) for d in digits
        )
        pieces = [_unflatten(digit, shape) for digit in flat]
        if None in pieces:
            raise LayoutError(f"reshape: {layout} cannot be written in shape {shape}")
        lists.append([piece for group in pieces if group for piece in group])
    return Layout.from_digits(shape, *lists)


def _unflatten(digit: Digit, shape: Sequence[int]) -> list[Digit] | None:
    """A digit of the row-major number of ``shape``, cut into digits of its dimensions."""
    if digit.dim == REPLICA:
        return [digit]
    pieces: list[Digit] = []
    low = 1  # the flat stride of the dimension
    for dim in reversed(range(len(shape))):
        top = low * shape[dim]
        if digit.size > 1 and digit.stride < top:
            inner = min(digit.size, top // digit.stride)
            if digit.size % inner or (digit.size > inner and top % digit.stride):
                return None  # the boundary falls inside it
            pieces.append(Digit(inner, dim, digit.stride // low))
            digit, _ = digit.split(inner)
        low = top
    return pieces[::-1]


def concat(f: Layout, g: Layout) -> Layout:
    """Append the dimensions of ``g`` to those of ``f``; the threads and slots of ``g`` run fastest.

    ``concat(f, g).index(t, l) == f.index(t div T_g, l div N_g) + g.index(t mod T_g, l mod N_g)``.

    >>> from tilus.layouts import *
    >>> concat(spatial(4), local(2))
    spatial(4,1)*local(1,2)
    """
    shift = {dim: dim + f.rank for dim in range(g.rank)}
    shape = f.shape + g.shape
    ones = _relabel(g, (1,) * f.rank + g.shape, shift)
    return Layout.from_digits(
        shape,
        f.spatial_digits + ones.spatial_digits,
        f.local_digits + ones.local_digits,
    )


# -- growing and shrinking ---------------------------------------------------------------------


def reduce(layout: Layout, dims: Dims, keepdims: bool = False) -> Layout:
    """The tile after a reduction over ``dims``, left in every thread that took part in it.

    Spatial modes of a reduced dimension become replications in place, local ones vanish:
    ``t in reduce(f, d).threads(i without d)  iff  t in f.threads(i) for some i_d``.
    The order of the remaining slots is kept.

    >>> from tilus.layouts import *
    >>> reduce(local(2, 1) * spatial(8, 4) * local(1, 2), 1)
    local(2)*spatial(8)*replicated(4)
    >>> reduce(spatial(8, 4), 0, keepdims=True)
    replicated(8)*spatial(1,4)
    """
    gone = _dims(dims, layout.rank, "reduce")
    shape = [1 if dim in gone else extent for dim, extent in enumerate(layout.shape)]
    kept = Layout.from_digits(
        shape,
        [Digit(d.size, REPLICA, 0) if d.dim in gone else d for d in layout.spatial_digits],
        [d for d in layout.local_digits if d.dim not in gone],
    )
    return kept if keepdims else squeeze(kept, gone)


def broadcast(layout: Layout, shape: Sequence[int]) -> Layout:
    """Grow dimensions of extent one: each thread holds all the copies, in new outermost slots.

    ``broadcast(f, s) == local(*grow) * f`` where ``grow`` is ``s[d]`` for every dimension that
    grows and 1 elsewhere; dimensions that ``f`` lacks are added in front, as NumPy does.  So the
    value of ``broadcast(f, s)`` in slot ``l`` is that of ``f`` in slot ``l mod N_f``.

    >>> from tilus.layouts import *
    >>> broadcast(spatial(1, 4), (2, 4)), broadcast(spatial(4), (2, 4))
    (spatial(1,4)*local(2,1), spatial(1,4)*local(2,1))
    """
    shape = tuple(shape)
    if len(shape) < layout.rank:
        raise LayoutError(f"broadcast: {layout.shape} has more dimensions than {shape}")
    padded = pad(layout, len(shape))
    if any(old not in (1, new) for old, new in zip(padded.shape, shape, strict=True)):
        raise LayoutError(f"broadcast: {layout.shape} does not broadcast to {shape}")
    grow = (n if old == 1 else 1 for old, n in zip(padded.shape, shape, strict=True))
    return local(*grow) * padded


def expand(layout: Layout, dim: int, extent: int) -> Layout:
    """Grow one dimension of extent one: ``broadcast`` along a single dimension.

    ``expand(f, d, n) == broadcast(f, f.shape with n in place of d)``.

    >>> from tilus.layouts import *
    >>> expand(spatial(4, 1), 1, 2)
    spatial(4,1)*local(1,2)
    """
    (dim,) = _dims(dim, layout.rank, "expand")
    return broadcast(layout, (*layout.shape[:dim], extent, *layout.shape[dim + 1 :]))


def join(layout: Layout, dim: int, count: int) -> Layout:
    """The layout of ``count`` tiles of ``layout`` joined along ``dim``: a new outermost local mode.

    ``join(f, d, n) == local(1, .., n, .., 1) * f``; tile ``k`` lies in slots ``[k*N, (k+1)*N)``.

    >>> from tilus.layouts import *
    >>> join(spatial(4) * local(2), 0, 3)
    local(3)*spatial(4)*local(2)
    """
    (dim,) = _dims(dim, layout.rank, "join")
    return local(*(count if d == dim else 1 for d in range(layout.rank))) * layout


def slice_(
    layout: Layout, starts: Sequence[int], shape: Sequence[int]
) -> tuple[Layout, tuple[int, ...]]:
    """The part ``[starts, starts + shape)`` of the tile, and the slots that it keeps.

    With ``g, slots = slice_(f, a, s)``: ``g.index(t, l) + a == f.index(t, slots[l])`` for every
    thread.  It exists exactly when every thread keeps the same slots (the cut goes through local
    modes only); otherwise it is an error, and the tile must be converted first.  The slots keep
    their order unless the part straddles two local modes of one dimension; those then become one
    mode, in the place of the outer.

    >>> from tilus.layouts import *
    >>> slice_(local(2, 1) * spatial(8, 4) * local(1, 2), (8, 0), (8, 8))
    (spatial(8,4)*local(1,2), (2, 3))
    >>> slice_(spatial(4), (0,), (2,))
    Traceback (most recent call last):
    tilus.layouts.layout.LayoutError: slice: [0, 2) of dimension 0 cuts the threads of spatial(4)
    """
    starts, shape = tuple(starts), tuple(shape)
    if not len(starts) == len(shape) == layout.rank or any(
        not 0 <= start <= start + extent <= whole or extent < 1
        for start, extent, whole in zip(starts, shape, layout.shape, strict=False)
    ):
        raise LayoutError(f"slice: {starts} + {shape} is not within {layout.shape}")
    replaced: dict[Digit, Digit | None] = {}
    by_dim: list[list[Digit]] = [[] for _ in shape]
    for digit in mode_digits(layout.modes):
        by_dim[digit.dim].append(digit)
    for dim, digits in enumerate(by_dim):
        replaced |= _slice_modes(layout, dim, digits, starts[dim], shape[dim])
    kept = (replaced.get(d, d) for d in layout.local_digits)
    part = Layout.from_digits(shape, layout.spatial_digits, [d for d in kept if d is not None])
    first = (part.index(0, slot) for slot in range(part.num_slots))
    return part, tuple(
        layout.slot([i + start for i, start in zip(index, starts, strict=True)]) for index in first
    )


def _slice_modes(
    layout: Layout, dim: int, digits: list[Digit], start: int, extent: int
) -> dict[Digit, Digit | None]:
    """What becomes of the modes of one dimension that the slice cuts."""
    outer = 0  # digits[:outer] are cut; the rest are whole
    step = layout.shape[dim]
    while outer < len(digits) and (
        step == layout.shape[dim] != extent or start % step or extent % step
    ):
        step = digits[outer].stride
        outer += 1
    touched = digits[:outer]
    if any(digit not in layout.local_digits for digit in touched):
        bounds = f"[{start}, {start + extent}) of dimension {dim}"
        raise LayoutError(f"slice: {bounds} cuts the threads of {layout}")
    varying = [d for d in touched if start // d.stride != (start + extent - 1) // d.stride]
    replaced: dict[Digit, Digit | None] = dict.fromkeys(touched)
    if varying:
        replaced[varying[0]] = Digit(extent // step, dim, step)
    return replaced


# -- ownership ---------------------------------------------------------------------------------


def owns(a: Layout, b: Layout) -> bool:
    """Whether every thread that holds an element in ``b`` holds it in ``a`` too.

    ``owns(a, b)  iff  set(b.threads(i)) <= set(a.threads(i)) for all i``.  Exact.  A value laid out
    as ``a`` can then be used where ``b`` is wanted without data crossing threads.

    >>> from tilus.layouts import *
    >>> owns(replicated(4) * local(4), spatial(4)), owns(spatial(4), replicated(4) * local(4))
    (True, False)
    """
    if a.shape != b.shape or a.num_threads != b.num_threads:
        return False
    refined = refine((a, b))
    if refined is None:
        return all(set(b.threads(i)) <= set(a.threads(i)) for i in b.indices())
    wanted, held = refined[0].spatial, set(refined[1].spatial)
    return all(digit in held for digit in wanted if digit.dim != REPLICA)


# -- helpers -----------------------------------------------------------------------------------


def _dims(dims: Dims, rank: int, what: str) -> tuple[int, ...]:
    """Dimension numbers made non-negative and checked."""
    given = (dims,) if isinstance(dims, int) else tuple(dims)
    normal = tuple(sorted(dim + rank if dim < 0 else dim for dim in given))
    if any(not 0 <= dim < rank for dim in normal) or any(a == b for a, b in pairwise(normal)):
        raise LayoutError(f"{what}: {given} are not distinct dimensions of {rank}")
    return normal


def _relabel(layout: Layout, shape: Sequence[int], to: dict[int, int]) -> Layout:
    """The same digits under other dimension numbers."""

    def moved(digits: Iterable[Digit]) -> list[Digit]:
        return [d if d.dim == REPLICA else d._replace(dim=to[d.dim]) for d in digits]

    return Layout.from_digits(shape, moved(layout.spatial_digits), moved(layout.local_digits))
