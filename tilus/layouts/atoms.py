"""Register layouts of hardware instructions, typed from the PTX ISA and the x86 manuals.

A matrix instruction ``c += a @ b`` fixes which thread holds which element of its operands; that
is exactly a layout.  Over a warp of 32 lanes, with ``group = lane // 4`` and ``member = lane % 4``,
the 8x4 grid of (group, member) is ``spatial(8,4)``, and its transpose ``column_spatial(4,8)``::

    mma.m16n8k16.f16     a (16,16)   column_local(2,2)*spatial(8,4)*local(1,2)
                         b (16,8)    local(2,1)*column_spatial(4,8)*local(2,1)
                         c (16,8)    local(2,1)*spatial(8,4)*local(1,2)

Operands narrower than 16 bits hold more consecutive k in the innermost slots (a register is always
32 bits); the accumulator is the same in all of them.  x86 instructions have one thread, and a slot
is a lane of a vector register: in ``vpdpbusd.m1n16k4`` each of 16 columns has its 4 consecutive k
side by side, ``b = column_local(4,16)``.

``ldmatrix`` moves 8x8 blocks of 16-bit elements from shared memory: lane ``8*i + r`` gives the
address of row ``r`` of block ``i`` (``rows``), and the blocks arrive as fragments (``registers``).
With ``.trans`` each block arrives transposed: as the fragment of b rather than that of a.

Laws, for every record: the shapes are (m,k), (k,n), (m,n); a, b and c have one number of threads;
``rows`` and ``registers`` cover one shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilus.layouts.algebra import permute
from tilus.layouts.layout import (
    Layout,
    LayoutError,
    column_local,
    column_spatial,
    local,
    spatial,
)


@dataclass(frozen=True)
class MatrixLayouts:
    """Who holds what in ``c[m,n] += a[m,k] @ b[k,n]``."""

    name: str
    m: int
    n: int
    k: int
    a: Layout
    b: Layout
    c: Layout

    def __post_init__(self) -> None:
        shapes = (self.m, self.k), (self.k, self.n), (self.m, self.n)
        if (self.a.shape, self.b.shape, self.c.shape) != shapes:
            raise LayoutError(f"{self.name}: operands of shapes {shapes}, please")
        if not self.a.num_threads == self.b.num_threads == self.c.num_threads:
            raise LayoutError(f"{self.name}: a, b and c are held by different numbers of threads")

    @property
    def num_threads(self) -> int:
        """How many threads execute the instruction together."""
        return self.c.num_threads


@dataclass(frozen=True)
class MatrixCopy:
    """A copy of 8-row blocks between shared memory and matrix fragments."""

    name: str
    rows: Layout  # lane -> the row of shared memory whose address it gives, with all its elements
    registers: Layout  # where the elements lie in the registers of the warp

    def __post_init__(self) -> None:
        if self.rows.shape != self.registers.shape:
            raise LayoutError(f"{self.name}: rows and registers of different shapes")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what one instruction moves."""
        return self.registers.shape


# -- mma.sync ----------------------------------------------------------------------------------

_ACCUMULATOR = local(2, 1) * spatial(8, 4) * local(1, 2)  # [16, 8], of 32-bit or 16-bit elements


def _mma(name: str, k_steps: int, pack: int) -> MatrixLayouts:
    """m16n8 with ``k_steps`` groups of 4 lanes along k, ``pack`` consecutive k in a register."""
    k = k_steps * 4 * pack
    return MatrixLayouts(
        f"mma.m16n8k{k}.{name}",
        16,
        8,
        k,
        a=column_local(2, k_steps) * spatial(8, 4) * local(1, pack),
        b=local(k_steps, 1) * column_spatial(4, 8) * local(pack, 1),
        c=_ACCUMULATOR,
    )


_MMA = [
    _mma("tf32", 1, 1),
    _mma("tf32", 2, 1),
    *(_mma(name, steps, 2) for name in ("f16", "bf16") for steps in (1, 2)),
    *(_mma(name, steps, 4) for name in ("s8", "u8") for steps in (1, 2)),
    *(_mma(name, 2, 4) for name in ("e4m3", "e5m2")),
    *(_mma(name, steps, 8) for name in ("s4", "u4") for steps in (1, 2)),
    MatrixLayouts(
        "mma.m8n8k4.f64", 8, 8, 4, spatial(8, 4), column_spatial(4, 8), spatial(8, 4) * local(1, 2)
    ),
]


# -- wgmma: four warps, one above the other; b comes from shared memory ------------------------


def wgmma_a(bits: int) -> Layout:
    """The A operand of ``wgmma`` when it comes from registers: 64 rows, 32 bytes of k.

    >>> wgmma_a(16)
    spatial(4,1)*column_local(2,2)*spatial(8,4)*local(1,2)
    """
    return spatial(4, 1) * column_local(2, 2) * spatial(8, 4) * local(1, 32 // bits)


def wgmma_c(n: int) -> Layout:
    """The accumulator of ``wgmma.m64n{n}``, whatever the type of the operands.

    >>> wgmma_c(16)
    spatial(4,1)*column_local(2,2)*spatial(8,4)*local(1,2)
    """
    if n % 8 or not 8 <= n <= 256:
        raise LayoutError(f"wgmma.m64n{n}: n is a multiple of 8 from 8 to 256")
    return spatial(4, 1) * column_local(2, n // 8) * spatial(8, 4) * local(1, 2)


# -- ldmatrix and stmatrix ---------------------------------------------------------------------


def _matrix_copy(what: str, count: int, transposed: bool) -> MatrixCopy:
    """``count`` blocks, those of one column of blocks first."""
    down, across = {1: (1, 1), 2: (2, 1), 4: (2, 2)}[count]
    fragment = spatial(8, 4) * local(1, 2)
    if transposed:
        fragment = permute(fragment, (1, 0))
    return MatrixCopy(
        f"{what}.x{count}{'.trans' if transposed else ''}",
        rows=column_spatial(down, across) * spatial(8, 1) * local(1, 8),
        registers=column_local(down, across) * fragment,
    )


_COPIES = [
    _matrix_copy(what, count, transposed)
    for what in ("ldmatrix", "stmatrix")
    for count in (1, 2, 4)
    for transposed in (False, True)
]


# -- x86: one thread, slots are lanes of vector registers --------------------------------------


def _x86(name: str, n: int, k: int) -> MatrixLayouts:
    """One row against n columns, k consecutive elements of each side by side in a lane."""
    return MatrixLayouts(
        f"{name}.m1n{n}k{k}", 1, n, k, a=local(1, k), b=column_local(k, n), c=local(1, n)
    )


_X86 = [
    _x86("vpdpbusd", 16, 4),
    _x86("vpdpbusd", 8, 4),
    _x86("vpmaddwd", 8, 4),
    _x86("vdpbf16ps", 16, 2),
    _x86("fma", 16, 1),
    _x86("fma", 8, 1),
]


MATRIX: dict[str, MatrixLayouts] = {atom.name: atom for atom in (*_MMA, *_X86)}
"""Every matrix instruction by its name, such as ``mma.m16n8k16.f16`` or ``vpdpbusd.m1n16k4``."""

MATRIX_COPY: dict[str, MatrixCopy] = {copy.name: copy for copy in _COPIES}
"""Every matrix copy by its name, such as ``ldmatrix.x4`` or ``ldmatrix.x2.trans``."""
