"""How quantised weights lie in memory for CPU products: panels of 16 columns.

A panel is one run of memory, read from end to end: for each group of k its scales and zero points,
then its codes, step by step and plane by plane. In a plane of p bits, byte j of every 64 holds the
codes of lane j = (column, k mod 4) at 8 / p different steps of 4 k: taking them apart is one shift
and one mask for 64 weights, and gives the operand of a 4-way dot instruction as it stands (lanes
are (pair of k, column, k mod 2) for pairs of bf16, (k mod 4, column) for single numbers).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tilus.dtypes import DType, f32, i8, i32, pack, u8
from tilus.ir.machine import index_table
from tilus.kernels.integers import IntegerForm, Part
from tilus.layouts import Layout
from tilus.runtime import memory

PANEL = 16  # columns of a panel
WHOLE = Part(None, 1, 0)  # a weight that is its own only part


@dataclass(frozen=True)
class Plane:
    """Some bits of every code: `bits` of them, from bit `shift` on.

    `depth` neighbours in k lie side by side: as many as an instruction multiplies in a lane.
    """

    bits: int
    shift: int
    depth: int = 4

    def layout(self, k: int) -> Layout:
        """Who lies where in the bytes of [k, 16] codes, as a view of them (see above)."""
        codes = max(1, min(8 // self.bits, k // 4))
        return lanes(k, self.depth, codes)

    def nbytes(self, k: int) -> int:
        """Bytes of the plane of [k, 16] codes."""
        return k * PANEL * self.bits // 8


def lanes(k: int, depth: int, codes: int) -> Layout:
    """[k, 16] elements as vectors of 64, `codes` of which are the low to high bits of bytes."""
    sizes = {"code": codes, "vector": k // 4 // codes, "run": 4 // depth, "k": depth, "n": PANEL}
    flat = {name: i for i, name in enumerate(("code", "vector", "run", "k", "n"))}
    order = tuple(flat[n] for n in ("vector", "run", "n", "k", "code") if sizes[n] > 1)
    kept = sorted(order)
    rows = tuple(sizes[n] for n in ("code", "vector", "run", "k") if sizes[n] > 1)
    return Layout((k, PANEL), (rows, (PANEL,)), (), tuple(kept.index(i) for i in order))


def planes_of(bits: int, depth: int = 4) -> tuple[Plane, ...]:
    """The planes of a code: its 4s, 2s and 1s (8 and more stay whole)."""
    if bits >= 8:
        return (Plane(bits, 0, depth),)
    found, shift = [], 0
    for width in (4, 2, 1):
        if bits & width:
            found.append(Plane(width, shift, depth))
            shift += width
    return tuple(found)


@dataclass(frozen=True)
class PanelFormat:
    """How the chunks of a panel are stored, and what their codes mean."""

    bits: int
    chunk: int  # rows of k that share an activation scale
    group: int  # rows of k that share a weight scale; 0: all of them
    scale: DType
    form: IntegerForm | None  # None: codes are multiplied as the numbers they stand for
    operand: DType = i8  # what activations are multiplied as: i8 (with a form), bf16 or f32
    zero: DType | None = None  # of the zero points that each group and column has

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a weight is the sum of."""
        return self.form.parts if self.form is not None else (WHOLE,)

    @property
    def weight(self) -> DType:
        """What a part of a weight is multiplied as."""
        return u8 if self.form is not None else self.operand

    @property
    def sums(self) -> DType:
        """What products, and activations, are added up in."""
        return i32 if self.form is not None else f32

    @property
    def zeros_apply(self) -> str | None:
        """Where zero points are subtracted.

        `begin`: as integers, from what a dot begins with; `weight`: from each weight; `end`: from
        the dot, in f32, where neither is exact.
        """
        if self.zero is None:
            return None
        if self.form is not None:
            return "begin" if self.zero == u8 else "end"
        return "weight" if self.operand == f32 or self.zero == u8 else "end"

    @property
    def span(self) -> int:
        """Rows of k of a group within a chunk."""
        return self.chunk // self.groups

    @property
    def depth(self) -> int:
        """Neighbours in k that an instruction multiplies in a lane of 32 bits."""
        return 32 // self.operand.bits

    @property
    def order(self) -> Layout:
        """[step, 16] weights as the instruction wants them."""
        return lanes(self.step, self.depth, 1)

    @property
    def step(self) -> int:
        """Rows of k that are taken apart at a time: of one group, and few enough for registers."""
        return min(self.chunk, self.group or self.chunk, 32)

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes of a code."""
        return planes_of(self.bits, self.depth)

    @property
    def groups(self) -> int:
        """Groups of a chunk; a chunk of a larger group counts as one."""
        return self.chunk // self.group if self.group else 1

    @property
    def scale_bytes(self) -> int:
        """Bytes of a group's scales; none where each column has one, which is kept apart."""
        return PANEL * self.scale.bits // 8 if self.group else 0

    @property
    def head_bytes(self) -> int:
        """Bytes of a group's scales and zero points, which its codes follow."""
        zeros = PANEL * self.zero.bits // 8 if self.zero is not None else 0
        return self.scale_bytes + zeros

    @property
    def step_bytes(self) -> int:
        """Bytes of the codes of one step."""
        return self.step * PANEL * self.bits // 8

    @property
    def group_bytes(self) -> int:
        """Bytes of a group within a chunk."""
        return self.head_bytes + self.span // self.step * self.step_bytes

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk: its groups."""
        return self.groups * self.group_bytes

    def pack(
        self, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None
    ) -> torch.Tensor:
        """The bytes of a weight: u8 [n / 16, k / chunk, chunk_bytes].

        Args:
            codes: u8 [k, n], k a multiple of `chunk` and n of 16; i16 or i32 for more bits.
            scales: u8 [k / group, n, bytes of a scale] (not looked at without groups).
            zeros: u8 [k / group, n, bytes of a zero point] (without groups [k / chunk, ..]).
        """
        k, n = codes.shape
        chunks, panels, step = k // self.chunk, n // PANEL, self.step
        steps = self.chunk // step
        out = memory.empty(panels * chunks * self.chunk_bytes)
        out = out.reshape(panels, chunks, self.chunk_bytes)
        if self.form is not None and self.form.flip:
            codes = codes ^ self.form.flip
        split = codes.reshape(chunks, steps, step, panels, PANEL)
        split = split.permute(3, 0, 1, 2, 4)
        at = 0

        def put(part: torch.Tensor) -> None:
            nonlocal at
            size = part.shape[2]
            out[:, :, at : at + size] = part
            at += size

        for g in range(self.groups):
            if self.group:
                of_group = scales.reshape(chunks, self.groups, panels, -1)[:, g]
                put(of_group.transpose(0, 1))
            if zeros is not None:
                put(zeros.reshape(chunks, self.groups, panels, -1)[:, g].transpose(0, 1))
            for s in range(g * self.span // step, (g + 1) * self.span // step):
                rows = split[:, :, s].reshape(panels, chunks, -1)
                for plane in self.planes:
                    order = torch.from_numpy(index_table(plane.layout(step))[0].copy())
                    if plane.bits >= 8:
                        put(rows[:, :, order].view(torch.uint8))
                        continue
                    part = (rows >> plane.shift) & ((1 << plane.bits) - 1)
                    flat = pack(part[:, :, order].numpy(), plane.bits)
                    put(torch.from_numpy(flat).reshape(panels, chunks, plane.nbytes(step)))
        return out
