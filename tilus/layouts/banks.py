"""Shared-memory banks: what a warp's accesses cost, and the swizzle that makes them free.

Shared memory has 32 banks of 4-byte words.  A request is served in phases: all lanes at once while
a lane moves at most 4 bytes, half a warp for 8 and a quarter for 16.  In a phase a bank gives one
word, to any number of lanes; its *degree* is the largest number of different words that one bank
must give, so 1 is conflict-free.

A worked table, 8 rows of 64 two-byte elements (a row is exactly all 32 banks)::

    access                                        row_major(8, 64)    swizzle (3,3,3)
    spatial(8,1)*local(1,64), 16 bytes a lane     8                   1
    spatial(8,4)*local(1,16), 16 bytes a lane     2                   1
    local(1,8)*spatial(8,4)*local(1,2), 4 bytes   8                   1
    spatial(1,32)*local(8,2), 4 bytes             1                   1

Laws:

    bank_conflicts(f, s, ..)   == the degree that an enumeration of every phase finds
    find_swizzle(s, ..)        never has more conflicts than s, nor narrower vectors
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tilus.layouts.access import vector_width
from tilus.layouts.layout import Layout, LayoutError
from tilus.layouts.linear import conflict_degree
from tilus.layouts.swizzle import SharedLayout, Swizzle


def bank_conflicts(
    layout: Layout,
    shared: SharedLayout,
    bits: int,
    vector: int | None = None,
    warp_size: int = 32,
    banks: int = 32,
    bank_bytes: int = 4,
) -> int:
    """The degree of the worst phase when each thread moves ``vector`` slots at a time.

    ``vector`` defaults to ``vector_width``.  With powers of two the degree is proved by ranks
    (``linear.conflict_degree``), otherwise every phase is counted.

    >>> from tilus.layouts import *
    >>> tile, read = SharedLayout.row_major(8, 64), spatial(8, 4) * local(1, 16)
    >>> bank_conflicts(read, tile, 16)
    2
    >>> bank_conflicts(read, tile.with_swizzle(Swizzle(3, 3, 3)), 16)
    1
    """
    width = _width(layout, shared, bits, vector)
    bank_bits = 8 * bank_bytes
    lanes = max(1, warp_size * bank_bits // max(bank_bits, width * bits))
    proved = None
    if warp_size % lanes == 0:
        proved = conflict_degree(layout, shared, bits, lanes, banks, bank_bytes)
    if proved is not None:
        return proved
    return max(
        _degree(phase, width * bits, banks, bank_bits)
        for phase in _phases(layout, shared, bits, width, warp_size, lanes)
    )


def _width(layout: Layout, shared: SharedLayout, bits: int, vector: int | None) -> int:
    """The width of an access, checked to be one that exists."""
    widest = vector_width(layout, shared, bits, max_bytes=max(16, (vector or 1) * bits // 8))
    if vector is None:
        return widest
    if vector < 1 or widest % vector:
        raise LayoutError(f"threads of {layout} cannot move {vector} elements at once in {shared}")
    return vector


def _phases(
    layout: Layout, shared: SharedLayout, bits: int, width: int, warp_size: int, lanes: int
) -> Iterator[list[int]]:
    """For each phase the bit addresses at which its lanes begin."""
    for slot in range(0, layout.num_slots, width):
        addresses = [
            shared.offset(layout.index(thread, slot)) * bits for thread in range(layout.num_threads)
        ]
        for warp in range(0, len(addresses), warp_size):
            in_warp = addresses[warp : warp + warp_size]
            for phase in range(0, len(in_warp), lanes):
                yield in_warp[phase : phase + lanes]


def _degree(addresses: Iterable[int], access_bits: int, banks: int, bank_bits: int) -> int:
    """The largest number of different words that one bank must give."""
    words: dict[int, set[int]] = defaultdict(set)
    for address in addresses:
        for word in range(address // bank_bits, (address + access_bits - 1) // bank_bits + 1):
            words[word % banks].add(word)
    return max(map(len, words.values()))


def find_swizzle(
    shared: SharedLayout,
    accesses: Iterable[Layout | tuple[Layout, int]],
    bits: int,
    *,
    max_bytes: int = 16,
    warp_size: int = 32,
    banks: int = 32,
    bank_bytes: int = 4,
) -> SharedLayout:
    """The tile with the swizzle that serves all the accesses best.

    ``accesses`` are the register layouts that read or write the tile, each at its full vector width
    or with the width given; a swizzle never makes one narrower.  The result has the fewest
    conflicts, added up over the accesses, and among equals the smallest swizzle: the tile itself
    where none is needed.  ``bank_conflicts`` of the result says whether any are left.

    >>> from tilus.layouts import *
    >>> find_swizzle(SharedLayout.row_major(8, 64), [spatial(8, 4) * local(1, 16)], 16)
    shared((8,64), strides=(64,1), swizzle=(1,3,3))
    """
    plain = shared.with_swizzle(None)
    wanted: list[tuple[Layout, int]] = []
    for access in accesses:
        if isinstance(access, Layout):
            access = access, vector_width(access, plain, bits, max_bytes=max_bytes)
        wanted.append((access[0], _width(access[0], plain, bits, access[1])))

    def conflicts(tile: SharedLayout) -> int:
        return sum(
            bank_conflicts(layout, tile, bits, width, warp_size, banks, bank_bytes)
            for layout, width in wanted
        )

    best, fewest = plain, conflicts(plain)
    for swizzle in _candidates(
        plain, max((width for _, width in wanted), default=1), bits, banks * bank_bytes
    ):
        if fewest == len(wanted):
            break
        tile = plain.with_swizzle(swizzle)
        if tile.swizzle == swizzle and (found := conflicts(tile)) < fewest:
            best, fewest = tile, found
    return best


def _candidates(shared: SharedLayout, width: int, bits: int, line_bytes: int) -> Iterator[Swizzle]:
    """Swizzles that keep runs of ``width`` and stay within one line of all banks, small first."""
    first = (width - 1).bit_length()
    line = max(1, line_bytes * 8 // bits).bit_length() - 1
    top = (shared.cosize - 1).bit_length()
    for size in range(1, max(1, line - first) + 1):
        for base in range(first, max(first, line - size) + 1):
            for shift in range(size, top - base - size + 1):
                yield Swizzle(size, base, shift)
