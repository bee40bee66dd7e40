"""The shared tile through which one register layout becomes another, without bank conflicts.

Writing as ``src`` and reading as ``dst`` want different things next to each other.  With powers of
two both can have their wish, by placing the bits of the index (see ``linear.py``) on the address::

    V       the innermost slot bits that both layouts have in common: one access moves them
    C       lane bits of both layouts
    P, Q    lane bits of only one of them, P being the longer list
    address = V, C, P, Q, the rest (lowest first), and Q is xor-ed onto P by the swizzle

The lanes of the one layout count through C and P, those of the other through C and, by the swizzle,
through P again while they count through Q; so either way they meet different places of one line of
banks.

A worked table, 32x32 words: ``src = local(32,1)*spatial(1,32)`` has lane bits c0..c4, and ``dst``,
its transpose, r0..r4.  V and C are empty, P = c0..c4, Q = r0..r4: row-major with
``Swizzle(5, 0, 5)``, the classic tile in which column j of row i lies at place j ^ i.

Law: for powers of two, ``bank_conflicts`` of both layouts is 1, and nothing is padded.

    >>> from tilus.layouts import *
    >>> exchange_tile(local(32, 1) * spatial(1, 32), local(1, 32) * spatial(32, 1), 32)
    shared((32,32), strides=(32,1), swizzle=(5,0,5))
"""

from __future__ import annotations

from tilus.layouts.access import vector_width
from tilus.layouts.banks import bank_conflicts, find_swizzle
from tilus.layouts.layout import Layout, LayoutError
from tilus.layouts.linear import index_bits, is_linear, to_linear
from tilus.layouts.swizzle import SharedLayout, Swizzle


def exchange_tile(
    src: Layout,
    dst: Layout,
    bits: int,
    *,
    max_bytes: int = 16,
    warp_size: int = 32,
    banks: int = 32,
    bank_bytes: int = 4,
) -> SharedLayout:
    """The shared layout to write as ``src`` and read as ``dst``, each at its full vector width.

    Free of bank conflicts when all sizes are powers of two; otherwise the better of row-major and
    column-major, with the best swizzle there is.

    >>> from tilus.layouts import *
    >>> src, dst = local(2, 1) * spatial(8, 4) * local(1, 2), spatial(4, 8) * local(4, 1)
    >>> tile = exchange_tile(src, dst, 32)
    >>> bank_conflicts(src, tile, 32), bank_conflicts(dst, tile, 32)
    (1, 1)
    """
    if src.shape != dst.shape:
        raise LayoutError(f"exchange_tile: {src.shape} and {dst.shape} are not one tile")
    sizes = (bits, max_bytes, warp_size, banks, bank_bytes)
    if is_linear(src) and is_linear(dst) and all(n & n - 1 == 0 for n in sizes):
        return _placed(src, dst, bits, max_bytes, warp_size * bank_bytes, bank_bytes)

    def cost(tile: SharedLayout) -> int:
        total = 0
        for layout in (src, dst):
            width = vector_width(layout, tile, bits, max_bytes=max_bytes)
            degree = bank_conflicts(layout, tile, bits, width, warp_size, banks, bank_bytes)
            total += layout.num_slots // width * degree * max(8 * bank_bytes, width * bits)
        return total

    plain = SharedLayout.row_major(*src.shape), SharedLayout.column_major(*src.shape)
    return min(
        (
            find_swizzle(
                tile,
                (src, dst),
                bits,
                max_bytes=max_bytes,
                warp_size=warp_size,
                banks=banks,
                bank_bytes=bank_bytes,
            )
            for tile in plain
        ),
        key=cost,
    )


def _placed(
    src: Layout, dst: Layout, bits: int, max_bytes: int, phase_bytes: int, bank_bytes: int
) -> SharedLayout:
    """The tile for powers of two: the bits of the index placed on those of the address."""
    there, here = to_linear(src), to_linear(dst)
    vector: list[int] = []
    for bit, other in zip(there.slots.columns, here.slots.columns, strict=False):
        if bit != other or bits << len(vector) + 1 > 8 * max_bytes:
            break
        vector.append(bit)
    access_bytes = max(bank_bytes, (bits << len(vector)) // 8)
    lanes = (phase_bytes // access_bytes).bit_length() - 1
    a, b = ([bit for bit in f.threads.columns[:lanes] if bit] for f in (there, here))
    common = [bit for bit in a if bit in b]
    short, long = sorted(([bit for bit in side if bit not in common] for side in (b, a)), key=len)
    named = [*vector, *common, *long, *short]
    order = named + [1 << k for k in range(there.threads.rows) if 1 << k not in named]
    place = {bit: 1 << at for at, bit in enumerate(order)}
    modes: list[tuple[int, ...]] = []
    strides: list[int] = []
    for dim_bits in index_bits(src.shape):
        modes.append((2,) * len(dim_bits))
        strides += [place[bit] for bit in reversed(dim_bits)]
    swizzle = Swizzle(len(short), len(vector) + len(common), len(long)) if short else None
    return SharedLayout(src.shape, tuple(modes), tuple(strides), swizzle)
