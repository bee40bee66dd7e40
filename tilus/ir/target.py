"""Machines as data: how wide a warp is, and which matrix instructions there are.

A `Target` lists `Atom`s, best first. An atom is a matrix instruction: its operand types and the
layouts of its operands. From an accumulator's layout the algebra derives what the operands must
look like: if C = Q * c for an atom's accumulator c, then (Q over (m, n), `k` in steps of atom.k)

    A = reduce(Q, n) * local(1, k / atom.k) * a        B = reduce(Q, m) * local(k / atom.k, 1) * b

The last atom of every target is the scalar multiply-add, which divides every layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusValueError
from tilus.layouts import Layout, divide_right, local, reduce, replicated, spatial
from tilus.layouts.atoms import MATRIX, MatrixLayouts


@dataclass(frozen=True)
class Atom:
    """A matrix instruction; `a` and `b` are the element types it takes (empty: any)."""

    layouts: MatrixLayouts
    a: tuple[DType, ...] = ()
    b: tuple[DType, ...] = ()

    @property
    def name(self) -> str:
        """The name lowerings are registered under."""
        return self.layouts.name

    def takes(self, a: DType, b: DType) -> bool:
        """Whether the instruction multiplies these element types."""
        return not self.a or (a in self.a and b in self.b)

    def operand_layouts(self, c: Layout, k: int) -> tuple[Layout, Layout] | None:
        """Layouts of a [m, k] and b [k, n] for an accumulator; None if it does not divide."""
        return _operand_layouts(self.layouts, c, k)


@lru_cache(maxsize=4096)
def _operand_layouts(atom: MatrixLayouts, c: Layout, k: int) -> tuple[Layout, Layout] | None:
    if k % atom.k:
        return None
    outer = divide_right(c, atom.c)
    if outer is None:
        return None
    steps = k // atom.k
    a = reduce(outer, [1], keepdims=True) * local(1, steps) * atom.a
    b = reduce(outer, [0], keepdims=True) * local(steps, 1) * atom.b
    return a, b


SCALAR = Atom(MatrixLayouts("fma.m1n1k1", 1, 1, 1, local(1, 1), local(1, 1), local(1, 1)))


def _atom(name: str, a: Sequence[DType], b: Sequence[DType] = ()) -> Atom:
    return Atom(MATRIX[name], tuple(a), tuple(b or a))


@dataclass(frozen=True)
class Target:
    """A machine that kernels are compiled for."""

    name: str
    warp_size: int
    matrix: tuple[Atom, ...]
    features: frozenset[str] = frozenset()  # of a CPU, by LLVM's names

    def atoms_for(self, a: DType, b: DType) -> list[Atom]:
        """Matrix instructions for these element types, best first."""
        return [atom for atom in (*self.matrix, SCALAR) if atom.takes(a, b)]

    def product_layout(
        self,
        atoms: Iterable[Atom],
        shape: tuple[int, ...],
        k: int,
        num_threads: int,
        a: Layout | None = None,
        b: Layout | None = None,
    ) -> Layout | None:
        """A layout for the accumulator [m, n] of a product over `k`.

        It agrees with the operand layouts that are already settled if any does; of those, the
        first atom wins, then the arrangement in which a thread holds the fewest elements.
        """
        best: tuple[tuple[int, int, int], Layout] | None = None
        for rank, atom in enumerate(atoms):
            for c in _arrangements(atom.layouts, shape, num_threads):
                split = atom.operand_layouts(c, k)
                if split is None:
                    continue
                misses = sum(
                    given is not None and given != derived
                    for given, derived in zip((a, b), split, strict=True)
                )
                cost = (misses, rank, split[0].num_slots + split[1].num_slots)
                if best is None or cost < best[0]:
                    best = cost, c
        return None if best is None else best[1]


@lru_cache(maxsize=1024)
def _arrangements(
    atom: MatrixLayouts, shape: tuple[int, ...], num_threads: int
) -> tuple[Layout, ...]:
    """Layouts of [m, n] that repeat an atom over warps and in each warp."""
    m, n = shape
    if num_threads % atom.num_threads or m % atom.m or n % atom.n:
        return ()
    warps, rows, columns = num_threads // atom.num_threads, m // atom.m, n // atom.n
    found = []
    for down in (d for d in range(1, warps + 1) if warps % d == 0):
        across = warps // down
        sm, sn = math.gcd(down, rows), math.gcd(across, columns)
        spare = warps // (sm * sn)  # warps that find no work of their own hold replicas
        outer = replicated(spare) if spare > 1 else local(1, 1)
        found.append(outer * spatial(sm, sn) * local(rows // sm, columns // sn) * atom.c)
    return tuple(dict.fromkeys(found))


_AMPERE = (
    _atom("mma.m16n8k16.f16", [dtypes.f16]),
    _atom("mma.m16n8k16.bf16", [dtypes.bf16]),
    _atom("mma.m16n8k32.s8", [dtypes.i8, dtypes.u8]),
)

TARGETS: dict[str, Target] = {
    "generic": Target("generic", 32, _AMPERE),
    "cpu": Target("cpu", 1, ()),
}


_FLOATS = (dtypes.f16, dtypes.bf16, dtypes.f32)

# CPU matrix instructions, best first, each with the features it needs. One thread; a holds
# activations, b weights (the n side).
_X86: tuple[tuple[frozenset[str], Atom], ...] = (
    (frozenset({"avx512vnni"}), _atom("vpdpbusd.m1n16k4", [dtypes.i8], [dtypes.u8])),
    (frozenset({"avx512vnni", "avx512vl"}), _atom("vpdpbusd.m1n8k4", [dtypes.i8], [dtypes.u8])),
    (frozenset({"avx2"}), _atom("vpmaddwd.m1n8k4", [dtypes.i8], [dtypes.u8])),
    (frozenset({"avx512bf16"}), _atom("vdpbf16ps.m1n16k2", [dtypes.bf16])),
    (frozenset({"avx512f"}), _atom("fma.m1n16k1", _FLOATS)),
    (frozenset({"avx2", "fma"}), _atom("fma.m1n8k1", _FLOATS)),
)


@lru_cache(maxsize=64)
def cpu_target(features: frozenset[str]) -> Target:
    """A CPU with these features (LLVM's names: `avx2`, `avx512vnni`, ...)."""
    atoms = tuple(atom for needs, atom in _X86 if needs <= features)
    return Target("cpu", 1, atoms, features)


def target(name: str) -> Target:
    """The target of a name; raises `TilusValueError` with the names there are."""
    if name not in TARGETS:
        raise TilusValueError(f"no target is named {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]


@lru_cache(maxsize=4096)
def default_layout(shape: tuple[int, ...], bits: int, num_threads: int) -> Layout:
    """A layout for moving a row-major tile of `bits`-bit elements between memory and registers.

    Each thread takes runs of up to 16 bytes of the last dimension, neighbouring threads
    neighbouring runs; what is left goes round again; threads without work hold replicas. Rows that
    do not end at a byte are held by every thread, since no two may share a byte they write.
    """
    if not shape:
        return replicated(num_threads)
    size = math.prod(shape)
    least = 8 // math.gcd(8, bits)  # elements in whole bytes: no two threads share a byte
    if shape[-1] % least:
        return held_by_all(shape, num_threads)
    run = math.gcd(shape[-1], _run(bits))
    while run > least and run % (2 * least) == 0 and size // run < num_threads:
        run //= 2
    counts = [*shape[:-1], shape[-1] // run]
    left, spread = num_threads, [1] * len(shape)
    for d in reversed(range(len(shape))):
        spread[d] = math.gcd(left, counts[d])
        left //= spread[d]
    rest = [n // s for n, s in zip(counts, spread, strict=True)]
    outer = replicated(left) if left > 1 else local(*[1] * len(shape))
    return outer * local(*rest) * spatial(*spread) * local(*[1] * (len(shape) - 1), run)


def _run(bits: int) -> int:
    """Elements in a run of 16 bytes, or of the whole bytes below that for widths like 3 and 6."""
    return max(1, 128 // bits) if 128 % bits == 0 else 8 * (16 // bits)


def held_by_all(shape: tuple[int, ...], num_threads: int) -> Layout:
    """The layout in which every thread holds the whole tile."""
    return replicated(num_threads) * local(*shape)
