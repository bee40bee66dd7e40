"""Tiles of a CPU block, which is one thread: where their elements are, and loops over them.

A tile's layout has no spatial modes; its local modes, outermost first, are its *digits*. The lanes
of a tile lie in the order of `Tile.layout`, which is the one the IR says or any other: converting
between layouts costs nothing until someone needs a given order (`view`, a store, a product).

    vector   one LLVM vector of all elements     small tiles (SMALL bytes)
    memory   scratch memory, in layout order      large ones
    lazy     computed where it is read            large results of elementwise instructions

A chain of elementwise instructions on large tiles is thus one loop: its consumer reads the last
tile lane by lane, and that reads the ones before. `packed` vectors hold sub-byte codes as bytes,
as they came from memory or a `view`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Protocol

from tilus.codegen.llvm.convert import normalized
from tilus.codegen.llvm.lanes import Lanes
from tilus.codegen.llvm.packing import pack, unpack, unpack_interleaved
from tilus.codegen.llvm.writer import I1, I8, I32, I64, PTR, V, Writer, element_type, vector
from tilus.dtypes import DType
from tilus.ir.machine import index_table
from tilus.layouts import Layout

SMALL = 2048  # bytes of the largest tile that is one vector
CHUNK = 32  # lanes a loop over a large tile handles at a time
Path = tuple[int, ...]
Digits = Sequence[V]  # i64, one for each local mode, the last the first lane of a chunk


class Source(Protocol):
    """Memory that a tile was loaded from."""

    def valid(self) -> bool:
        """Whether nothing can have changed the memory since."""

    def word(self, row: int, column: int, bits: int) -> V | None:
        """`bits` bits of it from an element on, as an integer; None if they are not in one run."""


@dataclass
class Tile:
    """A register tile. Exactly one of `vector`, `memory` and `lazy` is what it was made as.

    `forms` holds what it was turned into since, each with the region of the program that holds
    for: what a branch computed is not there after it.
    """

    dtype: DType
    layout: Layout
    vector: V | None = None
    memory: V | None = None
    lazy: Callable[[Digits, int], V] | None = None
    packed: bool = False
    source: Source | None = None  # the memory it was loaded from, while that is unchanged
    numbers: tuple[float, ...] | None = None  # of a constant tile, in row-major order
    forms: dict[str, tuple[Path, V]] = field(default_factory=dict)

    @property
    def element(self) -> str:
        """The LLVM type of an element in a register."""
        return element_type(self.dtype)

    @property
    def size(self) -> int:
        """How many elements there are."""
        return self.layout.size

    @property
    def sizes(self) -> list[int]:
        """The sizes of the digits; a single element has one digit of size 1."""
        return digit_sizes(self.layout)


def digit_sizes(layout: Layout) -> list[int]:
    """The sizes of a layout's local modes, outermost first."""
    return [d.size for d in layout.local_digits] or [1]


def is_small(dtype: DType, layout: Layout) -> bool:
    """Whether a tile is kept as one vector."""
    return layout.size * max(1, dtype.bits // 8) <= SMALL


def stored(element: str) -> str:
    """The type an element has in scratch memory."""
    return I8 if element == I1 else element


class Scratch:
    """Makes, reads and converts tiles with one writer."""

    def __init__(self, w: Writer) -> None:
        self.w = w
        self.bytes = 0

    # addresses

    def allocate(self, dtype: DType, layout: Layout, hint: str = "tile") -> V:
        """Scratch memory for a tile."""
        kind = stored(element_type(dtype))
        padded = layout.size + CHUNK
        self.bytes += padded * 8
        return self.w.alloca(kind, padded, 64, hint)

    def shared(self, dtype: DType, count: int) -> V:
        """Scratch memory that plays shared memory."""
        nbytes = (count * dtype.bits + 7) // 8 + 64
        self.bytes += nbytes
        return self.w.alloca(I8, nbytes, 128, "shared")

    def flat(self, sizes: Sequence[int], digits: Digits) -> V:
        """The slot of some digits, as an i64."""
        total = V(I64, "0")
        for i, digit in enumerate(digits):
            weight = math.prod(sizes[i + 1 :])
            total = self.w.binary("add", total, self.w.binary("mul", digit, V(I64, str(weight))))
        return total

    # forms

    def known(self, tile: Tile, form: str) -> V | None:
        """A form the tile was turned into where that is still valid."""
        if form in tile.forms:
            path, x = tile.forms[form]
            if self.w.path[: len(path)] == path:
                return x
        return None

    def remember(self, tile: Tile, form: str, x: V) -> V:
        """Keep a form for the rest of this region."""
        tile.forms[form] = self.w.path, x
        return x

    # reading

    def read(self, tile: Tile, digits: Digits, lanes: int) -> V:
        """`lanes` elements from `digits` on, along the last digit; a vector even of one."""
        w = self.w
        numbers = [int(d.ref) for d in digits if not d.ref.startswith("%")]
        x = self.known(tile, "whole") or (None if tile.packed else tile.vector)
        if x is None and tile.vector is not None and len(numbers) == len(digits):
            x = self.whole(tile)
        if x is not None and len(numbers) == len(digits):
            start = 0
            for size, digit in zip(tile.sizes, numbers, strict=True):
                start = start * size + digit
            return w.part(x, start, lanes)
        memory = tile.memory or self.known(tile, "memory")
        if memory is None and tile.lazy is not None:
            return tile.lazy(digits, lanes)
        kind = stored(tile.element)
        at = w.gep(self.in_memory(tile), self.flat(tile.sizes, digits), kind)
        got = w.load(vector(kind, lanes), at, element_bytes(kind))
        return w.cast("trunc", got, I1) if tile.element == I1 else got

    def whole(self, tile: Tile) -> V:
        """All elements as one vector, unpacked, in the order of the tile's layout."""
        if tile.vector is not None and not tile.packed:
            return tile.vector
        x = self.known(tile, "whole")
        if x is not None:
            return x
        if tile.vector is not None:
            x = unpacked(self.w, tile.vector, tile.dtype, tile.size)
            return self.remember(tile, "whole", x)
        parts = [self.read(tile, digits, lanes) for digits, lanes in pieces(tile.sizes)]
        return self.remember(tile, "whole", self.w.join(parts))

    def opened(self, tile: Tile) -> Tile:
        """A packed tile as codes, in whatever order of lanes costs least.

        Where the innermost digit runs over the 8 / bits codes of a byte, the codes at one place of
        all bytes become neighbours (a shift and a mask), so that digit moves to the front.
        """
        if tile.vector is None or not tile.packed or self.known(tile, "whole") is not None:
            return tile
        bits, digits = tile.dtype.bits, tile.layout.local_digits
        count = 8 // bits
        if bits not in (1, 2, 4) or not digits or digits[-1].size % count:
            return tile
        rest, inner = digits[-1].split(count)
        order = [inner, *digits[:-1], *([rest] if rest.size > 1 else [])]
        layout = Layout.from_digits(tile.layout.shape, (), order)
        codes = self.w.join(unpack_interleaved(self.w, tile.vector, bits))
        return Tile(tile.dtype, layout, normalized(Lanes(self.w, codes), tile.dtype).v)

    def bytes_of(self, tile: Tile) -> V:
        """The tile's bits as bytes, in the order of its layout: what a `view` reads."""
        w = self.w
        if tile.vector is not None and tile.packed:
            return tile.vector
        codes = self.whole(tile)
        if tile.dtype.bits < 8:
            return pack(w, codes, tile.dtype.bits)
        if tile.element == I1:
            codes = w.cast("zext", codes, I8)
        return w.bitcast(codes, vector(I8, tile.size * tile.dtype.bits // 8))

    def in_memory(self, tile: Tile) -> V:
        """Where the tile lies in scratch memory, put there if need be."""
        found = tile.memory or self.known(tile, "memory")
        if found is not None:
            return found
        place = self.allocate(tile.dtype, tile.layout)
        self.write(tile, place)
        return self.remember(tile, "memory", place)

    def relaid(self, tile: Tile, layout: Layout) -> Tile:
        """The tile with its elements in the order of `layout`."""
        if tile.layout == layout:
            return tile
        source = index_table(tile.layout)[0]
        lane = {int(e): i for i, e in enumerate(source)}
        order = [lane[int(e)] for e in index_table(layout)[0]]
        if is_small(tile.dtype, layout):
            return Tile(tile.dtype, layout, self.w.shuffle(self.whole(tile), None, order))
        source_place = self.in_memory(tile)
        table = self.w.module.table(I32, order)
        kind = stored(tile.element)
        target = self.allocate(tile.dtype, layout)

        def move(index: V) -> None:
            place = self.w.load(I32, self.w.gep(table, index, I32), 4)
            at = self.w.gep(source_place, self.w.cast("zext", place, I64), kind)
            one = self.w.load(kind, at, 1)
            self.w.store(one, self.w.gep(target, index, kind), 1)

        self.loop(layout.size, move)
        return Tile(tile.dtype, layout, memory=target)

    # writing

    def write(self, tile: Tile, place: V) -> None:
        """Store a tile's elements, in the order of its layout, at `place`."""
        if tile.vector is not None:
            x = self.whole(tile)
            x = self.w.cast("zext", x, I8) if tile.element == I1 else x
            self.w.store(x, place, 1)
            return
        self.nest(tile.sizes, lambda d, n: self.put(place, tile.sizes, d, self.read(tile, d, n)))

    def put(self, place: V, sizes: Sequence[int], digits: Digits, x: V) -> None:
        """Store a vector into a tile's scratch memory."""
        if x.element == I1:
            x = self.w.cast("zext", x, I8)
        self.w.store(x, self.w.gep(place, self.flat(sizes, digits), x.element), 1)

    # loops

    def loop(self, count: int, body: Callable[[V], None], step: int = 1) -> None:
        """`body(index)` for 0, step, .. below count, as a loop."""
        w = self.w
        if count <= 0:
            return
        if count <= step:
            body(V(I64, "0"))
            return
        counter = w.alloca(I64, align=8, hint="k")
        w.store(V(I64, "0"), counter, 8)
        head, end = w.fresh_label("loop"), w.fresh_label("done")
        w.label(head)
        index = w.load(I64, counter, 8, "k")
        with w.nested():
            body(index)
        after = w.op(I64, f"add nuw {index}, {step}")
        w.store(after, counter, 8)
        w.branch(w.compare("icmp", "ult", after, V(I64, str(count))), head, end)
        w.label(end)

    def nest(self, sizes: Sequence[int], body: Callable[[Digits, int], None]) -> None:
        """`body(digits, lanes)` for every chunk of a tile: loops, the innermost over chunks."""
        *outer, inner = sizes

        def inside(digits: list[V]) -> None:
            full = inner - inner % CHUNK
            self.loop(full, lambda k: body([*digits, k], CHUNK), CHUNK)
            if inner > full:
                body([*digits, V(I64, str(full))], inner - full)

        def level(digits: list[V]) -> None:
            if len(digits) == len(outer):
                inside(digits)
            else:
                self.loop(outer[len(digits)], lambda k: level([*digits, k]))

        level([])


def pieces(sizes: Sequence[int]) -> Iterator[tuple[list[V], int]]:
    """(digits, lanes) of runs of at most 64 elements, in order, that together are a whole tile."""
    *outer, inner = sizes
    for place in product(*map(range, outer)):
        fixed = [V(I64, str(digit)) for digit in place]
        for start in range(0, inner, 64):
            yield [*fixed, V(I64, str(start))], min(64, inner - start)


def element_bytes(kind: str) -> int:
    """Bytes of an element in memory, which is also its alignment."""
    sizes = {PTR: 8, "half": 2, "bfloat": 2, "float": 4, "double": 8}
    return sizes[kind] if kind in sizes else max(8, int(kind[1:])) // 8


def unpacked(w: Writer, packed: V, dtype: DType, count: int) -> V:
    """Codes of sub-byte elements, one in each i8, normalised by the type's sign."""
    return normalized(Lanes(w, unpack(w, packed, dtype.bits, count)), dtype).v
