"""How quantised weights lie in memory for CPU products: panels of 16 columns.

A panel is one run of memory: for each chunk of k its codes, plane by plane, then its scales and
zero points. In a plane of p bits, byte j of every 64 holds the codes of lane j = (column, k mod 4)
at 8 / p different steps of 4 k: taking them apart is one shift and one mask for 64 weights, and
gives the operand of a 4-way dot instruction as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tilus.dtypes import DType, pack
from tilus.ir.machine import index_table
from tilus.kernels.integers import IntegerForm
from tilus.layouts import Layout

PANEL = 16  # columns of a panel


@dataclass(frozen=True)
class Plane:
    """Some bits of every code: `bits` of them, from bit `shift` on.

    `depth` neighbours in k lie side by side: 4 for a 4-way dot, 1 for one multiplication a lane.
    """

    bits: int
    shift: int
    depth: int = 4

    def layout(self, k: int) -> Layout:
        """Who lies where in the bytes of [k, 16] codes, as a view of them (see above)."""
        codes = min(8 // self.bits, k // 4)
        vectors = k // 4 // codes
        sizes = {"code": codes, "vector": vectors, "k": 4, "n": PANEL}
        flat = {name: i for i, name in enumerate(sizes)}
        lane = ("n", "k") if self.depth == 4 else ("k", "n")
        order = tuple(flat[n] for n in ("vector", *lane, "code") if sizes[n] > 1)
        kept = sorted(order)
        rows = tuple(sizes[n] for n in ("code", "vector", "k") if sizes[n] > 1)
        return Layout((k, PANEL), (rows, (PANEL,)), (), tuple(kept.index(i) for i in order))

    def nbytes(self, k: int) -> int:
        """Bytes of the plane of [k, 16] codes."""
        return k * PANEL * self.bits // 8


def planes_of(bits: int, depth: int = 4) -> tuple[Plane, ...]:
    """The planes of a code: its 4s, 2s and 1s (8 stays whole)."""
    if bits == 8:
        return (Plane(8, 0, depth),)
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
    zeros: bool = False  # whether each group and column has a zero point of its own, a byte

    @property
    def step(self) -> int:
        """Rows of k that are taken apart at a time: of one group, and few enough for registers."""
        return min(self.chunk, self.group or self.chunk, 32)

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes of a code."""
        return planes_of(self.bits, 4 if self.form is not None else 1)

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of one chunk."""
        return self.chunk * PANEL * self.bits // 8

    @property
    def groups(self) -> int:
        """Groups of a chunk; a chunk of a larger group counts as one."""
        return self.chunk // self.group if self.group else 1

    @property
    def scale_bytes(self) -> int:
        """Bytes of a group's scales; none where each column has one, which is kept apart."""
        return PANEL * self.scale.bits // 8 if self.group else 0

    @property
    def group_bytes(self) -> int:
        """Bytes of a group's scales and zero points."""
        return self.scale_bytes + PANEL * self.zeros

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk: codes, then what belongs to each group."""
        return self.code_bytes + self.groups * self.group_bytes

    def pack(
        self, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None
    ) -> torch.Tensor:
        """The bytes of a weight: u8 [n / 16, k / chunk, chunk_bytes].

        Args:
            codes: u8 [k, n], k a multiple of `chunk` and n of 16.
            scales: u8 [k / group, n, bytes of a scale] (not looked at without groups).
            zeros: u8 [k / group, n] (without groups [k / chunk, n]), or None.
        """
        k, n = codes.shape
        chunks, panels, step = k // self.chunk, n // PANEL, self.step
        steps = self.chunk // step
        out = torch.empty(panels, chunks, self.chunk_bytes, dtype=torch.uint8)
        flip = self.form.flip if self.form is not None else 0
        split = (codes ^ flip).reshape(chunks, steps, step, panels, PANEL)
        split = split.permute(3, 0, 1, 2, 4)
        at = 0
        for s in range(steps):
            rows = split[:, :, s].reshape(panels, chunks, -1)
            for plane in self.planes:
                order = torch.from_numpy(index_table(plane.layout(step))[0].copy())
                part = (rows >> plane.shift) & ((1 << plane.bits) - 1)
                flat = pack(part[:, :, order].numpy(), plane.bits)
                size = plane.nbytes(step)
                out[:, :, at : at + size] = torch.from_numpy(flat).reshape(panels, chunks, size)
                at += size
        for g in range(self.groups):
            if self.group:
                width = self.scale_bytes
                of_group = scales.reshape(chunks, self.groups, panels, width)[:, g]
                out[:, :, at : at + width] = of_group.transpose(0, 1)
                at += width
            if zeros is not None:
                row = zeros.reshape(chunks, self.groups, panels, PANEL)[:, g]
                out[:, :, at : at + PANEL] = row.transpose(0, 1)
                at += PANEL
        return out
